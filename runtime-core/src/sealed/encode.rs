//! Chunks on their way to the disk.

use std::io::{self, Write};

use zstd::bulk::Compressor;

use super::cipher::{self, DataKey, FileKey, Part};
use super::error::SealError;
use super::format::{Entry, Footer, HEADER, Header, LONGEST, checksum};
use super::options::Compression;

/// How the files of a checkpoint are written.
#[derive(Debug)]
pub(super) struct Suite {
    pub(super) compression: Option<Compression>,
    pub(super) key: Option<DataKey>,
}

/// What one thread needs for any number of files.
pub(super) struct Scratch {
    compressor: Option<Compressor<'static>>,
    compressed: Vec<u8>,
}

impl Scratch {
    pub(super) fn new(suite: &Suite) -> Result<Self, SealError> {
        let failed = |err| SealError::Compress { operation: "begin", err };
        let new = |compression: Compression| Compressor::new(compression.level()).map_err(failed);
        let compressor = suite.compression.map(new).transpose()?;
        let compressed = if compressor.is_some() { Vec::with_capacity(2 * LONGEST) } else { Vec::new() };
        Ok(Self { compressor, compressed })
    }
}

/// A file that is being written.
pub(super) struct Encoder<W> {
    to: W,
    header: [u8; HEADER],
    key: Option<FileKey>,
    entries: Vec<Entry>,
    length: u64,
    stored: u64,
}

/// How long a file has become, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Written {
    /// As CRIU wrote it.
    pub(super) length: u64,
    pub(super) stored: u64,
}

fn refused<E>(_: E) -> io::Error {
    io::Error::other("the cipher takes no more")
}

impl<W: Write> Encoder<W> {
    pub(super) fn new(mut to: W, name: &str, suite: &Suite) -> io::Result<Self> {
        let salt = cipher::salt().map_err(io::Error::other)?;
        let header = Header { compressed: suite.compression.is_some(), encrypted: suite.key.is_some(), salt }.encode();
        let key = suite.key.as_ref().map(|key| key.of_file(name, &header)).transpose().map_err(refused)?;
        to.write_all(&header)?;
        Ok(Self { to, header, key, entries: Vec::new(), length: 0, stored: HEADER as u64 })
    }

    /// Takes what is in `plain`, all chunks but the last one whole, and leaves it empty.
    pub(super) fn chunk(&mut self, plain: &mut Vec<u8>, scratch: &mut Scratch) -> io::Result<()> {
        let length = plain.len() as u64;
        let mut compressed = false;
        if let Some(compressor) = &mut scratch.compressor {
            scratch.compressed.clear();
            compressor.compress_to_buffer(plain.as_slice(), &mut scratch.compressed)?;
            compressed = scratch.compressed.len() < plain.len();
        }
        let bytes = if compressed { &mut scratch.compressed } else { &mut *plain };
        if let Some(key) = &self.key {
            key.seal(Part::Chunk(self.entries.len() as u64), &[], bytes).map_err(refused)?;
        }
        let xxh3 = if self.key.is_some() { 0 } else { checksum(&[bytes]) };
        let stored = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        self.to.write_all(bytes)?;
        self.entries.push(Entry { stored, compressed, xxh3 });
        self.length += length;
        self.stored += u64::from(stored);
        plain.clear();
        Ok(())
    }

    pub(super) fn finish(mut self) -> io::Result<Written> {
        let chunks = u32::try_from(self.entries.len()).map_err(io::Error::other)?;
        let mut footer = Footer { length: self.length, chunks, xxh3: 0 };
        let mut index = Vec::new();
        self.entries.iter().for_each(|entry| entry.encode(self.key.is_some(), &mut index));
        if let Some(key) = &self.key {
            key.seal(Part::Index(chunks.into()), &footer.head(), &mut index).map_err(refused)?;
        }
        footer.xxh3 = checksum(&[&self.header, &index, &footer.head()]);
        let end = footer.encode();
        self.to.write_all(&index)?;
        self.to.write_all(&end)?;
        self.to.flush()?;
        let stored = self.stored + index.len() as u64 + end.len() as u64;
        Ok(Written { length: self.length, stored })
    }
}
