//! `tmpcopyup`: a tmpfs that starts with what the image had in its place.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{self, AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid};
use rustix::io::Errno;

use super::tree::resolve;

/// Copies the contents of the directory `from`, an O_PATH descriptor, into `to`, with modes, owners and symlinks. Sockets
/// are left out. Does not cross into other mounts.
pub(super) fn copy(from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    let from = fs::openat(from, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for entry in Dir::read_from(&from)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            copy_entry(&from, to, entry.file_name())?;
        }
    }
    Ok(())
}

fn copy_entry(from: &OwnedFd, to: &OwnedFd, name: &CStr) -> Result<(), Errno> {
    let stat = fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            fs::mkdirat(to, name, Mode::RWXU)?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            copy(&open(from, name, flags)?, &open(to, name, flags)?)?;
        }
        FileType::RegularFile => {
            let source = open(from, name, OFlags::RDONLY | OFlags::CLOEXEC)?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let target = fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
            while fs::sendfile(&target, &source, None, 1 << 20)? > 0 {}
        }
        FileType::Symlink => fs::symlinkat(fs::readlinkat(from, name, Vec::new())?.as_c_str(), to, name)?,
        FileType::Socket | FileType::Unknown => return Ok(()),
        kind => fs::mknodat(to, name, kind, mode, stat.st_rdev)?,
    }
    own(to, name, &stat, mode)
}

fn own(to: &OwnedFd, name: &CStr, stat: &Stat, mode: Mode) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
        return Ok(());
    }
    // After chown, which takes setuid bits away. Nobody else can reach the new tmpfs yet.
    fs::chmodat(to, name, mode, AtFlags::empty())
}

fn open(dir: impl AsFd, name: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    resolve(dir, Path::new(OsStr::from_bytes(name.to_bytes())), flags, how)
}
