//! What the debug log says of a process in the making, in the words of runc's: its users look for them.

use rustix::thread::CpuSet;
use tracing::{Level, debug, enabled};

use crate::Pid;

/// The process is in its namespaces, with the CPUs that it was made with.
pub(super) fn made(pid: Pid) {
    if !enabled!(Level::DEBUG) {
        return;
    }
    debug!("nsexec[{pid}]: => nsexec container setup");
    // It may have ended already, and then says so itself.
    if let Ok(cpus) = rustix::thread::sched_getaffinity(rustix::process::Pid::from_raw(pid.as_raw())) {
        debug!("nsexec[{pid}]: affinity: {}", mask(&cpus));
    }
}

/// It has its orders, and has begun to carry them out.
pub(super) fn working() {
    debug!("child process in init()");
}

/// All that is left to it is to wait for its start.
pub(super) fn ready(is_init: bool) {
    if is_init {
        debug!("init: closing the pipe to signal completion");
    } else {
        debug!("setns_init: about to exec");
    }
}

/// In hexadecimal, without leading zeros.
fn mask(cpus: &CpuSet) -> String {
    let digit = |at: usize| (0..4).filter(|bit| cpus.is_set(at * 4 + bit)).fold(0, |digit, bit| digit | 1u32 << bit);
    let digits: String = (0..CpuSet::MAX_CPU / 4).rev().filter_map(|at| char::from_digit(digit(at), 16)).collect();
    format!("0x{}", digits.trim_start_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_told_as_runc_tells_it() {
        let of = |numbers: &[usize]| {
            let mut cpus = CpuSet::new();
            numbers.iter().for_each(|cpu| cpus.set(*cpu));
            mask(&cpus)
        };
        assert_eq!([of(&[0]), of(&[0, 1]), of(&[5]), of(&[2, 64])], ["0x1", "0x3", "0x20", "0x10000000000000004"]);
    }
}
