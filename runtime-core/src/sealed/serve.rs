//! The image directory of a restore, and of everybody who looks into a sealed checkpoint: what is read from it is unsealed.
//!
//! A chunk is checked and decoded each time that it is asked for. The last few are kept, for CRIU reads small pieces; beside
//! them nothing is in memory but indexes.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use fuser::{
    Errno, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig, LockOwner, OpenAccMode,
    OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, Request,
};
use rustix::fs::OFlags;
use serde_json::Value;

use super::cipher::DataKey;
use super::decode::{Decoder, Scratch};
use super::error::{Damage, SealError};
use super::format::CHUNK;
use super::options::Sealing;
use super::table::{self, Table};
use super::view::{FOR_EVER, View, attributes, configure};
use super::worker::place;
use super::{KEY_FILE, TABLE, keys};

/// Chunks that are kept. Processes are restored at the same time, each from its own pages.
const KEPT: usize = 4;

/// A sealed checkpoint whose indexes are read.
#[derive(Debug)]
pub(crate) struct Sealed {
    files: Vec<Decoder>,
    /// What `rtc.json` said when the images were complete.
    pub(crate) statement: Value,
}

/// Its images, as long as it is not dropped.
#[derive(Debug)]
pub(crate) struct Serving {
    view: View,
    failure: Arc<Mutex<Option<SealError>>>,
}

impl Sealed {
    /// `identities` is age's, for images that are encrypted.
    pub(crate) fn open(dir: &Path, sealing: &Sealing, identities: Option<&Path>) -> Result<Self, SealError> {
        sealing.check()?;
        let key = match (&sealing.encryption, identities) {
            (Some(_), Some(identities)) => Some(keys::unwrap(&dir.join(KEY_FILE), identities)?),
            (Some(_), None) => return Err(SealError::KeyMissing),
            (None, Some(_)) => return Err(SealError::NotEncrypted),
            (None, None) => None,
        };
        let table = open(dir, TABLE, key.as_ref())?.read(table::LONGEST, &mut Scratch::new()?)?;
        let table: Table = serde_json::from_slice(&table).map_err(|_| SealError::damaged(TABLE)(Damage::Content))?;
        let mut files = Vec::new();
        for row in &table.files {
            if !table::is_name(&row.name) {
                return Err(SealError::damaged(&row.name)(Damage::Name));
            }
            let file = open(dir, &row.name, key.as_ref())?;
            for (found, written) in [(file.stored(), row.stored), (file.length(), row.length)] {
                if found != written {
                    return Err(SealError::damaged(&row.name)(Damage::Size { found, written }));
                }
            }
            files.push(file);
        }
        Ok(Self { files, statement: table.statement })
    }

    /// Reads all that is stored, and finds every byte that is not as it was written.
    pub(crate) fn verify(&self) -> Result<(), SealError> {
        self.damaged()?.next().map_or(Ok(()), Err)
    }

    /// The files that have such bytes.
    pub(crate) fn damaged(&self) -> Result<impl Iterator<Item = SealError>, SealError> {
        let mut scratch = Scratch::new()?;
        Ok(self.files.iter().filter_map(move |file| file.verify(&mut scratch).err()))
    }

    pub(crate) fn serve(self) -> Result<Serving, SealError> {
        let failure = Arc::new(Mutex::new(None));
        let decoding = Decoding { scratch: Scratch::new()?, kept: VecDeque::new() };
        let directory = Directory { files: self.files, decoding: Mutex::new(decoding), failure: Arc::clone(&failure) };
        Ok(Serving { view: View::new(directory)?, failure })
    }
}

impl Serving {
    /// For this process.
    pub(crate) fn path(&self) -> &Path {
        self.view.path()
    }

    /// Why CRIU could not read, if that is why it failed.
    pub(crate) fn failure(&self) -> Option<SealError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

fn open(dir: &Path, name: &str, key: Option<&DataKey>) -> Result<Decoder, SealError> {
    let path = place(dir, name);
    // Does not wait where somebody has put a FIFO.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    match fs::OpenOptions::new().read(true).custom_flags(flags).open(&path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Err(SealError::damaged(name)(Damage::Missing)),
        opened => {
            let file: File = opened.map_err(SealError::file("open", path))?;
            Decoder::open(file, name, key)
        }
    }
}

