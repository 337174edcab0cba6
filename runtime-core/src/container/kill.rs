//! `kill`: a signal to the init, or to all.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{PidfdFlags, pidfd_open};

use super::Container;
use crate::sys::process::pidfd_signal;
use crate::{Error, Pid, Result, Signal};

/// How long the processes of a container may take to end, and to freeze.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);

/// Descriptors of processes that are open at the same time.
const AT_ONCE: usize = 128;

pub(super) fn kill(container: &Container, signal: Signal, all: bool) -> Result<()> {
    // In a pid namespace that it shares, the init does not take the others with it.
    if all || signal == Signal::KILL && container.state.shared_pid_namespace {
        return kill_all(container, signal);
    }
    kill_init(container, signal)
}

fn kill_init(container: &Container, signal: Signal) -> Result<()> {
    let pidfd = container.pidfd.as_ref().ok_or_else(|| not_running(container))?;
    match pidfd_signal(pidfd.as_fd(), signal.as_raw()) {
        Err(Errno::SRCH) => return Err(not_running(container)),
        other => other.map_err(|err| system(container, "signal the init", err))?,
    }
    if signal == Signal::KILL {
        // On cgroup v1 a frozen process does not die.
        thaw_frozen(container)?;
    }
    Ok(())
}

fn kill_all(container: &Container, signal: Signal) -> Result<()> {
    let cgroup = &container.state.cgroup;
    if cgroup.is_none() {
        return kill_without_cgroup(container, signal);
    }
    if container.pids()?.is_empty() {
        return Err(not_running(container));
    }
    if signal == Signal::KILL {
        return cgroup.kill(DEADLINE).map_err(container.cgroup_failed());
    }
    // Frozen, none can fork away from the list. A container that is paused stays so; the signal waits for its resume.
    let paused = cgroup.frozen().map_err(container.cgroup_failed())?;
    if !paused {
        cgroup.freeze(DEADLINE).map_err(container.cgroup_failed())?;
    }
    let signalled = container.pids().and_then(|pids| pids.into_iter().try_for_each(|pid| send(container, pid, signal)));
    let thawed = if paused { Ok(()) } else { cgroup.thaw(DEADLINE).map_err(container.cgroup_failed()) };
    signalled.and(thawed)
}

/// In a pid namespace of its own the init takes the others with it; a shared one tells nobody whose a process is.
fn kill_without_cgroup(container: &Container, signal: Signal) -> Result<()> {
    if signal == Signal::KILL {
        if container.state.shared_pid_namespace {
            // As runc warns.
            tracing::warn!(
                id = %container.id(),
                "failed to kill all processes, possibly due to lack of cgroup (Hint: enable cgroup v2 delegation)"
            );
        }
        return kill_init(container, signal);
    }
    let pids = container.pids()?;
    if pids.is_empty() {
        return Err(not_running(container));
    }
    pids.chunks(AT_ONCE).try_for_each(|some| send_still(container, some, signal))
}

/// A pid may have been given to another since it was listed: who has it now and is in a list that is made later is one of the
/// container's.
fn send_still(container: &Container, pids: &[Pid], signal: Signal) -> Result<()> {
    let opened = |&pid| open(container, pid).map(|pidfd| pidfd.map(|pidfd| (pid, pidfd))).transpose();
    let pidfds: Vec<(Pid, OwnedFd)> = pids.iter().filter_map(opened).collect::<Result<_>>()?;
    let still: HashSet<Pid> = container.pids()?.into_iter().collect();
    let mut ours = pidfds.iter().filter(|(pid, _)| still.contains(pid));
    ours.try_for_each(|(_, pidfd)| send_to(container, pidfd, signal))
}

fn send(container: &Container, pid: Pid, signal: Signal) -> Result<()> {
    open(container, pid)?.map_or(Ok(()), |pidfd| send_to(container, &pidfd, signal))
}

/// `None` for a process that has ended.
fn open(container: &Container, pid: Pid) -> Result<Option<OwnedFd>> {
    let Some(raw) = rustix::process::Pid::from_raw(pid.as_raw()) else { return Ok(None) };
    match pidfd_open(raw, PidfdFlags::empty()) {
        // A zombie, or a thread that is none of a group's leaders.
        Err(Errno::SRCH | Errno::INVAL) => Ok(None),
        opened => opened.map(Some).map_err(|err| system(container, "open a process", err)),
    }
}

fn send_to(container: &Container, pidfd: &OwnedFd, signal: Signal) -> Result<()> {
    match pidfd_signal(pidfd.as_fd(), signal.as_raw()) {
        Err(Errno::SRCH) => Ok(()),
        other => other.map_err(|err| system(container, "signal a process", err)),
    }
}

pub(super) fn thaw_frozen(container: &Container) -> Result<()> {
    let cgroup = &container.state.cgroup;
    // The cgroup goes with its last process, on request of whoever deletes the container meanwhile.
    if cgroup.frozen().unwrap_or(false) { cgroup.thaw(DEADLINE).map_err(container.cgroup_failed()) } else { Ok(()) }
}

fn not_running(container: &Container) -> Error {
    Error::NotRunning { id: container.id().clone() }
}

pub(super) fn system(container: &Container, operation: &'static str, err: Errno) -> Error {
    Error::System { id: container.id().clone(), operation, err: err.into() }
}
