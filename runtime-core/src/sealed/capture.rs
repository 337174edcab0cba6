//! The image directory of a dump: what is written to it is sealed.
//!
//! CRIU writes its images from the beginning to the end, and leaves gaps at the most. What it writes is cut into chunks and
//! handed to the [`Worker`].

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use fuser::{
    Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, KernelConfig, LockOwner, OpenAccMode, OpenFlags,
    ReplyAttr, ReplyCreate, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use serde::Serialize;

use super::cipher::DataKey;
use super::encode::{Scratch, Suite};
use super::error::SealError;
use super::format::CHUNK;
use super::options::{SealOptions, Sealing};
use super::view::{View, attributes, configure};
use super::worker::{Order, Shared, WAITING, Worker};
use super::{KEY_FILE, TABLE, keys, table};

/// Bytes that may be left out; CRIU aligns some things to pages.
const LONGEST_GAP: u64 = 1 << 20;

/// Until it is dropped. If it was not finished, what it has written is of no use.
#[derive(Debug)]
pub(crate) struct Capture {
    /// Dropped first: then nobody writes any more.
    view: Option<View>,
    files: Arc<Files>,
    worker: Option<JoinHandle<()>>,
    sealing: Sealing,
}

/// What is written so far.
#[derive(Debug)]
struct Files {
    known: Mutex<Known>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Known {
    /// `None` at the end.
    orders: Option<SyncSender<Order>>,
    finished: bool,
    names: HashMap<String, u64>,
    incoming: HashMap<u64, Incoming>,
    last: u64,
}

/// A file that CRIU writes.
#[derive(Debug)]
struct Incoming {
    name: String,
    /// Bytes.
    length: u64,
    /// The end of them, less than a chunk.
    pending: Vec<u8>,
}

impl Capture {
    /// For images in this directory, which is there.
    pub(crate) fn start(dir: &Path, options: &SealOptions) -> Result<Self, SealError> {
        let sealing = Sealing::of(options);
        let key = match options.encrypts() {
            true => {
                let recipients = keys::recipients(options)?;
                let key = DataKey::random()?;
                keys::wrap(&key, &recipients, &dir.join(KEY_FILE))?;
                Some(key)
            }
            false => None,
        };
        let suite = Suite { compression: options.compress, key };
        let scratch = Scratch::new(&suite)?;
        let shared = Arc::new(Shared::default());
        let (orders, to_do) = sync_channel(WAITING);
        let (dir, theirs) = (dir.to_owned(), Arc::clone(&shared));
        let work = move || {
            Worker { dir, suite, scratch, shared: &theirs, files: Default::default() }.run(&to_do);
        };
        let begun = |err| SealError::View { operation: "begin", err };
        let worker = thread::Builder::new().name("seal".to_owned()).spawn(work).map_err(begun)?;
        let known = Known {
            orders: Some(orders),
            finished: false,
            names: HashMap::new(),
            incoming: HashMap::new(),
            last: INodeNo::ROOT.0,
        };
        let files = Arc::new(Files { known: Mutex::new(known), shared });
        let mut capture = Self { view: None, files: Arc::clone(&files), worker: Some(worker), sealing };
        capture.view = Some(View::new(Directory(files))?);
        Ok(capture)
    }

    /// Where CRIU, and this process, write.
    pub(crate) fn path(&self) -> &Path {
        self.view.as_ref().map_or(Path::new(""), View::path)
    }

    pub(crate) fn sealing(&self) -> &Sealing {
        &self.sealing
    }

    /// When everything is written: nothing is taken any more, and all of it is on its way to the disk.
    pub(crate) fn finish(&self, statement: &impl Serialize) -> Result<(), SealError> {
        let statement = serde_json::to_value(statement).map_err(io::Error::from);
        let statement = statement.map_err(SealError::file("encode", TABLE))?;
        let (answer, finished) = sync_channel(1);
        {
            let mut known = self.files.known();
            let Known { orders, finished, incoming, .. } = &mut *known;
            *finished = true;
            for (ino, file) in incoming.iter_mut().filter(|(_, file)| !file.pending.is_empty()) {
                send(orders.as_ref(), Order::Chunk { ino: *ino, bytes: std::mem::take(&mut file.pending) })?;
            }
            send(orders.as_ref(), Order::Finish { statement, answer })?;
        }
        finished.recv().map_err(|_| SealError::Gone)?
    }

    /// Why CRIU could not write, if that is why it failed.
    pub(crate) fn failure(&self) -> Option<SealError> {
        self.files.shared.failure()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        drop(self.view.take());
        self.files.known().orders = None;
        if self.worker.take().is_some_and(|worker| worker.join().is_err()) {
            tracing::warn!("the thread that seals images has panicked");
        }
    }
}

fn send(orders: Option<&SyncSender<Order>>, order: Order) -> Result<(), SealError> {
    orders.and_then(|orders| orders.send(order).ok()).ok_or(SealError::Gone)
}

impl Files {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What goes wrong is told by [`Capture::failure`]; to CRIU it is an error of the disk's.
    fn noted<T>(&self, result: Result<T, SealError>) -> Result<T, Errno> {
        result.map_err(|err| {
            self.shared.fail(err);
            Errno::EIO
        })
    }

    fn create(&self, name: &OsStr) -> Result<(u64, u64), Errno> {
        let name = name.to_str().filter(|name| table::is_name(name) && *name != TABLE).ok_or(Errno::EINVAL)?;
        let mut known = self.known();
        if known.finished {
            return Err(Errno::EROFS);
        }
        known.last += 1;
        let ino = known.last;
        self.noted(send(known.orders.as_ref(), Order::Begin { ino, name: name.to_owned() }))?;
        known.names.insert(name.to_owned(), ino);
        known.incoming.insert(ino, Incoming { name: name.to_owned(), length: 0, pending: Vec::new() });
        Ok((ino, 0))
    }

    fn lookup(&self, name: &OsStr) -> Result<(u64, u64), Errno> {
        let known = self.known();
        let ino = name.to_str().and_then(|name| known.names.get(name)).copied();
        let ino = ino.ok_or(Errno::ENOENT)?;
        Ok((ino, known.incoming.get(&ino).map_or(0, |file| file.length)))
    }

    fn length(&self, ino: u64) -> Result<u64, Errno> {
        match ino {
            ino if ino == INodeNo::ROOT.0 => Ok(0),
            ino => self.known().incoming.get(&ino).map(|file| file.length).ok_or(Errno::ENOENT),
        }
    }

    fn begin_again(&self, ino: u64) -> Result<(), Errno> {
        let mut known = self.known();
        if known.finished {
            return Err(Errno::EROFS);
        }
        let Known { orders, incoming, .. } = &mut *known;
        let file = incoming.get_mut(&ino).ok_or(Errno::ENOENT)?;
        file.length = 0;
        file.pending.clear();
        self.noted(send(orders.as_ref(), Order::Begin { ino, name: file.name.clone() }))
    }

    fn remove(&self, name: &OsStr) -> Result<(), Errno> {
        let mut known = self.known();
        if known.finished {
            return Err(Errno::EROFS);
        }
        let ino = name.to_str().and_then(|name| known.names.remove(name)).ok_or(Errno::ENOENT)?;
        known.incoming.remove(&ino);
        self.noted(send(known.orders.as_ref(), Order::Remove { ino }))
    }

    fn write(&self, ino: u64, offset: u64, data: &[u8]) -> Result<(), Errno> {
        let mut known = self.known();
        if known.finished {
            return Err(Errno::EROFS);
        }
        if self.shared.has_failed() {
            return Err(Errno::EIO);
        }
        let Known { orders, incoming, .. } = &mut *known;
        let file = incoming.get_mut(&ino).ok_or(Errno::ENOENT)?;
        let written =
            file.write(offset, data, &self.shared, |bytes| send(orders.as_ref(), Order::Chunk { ino, bytes }));
        self.noted(written)
    }
}

impl Incoming {
    fn write(
        &mut self,
        offset: u64,
        data: &[u8],
        shared: &Shared,
        mut full: impl FnMut(Vec<u8>) -> Result<(), SealError>,
    ) -> Result<(), SealError> {
        let gap = offset.checked_sub(self.length).filter(|gap| *gap <= LONGEST_GAP);
        let gap = gap.ok_or_else(|| SealError::Order { name: self.name.clone(), at: offset, length: self.length })?;
        let zeros = vec![0; usize::try_from(gap).unwrap_or_default()];
        for mut data in [zeros.as_slice(), data] {
            self.length += data.len() as u64;
            while !data.is_empty() {
                if self.pending.capacity() == 0 && data.len() >= CHUNK / 2 {
                    self.pending = shared.buffer();
                    self.pending.reserve_exact(CHUNK);
                }
                let (now, later) = data.split_at(data.len().min(CHUNK - self.pending.len()));
                self.pending.extend_from_slice(now);
                data = later;
                if self.pending.len() == CHUNK {
                    full(std::mem::take(&mut self.pending))?;
                }
            }
        }
        Ok(())
    }
}

/// The file system.
struct Directory(Arc<Files>);

/// The kernel asks for sizes anew.
const AT_ONCE: Duration = Duration::ZERO;

impl Filesystem for Directory {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        configure(config)
    }

    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.0.lookup(name) {
            Ok((ino, length)) => reply.entry(&AT_ONCE, &attributes(INodeNo(ino), length), Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.0.length(ino.0) {
            Ok(length) => reply.attr(&AT_ONCE, &attributes(ino, length)),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let done = match size {
            Some(0) => self.0.begin_again(ino.0),
            Some(_) => Err(Errno::EOPNOTSUPP),
            // Modes and times are nobody's concern.
            None => Ok(()),
        };
        match done.and_then(|()| self.0.length(ino.0)) {
            Ok(length) => reply.attr(&AT_ONCE, &attributes(ino, length)),
            Err(errno) => reply.error(errno),
        }
    }

    fn unlink(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        match self.0.remove(name) {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        }
    }

    fn create(&self, _: &Request, _: INodeNo, name: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        match self.0.create(name) {
            Ok((ino, length)) => {
                let attributes = attributes(INodeNo(ino), length);
                reply.created(&AT_ONCE, &attributes, Generation(0), FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
            }
            Err(errno) => reply.error(errno),
        }
    }

    /// What is written cannot be read any more.
    fn open(&self, _: &Request, _: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match flags.acc_mode() {
            OpenAccMode::O_WRONLY => reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO),
            OpenAccMode::O_RDONLY | OpenAccMode::O_RDWR => reply.error(Errno::EACCES),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.0.write(ino.0, offset, data) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Err(errno) => reply.error(errno),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }
}
