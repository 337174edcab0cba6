//! `tmpcopyup`: a tmpfs that starts with what the image had in its place.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    self, AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::tree::resolve;

/// XATTR_SIZE_MAX (linux/limits.h).
const LONGEST_ATTRIBUTE: usize = 65536;

/// Copies the contents of the directory `from`, an O_PATH descriptor, into the new tmpfs `to`: owners, modes, times,
/// extended attributes, symlinks and devices. Sockets are left out. Does not cross into other mounts. With `own` the
/// directory itself gets owner, times and attributes too; its mode is the mount's.
///
/// An owner that the user namespace does not map, and an attribute that the tmpfs or the namespace does not take, are left
/// out, as the container could not see or use them.
pub(super) fn copy_all(from: &OwnedFd, to: &OwnedFd, own: bool) -> Result<(), Errno> {
    copy(from, to)?;
    let stat = fs::fstat(from)?;
    let (from, to) = (directory(from)?, directory(to)?);
    if own {
        mapped(fs::fchown(&to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid))))?;
    }
    copy_attributes(&from, &to)?;
    fs::futimens(&to, &times(&stat))
}

fn copy(from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    let from = directory(from)?;
    for entry in Dir::read_from(&from)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            copy_entry(&from, to, entry.file_name())?;
        }
    }
    Ok(())
}

/// Of an O_PATH descriptor one that can be read.
fn directory(fd: &OwnedFd) -> Result<OwnedFd, Errno> {
    fs::openat(fd, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
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
    own(from, to, name, &stat, mode)
}

fn own(from: &OwnedFd, to: &OwnedFd, name: &CStr, stat: &Stat, mode: Mode) -> Result<(), Errno> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    mapped(fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW))?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind != FileType::Symlink {
        // After chown, which takes setuid bits away. Nobody else can reach the new tmpfs yet.
        fs::chmodat(to, name, mode, AtFlags::empty())?;
    }
    if matches!(kind, FileType::RegularFile | FileType::Directory) {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        copy_attributes(&open(from, name, flags)?, &open(to, name, flags)?)?;
    }
    fs::utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanoseconds: u64| Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// File capabilities above all. After chown, which takes them away.
fn copy_attributes(from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    let length = match fs::flistxattr_query(from) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(()),
        length => length?,
    };
    let mut names = vec![0u8; length];
    let length = fs::flistxattr(from, &mut names[..])?;
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        // The new filesystem's label is the mount's.
        if name == b"security.selinux" {
            continue;
        }
        let mut value = vec![0u8; LONGEST_ATTRIBUTE];
        let length = match fs::fgetxattr(from, name, &mut value[..]) {
            Err(Errno::NODATA | Errno::PERM) => continue,
            length => length?,
        };
        match fs::fsetxattr(to, name, &value[..length], XattrFlags::empty()) {
            Err(Errno::OPNOTSUPP | Errno::PERM | Errno::INVAL) => {}
            set => set?,
        }
    }
    Ok(())
}

/// EINVAL is an owner that is not in the user namespace.
fn mapped(owned: Result<(), Errno>) -> Result<(), Errno> {
    match owned {
        Err(Errno::INVAL) => Ok(()),
        owned => owned,
    }
}

fn open(dir: impl AsFd, name: &CStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    resolve(dir, Path::new(OsStr::from_bytes(name.to_bytes())), flags, how)
}
