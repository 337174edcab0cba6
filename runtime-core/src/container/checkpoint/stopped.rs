//! Processes that a signal has stopped (SIGSTOP, ^Z), in the freezer of cgroup v1.
//!
//! Who begins to trace a stopped process waits in the kernel until that one has gone from "stopped" to "traced", and in this
//! freezer it does not go anywhere: CRIU hangs in ptrace(2), where only SIGKILL reaches it. The freezer of cgroup v2 is one
//! that ptrace knows.

use std::fs;

use crate::Pid;

/// Where such a process waits in the kernel, as proc_pid_wchan(5) names it.
const WAITS_IN: &str = "do_signal_stop";

/// One of these that is stopped. They may be frozen.
pub(super) fn find(pids: &[Pid]) -> Option<Pid> {
    pids.iter().copied().find(|pid| {
        let stat = fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
        // Since Linux 6.1 a frozen one is in state D, whatever it was in before.
        match state(&String::from_utf8_lossy(&stat)) {
            Some('T') => true,
            Some('D') => fs::read(format!("/proc/{pid}/wchan")).is_ok_and(|name| name == WAITS_IN.as_bytes()),
            _ => false,
        }
    })
}

/// Field 3 of proc_pid_stat(5).
fn state(stat: &str) -> Option<char> {
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::{Duration, Instant};

    use rustix::process::{Pid as RawPid, Signal, kill_process};

    use super::*;

    #[test]
    fn a_process_that_is_stopped_is_found_until_it_goes_on() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::new(child.id().cast_signed()).unwrap();
        let own = Pid::new(std::process::id().cast_signed()).unwrap();
        let becomes = |expected: Option<Pid>| {
            let until = Instant::now() + Duration::from_secs(5);
            while find(&[own, pid]) != expected && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1));
            }
            find(&[own, pid]) == expected
        };
        let running = becomes(None);
        kill_process(RawPid::from_child(&child), Signal::STOP).unwrap();
        let stopped = becomes(Some(pid));
        kill_process(RawPid::from_child(&child), Signal::CONT).unwrap();
        let goes_on = becomes(None);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(running && stopped && goes_on, "{running} {stopped} {goes_on}");
        assert_eq!(state("7 (a) b) D 1"), Some('D'));
    }
}
