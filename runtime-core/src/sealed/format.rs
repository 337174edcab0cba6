//! A sealed file, byte by byte. All numbers are little-endian.
//!
//! ```text
//! header    0  8  "RTCSEAL1"
//!           8  1  compression: 0 none, 1 zstd
//!           9  1  encryption: 0 none, 1 AES-256-GCM
//!          10  6  zero
//!          16 16  salt
//! chunks          of 256 KiB each, the last one shorter: a zstd frame or the bytes themselves, encrypted with a tag of 16
//! index           for each chunk a u32 with its length as stored (bit 31: it is not compressed); not encrypted, it has a
//!                 u64 behind each, the chunk's XXH3 as stored; encrypted, it ends with its tag
//! footer    0  8  length of the whole, as CRIU wrote it
//!           8  4  number of chunks
//!          12  4  zero
//!          16  8  XXH3 of header, index and the first 16 bytes of the footer
//!          24  8  "RTCSEALE"
//! ```
//! The key of a file is HKDF-SHA256(salt, the checkpoint's key; "rtc sealed image 1", the first 16 bytes of the header, the
//! name). The nonce of a chunk is its number, that of the index is (1 << 88) and the number of chunks; what is authenticated
//! beside the index are the first 16 bytes of the footer. A file is written once under its key: a new beginning has another
//! salt.

use std::hash::Hasher;

use twox_hash::XxHash3_64;

/// Of this description.
pub(crate) const VERSION: u32 = 1;

/// Bytes of a chunk, as CRIU wrote them.
pub(super) const CHUNK: usize = 256 << 10;

pub(super) const HEADER: usize = 32;
pub(super) const FOOTER: usize = 32;
pub(super) const TAG: usize = 16;
pub(super) const SALT: usize = 16;

/// Bytes of a chunk as stored, at the most.
pub(super) const LONGEST: usize = CHUNK + TAG;

const MAGIC: &[u8; 8] = b"RTCSEAL1";
const END: &[u8; 8] = b"RTCSEALE";

/// Of a file of 1 TiB. An index is held in memory.
const MOST_CHUNKS: u64 = (1 << 40) / CHUNK as u64;

const UNCOMPRESSED: u32 = 1 << 31;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) compressed: bool,
    pub(super) encrypted: bool,
    pub(super) salt: [u8; SALT],
}

/// A chunk, in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Bytes.
    pub(super) stored: u32,
    pub(super) compressed: bool,
    /// 0 of one that is encrypted.
    pub(super) xxh3: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Footer {
    /// Bytes, as CRIU wrote them.
    pub(super) length: u64,
    pub(super) chunks: u32,
    pub(super) xxh3: u64,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8] = self.compressed.into();
        bytes[9] = self.encrypted.into();
        bytes[HEADER - SALT..].copy_from_slice(&self.salt);
        bytes
    }

    pub(super) fn decode(bytes: &[u8; HEADER]) -> Option<Self> {
        let mut salt = [0; SALT];
        salt.copy_from_slice(&bytes[HEADER - SALT..]);
        let header = Self { compressed: bytes[8] == 1, encrypted: bytes[9] == 1, salt };
        // Nothing else is in it.
        (header.encode() == *bytes).then_some(header)
    }
}

impl Entry {
    /// Bytes in an index.
    pub(super) fn width(encrypted: bool) -> usize {
        if encrypted { 4 } else { 12 }
    }

    pub(super) fn encode(&self, encrypted: bool, to: &mut Vec<u8>) {
        let flag = if self.compressed { 0 } else { UNCOMPRESSED };
        to.extend((self.stored | flag).to_le_bytes());
        if !encrypted {
            to.extend(self.xxh3.to_le_bytes());
        }
    }

    /// `None` for what no chunk can be. `bytes` has the width of an entry.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let number = u32::from_le_bytes(*bytes.first_chunk()?);
        let xxh3 = bytes[4..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let entry = Self { stored: number & !UNCOMPRESSED, compressed: number & UNCOMPRESSED == 0, xxh3 };
        (1..=LONGEST).contains(&(entry.stored as usize)).then_some(entry)
    }
}

impl Footer {
    /// What is authenticated of it.
    pub(super) fn head(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.length.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.chunks.to_le_bytes());
        bytes
    }

    pub(super) fn encode(&self) -> [u8; FOOTER] {
        let mut bytes = [0; FOOTER];
        bytes[..16].copy_from_slice(&self.head());
        bytes[16..24].copy_from_slice(&self.xxh3.to_le_bytes());
        bytes[24..].copy_from_slice(END);
        bytes
    }

    /// `None` for what is not the end of a sealed file, and for numbers that do not fit one another.
    pub(super) fn decode(bytes: &[u8; FOOTER]) -> Option<Self> {
        let number = |at: usize| Some(u64::from_le_bytes(*bytes[at..].first_chunk()?));
        let chunks = u32::try_from(number(8)?).ok()?;
        let footer = Self { length: number(0)?, chunks, xxh3: number(16)? };
        let fits = footer.length.div_ceil(CHUNK as u64) == u64::from(chunks) && u64::from(chunks) <= MOST_CHUNKS;
        (fits && footer.encode() == *bytes).then_some(footer)
    }
}

/// Against damage alone.
pub(super) fn checksum(parts: &[&[u8]]) -> u64 {
    let mut hasher = XxHash3_64::new();
    parts.iter().for_each(|part| hasher.write(part));
    hasher.finish()
}

/// How many bytes of the whole a chunk has.
pub(super) fn plain_length(length: u64, chunk: u64) -> usize {
    let left = length.saturating_sub(chunk.saturating_mul(CHUNK as u64));
    usize::try_from(left).unwrap_or(CHUNK).min(CHUNK)
}
