//! File descriptors that a process was started with, and all at once.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;

/// Takes over a descriptor that the process was started with. `None` when it has been taken before or is not open.
pub(crate) fn inherited(fd: RawFd) -> Option<OwnedFd> {
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let bit = u32::try_from(fd).ok().filter(|fd| *fd < 32).map(|fd| 1u32 << fd)?;
    if TAKEN.fetch_or(bit, Ordering::Relaxed) & bit != 0 {
        return None;
    }
    // SAFETY: F_GETFD only asks whether the number is open.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return None;
    }
    // SAFETY: open, given by the parent under this number, and `TAKEN` hands each number out once.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Marks every descriptor from `first` on close-on-exec.
pub(crate) fn cloexec_from(first: RawFd) -> Result<(), Errno> {
    // SAFETY: sets a flag on descriptors; closes none.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result < 0 { Err(super::process::errno()) } else { Ok(()) }
}
