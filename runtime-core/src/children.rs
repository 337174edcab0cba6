//! Every child of this process, known by pidfd from before it can be reaped.
//!
//! Exits are taken through the pidfd of the child alone; nothing in this program calls `waitpid(-1)`, which would steal
//! the exits of others. As a subreaper the process also inherits orphans: [`sweep_orphans`] reaps those, and only those,
//! because [`register`] runs under the same lock as the `clone3` that made a child.

use std::os::fd::OwnedFd;
use std::time::SystemTime;

use crate::Pid;

/// How a process ended, as containerd reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The exit code, or 128 plus the number of the signal that ended it.
    pub code: u32,
    pub at: SystemTime,
}

/// A child of this process. Dropping it forgets the child without ending it; it is then reaped as an orphan.
#[derive(Debug)]
pub struct Child {
    pub pid: Pid,
    pidfd: OwnedFd,
}

impl Child {
    /// Readable (poll(2)) once the process has exited (pidfd_open(2)).
    pub fn pidfd(&self) -> std::os::fd::BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.pidfd)
    }

    /// Reaps the process if it has exited. Never blocks. After it has returned `Some` once, it returns the same again.
    ///
    /// # Errors
    /// waitid(2)'s, which a caller that owns the child never sees.
    pub fn try_reap(&self) -> std::io::Result<Option<Exit>> {
        todo!()
    }

    /// Blocks until the process has exited, and reaps it.
    ///
    /// # Errors
    /// As [`Child::try_reap`].
    pub fn wait(&self) -> std::io::Result<Exit> {
        todo!()
    }
}

/// Reaps the exited children of this process that no [`Child`] stands for: orphans that came to it as a subreaper.
/// Called on SIGCHLD. Returns how many.
pub fn sweep_orphans() -> usize {
    todo!()
}
