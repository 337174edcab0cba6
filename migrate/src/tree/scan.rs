//! Reading a tree without leaving it: directories are opened below one another, and no symbolic link is followed. The
//! container runs while its layer is read and may exchange anything for anything at any time.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use proto::stream::{Attribute, Entry, FileType};
use rustix::fs::{self, AtFlags, Dir, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::is_of_the_disk;

/// What tells whether a file is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, u64),
}

impl Stamp {
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    pub(super) fn inode(self) -> (u64, u64) {
        (self.device, self.inode)
    }

    /// Whether it was changed this short before `now` that a further change may have left the same time: the kernel's clock
    /// for files ticks every few milliseconds.
    pub(super) fn is_fresh(self, now: (i64, u64)) -> bool {
        const TICK: i128 = 40_000_000;
        let nanoseconds = |(seconds, rest): (i64, u64)| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        nanoseconds(self.changed) + TICK >= nanoseconds(now)
    }
}

/// A directory, for reading it.
pub(super) fn open_directory(parent: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(parent, name, flags, Mode::empty())
}

/// A regular file, for reading it; nothing that was put into its place blocks.
pub(super) fn open_file(parent: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    fs::openat(parent, name, flags, Mode::empty())
}

/// The names in a directory, sorted.
pub(super) fn names(directory: BorrowedFd<'_>) -> Result<Vec<OsString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name));
        }
    }
    names.sort();
    Ok(names)
}

pub(super) fn stat(parent: BorrowedFd<'_>, name: &OsStr) -> Result<Stat, Errno> {
    if name.is_empty() { fs::fstat(parent) } else { fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) }
}

/// A file's entry, with all but its path and contents. An empty name is the directory itself.
pub(super) fn entry(parent: BorrowedFd<'_>, name: &OsStr, stat: &Stat) -> Result<Entry, Errno> {
    let kind = file_type(stat.st_mode);
    let target = match kind {
        FileType::Symlink => fs::readlinkat(parent, name, Vec::new())?.into_bytes(),
        _ => Vec::new(),
    };
    let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
    let device = if is_device { stat.st_rdev } else { 0 };
    Ok(Entry {
        path: Vec::new(),
        r#type: kind.into(),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime_seconds: stat.st_mtime,
        mtime_nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
        atime_seconds: stat.st_atime,
        atime_nanoseconds: u32::try_from(stat.st_atime_nsec).unwrap_or_default(),
        size: if kind == FileType::Regular { u64::try_from(stat.st_size).unwrap_or_default() } else { 0 },
        device_major: fs::major(device),
        device_minor: fs::minor(device),
        target,
        attributes: attributes(parent, name)?,
    })
}

fn file_type(mode: u32) -> FileType {
    match fs::FileType::from_raw_mode(mode) {
        fs::FileType::Directory => FileType::Directory,
        fs::FileType::Symlink => FileType::Symlink,
        fs::FileType::CharacterDevice => FileType::CharacterDevice,
        fs::FileType::BlockDevice => FileType::BlockDevice,
        fs::FileType::Fifo => FileType::Fifo,
        fs::FileType::Socket => FileType::Socket,
        fs::FileType::RegularFile | fs::FileType::Unknown => FileType::Regular,
    }
}

/// A path for calls that take no directory; the last part is not followed by them.
pub(super) fn path_at(parent: BorrowedFd<'_>, name: &OsStr) -> PathBuf {
    let directory = PathBuf::from(format!("/proc/self/fd/{}", parent.as_fd().as_raw_fd()));
    // Of the directory itself: `/proc/self/fd/N` is a link, `.` within it is not.
    directory.join(if name.is_empty() { OsStr::new(".") } else { name })
}

pub(super) fn attributes(parent: BorrowedFd<'_>, name: &OsStr) -> Result<Vec<Attribute>, Errno> {
    let path = path_at(parent, name);
    let mut list = vec![0_u8; 64 << 10];
    let length = match fs::llistxattr(&path, &mut list) {
        // A file system without them.
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        listed => listed?,
    };
    let mut attributes = Vec::new();
    for name in list.get(..length).unwrap_or_default().split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        if is_of_the_disk(OsStr::from_bytes(name)) {
            continue;
        }
        let Ok(c_name) = CString::new(name) else { continue };
        let mut value = vec![0_u8; 64 << 10];
        match fs::lgetxattr(&path, &c_name, &mut value) {
            Ok(length) => value.truncate(length),
            // It was removed meanwhile.
            Err(Errno::NODATA) => continue,
            Err(err) => return Err(err),
        }
        attributes.push(Attribute { name: name.to_vec(), value });
    }
    Ok(attributes)
}

/// Whether somebody was faster than the scan, which a running container may be.
pub(super) fn is_gone(err: Errno) -> bool {
    matches!(err, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::STALE)
}

/// Where a file's data are: from an offset to another.
pub(super) fn data_after(file: &OwnedFd, offset: u64) -> io::Result<Option<(u64, u64)>> {
    let begin = match fs::seek(file, fs::SeekFrom::Data(offset)) {
        Ok(begin) => begin,
        // Nothing but a hole to the end.
        Err(Errno::NXIO) => return Ok(None),
        Err(err) => return Err(err.into()),
    };
    let end = fs::seek(file, fs::SeekFrom::Hole(begin))?;
    Ok(Some((begin, end)))
}
