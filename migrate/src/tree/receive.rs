//! The receiving side of a tree. The other side is not trusted to name only what is in the tree: every path is resolved
//! below the root, and no symbolic link in it is followed.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use proto::stream::message::Kind as Message;
use proto::stream::{Entry, FileType, TreeBegin};
use rustix::fs::{self, AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::scan::{self, path_at};
use crate::error::{Error, Result};
use crate::link::{Incoming, Link};
use crate::{probe, wire};

/// What came of a tree.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Received {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

/// Which tree is to come. Blocks.
///
/// # Errors
/// The connection's, or what is no tree.
pub(crate) fn begin(link: &mut Link) -> Result<TreeBegin> {
    loop {
        match message(link)? {
            Message::TreeBegin(begin) => return Ok(begin),
            Message::Probe(_) => probe::answer(link)?,
            other => return Err(wire::unexpected("TreeBegin", &other)),
        }
    }
}

/// Receives a tree that has begun, or the difference to what was received before, into a directory that is there. Blocks.
///
/// # Errors
/// What could not be written, the connection's, or what the other side may not send.
pub(crate) fn receive(link: &mut Link, root: &Path) -> Result<Received> {
    let directory = scan::open_directory(CWD, root.as_os_str()).map_err(Error::system("open", root))?;
    let mut receiver = Receiver { root, directory, times: BTreeMap::new(), received: Received::default() };
    loop {
        match message(link)? {
            Message::Entry(entry) => receiver.entry(link, entry)?,
            Message::Removed(removed) => receiver.remove(&removed.path)?,
            Message::TreeEnd(end) => {
                receiver.finish()?;
                let Received { entries, bytes } = receiver.received;
                if (end.entries, end.bytes) != (entries, bytes) {
                    let found = format!("{entries} files and {bytes} bytes of {} and {}", end.entries, end.bytes);
                    return Err(Error::Unexpected { expected: "the whole tree", found });
                }
                return Ok(receiver.received);
            }
            other => return Err(wire::unexpected("Entry", &other)),
        }
    }
}

fn message(link: &mut Link) -> Result<Message> {
    match link.blocking_receive()? {
        Incoming::Message(message) => Ok(*message),
        Incoming::Data { .. } => Err(Error::Unexpected { expected: "a message", found: "data".to_owned() }),
    }
}

struct Receiver<'a> {
    root: &'a Path,
    directory: OwnedFd,
    /// Of directories, set at the end: what is made in them changes them, whether they came themselves or not.
    times: BTreeMap<Vec<u8>, Timestamps>,
    received: Received,
}

/// Where a file is to be: the directory that it is in, and its name there; empty for the root itself.
struct Place<'a> {
    parent: OwnedFd,
    name: &'a OsStr,
}

