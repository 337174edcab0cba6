//! Processes that a signal has stopped (SIGSTOP, ^Z), in the freezer of cgroup v1.
//!
//! Who begins to trace a stopped process waits in the kernel until that one has gone from "stopped" to "traced", and in this
//! freezer it does not go anywhere: CRIU hangs in ptrace(2), where only SIGKILL reaches it. The freezer of cgroup v2 is one
//! that ptrace knows.

use std::fs;

use crate::{Pid, stat};

/// Where such a process waits in the kernel, as proc_pid_wchan(5) names it.
const WAITS_IN: &str = "do_signal_stop";

/// What the same file has in a kernel that knows no names (without CONFIG_KALLSYMS).
const NAMELESS: &str = "0";

/// What is seen of processes, which may be frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    NoneStopped,
    /// One of those that are.
    Stopped(Pid),
    /// Not to be told as long as they are frozen.
    Hidden,
}

pub(super) fn look(pids: &[Pid]) -> Sight {
    let mut seen = Sight::NoneStopped;
    for &pid in pids {
        let stat = fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
        let wchan = || fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
        match judge(&String::from_utf8_lossy(&stat), wchan) {
            Some(true) => return Sight::Stopped(pid),
            Some(false) => {}
            None => seen = Sight::Hidden,
        }
    }
    seen
}

/// Whether it is stopped, if that can be seen.
fn judge(stat: &str, wchan: impl FnOnce() -> String) -> Option<bool> {
    match stat::state(stat) {
        Some(b'T') => Some(true),
        // Since Linux 6.1 a frozen one is in state D, whatever it was in before.
        Some(b'D') => match wchan() {
            name if name == NAMELESS => None,
            name => Some(name == WAITS_IN),
        },
        _ => Some(false),
    }
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
        let becomes = |expected: Sight| {
            let until = Instant::now() + Duration::from_secs(5);
            while look(&[own, pid]) != expected && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(1));
            }
            look(&[own, pid]) == expected
        };
        let running = becomes(Sight::NoneStopped);
        kill_process(RawPid::from_child(&child), Signal::STOP).unwrap();
        let stopped = becomes(Sight::Stopped(pid));
        kill_process(RawPid::from_child(&child), Signal::CONT).unwrap();
        let goes_on = becomes(Sight::NoneStopped);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(running && stopped && goes_on, "{running} {stopped} {goes_on}");
    }

    #[test]
    fn a_frozen_process_is_known_by_where_it_waits_if_that_has_a_name() {
        let judged = |stat, wchan: &str| judge(stat, || wchan.to_owned());
        assert_eq!(judged("7 (a) D 1", "do_signal_stop"), Some(true));
        assert_eq!(judged("7 (a) D 1", "__refrigerator"), Some(false));
        assert_eq!(judged("7 (a) D 1", "0"), None);
        assert_eq!(judged("7 (a) T 1", "0"), Some(true));
        assert_eq!(judged("7 (a) S 1", "0"), Some(false));
        // Gone.
        assert_eq!(judged("", ""), Some(false));
    }
}
