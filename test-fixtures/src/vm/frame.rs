//! What a [`Vm`](super::Vm) and the agent in it say to one another, over the one virtio port between them.
//!
//! ```text
//! host                                  agent
//!   |                            Ready    |   once, when the machine is up
//!   |  Start(id) [words…]                 |
//!   |  Stdin(id) bytes, CloseStdin(id)    |
//!   |            Stdout(id), Stderr(id)   |   as they come
//!   |  Kill(id)                           |   SIGKILL to the command's process group
//!   |                   Exited(id) status |   behind the last of its output; or Failed(id) why
//! ```
//! A frame is its kind (1 byte), the command's id and the length of what follows (4 bytes each, little endian), and that.

use std::io::{self, Read, Write};

/// What a frame's payload may be at most: nobody allocates what a torn stream claims.
const LIMIT: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ready,
    /// The words of a command, each with a zero byte behind it.
    Start,
    Stdin,
    CloseStdin,
    Kill,
    Stdout,
    Stderr,
    /// The status as wait(2) gives it, 4 bytes.
    Exited,
    /// The command could not be started: why.
    Failed,
}

const KINDS: [Kind; 9] = [
    Kind::Ready,
    Kind::Start,
    Kind::Stdin,
    Kind::CloseStdin,
    Kind::Kill,
    Kind::Stdout,
    Kind::Stderr,
    Kind::Exited,
    Kind::Failed,
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: Kind,
    pub id: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn new(kind: Kind, id: u32, payload: impl Into<Vec<u8>>) -> Self {
        Self { kind, id, payload: payload.into() }
    }

    /// # Errors
    /// `UnexpectedEof` at the stream's end, `InvalidData` for what is no frame.
    pub fn read(stream: &mut impl Read) -> io::Result<Self> {
        let mut head = [0; 9];
        stream.read_exact(&mut head)?;
        let [kind, a, b, c, d, e, f, g, h] = head;
        let Some(kind) = KINDS.get(usize::from(kind)).copied() else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("no frame has the kind {kind}")));
        };
        let length = u32::from_le_bytes([e, f, g, h]) as usize;
        if length > LIMIT {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes")));
        }
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload)?;
        Ok(Self { kind, id: u32::from_le_bytes([a, b, c, d]), payload })
    }

    /// Writes the frame in one piece. Its payload is at most 1 MiB.
    pub fn write(&self, stream: &mut impl Write) -> io::Result<()> {
        let length = u32::try_from(self.payload.len()).ok().filter(|length| *length as usize <= LIMIT);
        let length = length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a frame over 1 MiB"))?;
        let mut bytes = Vec::with_capacity(9 + self.payload.len());
        bytes.push(self.kind as u8);
        bytes.extend(self.id.to_le_bytes());
        bytes.extend(length.to_le_bytes());
        bytes.extend(&self.payload);
        stream.write_all(&bytes)?;
        stream.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_as_they_went() {
        let mut stream = Vec::new();
        let frames = KINDS.map(|kind| Frame::new(kind, 7, b"true\0".as_slice()));
        for frame in &frames {
            frame.write(&mut stream).unwrap();
        }
        let mut stream = stream.as_slice();
        for frame in &frames {
            assert_eq!(&Frame::read(&mut stream).unwrap(), frame);
        }
        assert_eq!(Frame::read(&mut stream).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_torn_stream_is_refused() {
        let no_kind = [9; 9];
        let too_long = [0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
        for bytes in [no_kind, too_long] {
            assert_eq!(Frame::read(&mut bytes.as_slice()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }
}
