//! Chunks on their way back. Every byte that is read is looked at before it is used for anything.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use zstd::bulk::Decompressor;

use super::cipher::{DataKey, FileKey, Part};
use super::error::{Damage, SealError};
use super::format::{CHUNK, Entry, FOOTER, Footer, HEADER, Header, LONGEST, TAG, checksum, plain_length};

/// A sealed file, whose index is read.
#[derive(Debug)]
pub(super) struct Decoder {
    file: File,
    name: String,
    key: Option<FileKey>,
    /// Where each is.
    chunks: Vec<(u64, Entry)>,
    length: u64,
    stored: u64,
}

/// What one thread needs for any number of files.
pub(super) struct Scratch {
    decompressor: Decompressor<'static>,
    stored: Vec<u8>,
}

impl Scratch {
    pub(super) fn new() -> Result<Self, SealError> {
        let decompressor = Decompressor::new().map_err(|err| SealError::Compress { operation: "begin", err })?;
        Ok(Self { decompressor, stored: Vec::new() })
    }
}

impl Decoder {
    /// With a key for a file that is encrypted with it, and without one for a file that is not encrypted.
    pub(super) fn open(file: File, name: &str, key: Option<&DataKey>) -> Result<Self, SealError> {
        let damaged = SealError::damaged(name);
        let failed = |err| SealError::file("read", name)(err);
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(damaged(Damage::NoFile));
        }
        let stored = metadata.len();
        let footer_at = stored.checked_sub(FOOTER as u64).filter(|at| *at >= HEADER as u64);
        let footer_at = footer_at.ok_or_else(|| damaged(Damage::CutOff))?;
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0).map_err(failed)?;
        let mut footer = [0; FOOTER];
        file.read_exact_at(&mut footer, footer_at).map_err(failed)?;

        let decoded = Header::decode(&header).filter(|header| header.encrypted == key.is_some());
        let decoded = decoded.ok_or_else(|| damaged(Damage::Header))?;
        let footer = Footer::decode(&footer).ok_or_else(|| damaged(Damage::CutOff))?;
        let tag = if decoded.encrypted { TAG } else { 0 };
        let length = footer.chunks as usize * Entry::width(decoded.encrypted) + tag;
        let index_at = footer_at.checked_sub(length as u64).filter(|at| *at >= HEADER as u64);
        let index_at = index_at.ok_or_else(|| damaged(Damage::CutOff))?;
        let mut index = vec![0; length];
        file.read_exact_at(&mut index, index_at).map_err(failed)?;
        if checksum(&[&header, &index, &footer.head()]) != footer.xxh3 {
            return Err(damaged(Damage::Index));
        }
        let key = key.map(|key| key.of_file(name, &header)).transpose().map_err(|_| damaged(Damage::Index))?;
        let index = match &key {
            Some(key) => key.open(Part::Index(footer.chunks.into()), &footer.head(), &mut index),
            None => Ok(&*index),
        };
        let index = index.map_err(|_| damaged(Damage::Index))?;
        let chunks = chunks(index, decoded.encrypted, index_at).ok_or_else(|| damaged(Damage::Index))?;
        Ok(Self { file, name: name.to_owned(), key, chunks, length: footer.length, stored })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// As CRIU wrote it, in bytes.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Bytes.
    pub(super) fn stored(&self) -> u64 {
        self.stored
    }

    /// Reads all chunks, and decompresses none.
    pub(super) fn verify(&self, scratch: &mut Scratch) -> Result<(), SealError> {
        (0..self.chunks.len() as u64).try_for_each(|chunk| self.read_stored(chunk, &mut scratch.stored).map(drop))
    }

    /// One chunk, whole.
    pub(super) fn chunk(&self, chunk: u64, scratch: &mut Scratch, to: &mut Vec<u8>) -> Result<(), SealError> {
        let damaged = |_| SealError::damaged(&self.name)(Damage::Chunk { chunk });
        let (bytes, compressed) = self.read_stored(chunk, &mut scratch.stored)?;
        to.clear();
        to.reserve(CHUNK);
        match compressed {
            true => drop(scratch.decompressor.decompress_to_buffer(bytes, to).map_err(damaged)?),
            false => to.extend_from_slice(bytes),
        }
        if to.len() != plain_length(self.length, chunk) {
            return Err(damaged(io::ErrorKind::InvalidData.into()));
        }
        Ok(())
    }

    /// The whole, of a file that is not longer than that.
    pub(super) fn read(&self, longest: u64, scratch: &mut Scratch) -> Result<Vec<u8>, SealError> {
        if self.length > longest {
            return Err(SealError::damaged(&self.name)(Damage::Size { found: self.length, written: longest }));
        }
        let (mut all, mut piece) = (Vec::new(), Vec::new());
        for chunk in 0..self.chunks.len() as u64 {
            self.chunk(chunk, scratch, &mut piece)?;
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }

    /// A chunk's bytes as they are compressed, and whether they are.
    fn read_stored<'a>(&self, chunk: u64, to: &'a mut Vec<u8>) -> Result<(&'a [u8], bool), SealError> {
        let damaged = || SealError::damaged(&self.name)(Damage::Chunk { chunk });
        let at = usize::try_from(chunk).ok().and_then(|at| self.chunks.get(at));
        let (offset, entry) = at.ok_or_else(damaged)?;
        to.clear();
        to.reserve(LONGEST);
        to.resize(entry.stored as usize, 0);
        self.file.read_exact_at(to, *offset).map_err(SealError::file("read", &self.name))?;
        let bytes = match &self.key {
            Some(key) => key.open(Part::Chunk(chunk), &[], to).map_err(|_| damaged())?,
            None if checksum(&[to]) == entry.xxh3 => &*to,
            None => return Err(damaged()),
        };
        Ok((bytes, entry.compressed))
    }
}

/// `None` unless the chunks fill the file up to the index.
fn chunks(index: &[u8], encrypted: bool, index_at: u64) -> Option<Vec<(u64, Entry)>> {
    let mut at = HEADER as u64;
    let entries = index.chunks_exact(Entry::width(encrypted));
    let mut chunks = Vec::with_capacity(entries.len());
    for entry in entries {
        let entry = Entry::decode(entry)?;
        chunks.push((at, entry));
        at += u64::from(entry.stored);
    }
    (at == index_at).then_some(chunks)
}
