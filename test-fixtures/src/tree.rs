//! The root trees that nodes are made from: made once by debootstrap, shared by all nodes as an overlay's lower layer.
//!
//! A tree is cached as `$RTC_CACHE/trees/SUITE-HASH` (default `/var/cache/rtc`), where HASH stands for the package list,
//! so that a changed list makes a new tree. It is built beside its place and renamed when complete: what has the name is
//! whole. A lock per tree makes parallel callers wait for the one that builds.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

use crate::{Error, Result};

const MIRROR: &str = "http://deb.debian.org/debian";
const SCRIPTS: &str = "/usr/share/debootstrap/scripts";

/// Bumped when the way a tree is made changes, and not its packages.
const REVISION: &str = "1";

const PACKAGES: &[&str] = &[
    "busybox-static",
    "ca-certificates",
    "containerd",
    "containernetworking-plugins",
    "criu",
    "crun",
    "iproute2",
    // runc leaves CRIU's default, which locks the network with iptables.
    "iptables",
    "jq",
    "libcriu2",
    "nftables",
    "procps",
    "runc",
    "strace",
    "tini",
];

/// Which Debian, and so which containerd, runc, crun and CRIU, a node is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Tree {
    /// Debian 13: containerd 1.7.24, runc 1.1.15, crun 1.21, CRIU 4.1.1.
    #[default]
    Trixie,
    /// Debian 14: containerd 2.1.9, runc 1.3.6, crun 1.28, CRIU 4.2.1. Its CRIU is the one for checkpoint tests.
    Forky,
}

impl Tree {
    pub const ALL: [Self; 2] = [Self::Trixie, Self::Forky];

    pub fn suite(self) -> &'static str {
        match self {
            Self::Trixie => "trixie",
            Self::Forky => "forky",
        }
    }

    /// Where the complete tree is or will be.
    pub fn path(self) -> PathBuf {
        cache().join("trees").join(format!("{}-{}", self.suite(), self.hash()))
    }

    /// The tree's root directory, made first when it is missing: about a minute and 450 MB. Blocks, also while another
    /// process makes it. `progress` is called once before work that takes long.
    ///
    /// # Errors
    /// When debootstrap is missing or fails; nothing is left behind then.
    pub fn ensure(self, progress: impl FnOnce(&str)) -> Result<PathBuf> {
        let path = self.path();
        if path.is_dir() {
            return Ok(path);
        }
        let parent = cache().join("trees");
        fs::create_dir_all(&parent).map_err(Error::path("create", &parent))?;
        let lock_path = parent.join(format!(".{}.lock", self.suite()));
        let lock = File::create(&lock_path).map_err(Error::path("create", &lock_path))?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|e| Error::path("lock", &lock_path)(e.into()))?;
        if path.is_dir() {
            return Ok(path);
        }
        progress(&format!("making the {} root tree in {} (about a minute, once)", self.suite(), path.display()));
        // The lock is ours, so a half-made tree with this name is what a killed build left.
        let partial = parent.join(format!(".{}-{}.partial", self.suite(), self.hash()));
        remove_tree(&partial)?;
        let built = self.debootstrap(&partial).and_then(|()| {
            remove_tree(&partial.join("var/cache/apt/archives"))?;
            fs::rename(&partial, &path).map_err(Error::path("rename", &partial))
        });
        if let Err(error) = built {
            remove_tree(&partial)?;
            return Err(error);
        }
        Ok(path)
    }

    fn debootstrap(self, into: &Path) -> Result<()> {
        // Bookworm's debootstrap has no script for forky; every newer suite's script is a link to sid's.
        let script = [self.suite(), "sid"].iter().map(|name| Path::new(SCRIPTS).join(name)).find(|path| path.exists());
        let Some(script) = script else {
            return Err(Error::Unsupported { what: "debootstrap", why: format!("no scripts in {SCRIPTS}") });
        };
        // In a mount namespace of its own: the proc that it mounts in the tree goes with it, however it ends.
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "debootstrap", "--variant=minbase"])
            .arg(format!("--include={}", PACKAGES.join(",")))
            .arg(self.suite())
            .arg(into)
            .arg(MIRROR)
            .arg(script)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        let named = format!("debootstrap {}", self.suite());
        let output = command.output().map_err(|source| Error::Spawn { command: named.clone(), source })?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let tail: Vec<&str> = text.lines().rev().take(15).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        let stderr = String::from_utf8_lossy(&output.stderr);
        let output_text = format!("{}\n{stderr}", tail.join("\n"));
        Err(Error::Command { command: named, status: output.status.to_string(), output: output_text })
    }

    fn hash(self) -> String {
        let mut hash = Sha256::new();
        for word in [REVISION, self.suite()].into_iter().chain(PACKAGES.iter().copied()) {
            hash.update(word);
            hash.update([0]);
        }
        hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// `$RTC_CACHE`, else `/var/cache/rtc`.
pub fn cache() -> PathBuf {
    std::env::var_os("RTC_CACHE").map_or_else(|| PathBuf::from("/var/cache/rtc"), PathBuf::from)
}

fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::path("remove", path)(e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_have_names_of_their_own() {
        let [trixie, forky] = Tree::ALL.map(Tree::path);
        assert_ne!(trixie, forky);
        assert!(trixie.file_name().unwrap().to_str().unwrap().starts_with("trixie-"));
        assert_eq!(trixie, Tree::Trixie.path());
    }
}
