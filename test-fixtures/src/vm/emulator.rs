//! QEMU and a kernel, in a root tree of their own: the host needs neither.
//!
//! Debian 13's, for both. Cached as `$RTC_CACHE/vm/emulator-HASH`. The kernel is the newest of the time when it was made.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tree::{complete, debootstrap};
use crate::{Result, cache};

const SUITE: &str = "trixie";
const PACKAGES: &[&str] = &["ca-certificates", "e2fsprogs", "kmod", "qemu-system-x86"];
const KERNEL: &str = include_str!("kernel.sh");

/// The tree, complete.
#[derive(Clone, Debug)]
pub(super) struct Emulator(PathBuf);

impl Emulator {
    /// Where the complete tree is or will be.
    pub(super) fn path() -> PathBuf {
        let words = ["1", SUITE, KERNEL].into_iter().chain(PACKAGES.iter().copied());
        cache::directory().join("vm").join(format!("emulator-{}", cache::hash(words)))
    }

    /// Makes the tree when it is missing, which takes about a minute and 600 MB.
    pub(super) fn ensure(progress: impl FnOnce(&str)) -> Result<Self> {
        let path = Self::path();
        cache::ensure(&path, |partial| {
            progress(&format!("making the tree of QEMU and its kernel in {} (about a minute, once)", path.display()));
            debootstrap(SUITE, PACKAGES, partial)?;
            let mut unpack = Self(partial.to_owned()).command(Path::new("/"));
            complete("unpack the kernel of the virtual machines", unpack.args(["sh", "-euc", KERNEL]))
        })?;
        Ok(Self(path))
    }

    /// The kernel as the emulator sees it.
    pub(super) fn kernel() -> &'static str {
        "/kernel/vmlinuz"
    }

    /// The kernel's modules, on the host: the directory that holds one of the kernel's version.
    pub(super) fn modules(&self) -> PathBuf {
        self.0.join("kernel/usr/lib/modules")
    }

    /// What runs a command of this tree in a directory of the host, to which the command is yet to be given. All of it
    /// ends with what is started.
    pub(super) fn command(&self, directory: &Path) -> Command {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child=KILL", "--"])
            .args(["sh", "-c", include_str!("enter.sh"), "sh"])
            .args([&self.0, directory])
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }
}
