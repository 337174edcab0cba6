//! File descriptors that a process was started with, and all at once.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;

/// Takes over a descriptor that the process was started with, and makes it close-on-exec. `None` when it is not open, or is
/// close-on-exec: then it is one that this process has opened (Rust's library opens none without that flag), or has taken
/// over before.
pub(crate) fn inherited(fd: RawFd) -> Option<OwnedFd> {
    static TAKING: Mutex<()> = Mutex::new(());
    let _taking = TAKING.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: F_GETFD only asks, and F_SETFD changes a flag.
    let ours = unsafe {
        match libc::fcntl(fd, libc::F_GETFD) {
            0 => libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) == 0,
            _ => false,
        }
    };
    // SAFETY: open, and given by the parent under this number: nobody in this process owns it. The flag that was just set
    // keeps it from being handed out again.
    ours.then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Gives `count` descriptors from `from` on the numbers from `to` on, which are lower, and closes their old ones. They are
/// close-on-exec afterwards. Nobody may own any number from `to` to the last.
pub(crate) fn move_down(from: RawFd, to: RawFd, count: i32) -> Result<(), Errno> {
    for at in 0..count {
        // SAFETY: the caller says that these numbers are nobody's; a lower number is never one that is still to be read.
        if unsafe { libc::dup3(from + at, to + at, libc::O_CLOEXEC) } < 0 {
            return Err(super::process::errno());
        }
    }
    // SAFETY: as above.
    if unsafe { libc::syscall(libc::SYS_close_range, to + count, from + count - 1, 0) } < 0 {
        return Err(super::process::errno());
    }
    Ok(())
}

/// Takes close-on-exec off `count` descriptors from `first` on.
pub(crate) fn keep_over_exec(first: RawFd, count: i32) -> Result<(), Errno> {
    for fd in first..first + count {
        // SAFETY: changes a flag of a descriptor; closes none.
        if unsafe { libc::fcntl(fd, libc::F_SETFD, 0) } < 0 {
            return Err(super::process::errno());
        }
    }
    Ok(())
}

/// Marks every descriptor from `first` on close-on-exec.
pub(crate) fn cloexec_from(first: RawFd) -> Result<(), Errno> {
    // SAFETY: sets a flag on descriptors; closes none.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result < 0 { Err(super::process::errno()) } else { Ok(()) }
}
