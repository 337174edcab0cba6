//! How the CRIU process is started: by the caller, who knows how its children are registered and reaped.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Starts a program as a child of this process.
pub trait Spawn {
    /// Starts `command` as it is. It must be a direct child of the calling process: CRIU's `rst_sibling` makes restored
    /// processes children of CRIU's parent.
    ///
    /// # Errors
    /// What [`Command::spawn`] or pidfd_open(2) said; there is no child then.
    fn spawn(&self, command: Command) -> io::Result<Box<dyn Process>>;
}

/// A child process, not reaped before [`Process::wait`].
pub trait Process: fmt::Debug + Send {
    fn pid(&self) -> i32;

    /// Readable once the process has exited.
    fn pidfd(&self) -> BorrowedFd<'_>;

    /// Blocks until the process has exited and reaps it: its exit code, or 128 plus the number of the signal that ended
    /// it. Called at most once.
    ///
    /// # Errors
    /// waitid(2)'s.
    fn wait(&mut self) -> io::Result<u32>;
}

/// [`Spawn`] for programs that keep no register of their children.
#[derive(Clone, Copy, Debug, Default)]
pub struct Direct;

#[derive(Debug)]
struct DirectProcess {
    child: std::process::Child,
    pidfd: OwnedFd,
}

impl Spawn for Direct {
    fn spawn(&self, mut command: Command) -> io::Result<Box<dyn Process>> {
        let mut child = command.spawn()?;
        match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Box::new(DirectProcess { child, pidfd })),
            Err(err) => {
                child.kill()?;
                child.wait()?;
                Err(err.into())
            }
        }
    }
}

impl Process for DirectProcess {
    fn pid(&self) -> i32 {
        Pid::from_child(&self.child).as_raw_nonzero().get()
    }

    fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    fn wait(&mut self) -> io::Result<u32> {
        let status = self.child.wait()?;
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        Ok(code.unsigned_abs())
    }
}
