//! Signals to every process of a cgroup.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use rustix::process::{PidfdFlags, pidfd_open};

use super::freezer::Freezer;
use super::{Cgroup, Error, directory, file};
use crate::sys::process::pidfd_signal;
use crate::{Pid, Signal, stat};

/// How long `signal` waits for the subtree to stop before it signals a moving target.
const FREEZE: Duration = Duration::from_millis(500);

/// Descriptors of processes that are open at the same time.
const AT_ONCE: usize = 128;

pub(super) fn kill(cgroup: &Cgroup, deadline: Duration) -> Result<(), Error> {
    let until = Instant::now() + deadline;
    let mut pause = Duration::from_micros(200);
    loop {
        kill_once(cgroup)?;
        // Thawed after each round: on v1 a frozen process takes SIGKILL only when it runs again.
        if let Some(freezer @ Freezer::V1(_)) = cgroup.freezer() {
            freezer.thaw(Instant::now(), until.saturating_duration_since(Instant::now()))?;
        }
        let left = living(cgroup)?;
        if left == 0 {
            return Ok(());
        }
        let now = Instant::now();
        if now >= until {
            let path = cgroup.main_dir().map(|dir| dir.path.clone()).unwrap_or_default();
            return Err(Error::KillTimeout { path, processes: left, deadline });
        }
        thread::sleep(pause.min(until - now));
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// `cgroup.kill` (Linux 5.14) reaches every process at once, forking ones and frozen ones too. What is in v1 alone, or on
/// an older kernel, is killed one by one; the caller repeats until nothing is left.
fn kill_once(cgroup: &Cgroup) -> Result<(), Error> {
    if let Some(dir) = &cgroup.unified {
        match file::write(&dir.path.join("cgroup.kill"), "1") {
            // No such file, no such cgroup, or a threaded one.
            Err(Error::Write { err: Errno::ENOENT | Errno::ENODEV | Errno::EOPNOTSUPP, .. }) => {}
            other => other?,
        }
    }
    send(cgroup, Signal::KILL)
}

/// Processes that are not yet dead. A zombie is still listed by v1's `cgroup.procs` until it is reaped, and it may be
/// ours to reap after this call.
fn living(cgroup: &Cgroup) -> Result<usize, Error> {
    if let (true, Some(dir)) = (cgroup.is_v2(), &cgroup.unified) {
        // Zombies do not populate a v2 cgroup.
        let events = file::read_pairs(&dir.path.join("cgroup.events"))?;
        return match events.is_some_and(|events| events.get("populated") == 1) {
            true => Ok(cgroup.pids()?.len().max(1)),
            false => Ok(0),
        };
    }
    let mut living = 0;
    for pid in cgroup.pids()? {
        living += usize::from(!is_zombie(pid)?);
    }
    Ok(living)
}

fn is_zombie(pid: Pid) -> Result<bool, Error> {
    let path = format!("/proc/{pid}/stat");
    let stat = match file::read(Path::new(&path)) {
        Ok(stat) => stat,
        // The process was reaped between open and read.
        Err(Error::Read { err: Errno::ESRCH, .. }) => None,
        Err(err) => return Err(err),
    };
    Ok(matches!(stat.as_deref().and_then(stat::state), None | Some(b'Z' | b'X')))
}

pub(super) fn signal(cgroup: &Cgroup, signal: Signal) -> Result<(), Error> {
    if signal == Signal::KILL {
        kill_once(cgroup)?;
        return match cgroup.freezer() {
            Some(freezer @ Freezer::V1(_)) => freezer.thaw(Instant::now(), FREEZE),
            _ => Ok(()),
        };
    }
    let frozen_before = cgroup.frozen()?;
    let freezer = cgroup.freezer().filter(|_| !frozen_before);
    let frozen = match &freezer {
        Some(freezer) => match freezer.freeze(Instant::now(), FREEZE) {
            Ok(()) => true,
            Err(err @ Error::FreezeTimeout { rollback: Some(_), .. }) => return Err(err),
            // Gone, or not to be frozen in time: signalling it is still right.
            Err(err) => {
                tracing::debug!(%err, "signalling a cgroup that is not frozen");
                false
            }
        },
        None => false,
    };
    let sent = send(cgroup, signal);
    let thawed = match freezer {
        Some(freezer) if frozen => freezer.thaw(Instant::now(), FREEZE),
        _ => Ok(()),
    };
    sent.and(thawed)
}

fn send(cgroup: &Cgroup, number: Signal) -> Result<(), Error> {
    let Some(dir) = cgroup.main_dir() else { return Ok(()) };
    let mut first = Ok(());
    for some in directory::pids(&dir.path)?.chunks(AT_ONCE) {
        first = first.and(send_to(&dir.path, some, number));
    }
    first
}

fn send_to(path: &Path, pids: &[Pid], number: Signal) -> Result<(), Error> {
    let opened = |&pid| open(path, pid, number).map(|pidfd| pidfd.map(|pidfd| (pid, pidfd))).transpose();
    let pidfds: Vec<(Pid, OwnedFd)> = pids.iter().filter_map(opened).collect::<Result<_, _>>()?;
    // A pid may have been given to another since it was read: who has it now and is in a list that is made later is one of
    // the cgroup's.
    let still: HashSet<Pid> = directory::pids(path)?.into_iter().collect();
    let mut first = Ok(());
    for (pid, pidfd) in pidfds.iter().filter(|(pid, _)| still.contains(pid)) {
        let sent = match pidfd_signal(pidfd.as_fd(), number.as_raw()) {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            sent => sent.map_err(|err| failed(path, *pid, number, err)),
        };
        first = first.and(sent);
    }
    first
}

/// `None` for a process that has ended.
fn open(path: &Path, pid: Pid, number: Signal) -> Result<Option<OwnedFd>, Error> {
    let Some(raw) = rustix::process::Pid::from_raw(pid.as_raw()) else { return Ok(None) };
    match pidfd_open(raw, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => Ok(None),
        opened => opened.map(Some).map_err(|err| failed(path, pid, number, err)),
    }
}

fn failed(path: &Path, pid: Pid, number: Signal, err: rustix::io::Errno) -> Error {
    let err = Errno::from_raw(err.raw_os_error());
    Error::Signal { pid, signal: number.as_raw(), path: path.to_owned(), err }
}
