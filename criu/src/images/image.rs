//! An image file: magic numbers, then entries, each a u32 length and a protobuf message; numbers are in the machine's byte
//! order (`magic.h`, `image.c`, `protobuf.c` in CRIU).
//!
//! The directory may be anybody's: what is no regular file is not read, and no entry is longer than CRIU's longest.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use prost::Message;
use rustix::fs::OFlags;

use super::Error;

/// Common to all images of the second format but the inventory.
pub(super) const COMMON: u32 = 0x5456_4319;
/// In place of [`COMMON`] in files that are no part of the checkpoint.
pub(super) const SERVICE: u32 = 0x5510_5940;

/// Bytes. The largest entries are of the memory areas of a process that has tens of thousands of them.
const LONGEST_ENTRY: u32 = 4 << 20;

/// Bytes; CRIU's entries have tens or hundreds, and most images a few of them.
const BUFFER: usize = 4096;

/// An image file behind its magic numbers.
pub(super) struct Image {
    file: BufReader<File>,
    name: String,
    /// Of what is read next.
    offset: u64,
}

/// A regular file, whatever the name is that of.
pub(super) fn open(dir: &Path, name: &str) -> Result<File, Error> {
    let failed = |action| move |err| Error::Io { action, file: name.to_owned(), err };
    // A FIFO would be waited at for its other end.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = fs::OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(dir.join(name));
    let file = opened.map_err(|err| match err.kind() {
        io::ErrorKind::NotFound => Error::Missing { file: name.to_owned() },
        _ => failed("open")(err),
    })?;
    match file.metadata().map_err(failed("look at"))?.is_file() {
        true => Ok(file),
        false => Err(Error::Damaged { file: name.to_owned(), offset: 0, reason: "it is no regular file" }),
    }
}

impl Image {
    /// `magic` are the numbers that the file begins with.
    pub(super) fn open(dir: &Path, name: &str, magic: &[u32]) -> Result<Self, Error> {
        let file = BufReader::with_capacity(BUFFER, open(dir, name)?);
        let mut image = Self { file, name: name.to_owned(), offset: 0 };
        for expected in magic {
            let offset = image.offset;
            if image.number()? != Some(*expected) {
                return Err(image.damaged_at(offset, "it does not begin as an image of its kind"));
            }
        }
        Ok(image)
    }

    /// As it is read next.
    pub(super) fn damaged(&self, reason: &'static str) -> Error {
        self.damaged_at(self.offset, reason)
    }

    fn damaged_at(&self, offset: u64, reason: &'static str) -> Error {
        Error::Damaged { file: self.name.clone(), offset, reason }
    }

    /// `None` at the end of the file.
    fn number(&mut self) -> Result<Option<u32>, Error> {
        let mut bytes = [0; 4];
        let mut have = 0;
        while have < bytes.len() {
            match self.file.read(&mut bytes[have..]) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => return Err(self.damaged("it ends in the middle of a number")),
                Ok(n) => have += n,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(Error::Io { action: "read", file: self.name.clone(), err }),
            }
        }
        self.offset += 4;
        Ok(Some(u32::from_ne_bytes(bytes)))
    }

    fn bytes(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let start = self.offset;
        let Some(length) = self.number()? else { return Ok(None) };
        if length > LONGEST_ENTRY {
            return Err(self.damaged_at(start, "an entry is longer than any that CRIU writes"));
        }
        let mut bytes = vec![0; length as usize];
        self.file.read_exact(&mut bytes).map_err(|err| match err.kind() {
            io::ErrorKind::UnexpectedEof => self.damaged_at(start, "it ends in the middle of an entry"),
            _ => Error::Io { action: "read", file: self.name.clone(), err },
        })?;
        self.offset += u64::from(length);
        Ok(Some(bytes))
    }

    /// `None` at the end of the file.
    pub(super) fn next<M: Message + Default>(&mut self) -> Result<Option<M>, Error> {
        Ok(self.next_with_length()?.map(|(entry, _)| entry))
    }

    /// With the entry's length in bytes.
    pub(super) fn next_with_length<M: Message + Default>(&mut self) -> Result<Option<(M, u64)>, Error> {
        let start = self.offset;
        let Some(bytes) = self.bytes()? else { return Ok(None) };
        let entry = M::decode(bytes.as_slice()).map_err(|_| self.damaged_at(start, "an entry is not readable"))?;
        Ok(Some((entry, bytes.len() as u64)))
    }

    pub(super) fn only<M: Message + Default>(mut self) -> Result<M, Error> {
        match self.next()? {
            Some(entry) => Ok(entry),
            None => Err(self.damaged("it is empty")),
        }
    }

    pub(super) fn skip(mut self) -> Result<(), Error> {
        match self.bytes()? {
            Some(_) => Ok(()),
            None => Err(self.damaged("it is empty")),
        }
    }

    /// Skips raw bytes between entries.
    pub(super) fn skip_raw(&mut self, length: u32) -> Result<(), Error> {
        self.file.seek_relative(length.into()).map_err(|err| Error::Io {
            action: "seek in",
            file: self.name.clone(),
            err,
        })?;
        self.offset += u64::from(length);
        Ok(())
    }
}
