//! Ending a CRIU process with all that it has started.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};

/// Rounds until everything is found that forks faster than it is killed.
const ROUNDS: usize = 32;

const PAUSE: Duration = Duration::from_millis(1);

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

/// How long what is killed may take to end.
const END: Duration = Duration::from_secs(2);

/// SIGKILL to what a CRIU that somebody has killed leaves behind: programs that it has started, such as iptables-restore, which
/// would change the network after all. `leader` is that CRIU, not reaped yet: so the number of its process group is its own.
pub(crate) fn kill_group(leader: i32) {
    let Some(group) = Pid::from_raw(leader) else { return };
    let until = Instant::now() + END;
    loop {
        match kill_process_group(group, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(err) => return tracing::warn!(%err, "signal the process group of a criu that was killed"),
        }
        if !others_live(leader) || Instant::now() >= until {
            return;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Whether a process of the group is neither its leader nor a zombie.
fn others_live(group: i32) -> bool {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.any(|pid| pid != group && fields(pid).is_some_and(|found| found.group == group && !found.has_ended()))
}

fn kill_below(parent: i32, live: &mut usize) {
    for child in children(parent) {
        let Some(pid) = Pid::from_raw(child) else { continue };
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        // Its own first: they would be somebody else's children after its death.
        kill_below(child, live);
        // The pid could have been reused before the pidfd was opened; then its parent is another.
        if fields(child).is_some_and(|now| now.parent == parent && !now.has_ended()) {
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

/// What is known of a process (proc_pid_stat(5)).
struct Fields {
    state: char,
    parent: i32,
    group: i32,
}

impl Fields {
    fn has_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

fn fields(pid: i32) -> Option<Fields> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some(Fields { state, parent: fields.next()?.parse().ok()?, group: fields.next()?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn what_a_killed_leader_has_started_ends_with_it() {
        let script = "sleep 61 & echo $!; exec sleep 62";
        let mut command = Command::new("sh");
        let mut leader =
            command.args(["-c", script]).process_group(0).stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(leader.stdout.take().unwrap()), &mut line).unwrap();
        let child: i32 = line.trim().parse().unwrap();
        let pid = i32::try_from(leader.id()).unwrap();
        leader.kill().unwrap();
        assert!(fields(child).is_some_and(|found| found.group == pid && !found.has_ended()));
        kill_group(pid);
        assert!(fields(child).is_none_or(|found| found.has_ended()));
        leader.wait().unwrap();
    }
}
