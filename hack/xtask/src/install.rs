//! What users get, put where the system looks for it: the binaries, manual pages, and completions for shells.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use test_fixtures::artifact::{CLI, MIGRATE, SHIM};

use crate::error::Error;
use crate::process::{read, run, say};
use crate::{build, host};

/// Below the prefix; each shell looks there for what it is to know of a command.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "share/bash-completion/completions/rtc"),
    ("zsh", "share/zsh/site-functions/_rtc"),
    ("fish", "share/fish/vendor_completions.d/rtc.fish"),
];
const MANUAL: &str = "share/man/man1";

/// Builds the product, and installs it below `prefix`.
pub(crate) fn install(prefix: &Path) -> Result<(), Error> {
    host::prepare()?;
    let from = build::binaries(build::PRODUCT)?;
    let to = make(prefix.join("bin"))?;
    for name in [SHIM, CLI, MIGRATE] {
        // Renamed into place: what runs keeps its file, and nobody starts half of one.
        let (partial, path) = (to.join(format!(".{name}.new")), to.join(name));
        fs::copy(from.join(name), &partial)
            .and_then(|_| fs::set_permissions(&partial, fs::Permissions::from_mode(0o755)))
            .and_then(|()| fs::rename(&partial, &path))
            .map_err(|source| Error::File { operation: "install", path: path.clone(), source })?;
        say(&format!("installed {}", path.display()));
    }
    generate(&to.join(CLI), prefix)
}

/// Both come from the definitions that the command line is parsed with, so they are what the binary says of itself.
fn generate(rtc: &Path, prefix: &Path) -> Result<(), Error> {
    let manual = make(prefix.join(MANUAL))?;
    run(Command::new(rtc).arg("man").arg(&manual))?;
    say(&format!("installed the manual pages into {}", manual.display()));
    for (shell, path) in COMPLETIONS {
        let path = prefix.join(path);
        make(path.parent().unwrap_or(prefix).to_owned())?;
        let script = read(Command::new(rtc).args(["completion", shell]))?;
        fs::write(&path, script).map_err(|source| Error::File { operation: "write", path: path.clone(), source })?;
        say(&format!("installed {}", path.display()));
    }
    Ok(())
}

fn make(directory: PathBuf) -> Result<PathBuf, Error> {
    match fs::create_dir_all(&directory) {
        Ok(()) => Ok(directory),
        Err(source) => Err(Error::File { operation: "create", path: directory, source }),
    }
}