/// The file system. Inodes are the numbers of files, from 2 on.
struct Directory {
    files: Vec<Decoder>,
    decoding: Mutex<Decoding>,
    failure: Arc<Mutex<Option<SealError>>>,
}

struct Decoding {
    scratch: Scratch,
    /// The last used is the last.
    kept: VecDeque<(Place, Vec<u8>)>,
}

/// A file and a chunk of it.
type Place = (u64, u64);

const FIRST: u64 = INodeNo::ROOT.0 + 1;

impl Directory {
    fn file(&self, ino: INodeNo) -> Result<&Decoder, Errno> {
        let at = ino.0.checked_sub(FIRST).and_then(|at| usize::try_from(at).ok());
        at.and_then(|at| self.files.get(at)).ok_or(Errno::ENOENT)
    }

    fn lookup(&self, name: &OsStr) -> Option<(INodeNo, &Decoder)> {
        (FIRST..).zip(&self.files).find(|(_, file)| name == file.name()).map(|(ino, file)| (INodeNo(ino), file))
    }

    fn length(&self, ino: INodeNo) -> Result<u64, Errno> {
        if ino == INodeNo::ROOT { Ok(0) } else { self.file(ino).map(Decoder::length) }
    }

    fn read(&self, ino: INodeNo, offset: u64, size: u32) -> Result<Vec<u8>, Errno> {
        let file = self.file(ino)?;
        let end = file.length().min(offset.saturating_add(size.into()));
        let mut decoding = self.decoding.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = Vec::new();
        let mut at = offset;
        while at < end {
            let (chunk, inside) = (at / CHUNK as u64, (at % CHUNK as u64) as usize);
            let piece = decoding.chunk(file, (ino.0, chunk)).map_err(|err| {
                self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(err);
                Errno::EIO
            })?;
            let piece = piece.get(inside..).ok_or(Errno::EIO)?;
            let wanted = usize::try_from(end - at).unwrap_or(usize::MAX);
            let piece = &piece[..piece.len().min(wanted)];
            bytes.extend_from_slice(piece);
            at += piece.len() as u64;
        }
        Ok(bytes)
    }
}

impl Decoding {
    fn chunk(&mut self, file: &Decoder, place: Place) -> Result<&[u8], SealError> {
        let (_, mut bytes) = match self.kept.iter().position(|(kept, _)| *kept == place) {
            Some(at) => match self.kept.remove(at) {
                Some(kept) => {
                    self.kept.push_back(kept);
                    return Ok(self.kept.back().map_or(&[], |(_, bytes)| bytes));
                }
                None => (place, Vec::new()),
            },
            None if self.kept.len() == KEPT => self.kept.pop_front().unwrap_or_default(),
            None => (place, Vec::new()),
        };
        file.chunk(place.1, &mut self.scratch, &mut bytes)?;
        self.kept.push_back((place, bytes));
        Ok(self.kept.back().map_or(&[], |(_, bytes)| bytes))
    }
}

impl Filesystem for Directory {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        configure(config)
    }

    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.lookup(name) {
            Some((ino, file)) => reply.entry(&FOR_EVER, &attributes(ino, file.length()), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.length(ino) {
            Ok(length) => reply.attr(&FOR_EVER, &attributes(ino, length)),
            Err(errno) => reply.error(errno),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match flags.acc_mode() {
            OpenAccMode::O_RDONLY => reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO),
            OpenAccMode::O_WRONLY | OpenAccMode::O_RDWR => reply.error(Errno::EROFS),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.read(ino, offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(&self, _: &Request, _: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for (file, ino) in self.files.iter().zip(FIRST..).skip(from) {
            // The offset is that of the next.
            if reply.add(INodeNo(ino), ino - FIRST + 1, FileType::RegularFile, file.name()) {
                break;
            }
        }
        reply.ok();
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }
}
