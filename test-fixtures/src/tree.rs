//! The root trees that nodes and virtual machines are made from: made once by debootstrap, shared by all nodes as an
//! overlay's lower layer, and by all virtual machines as a disk.
//!
//! A tree is cached as `$RTC_CACHE/trees/SUITE-HASH` (see `cache`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{Error, Result, cache, suites};

const MIRROR: &str = "http://deb.debian.org/debian";
const SCRIPTS: &str = "/usr/share/debootstrap/scripts";
/// Where debootstrap leaves the packages, in the tree.
const ARCHIVES: &str = "var/cache/apt/archives";

/// Bumped when the way a tree is made changes, and not its packages.
const REVISION: &str = "1";

const PACKAGES: &[&str] = &[
    "busybox-static",
    "ca-certificates",
    "containerd",
    "containernetworking-plugins",
    "criu",
    "crun",
    // In a virtual machine, the bus of systemd.
    "dbus",
    "iproute2",
    // runc leaves CRIU's default, which locks the network with iptables.
    "iptables",
    "jq",
    // In a virtual machine, for its kernel's modules.
    "kmod",
    "libcriu2",
    "nftables",
    "procps",
    "runc",
    "strace",
    "systemd",
    "tini",
    // newuidmap and newgidmap, for containers of users other than root.
    "uidmap",
];

/// Which Debian, and so which containerd, runc, crun and CRIU, a node is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Tree {
    /// Debian 12: containerd 1.6.20, runc 1.1.5; no CRIU, since its 3.17.1 does not start on kernels of 2025 and later.
    Bookworm,
    /// Debian 13: containerd 1.7.24, runc 1.1.15, crun 1.21, CRIU 4.1.1.
    #[default]
    Trixie,
    /// Debian 14: containerd 2.1.9, runc 1.3.6, crun 1.28, CRIU 4.2.1. Its CRIU is the one for checkpoint tests.
    Forky,
    /// Debian 14 with the field's public suites for OCI runtimes in it, built, and with Podman.
    Suites,
}

impl Tree {
    /// Those that tests run in.
    pub const ALL: [Self; 3] = [Self::Bookworm, Self::Trixie, Self::Forky];

    pub fn suite(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Forky | Self::Suites => "forky",
        }
    }

    /// Where the complete tree is or will be.
    pub fn path(self) -> PathBuf {
        if let Self::Suites = self {
            return suites::path();
        }
        let words = [REVISION, self.suite()].into_iter().chain(self.packages());
        cache::directory().join("trees").join(format!("{}-{}", self.suite(), cache::hash(words)))
    }

    /// Debian 12 is there for its containerd alone: its CRIU is too old, and a library of it is not packaged.
    fn packages(self) -> impl Iterator<Item = &'static str> {
        let left_out: &[&str] = if let Self::Bookworm = self { &["criu", "crun", "libcriu2"] } else { &[] };
        PACKAGES.iter().copied().filter(|package| !left_out.contains(package))
    }

    /// The tree's root directory, made first when it is missing: about a minute and 450 MB. Blocks, also while another
    /// process makes it. `progress` is called before work that takes long.
    ///
    /// # Errors
    /// When debootstrap is missing or fails; nothing is left behind then.
    pub fn ensure(self, progress: impl Fn(&str)) -> Result<PathBuf> {
        if let Self::Suites = self {
            return suites::ensure(&progress);
        }
        let path = self.path();
        cache::ensure(&path, |partial| {
            progress(&format!("making the {} root tree in {} (about a minute, once)", self.suite(), path.display()));
            debootstrap(self.suite(), &self.packages().collect::<Vec<_>>(), partial)
        })?;
        Ok(path)
    }
}

/// Installs a suite's smallest system, and `packages`, into a new directory.
pub(crate) fn debootstrap(suite: &str, packages: &[&str], into: &Path) -> Result<()> {
    run_debootstrap(suite, &[], packages, into)?;
    cache::remove(&into.join(ARCHIVES))
}

/// Unpacks a suite's smallest system, and `packages` with what they depend on, into a new directory. Nothing of it is run:
/// no user is made, and no service started.
pub(crate) fn unpack(suite: &str, packages: &[&str], into: &Path) -> Result<()> {
    run_debootstrap(suite, &["--foreign"], packages, into)?;
    let archives = into.join(ARCHIVES);
    let entries = fs::read_dir(&archives).map_err(Error::path("list", &archives))?;
    for entry in entries {
        let path = entry.map_err(Error::path("list", &archives))?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            complete("dpkg-deb", Command::new("dpkg-deb").arg("--extract").arg(&path).arg(into))?;
        }
    }
    cache::remove(&archives)
}

fn run_debootstrap(suite: &str, flags: &[&str], packages: &[&str], into: &Path) -> Result<()> {
    // Bookworm's debootstrap has no script for forky; every newer suite's script is a link to sid's.
    let script = [suite, "sid"].iter().map(|name| Path::new(SCRIPTS).join(name)).find(|path| path.exists());
    let Some(script) = script else {
        return Err(Error::Unsupported { what: "debootstrap", why: format!("no scripts in {SCRIPTS}") });
    };
    // In a mount namespace of its own: the proc that it mounts in the tree goes with it, however it ends.
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "debootstrap", "--variant=minbase"]).args(flags);
    // It takes an empty list for a mistake.
    if !packages.is_empty() {
        command.arg(format!("--include={}", packages.join(",")));
    }
    command.arg(suite).arg(into).arg(MIRROR).arg(script);
    complete(&format!("debootstrap {suite}"), &mut command)
}

/// Runs a command of the making of a tree or an image to its end.
///
/// # Errors
/// `Command` with the last of its output when it fails.
pub(crate) fn complete(named: &str, command: &mut Command) -> Result<()> {
    command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C").stdin(Stdio::null());
    let output = command.output().map_err(|source| Error::Spawn { command: named.to_owned(), source })?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let tail: Vec<&str> = text.lines().rev().take(15).collect();
    let tail: Vec<&str> = tail.into_iter().rev().collect();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let output_text = format!("{}\n{stderr}", tail.join("\n"));
    Err(Error::Command { command: named.to_owned(), status: output.status.to_string(), output: output_text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_have_names_of_their_own() {
        let [bookworm, trixie, forky] = Tree::ALL.map(Tree::path);
        assert!(bookworm != trixie && trixie != forky && forky != bookworm);
        assert!(trixie.file_name().unwrap().to_str().unwrap().starts_with("trixie-"));
        assert_eq!(trixie, Tree::Trixie.path());
    }
}
