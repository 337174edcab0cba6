//! How fast a connection is: some data is sent, and the other side says when it is there.

use std::time::{Duration, Instant};

use proto::stream::message::Kind as Message;
use proto::stream::{Probe, ProbeDone, ProbeEnd};

use crate::error::Result;
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
    // Zeros would say nothing of a connection that compresses.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut chunk = vec![0; CHUNK];
    while sent < MOST && begun.elapsed() < LONGEST {
        for word in chunk.chunks_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(state.to_ne_bytes().get(..word.len()).unwrap_or_default());
        }
        link.data(sent, &chunk).await?;
        sent += u64::try_from(chunk.len()).unwrap_or_default();
    }
    link.send(Message::ProbeEnd(ProbeEnd {})).await?;
    awaited!(link, ProbeDone)?;
    Ok(sent.saturating_mul(1_000_000) / micros(begun.elapsed()).max(1))
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
