//! The controlling terminal of the process.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::rootfs::Console;

/// linux/magic.h
const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;

/// A pty of the running container's own devpts. No path that the container could turn elsewhere is followed
/// (CVE-2025-52565): no symbolic link, and the directory has to be a devpts.
pub(super) fn open() -> Result<Console, Errno> {
    let pts = rustix::fs::openat2(
        CWD,
        "/dev/pts",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::NO_SYMLINKS,
    )?;
    if i64::from(rustix::fs::fstatfs(&pts)?.f_type) != DEVPTS_SUPER_MAGIC {
        return Err(Errno::NOTTY);
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let master = rustix::fs::openat(&pts, "ptmx", flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&master)?;
    let is_ptmx =
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == rustix::fs::makedev(5, 2);
    if !is_ptmx {
        return Err(Errno::NOTTY);
    }
    rustix::pty::unlockpt(&master)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    Ok(Console { master, slave })
}

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
