//! Processes that live no longer than this one: one that does something when this one dies, and one that does nothing.
//!
//! They are forks of a process that may have threads, and execute nothing: they make system calls alone, as
//! [`super::clone`] tells.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

use super::clone::{BlockedSignals, CloneArgs, clone3};
use super::process::reset_signals;

/// When `lifeline` is at its end, and then `after` has exited, `text` is written to `file`; nothing when a byte comes over
/// `lifeline` first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Orders<'a> {
    /// The reading end of a pipe whose other end the caller alone holds.
    pub(crate) lifeline: BorrowedFd<'a>,
    /// A pidfd.
    pub(crate) after: BorrowedFd<'a>,
    pub(crate) file: BorrowedFd<'a>,
    pub(crate) text: &'a [u8],
}

/// Starts a guard and returns its pid and pidfd. The caller sees to it that nobody reaps it before that.
///
/// # Errors
/// clone3(2)'s; there is no guard then.
pub(crate) fn spawn(orders: &Orders<'_>) -> Result<(i32, OwnedFd), Errno> {
    fork(|| guard(orders))
}

/// Starts a process that sleeps until `lifeline` is at its end; as [`spawn`].
pub(crate) fn spawn_placeholder(lifeline: BorrowedFd<'_>) -> Result<(i32, OwnedFd), Errno> {
    let lifeline = lifeline.as_raw_fd();
    fork(|| {
        settle(c"rtc-placeholder", [lifeline; 3]);
        told(lifeline);
    })
}

/// `child` keeps to system calls.
fn fork(child: impl FnOnce()) -> Result<(i32, OwnedFd), Errno> {
    let mut pidfd: RawFd = -1;
    let args = CloneArgs {
        flags: libc::CLONE_PIDFD as u64,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    // Until the child has reset them: a handler of the caller's must not run in it.
    let _signals = BlockedSignals::new();
    match clone3(&args)? {
        0 => {
            child();
            // SAFETY: ends this process, which has run nothing of its parent's that would have to be ended well.
            unsafe { libc::_exit(0) }
        }
        // SAFETY: the kernel has just made it, for nobody else.
        pid => Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) })),
    }
}

/// Out of reach of a terminal's signals, and of those to the caller's group; with these descriptors alone.
fn settle(name: &CStr, [one, two, three]: [RawFd; 3]) {
    // SAFETY: changes this process alone; the name is a string.
    unsafe {
        libc::setsid();
        libc::prctl(libc::PR_SET_NAME, name.as_ptr());
    }
    reset_signals();
    keep_only(one, two, three);
}

/// Whether a byte comes before the end.
fn told(lifeline: RawFd) -> bool {
    let mut byte = 0u8;
    loop {
        // SAFETY: reads into a local.
        let count = unsafe { libc::read(lifeline, (&raw mut byte).cast(), 1) };
        if count >= 0 || super::process::errno() != Errno::INTR {
            return count == 1;
        }
    }
}

fn guard(orders: &Orders<'_>) {
    let [lifeline, after, file] = [orders.lifeline, orders.after, orders.file].map(|fd| fd.as_raw_fd());
    settle(c"rtc-guard", [lifeline, after, file]);
    let told = told(lifeline);
    // SAFETY: each call gets descriptors of this process, and buffers that outlive it.
    unsafe {
        if !told {
            let mut exited = libc::pollfd { fd: after, events: libc::POLLIN, revents: 0 };
            while libc::poll(&raw mut exited, 1, -1) < 0 && super::process::errno() == Errno::INTR {}
            libc::write(file, orders.text.as_ptr().cast(), orders.text.len());
        }
    }
}

/// The caller's other descriptors are not to stay open here: somebody may wait for their end.
fn keep_only(one: RawFd, two: RawFd, three: RawFd) {
    let (low, high) = (one.min(two).min(three), one.max(two).max(three));
    let middle = one ^ two ^ three ^ low ^ high;
    for (first, last) in [(0, low - 1), (low + 1, middle - 1), (middle + 1, high - 1), (high + 1, RawFd::MAX)] {
        if first <= last {
            // SAFETY: closes descriptors of this process, which uses none of them again.
            unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};
    use std::os::fd::AsFd;
    use std::process::Command;

    use super::*;
    use crate::children;

    #[test]
    fn it_writes_when_the_lifeline_ends_and_after_the_other_process() {
        for (told, expected) in [(true, ""), (false, "thaw")] {
            let mut file = tempfile::tempfile().unwrap();
            let after = children::spawn(Command::new("sleep").arg("0.2")).unwrap();
            let (reader, mut writer) = std::io::pipe().unwrap();
            let orders = Orders { lifeline: reader.as_fd(), after: after.pidfd(), file: file.as_fd(), text: b"thaw" };
            let mut hold = children::hold();
            let (pid, pidfd) = spawn(&orders).unwrap();
            let guard = hold.adopt(crate::Pid::new(pid).unwrap(), pidfd);
            drop(hold);
            if told {
                writer.write_all(b"x").unwrap();
            } else {
                drop(writer);
            }
            assert_eq!(guard.wait().unwrap().code, 0);
            // It did not wait when it was told, and did when not.
            assert_eq!(after.try_reap().unwrap().is_some(), !told);
            after.wait().unwrap();
            let mut text = String::new();
            file.rewind().unwrap();
            file.read_to_string(&mut text).unwrap();
            assert_eq!(text, expected);
        }
    }
}
