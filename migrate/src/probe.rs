//! How fast a connection is: some data is sent, and the other side says when it is there. And how fast a disk is written to.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use proto::stream::message::Kind as Message;
use proto::stream::{Probe, ProbeDone, ProbeEnd};
use rustix::fs::{Mode, OFlags};

use crate::error::{Error, Result};
use crate::frame::CHUNK;
use crate::link::{Incoming, Link};
use crate::report::micros;
use crate::wire::{awaited, unexpected};

/// How long is sent, or how much, whichever comes first.
const LONGEST: Duration = Duration::from_millis(100);
const MOST: u64 = 16 << 20;

/// Bytes a second to the other side, which waits for a tree.
pub(crate) async fn measure(link: &mut Link) -> Result<u64> {
    let begun = Instant::now();
    link.send(Message::Probe(Probe {})).await?;
    let mut sent = 0;
    let mut noise = Noise::default();
    let mut chunk = vec![0; CHUNK];
    while sent < MOST && begun.elapsed() < LONGEST {
        noise.fill(&mut chunk);
        link.data(sent, &chunk).await?;
        sent += u64::try_from(chunk.len()).unwrap_or_default();
    }
    link.send(Message::ProbeEnd(ProbeEnd {})).await?;
    awaited!(link, ProbeDone)?;
    Ok(sent.saturating_mul(1_000_000) / micros(begun.elapsed()).max(1))
}

/// Bytes a second that are written below a directory, which is made if it is missing; as CRIU does it, into the page cache
/// where there is room. Blocks.
///
/// # Errors
/// The directory takes no file.
pub(crate) fn measure_disk(directory: &Path) -> Result<u64> {
    std::fs::create_dir_all(directory).map_err(Error::file("make directory", directory))?;
    let failed = |operation| Error::file(operation, directory);
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR);
    let mut file = std::fs::File::from(opened.map_err(|err| failed("make a file in")(err.into()))?);
    let mut chunk = vec![0; CHUNK];
    Noise::default().fill(&mut chunk);
    let begun = Instant::now();
    let mut written = 0;
    while written < MOST && begun.elapsed() < LONGEST {
        file.write_all(&chunk).map_err(failed("write to a file in"))?;
        written += u64::try_from(chunk.len()).unwrap_or_default();
    }
    Ok(written.saturating_mul(1_000_000) / micros(begun.elapsed()).max(1))
}

/// What does not compress: zeros would say nothing of a connection that does that.
struct Noise(u64);

impl Default for Noise {
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Noise {
    fn fill(&mut self, chunk: &mut [u8]) {
        for word in chunk.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            word.copy_from_slice(self.0.to_ne_bytes().get(..word.len()).unwrap_or_default());
        }
    }
}

/// The other side of it, after the first message. Blocks.
pub(crate) fn answer(link: &mut Link) -> Result<()> {
    loop {
        match link.blocking_receive()? {
            Incoming::Data { .. } => {}
            Incoming::Message(message) => match *message {
                Message::ProbeEnd(_) => return link.blocking_send(Message::ProbeDone(ProbeDone {})),
                other => return Err(unexpected("ProbeEnd", &other)),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_has_a_speed_and_keeps_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        assert!(measure_disk(&state).unwrap() > 1 << 20);
        assert_eq!(std::fs::read_dir(&state).unwrap().count(), 0);
        std::fs::write(state.join("file"), "").unwrap();
        assert!(measure_disk(&state.join("file")).is_err());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_connection_has_a_speed() {
        let (one, two) = tokio::io::duplex(64 << 10);
        let pace = Some(crate::link::Pace(10 << 20));
        let (mut one, mut two) = (Link::new(Box::new(one), pace), Link::new(Box::new(two), None));
        let answering = tokio::task::spawn_blocking(move || match two.blocking_receive().unwrap() {
            Incoming::Message(first) if matches!(*first, Message::Probe(_)) => answer(&mut two).map(|()| two),
            other => panic!("{other:?}"),
        });
        let rate = measure(&mut one).await.unwrap();
        answering.await.unwrap().unwrap();
        assert!((1 << 20..=11 << 20).contains(&rate), "{rate} bytes a second of 10 MiB");
    }
}
