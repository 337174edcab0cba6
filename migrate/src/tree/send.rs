//! The sending side of a tree.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use proto::stream::message::Kind as Message;
use proto::stream::{Entry, EntryEnd, FileType, Removed, TreeBegin, TreeEnd};
use rustix::fs::{CWD, Stat, StatFs, fstatfs};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use super::scan::{self, Stamp};
use crate::error::{Error, Result};
use crate::frame::CHUNK;
use crate::link::Link;

/// statfs(2).
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;

/// What was sent of a tree, to send the difference later.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// `None`: to be sent again whatever it looks like.
    files: HashMap<Vec<u8>, Option<Stamp>>,
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

/// Sends a tree, or, of one that was sent before, what has changed. `always` are files that are sent again anyway.
///
/// Blocks; what vanishes meanwhile is left out.
///
/// # Errors
/// What could not be read, or the connection's.
pub(crate) fn send(
    link: &mut Link,
    begin: TreeBegin,
    root: &Path,
    before: Option<&Sent>,
    always: &HashSet<Vec<u8>>,
) -> Result<Sent> {
    let directory = scan::open_directory(CWD, root.as_os_str()).map_err(Error::system("open", root))?;
    let file_system: StatFs = fstatfs(&directory).map_err(Error::system("statfs", root))?;
    // Of a mapped file a tmpfs changes no time at all, and who had it mapped may have let go of it.
    let timeless = file_system.f_type == TMPFS_MAGIC;
    link.blocking_send(Message::TreeBegin(begin))?;
    let mut sender =
        Sender { link, root, before, always, timeless, sent: Sent::default(), first_names: HashMap::new() };
    sender.directory(directory.as_fd(), &mut Vec::new())?;
    sender.removals()?;
    let sent = sender.sent;
    link.blocking_send(Message::TreeEnd(TreeEnd { entries: sent.entries, bytes: sent.bytes }))?;
    Ok(sent)
}

struct Sender<'a> {
    link: &'a mut Link,
    root: &'a Path,
    before: Option<&'a Sent>,
    always: &'a HashSet<Vec<u8>>,
    timeless: bool,
    sent: Sent,
    /// Of files with several names, the one under which they went this time.
    first_names: HashMap<(u64, u64), Vec<u8>>,
}