impl Receiver<'_> {
    fn failed(&self, operation: &'static str, path: &[u8]) -> impl FnOnce(Errno) -> Error + use<> {
        let path: PathBuf = self.root.join(OsStr::from_bytes(path));
        Error::system(operation, path)
    }

    fn place<'p>(&self, path: &'p [u8]) -> Result<Place<'p>> {
        check(path)?;
        let (parent, name) = match path.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (path.get(..slash).unwrap_or_default(), path.get(slash + 1..).unwrap_or_default()),
            None => (&b""[..], path),
        };
        let parent = if parent.is_empty() {
            self.directory.try_clone().map_err(Error::file("duplicate", self.root))?
        } else {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            fs::openat2(&self.directory, OsStr::from_bytes(parent), flags, Mode::empty(), resolve)
                .map_err(self.failed("open", parent))?
        };
        Ok(Place { parent, name: OsStr::from_bytes(name) })
    }

    fn entry(&mut self, link: &mut Link, entry: Entry) -> Result<()> {
        self.received.entries += 1;
        self.keep_times(&entry.path)?;
        let place = self.place(&entry.path)?;
        let (parent, name) = (place.parent.as_fd(), place.name);
        let path = entry.path.clone();
        let failed = |operation| self.failed(operation, &path);
        let kind = FileType::try_from(entry.r#type)
            .map_err(|_| Error::Unexpected { expected: "a type of file", found: entry.r#type.to_string() })?;
        if kind == FileType::Directory {
            if !name.is_empty() && !is_directory(parent, name) {
                remove(parent, name).map_err(failed("remove"))?;
                fs::mkdirat(parent, name, Mode::RWXU).map_err(failed("make directory"))?;
            }
            remove_attributes(parent, name, &entry).map_err(failed("remove attributes of"))?;
            set_attributes(parent, name, &entry).map_err(failed("set attributes of"))?;
            let times = times(&entry);
            self.times.insert(entry.path, times);
            return Ok(());
        }
        if name.is_empty() {
            return Err(Error::Path(String::new()));
        }
        remove(parent, name).map_err(failed("remove"))?;
        match kind {
            FileType::Regular => return self.regular(link, &place, &entry),
            FileType::HardLink => {
                let target = self.place(&entry.target)?;
                let linked = fs::linkat(&target.parent, target.name, parent, name, AtFlags::empty());
                return linked.map_err(failed("link"));
            }
            FileType::Symlink => {
                fs::symlinkat(OsStr::from_bytes(&entry.target), parent, name).map_err(failed("make symbolic link"))?;
            }
            FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo | FileType::Socket => {
                let device = fs::makedev(entry.device_major, entry.device_minor);
                fs::mknodat(parent, name, node_type(kind), Mode::RUSR, device).map_err(failed("make node"))?;
            }
            FileType::Directory => {}
        }
        set_attributes(parent, name, &entry).map_err(failed("set attributes of"))?;
        set_times(parent, name, &times(&entry)).map_err(failed("set times of"))
    }

    fn regular(&mut self, link: &mut Link, place: &Place<'_>, entry: &Entry) -> Result<()> {
        let path = self.root.join(OsStr::from_bytes(&entry.path));
        let failed = |operation| Error::system(operation, &path);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = fs::openat(&place.parent, place.name, flags, Mode::RUSR | Mode::WUSR).map_err(failed("create"))?;
        let file = File::from(file);
        file.set_len(entry.size).map_err(Error::file("size", &path))?;
        loop {
            match link.blocking_receive()? {
                Incoming::Data { offset, bytes } => {
                    file.write_all_at(&bytes, offset).map_err(Error::file("write", &path))?;
                    self.received.bytes += u64::try_from(bytes.len()).unwrap_or_default();
                }
                Incoming::Message(message) => match *message {
                    Message::EntryEnd(_) => break,
                    other => return Err(wire::unexpected("EntryEnd", &other)),
                },
            }
        }
        set_attributes(place.parent.as_fd(), place.name, entry).map_err(failed("set attributes of"))?;
        set_times(place.parent.as_fd(), place.name, &times(entry)).map_err(failed("set times of"))
    }

    fn remove(&mut self, path: &[u8]) -> Result<()> {
        if path.is_empty() {
            return Err(Error::Path(String::new()));
        }
        let place = match self.place(path) {
            // A directory above it is gone too, or was exchanged for something else.
            Err(Error::File { err, .. }) if Errno::from_io_error(&err).is_some_and(scan::is_gone) => return Ok(()),
            place => place?,
        };
        self.keep_times(path)?;
        remove(place.parent.as_fd(), place.name).map_err(self.failed("remove", path))
    }

    /// Remembers the times of the directory that a path is in.
    fn keep_times(&mut self, path: &[u8]) -> Result<()> {
        check(path)?;
        let slash = path.iter().rposition(|&byte| byte == b'/').unwrap_or_default();
        let parent = path.get(..slash).unwrap_or_default();
        if path.is_empty() || self.times.contains_key(parent) {
            return Ok(());
        }
        let place = self.place(path)?;
        let stat = fs::fstat(&place.parent).map_err(self.failed("stat", parent))?;
        let time = |seconds, nanoseconds| Timespec {
            tv_sec: seconds,
            tv_nsec: i64::try_from(nanoseconds).unwrap_or_default(),
        };
        let times = Timestamps {
            last_access: time(stat.st_atime, stat.st_atime_nsec),
            last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
        };
        self.times.insert(parent.to_vec(), times);
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        for (path, times) in std::mem::take(&mut self.times) {
            let place = match self.place(&path) {
                // It was removed since, or has come to be another kind of file, which has its times.
                Err(Error::File { err, .. }) if Errno::from_io_error(&err).is_some_and(scan::is_gone) => continue,
                place => place?,
            };
            if place.name.is_empty() || is_directory(place.parent.as_fd(), place.name) {
                set_times(place.parent.as_fd(), place.name, &times).map_err(self.failed("set times of", &path))?;
            }
        }
        Ok(())
    }
}

/// Relative, and without parts that lead elsewhere.
fn check(path: &[u8]) -> Result<()> {
    let bad = |part: &[u8]| part.is_empty() || part == b"." || part == b".." || part.contains(&0);
    if !path.is_empty() && path.split(|&byte| byte == b'/').any(bad) {
        return Err(Error::Path(String::from_utf8_lossy(path).into_owned()));
    }
    Ok(())
}

fn node_type(kind: FileType) -> fs::FileType {
    match kind {
        FileType::CharacterDevice => fs::FileType::CharacterDevice,
        FileType::BlockDevice => fs::FileType::BlockDevice,
        FileType::Socket => fs::FileType::Socket,
        _ => fs::FileType::Fifo,
    }
}

fn is_directory(parent: BorrowedFd<'_>, name: &OsStr) -> bool {
    scan::stat(parent, name).is_ok_and(|stat| fs::FileType::from_raw_mode(stat.st_mode) == fs::FileType::Directory)
}

/// With all that is in it; nothing if there is nothing.
fn remove(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    match fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(err) => return Err(err),
    }
    let directory = scan::open_directory(parent, name)?;
    for name in scan::names(directory.as_fd())? {
        remove(directory.as_fd(), &name)?;
    }
    fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}

/// Owner before mode, as a change of the owner takes setuid away; and before the attributes, as it takes capabilities away.
fn set_attributes(parent: BorrowedFd<'_>, name: &OsStr, entry: &Entry) -> Result<(), Errno> {
    let (uid, gid) = (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)));
    let path = path_at(parent, name);
    fs::chownat(CWD, &path, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    if entry.r#type() != FileType::Symlink {
        fs::chmodat(CWD, &path, Mode::from_raw_mode(entry.mode), AtFlags::empty())?;
    }
    for attribute in &entry.attributes {
        let name = CString::new(attribute.name.as_slice()).map_err(|_| Errno::INVAL)?;
        fs::lsetxattr(&path, &name, &attribute.value, XattrFlags::empty())?;
    }
    Ok(())
}

/// A directory stays when it comes again, and with it what it had been given before.
fn remove_attributes(parent: BorrowedFd<'_>, name: &OsStr, entry: &Entry) -> Result<(), Errno> {
    for old in scan::attributes(parent, name)? {
        // What a security module gives by itself is its own.
        let ours = old.name.starts_with(b"user.") || old.name.starts_with(b"trusted.");
        if ours && !entry.attributes.iter().any(|new| new.name == old.name) {
            let name_of_it = CString::new(old.name).map_err(|_| Errno::INVAL)?;
            fs::lremovexattr(path_at(parent, name), &name_of_it)?;
        }
    }
    Ok(())
}

fn times(entry: &Entry) -> Timestamps {
    let time = |seconds, nanoseconds: u32| Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    Timestamps {
        last_access: time(entry.atime_seconds, entry.atime_nanoseconds),
        last_modification: time(entry.mtime_seconds, entry.mtime_nanoseconds),
    }
}

fn set_times(parent: BorrowedFd<'_>, name: &OsStr, times: &Timestamps) -> Result<(), Errno> {
    fs::utimensat(CWD, path_at(parent, name), times, AtFlags::SYMLINK_NOFOLLOW)
}
