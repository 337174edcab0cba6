//! What the host has to have, and how it gets there: through apt, on Debian 12 and 13, as root.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::Error;
use crate::process::{read, run, say, succeeds};

/// Something that is missing when `present` says no, and the package that brings it.
struct Need {
    package: &'static str,
    present: fn() -> bool,
}

const BUILD: &[Need] = &[
    Need { package: "gcc", present: || succeeds(Command::new("gcc").arg("--version")) },
    Need { package: "libc6-dev", present: || static_library("libc.a").is_some() },
    Need { package: "libseccomp-dev", present: || static_library("libseccomp.a").is_some() },
];

const NODES: &[Need] = &[
    // The root file system of containers that are tested without containerd.
    Need { package: "busybox-static", present: || Path::new("/bin/busybox").exists() },
    Need { package: "debootstrap", present: || Path::new("/usr/sbin/debootstrap").exists() },
    // The key of Debian 13 came to Debian 12 with an update of this package.
    Need {
        package: "debian-archive-keyring",
        present: || Path::new("/usr/share/keyrings/debian-archive-trixie-automatic.gpg").exists(),
    },
    Need { package: "util-linux", present: || succeeds(Command::new("nsenter").arg("--version")) },
];

/// libFuzzer is C++, and compiled with its first use.
const FUZZING: &[Need] = &[Need { package: "g++", present: || succeeds(Command::new("g++").arg("--version")) }];

/// Makes sure that the binaries can be built here.
pub(crate) fn prepare() -> Result<(), Error> {
    install(BUILD)
}

/// Makes sure that the binaries can be built here, and nodes run.
///
/// # Errors
/// `NeedsRoot` when not root, before anything is done.
pub(crate) fn prepare_for_nodes() -> Result<(), Error> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::NeedsRoot);
    }
    install(BUILD)?;
    install(NODES)
}

/// Makes sure that libFuzzer can be built here.
pub(crate) fn prepare_for_fuzzing() -> Result<(), Error> {
    prepare()?;
    install(FUZZING)
}

/// The directory of a static library, as the compiler finds it.
pub(crate) fn static_library(name: &str) -> Option<PathBuf> {
    let path = read(Command::new("gcc").arg(format!("-print-file-name={name}"))).ok()?;
    // The compiler answers with the bare name when it does not find it.
    let path = Path::new(path.trim());
    path.is_absolute().then(|| path.parent().map(Path::to_owned)).flatten()
}

fn install(needs: &[Need]) -> Result<(), Error> {
    let missing: Vec<_> = needs.iter().filter(|need| !(need.present)()).map(|need| need.package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.join(" ");
    if !succeeds(Command::new("apt-get").arg("--version")) {
        return Err(Error::NotDebian { packages });
    }
    if !rustix::process::geteuid().is_root() {
        return Err(Error::NotRoot { packages });
    }
    say(&format!("installing {packages}"));
    run(Command::new("apt-get").args(["update", "-q"]))?;
    let mut command = Command::new("apt-get");
    command.args(["install", "-qy", "--no-install-recommends"]).args(&missing);
    run(command.env("DEBIAN_FRONTEND", "noninteractive"))
}
