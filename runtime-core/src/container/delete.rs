//! `delete`: nothing is left.

use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::checkpoint::aftermath;
use super::create::run_poststop;
use super::kill::{DEADLINE, system, thaw_frozen};
use super::{Container, Status};
use crate::cgroup::Pending;
use crate::resctrl::Class;
use crate::sys::process::pidfd_signal;
use crate::{Error, Result};

pub(super) fn delete(container: &Container, force: bool) -> Result<()> {
    let cgroup = &container.state.cgroup;
    match container.status()? {
        status @ (Status::Creating | Status::Running | Status::Paused) if !force => {
            let problem = "cannot delete a container that is not stopped";
            return Err(Error::WrongStatus { id: container.id().clone(), problem, status });
        }
        Status::Creating | Status::Created | Status::Running | Status::Paused => end(container)?,
        Status::Stopped => {}
    }
    // What shared a pid namespace with the init has outlived it.
    if container.state.shared_pid_namespace || force {
        cgroup.kill(DEADLINE).map_err(container.cgroup_failed())?;
    }
    cgroup.remove(DEADLINE).map_err(container.cgroup_failed())?;
    container.state.pending_cgroup.as_ref().map_or(Ok(()), Pending::discard).map_err(container.cgroup_failed())?;
    let class = container.state.class.as_ref().map_or(Ok(()), Class::remove);
    class.map_err(|err| Error::Resctrl { id: container.id().clone(), err })?;
    aftermath::unlock_left(container);
    run_poststop(container.id(), &container.state.poststop, &container.state.hook_state("stopped"));
    container.directory.remove()
}

/// Ends the init, and with it all of a pid namespace of its own. Whoever owns it as a child reaps it.
fn end(container: &Container) -> Result<()> {
    let Some(pidfd) = &container.pidfd else { return Ok(()) };
    match pidfd_signal(pidfd.as_fd(), libc::SIGKILL) {
        Err(Errno::SRCH) => return Ok(()),
        other => other.map_err(|err| system(container, "end the init", err))?,
    }
    thaw_frozen(container)?;
    let timeout = Timespec { tv_sec: DEADLINE.as_secs() as i64, tv_nsec: 0 };
    match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&timeout)) {
        Ok(0) => Err(system(container, "wait for the init's end", Errno::TIMEDOUT)),
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(err) => Err(system(container, "wait for the init's end", err)),
    }
}
