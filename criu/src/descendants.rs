//! Ending a CRIU process with all that it has started.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Rounds until everything is found that forks faster than it is killed.
const ROUNDS: usize = 32;

/// SIGKILL to the process and its descendants. A process that CRIU restored as a sibling is not among them: the caller
/// ends the tree that was being restored through its cgroup.
pub(crate) fn kill(pid: i32, pidfd: BorrowedFd<'_>) {
    // Stopped first: it can then neither fork nor reap, so that the pids of its children stay theirs.
    signal(pidfd, Signal::STOP);
    for _ in 0..ROUNDS {
        let mut live = 0;
        kill_below(pid, &mut live);
        if live == 0 {
            break;
        }
        std::thread::yield_now();
    }
    signal(pidfd, Signal::KILL);
}

fn kill_below(parent: i32, live: &mut usize) {
    for child in children(parent) {
        let Some(pid) = Pid::from_raw(child) else { continue };
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        // Its own first: they would be somebody else's children after its death.
        kill_below(child, live);
        // The pid could have been reused before the pidfd was opened; then its parent is another.
        if let Some((parent_now, state)) = stat(child)
            && parent_now == parent
            && state != 'Z'
            && state != 'X'
        {
            *live += 1;
            signal(pidfd.as_fd(), Signal::KILL);
        }
    }
}

/// The process and all below it.
pub(crate) fn tree(root: i32) -> Vec<i32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        found.extend(children(pid));
        next += 1;
    }
    found
}

/// Lets a process go on that somebody has stopped.
pub(crate) fn go_on(pidfd: BorrowedFd<'_>) {
    signal(pidfd, Signal::CONT);
}

fn signal(pidfd: BorrowedFd<'_>, signal: Signal) {
    match pidfd_send_signal(pidfd, signal) {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(err) => tracing::warn!(%err, ?signal, "signal a criu process"),
    }
}

/// Empty for a process that is gone.
fn children(pid: i32) -> Vec<i32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    tasks
        .flatten()
        .filter_map(|task| fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|list| list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// Parent and state (proc_pid_stat(5)).
fn stat(pid: i32) -> Option<(i32, char)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((fields.next()?.parse().ok()?, state))
}
