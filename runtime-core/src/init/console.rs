//! The controlling terminal of the process.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::termios::Winsize;

use crate::rootfs::Console;

/// Makes the slave descriptors 0, 1 and 2 and the controlling terminal of this session; returns the master.
pub(super) fn take(console: Console, size: Option<(u16, u16)>) -> Result<OwnedFd, Errno> {
    let Console { master, slave } = console;
    if let Some((columns, rows)) = size {
        let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&master, size)?;
    }
    rustix::stdio::dup2_stdin(slave.as_fd())?;
    rustix::stdio::dup2_stdout(slave.as_fd())?;
    rustix::stdio::dup2_stderr(slave.as_fd())?;
    rustix::process::ioctl_tiocsctty(&slave)?;
    Ok(master)
}