impl Sender<'_> {
    fn failed(&self, operation: &'static str, path: &[u8]) -> impl FnOnce(Errno) -> Error + use<> {
        Error::system(operation, self.path(path))
    }

    fn path(&self, path: &[u8]) -> PathBuf {
        self.root.join(OsStr::from_bytes(path))
    }

    /// A directory and what is in it. `path` is the directory's.
    fn directory(&mut self, directory: BorrowedFd<'_>, path: &mut Vec<u8>) -> Result<()> {
        let stat = scan::stat(directory, OsStr::new("")).map_err(self.failed("stat", path))?;
        self.file(directory, OsStr::new(""), path, &stat)?;
        for name in scan::names(directory).map_err(self.failed("read directory", path))? {
            let length = path.len();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend(name.as_bytes());
            self.member(directory, &name, path)?;
            path.truncate(length);
        }
        Ok(())
    }

    fn member(&mut self, parent: BorrowedFd<'_>, name: &OsStr, path: &mut Vec<u8>) -> Result<()> {
        let stat = match scan::stat(parent, name) {
            Err(err) if scan::is_gone(err) => return Ok(()),
            stat => stat.map_err(self.failed("stat", path))?,
        };
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::Directory {
            return self.file(parent, name, path, &stat);
        }
        match scan::open_directory(parent, name) {
            Err(err) if scan::is_gone(err) => Ok(()),
            opened => {
                let directory = opened.map_err(self.failed("open", path))?;
                self.directory(directory.as_fd(), path)
            }
        }
    }

    /// One file, if it is new or has changed.
    fn file(&mut self, parent: BorrowedFd<'_>, name: &OsStr, path: &[u8], stat: &Stat) -> Result<()> {
        let stamp = Stamp::of(stat);
        let now = clock_gettime(ClockId::Realtime);
        let now = (now.tv_sec, u64::try_from(now.tv_nsec).unwrap_or_default());
        let regular = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile;
        let doubtful = stamp.is_fresh(now) || regular && (self.timeless || self.always.contains(path));
        self.sent.files.insert(path.to_vec(), (!doubtful).then_some(stamp));
        if !self.always.contains(path)
            && let Some(before) = self.before
            && before.files.get(path) == Some(&Some(stamp))
        {
            return Ok(());
        }
        let entry = match scan::entry(parent, name, stat) {
            Err(err) if scan::is_gone(err) => return Ok(()),
            entry => entry.map_err(self.failed("read attributes of", path))?,
        };
        self.entry(parent, name, Entry { path: path.to_vec(), ..entry }, stat)
    }

    fn entry(&mut self, parent: BorrowedFd<'_>, name: &OsStr, mut entry: Entry, stat: &Stat) -> Result<()> {
        let directory = entry.r#type() == FileType::Directory;
        if stat.st_nlink > 1 && !directory {
            let inode = Stamp::of(stat).inode();
            if let Some(first) = self.first_names.get(&inode) {
                entry.target = first.clone();
                entry.set_type(FileType::HardLink);
                self.sent.entries += 1;
                return self.link.blocking_send(Message::Entry(entry));
            }
            self.first_names.insert(inode, entry.path.clone());
        }
        if entry.r#type() != FileType::Regular {
            self.sent.entries += 1;
            return self.link.blocking_send(Message::Entry(entry));
        }
        let path = entry.path.clone();
        let file = match scan::open_file(parent, name) {
            Err(err) if scan::is_gone(err) => return Ok(()),
            opened => opened.map_err(self.failed("open", &path))?,
        };
        self.sent.entries += 1;
        self.link.blocking_send(Message::Entry(entry))?;
        self.contents(file, &path)?;
        self.link.blocking_send(Message::EntryEnd(EntryEnd {}))
    }

    fn contents(&mut self, file: OwnedFd, path: &[u8]) -> Result<()> {
        let failed = |root: &Path| Error::file("read", root.join(OsStr::from_bytes(path)));
        let mut buffer = vec![0; CHUNK];
        let mut offset = 0;
        while let Some((begin, end)) = scan::data_after(&file, offset).map_err(failed(self.root))? {
            let reader = File::from(file.try_clone().map_err(failed(self.root))?);
            offset = begin;
            while offset < end {
                let most = usize::try_from(end - offset).unwrap_or(usize::MAX).min(CHUNK);
                let part = buffer.get_mut(..most).unwrap_or_default();
                let read = reader.read_at(part, offset).map_err(failed(self.root))?;
                if read == 0 {
                    // It was cut off meanwhile.
                    return Ok(());
                }
                self.link.blocking_data(offset, part.get(..read).unwrap_or_default())?;
                let read = u64::try_from(read).unwrap_or_default();
                offset += read;
                self.sent.bytes += read;
            }
        }
        Ok(())
    }

    /// What was sent before and is there no more; of a directory it alone.
    fn removals(&mut self) -> Result<()> {
        let Some(before) = self.before else { return Ok(()) };
        let mut gone: Vec<&Vec<u8>> = before.files.keys().filter(|path| !self.sent.files.contains_key(*path)).collect();
        gone.sort();
        let mut last: Option<&[u8]> = None;
        for path in gone {
            let within = last.is_some_and(|last| path.strip_prefix(last).is_some_and(|rest| rest.starts_with(b"/")));
            if !within {
                self.link.blocking_send(Message::Removed(Removed { path: path.clone() }))?;
                last = Some(path);
            }
        }
        Ok(())
    }
}
