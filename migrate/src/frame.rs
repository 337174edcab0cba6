//! The form of a frame, which carries a message or a part of a file.
//!
//! ```text
//!   0   2      3       4        8         12
//!   ┌───┬──────┬───────┬────────┬─────────┬────────── … ─┐
//!   │ M │ kind │ flags │ length │ CRC-32C │ payload      │   numbers are big-endian
//!   └───┴──────┴───────┴────────┴─────────┴────────── … ─┘
//! ```
//! | field | is |
//! | --- | --- |
//! | M | `RM`: what else talks (a login banner before `rtc migrate receive`) is told at once |
//! | kind | 1: a message (`stream.proto`), 2: data of a file, after its offset in 8 bytes, 3: nothing, a sign of life |
//! | flags | 1: the payload is compressed with zstd; others are refused |
//! | length | of the payload as it is on the wire, at most [`MAX`] |
//! | CRC-32C | of the first 8 bytes and the payload |
//!
//! A payload is at most [`MAX`] bytes uncompressed as well, so that a peer costs no more memory than that.

/// Of a payload, in bytes.
pub(crate) const MAX: usize = 4 << 20;
/// Bytes of a file in one frame.
pub(crate) const CHUNK: usize = 256 << 10;
pub(crate) const HEADER: usize = 12;

const MAGIC: [u8; 2] = *b"RM";
const COMPRESSED: u8 = 1;
/// The fastest that is worth its name; the stream waits for the disk and the network and not for us.
const LEVEL: i32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Message,
    Data,
    Alive,
}

impl Kind {
    fn number(self) -> u8 {
        match self {
            Self::Message => 1,
            Self::Data => 2,
            Self::Alive => 3,
        }
    }

    fn parse(number: u8) -> Result<Self, FrameError> {
        match number {
            1 => Ok(Self::Message),
            2 => Ok(Self::Data),
            3 => Ok(Self::Alive),
            other => Err(FrameError::Kind(other)),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("the other side does not speak the migration protocol: its bytes begin {0:?}")]
    Magic(String),
    #[error("unknown kind {0} of a frame")]
    Kind(u8),
    #[error("unknown flags {0:#x} of a frame")]
    Flags(u8),
    #[error("a frame of {0} bytes, of at most {MAX}")]
    Length(usize),
    #[error("a frame was damaged on its way")]
    Checksum,
    #[error("a frame of {length} bytes is too short for its kind")]
    Short { length: usize },
    #[error("decompress a frame")]
    Decompress(#[source] std::io::Error),
    #[error("compress a frame")]
    Compress(#[source] std::io::Error),
}

/// What the header says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    compressed: bool,
    pub(crate) length: usize,
    checksum: u32,
    bytes: [u8; 8],
}

/// A whole frame. Compressed only if it is asked for and makes it smaller.
pub(crate) fn encode(kind: Kind, payload: &[u8], compress: bool) -> Result<Vec<u8>, FrameError> {
    if payload.len() > MAX {
        return Err(FrameError::Length(payload.len()));
    }
    let packed = match compress && !payload.is_empty() {
        true => Some(zstd::bulk::compress(payload, LEVEL).map_err(FrameError::Compress)?),
        false => None,
    };
    let packed = packed.filter(|packed| packed.len() < payload.len());
    let flags = if packed.is_some() { COMPRESSED } else { 0 };
    let payload = packed.as_deref().unwrap_or(payload);

    let mut frame = Vec::with_capacity(HEADER + payload.len());
    frame.extend(MAGIC);
    frame.extend([kind.number(), flags]);
    // At most MAX.
    frame.extend(u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes());
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&frame), payload);
    frame.extend(checksum.to_be_bytes());
    frame.extend(payload);
    Ok(frame)
}

