//! Whether CRIU still does something.
//!
//! Nobody can say beforehand how long a dump may take: it depends on the memory and on the disk. But a CRIU that has not run
//! for a while and has logged nothing waits for something that does not come. A sign of life is CPU time, a context switch or
//! a line in its log, of CRIU or of any of its children; what waits for a slow disk has one with every block.

use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use crate::descendants;

/// How many times it is looked within the time.
const LOOKS: u32 = 8;

/// One for each request that is watched.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) after: Duration,
    last: u64,
    looked: Instant,
    /// Looks in a row that saw nothing new.
    quiet: u32,
}

impl Watch {
    pub(crate) fn new(after: Duration) -> Self {
        Self { after, last: 0, looked: Instant::now(), quiet: 0 }
    }

    /// How long may be waited until the next look.
    pub(crate) fn interval(&self) -> Duration {
        self.after / LOOKS
    }

    /// It has just been seen to live.
    pub(crate) fn alive(&mut self) {
        self.looked = Instant::now();
        self.quiet = 0;
    }

    /// Looks; whether there was no sign of life for the whole time. `roots` are CRIU and a process that it restores.
    pub(crate) fn is_stalled(&mut self, roots: &[i32], log: Option<(BorrowedFd<'_>, &str)>) -> bool {
        // Looks are counted, not time alone: a machine that stood still itself lets much time pass between two of them.
        if self.looked.elapsed() < self.interval() {
            return false;
        }
        self.looked = Instant::now();
        let mut signs = log.map_or(0, log_size);
        for &root in roots {
            for pid in descendants::tree(root) {
                signs = signs.wrapping_add(activity(pid));
            }
        }
        self.quiet = if signs == self.last { self.quiet + 1 } else { 0 };
        self.last = signs;
        self.quiet >= LOOKS
    }
}

fn log_size((directory, file): (BorrowedFd<'_>, &str)) -> u64 {
    fs::metadata(format!("/proc/self/fd/{}/{file}", directory.as_raw_fd())).map_or(0, |metadata| metadata.len())
}

/// A number that grows when the process runs; 0 when it is gone.
fn activity(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    cpu_time(&stat).unwrap_or_default().wrapping_add(switches(&status))
}

/// utime and stime, the 14th and 15th field of proc_pid_stat(5), in ticks. The name may hold anything.
fn cpu_time(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

fn switches(status: &str) -> u64 {
    let lines = status.lines().filter_map(|line| line.split_once("ctxt_switches:"));
    lines.filter_map(|(_, count)| count.trim().parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_that_sleeps_stalls_and_one_that_runs_does_not() {
        let after = Duration::from_millis(200);
        for (script, expected) in [("exec sleep 60", true), ("while :; do :; done", false)] {
            let mut child = Command::new("sh").args(["-c", script]).spawn().unwrap();
            let roots = [child.id().cast_signed()];
            let mut watch = Watch::new(after);
            let until = Instant::now() + 6 * after;
            let mut stalled = false;
            while !stalled && Instant::now() < until {
                std::thread::sleep(watch.interval());
                stalled = watch.is_stalled(&roots, None);
            }
            child.kill().unwrap();
            child.wait().unwrap();
            assert_eq!(stalled, expected, "{script}");
        }
    }

    #[test]
    fn the_fields_of_proc_are_found() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194304 100 0 0 0 30 12 0 0 20 0 1 0 5 0 0";
        assert_eq!(cpu_time(stat), Some(42));
        assert_eq!(switches("voluntary_ctxt_switches:\t3\nnonvoluntary_ctxt_switches:\t4\n"), 7);
    }
}
