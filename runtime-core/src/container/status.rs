//! What a container is doing.

use std::fmt;
use std::os::fd::AsFd;
use std::sync::PoisonError;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Container;
use crate::{Error, Pid, Result};

/// The OCI runtime specification's `status`, and runc's `paused`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// By another process, which has not given up or died yet.
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

pub(super) fn status(container: &Container) -> Result<Status> {
    let Some(pid) = container.pid() else { return made(container, Status::Stopped) };
    if !alive(container) {
        return Ok(Status::Stopped);
    }
    match container.state.cgroup.frozen() {
        Ok(true) => return Ok(Status::Paused),
        Ok(false) => {}
        // The init may have ended in between, and its cgroup have gone with it.
        Err(_) if !alive(container) => return Ok(Status::Stopped),
        Err(err) => return Err(Error::Cgroup { id: container.id().clone(), err }),
    }
    if container.channel.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
        return Ok(Status::Created);
    }
    if is_our_init(pid) { made(container, Status::Created) } else { Ok(Status::Running) }
}

/// What it is, if nobody is making it any more.
fn made(container: &Container, made: Status) -> Result<Status> {
    Ok(if container.directory.is_held()? { Status::Creating } else { made })
}

/// The init has not exited; a zombie has.
pub(super) fn alive(container: &Container) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    container.pidfd.as_ref().is_some_and(|pidfd| {
        matches!(poll(&mut [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)], Some(&now)), Ok(0))
    })
}

/// For a container that another process made: its init has not become the user's program yet.
fn is_our_init(pid: Pid) -> bool {
    let name = crate::init::ARGV0.as_bytes();
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.strip_suffix(&[0]) == Some(name))
}
