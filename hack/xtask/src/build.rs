//! The release build: each binary static, glibc and libseccomp included, so that it runs in any container host.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use test_fixtures::artifact::{self, CLI, MIGRATE, SHIM, VM_AGENT, WORKLOAD};

use crate::error::Error;
use crate::host;
use crate::process::{cargo, run};

/// The packages that users get, as cargo's arguments.
pub(crate) const PRODUCT: &[&str] =
    &["--package", SHIM, "--bin", SHIM, "--package", CLI, "--bin", CLI, "--package", MIGRATE, "--bin", MIGRATE];

/// Builds what users get and what tests and nodes need. Returns the directory of the binaries.
pub(crate) fn all() -> Result<PathBuf, Error> {
    binaries(&[PRODUCT, &["--package", "test-fixtures", "--bin", WORKLOAD, "--bin", VM_AGENT]].concat())
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
    if let Some(commit) = commit() {
        command.env("RTC_COMMIT", commit);
    }
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

/// What is built, for `rtc --version`; nothing for a source tree that is no repository.
fn commit() -> Option<String> {
    let mut git = Command::new("git");
    git.current_dir(artifact::workspace()).args(["describe", "--always", "--dirty", "--abbrev=12"]);
    let output = git.stderr(Stdio::null()).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned()).filter(|commit| !commit.is_empty())
}
