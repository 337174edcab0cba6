//! The thread that compresses, encrypts and writes, while CRIU already brings the next chunk.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use super::encode::{Encoder, Scratch, Suite, Written};
use super::error::SealError;
use super::table::{Row, Table};
use super::{SUFFIX, TABLE, format};

/// Chunks that wait, at the most: with those that are at work and those that are filled they are all the memory it takes.
pub(super) const WAITING: usize = 3;

/// What is to be done.
#[derive(Debug)]
pub(super) enum Order {
    Begin {
        ino: u64,
        name: String,
    },
    Chunk {
        ino: u64,
        bytes: Vec<u8>,
    },
    Remove {
        ino: u64,
    },
    /// The last one of a dump that comes to its end.
    Finish {
        statement: Value,
        answer: SyncSender<Result<(), SealError>>,
    },
}

/// What both sides know.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// The first that went wrong.
    failure: Mutex<Option<SealError>>,
    /// Buffers to be used again.
    free: Mutex<Vec<Vec<u8>>>,
}

impl Shared {
    pub(super) fn has_failed(&self) -> bool {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// It is told once.
    pub(super) fn failure(&self) -> Option<SealError> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn fail(&self, err: SealError) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(err);
    }

    pub(super) fn buffer(&self) -> Vec<u8> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    /// Small ones are given back to the allocator, and are few.
    fn keep(&self, buffer: Vec<u8>) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if buffer.capacity() >= format::CHUNK && free.len() < WAITING {
            free.push(buffer);
        }
    }
}

pub(super) struct Worker<'a> {
    pub(super) dir: PathBuf,
    pub(super) suite: Suite,
    pub(super) scratch: Scratch,
    pub(super) shared: &'a Shared,
    pub(super) files: BTreeMap<u64, (String, Encoder<File>)>,
}

impl Worker<'_> {
    /// Until nobody can order anything any more.
    pub(super) fn run(mut self, orders: &Receiver<Order>) {
        while let Ok(order) = orders.recv() {
            match order {
                Order::Finish { statement, answer } => {
                    let finished = match self.shared.failure() {
                        Some(err) => Err(err),
                        None => self.finish(statement),
                    };
                    // Who asked may have gone.
                    answer.send(finished).ok();
                }
                order => {
                    if let Err(err) = self.carry_out(order) {
                        self.shared.fail(err);
                    }
                }
            }
        }
    }

    fn carry_out(&mut self, order: Order) -> Result<(), SealError> {
        match order {
            Order::Begin { ino, name } => {
                let encoder = self.begin(&name)?;
                self.files.insert(ino, (name, encoder));
            }
            Order::Chunk { ino, mut bytes } => {
                if let Some((name, encoder)) = self.files.get_mut(&ino) {
                    let written = encoder.chunk(&mut bytes, &mut self.scratch);
                    written.map_err(|err| SealError::file("write", place(&self.dir, name))(err))?;
                }
                self.shared.keep(bytes);
            }
            Order::Remove { ino } => {
                if let Some((name, _)) = self.files.remove(&ino) {
                    let path = place(&self.dir, &name);
                    fs::remove_file(&path).map_err(SealError::file("remove", path))?;
                }
            }
            Order::Finish { .. } => {}
        }
        Ok(())
    }

    fn begin(&self, name: &str) -> Result<Encoder<File>, SealError> {
        let path = place(&self.dir, name);
        let open = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
        open.and_then(|file| Encoder::new(file, name, &self.suite)).map_err(SealError::file("open", path))
    }

    fn finish(&mut self, statement: Value) -> Result<(), SealError> {
        let mut files = Vec::new();
        for (name, encoder) in std::mem::take(&mut self.files).into_values() {
            let Written { length, stored } =
                encoder.finish().map_err(SealError::file("write", place(&self.dir, &name)))?;
            files.push(Row { name, length, stored });
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        let failed = |err| SealError::file("write", place(&self.dir, TABLE))(err);
        let table = serde_json::to_vec(&Table { statement, files }).map_err(|err| failed(io::Error::from(err)))?;
        let mut encoder = self.begin(TABLE)?;
        for piece in table.chunks(format::CHUNK) {
            encoder.chunk(&mut piece.to_vec(), &mut self.scratch).map_err(failed)?;
        }
        encoder.finish().map(drop).map_err(failed)
    }
}

/// Where a file is, sealed.
pub(super) fn place(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}{SUFFIX}"))
}
