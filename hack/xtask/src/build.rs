//! The release build: each binary static, glibc and libseccomp included, so that it runs in any container host.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use test_fixtures::artifact::{self, CLI, SHIM, VM_AGENT, WORKLOAD};

use crate::error::Error;
use crate::process::{cargo, read, run, say};
use crate::{host, process};

/// Builds what users get and what tests and nodes need. Returns the directory of the binaries.
pub(crate) fn all() -> Result<PathBuf, Error> {
    let mut arguments = vec!["--package", "test-fixtures", "--bin", WORKLOAD, "--bin", VM_AGENT];
    arguments.extend(product()?);
    binaries(&arguments)
}

/// Builds packages, given as cargo's arguments.
pub(crate) fn binaries(packages: &[&str]) -> Result<PathBuf, Error> {
    let package = "libseccomp-dev";
    let libraries = host::static_library("libseccomp.a").ok_or(Error::NoStaticLibrary { package })?;
    let triple = artifact::triple();
    let mut command = cargo();
    command
        .args(["build", "--release", "--target", &triple])
        .args(packages)
        .env("LIBSECCOMP_LINK_TYPE", "static")
        .env("LIBSECCOMP_LIB_PATH", libraries);
    // In cargo's own configuration the flags would reach build scripts and macros too, which have to be dynamic; and
    // RUSTFLAGS takes the place of any configuration.
    match std::env::var("RUSTFLAGS") {
        Ok(flags) => command.env("RUSTFLAGS", format!("{flags} -C target-feature=+crt-static")),
        Err(_) => {
            command.args(["--config", &format!(r#"target.{triple}.rustflags=["-C","target-feature=+crt-static"]"#)])
        }
    };
    run(&mut command)?;
    Ok(artifact::directory())
}

/// Builds what users get, and installs it into `PREFIX/bin`.
pub(crate) fn install(prefix: &Path) -> Result<(), Error> {
    host::prepare()?;
    let from = binaries(&product()?)?;
    let to = prefix.join("bin");
    fs::create_dir_all(&to).map_err(|source| Error::File { operation: "create", path: to.clone(), source })?;
    for name in [SHIM, CLI] {
        let source = from.join(name);
        if !source.exists() {
            continue;
        }
        // Renamed into place: a shim that runs keeps its file, and nobody starts half of one.
        let (partial, path) = (to.join(format!(".{name}.new")), to.join(name));
        fs::copy(&source, &partial)
            .and_then(|_| fs::set_permissions(&partial, fs::Permissions::from_mode(0o755)))
            .and_then(|()| fs::rename(&partial, &path))
            .map_err(|source| Error::File { operation: "install", path: path.clone(), source })?;
        say(&format!("installed {}", path.display()));
    }
    Ok(())
}

/// The packages that users get. The command line is one of them once it is in the workspace.
fn product() -> Result<Vec<&'static str>, Error> {
    let members = read(process::cargo().args(["metadata", "--no-deps", "--format-version=1"]))?;
    let members: serde_json::Value = serde_json::from_str(&members).map_err(Error::Metadata)?;
    let has = |name| members["packages"].as_array().is_some_and(|all| all.iter().any(|one| one["name"] == name));
    let mut packages = vec!["--package", SHIM, "--bin", SHIM];
    if has(CLI) {
        packages.extend(["--package", CLI, "--bin", CLI]);
    }
    Ok(packages)
}
