//! What kind of namespace a descriptor is of (ioctl_ns(2)).

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

const NS_GET_NSTYPE: libc::Ioctl = 0xb703;

/// The CLONE_NEW* of the namespace.
///
/// # Errors
/// ENOTTY when the descriptor is of no namespace.
pub(crate) fn kind(fd: BorrowedFd<'_>) -> Result<i32, Errno> {
    // SAFETY: the request takes no argument and returns a number.
    let kind = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE) };
    if kind < 0 { Err(super::process::errno()) } else { Ok(kind) }
}
