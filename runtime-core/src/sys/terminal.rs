//! A terminal's input queue.

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;

/// Puts a byte at the end of what a terminal holds for its reader (TIOCSTI, ioctl_tty(2)): it needs CAP_SYS_ADMIN.
pub(crate) fn push(slave: impl AsFd, byte: u8) -> Result<(), Errno> {
    // SAFETY: the kernel reads one byte, which outlives the call.
    let result = unsafe { libc::ioctl(slave.as_fd().as_raw_fd(), libc::TIOCSTI, &raw const byte) };
    if result < 0 { Err(super::process::errno()) } else { Ok(()) }
}