impl Header {
    pub(crate) fn parse(header: [u8; HEADER]) -> Result<Self, FrameError> {
        let [m0, m1, kind, flags, l0, l1, l2, l3, c0, c1, c2, c3] = header;
        if [m0, m1] != MAGIC {
            return Err(FrameError::Magic(String::from_utf8_lossy(&header).into_owned()));
        }
        let kind = Kind::parse(kind)?;
        if flags & !COMPRESSED != 0 {
            return Err(FrameError::Flags(flags));
        }
        let length = usize::try_from(u32::from_be_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
        if length > MAX {
            return Err(FrameError::Length(length));
        }
        let checksum = u32::from_be_bytes([c0, c1, c2, c3]);
        let bytes = [m0, m1, kind.number(), flags, l0, l1, l2, l3];
        Ok(Self { kind, compressed: flags & COMPRESSED != 0, length, checksum, bytes })
    }

    /// The payload as it was before it was compressed. `payload` has the header's length.
    pub(crate) fn open(self, payload: Vec<u8>) -> Result<Vec<u8>, FrameError> {
        if crc32c::crc32c_append(crc32c::crc32c(&self.bytes), &payload) != self.checksum {
            return Err(FrameError::Checksum);
        }
        match self.compressed {
            true => zstd::bulk::decompress(&payload, MAX).map_err(FrameError::Decompress),
            false => Ok(payload),
        }
    }
}

/// The same frame with the checksum that its bytes have.
#[cfg(feature = "fuzzing")]
pub(crate) fn with_checksum(frame: &[u8]) -> Option<Vec<u8>> {
    let (header, payload) = frame.split_first_chunk::<HEADER>()?;
    let (begin, _) = header.split_first_chunk::<8>()?;
    let checksum = crc32c::crc32c_append(crc32c::crc32c(begin), payload);
    Some([&begin[..], &checksum.to_be_bytes(), payload].concat())
}

/// The payload of a data frame.
pub(crate) fn data(offset: u64, bytes: &[u8]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(8 + bytes.len());
    payload.extend(offset.to_be_bytes());
    payload.extend(bytes);
    payload
}

/// The other way.
pub(crate) fn split_data(mut payload: Vec<u8>) -> Result<(u64, Vec<u8>), FrameError> {
    let Some((offset, _)) = payload.split_first_chunk::<8>() else {
        return Err(FrameError::Short { length: payload.len() });
    };
    let offset = u64::from_be_bytes(*offset);
    payload.drain(..8);
    Ok((offset, payload))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(frame: &[u8]) -> Result<(Kind, Vec<u8>), FrameError> {
        let (header, payload) = frame.split_first_chunk::<HEADER>().ok_or(FrameError::Short { length: frame.len() })?;
        let header = Header::parse(*header)?;
        let payload = payload.get(..header.length).ok_or(FrameError::Short { length: payload.len() })?;
        Ok((header.kind, header.open(payload.to_vec())?))
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(payload in proptest::collection::vec(any::<u8>(), 0..4096), compress: bool) {
            for kind in [Kind::Message, Kind::Data, Kind::Alive] {
                let frame = encode(kind, &payload, compress).unwrap();
                prop_assert_eq!(decode(&frame).unwrap(), (kind, payload.clone()));
            }
        }

        #[test]
        fn a_changed_byte_is_noticed(
            payload in proptest::collection::vec(any::<u8>(), 0..512),
            compress: bool,
            at: prop::sample::Index,
            change in 1_u8..,
        ) {
            let mut frame = encode(Kind::Data, &payload, compress).unwrap();
            let at = at.index(frame.len());
            frame[at] ^= change;
            prop_assert!(decode(&frame).is_err());
        }

        #[test]
        fn garbage_does_no_harm(frame in proptest::collection::vec(any::<u8>(), 0..64)) {
            decode(&frame).ok();
        }

        #[test]
        fn data_keeps_its_offset(offset: u64, bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert_eq!(split_data(data(offset, &bytes)).unwrap(), (offset, bytes));
        }
    }

    #[test]
    fn repetition_is_compressed() {
        assert!(encode(Kind::Data, &[7; 10_000], true).unwrap().len() < 200);
        assert!(encode(Kind::Data, &[7; 10_000], false).unwrap().len() > 10_000);
    }

    #[test]
    fn a_small_frame_does_not_become_a_big_one() {
        let bomb = zstd::bulk::compress(&vec![0; MAX + 1], LEVEL).unwrap();
        let mut frame = encode(Kind::Data, &bomb, false).unwrap();
        frame[3] = COMPRESSED;
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&frame[..8]), &bomb);
        frame[8..12].copy_from_slice(&checksum.to_be_bytes());
        assert!(matches!(decode(&frame), Err(FrameError::Decompress(_))));
    }

    #[test]
    fn what_is_too_long_is_refused_before_it_is_read() {
        let mut frame = encode(Kind::Message, b"x", false).unwrap();
        frame[4] = 0xff;
        assert!(matches!(decode(&frame), Err(FrameError::Length(_))));
        assert!(matches!(encode(Kind::Data, &vec![0; MAX + 1], false), Err(FrameError::Length(_))));
    }

    #[test]
    fn a_banner_is_shown() {
        let refused = decode(b"Welcome to node b!").unwrap_err().to_string();
        assert!(refused.contains("Welcome to n"), "{refused}");
    }
}
