//! The connection of the two sides: frames in both directions, and signs of life.
//!
//! Each direction has a task of its own. The writer sends an [`Kind::Alive`] frame whenever it had nothing else for
//! [`ALIVE_EVERY`]; the reader gives the connection up when nothing at all came for [`SILENCE`], which is how a link that was
//! cut is noticed. Both queues are short: memory does not grow with what is sent, and what the destination has to say about
//! a failure is heard while the source is still sending.

use std::io;
use std::time::{Duration, Instant};

use proto::stream::message::Kind as Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, BufWriter, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::frame::{self, HEADER, Header, Kind};
use crate::progress::Progress;
use crate::{tls, wire};

const ALIVE_EVERY: Duration = Duration::from_secs(2);
pub(crate) const SILENCE: Duration = Duration::from_secs(10);
/// Frames.
const QUEUE: usize = 8;
const BUFFER: usize = 64 << 10;

/// A connected stream of bytes, of any kind.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// What came.
#[derive(Debug)]
pub(crate) enum Incoming {
    Message(Box<Message>),
    Data { offset: u64, bytes: Vec<u8> },
}

/// How much may be sent, in bytes a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace(pub u64);

/// Dropping it ends the connection, what is still queued included; see [`Link::close`].
#[derive(Debug)]
pub(crate) struct Link {
    outbox: mpsc::Sender<Vec<u8>>,
    inbox: mpsc::Receiver<Result<Incoming>>,
    /// For what this side itself has to say to who waits.
    cancel: mpsc::WeakSender<Result<Incoming>>,
    reader: JoinHandle<()>,
    writer: JoinHandle<io::Result<()>>,
    pub(crate) compress: bool,
}

impl Link {
    pub(crate) fn new(stream: Box<dyn Stream>, pace: Option<Pace>) -> Self {
        Self::counting(stream, pace, Progress::default())
    }

    /// As [`Link::new`]; what is sent is counted.
    pub(crate) fn counting(stream: Box<dyn Stream>, pace: Option<Pace>, progress: Progress) -> Self {
        let (read, write) = tokio::io::split(stream);
        let (outbox, queue) = mpsc::channel(QUEUE);
        let (sender, inbox) = mpsc::channel(QUEUE);
        let cancel = sender.downgrade();
        let writer = tokio::spawn(write_all(write, queue, pace, progress));
        let reader = tokio::spawn(read_all(read, sender));
        Self { outbox, inbox, cancel, reader, writer, compress: false }
    }

    /// For a task that may end what is under way.
    pub(crate) fn canceller(&self) -> Canceller {
        Canceller(self.cancel.clone())
    }

    pub(crate) async fn send(&mut self, message: Message) -> Result<()> {
        let frame = frame::encode(Kind::Message, &wire::encode(message), self.compress).map_err(Error::Frame)?;
        self.outbox.send(frame).await.map_err(|_| Error::Disconnected)
    }

    /// From a thread that may block.
    pub(crate) fn blocking_send(&mut self, message: Message) -> Result<()> {
        self.heed()?;
        let frame = frame::encode(Kind::Message, &wire::encode(message), self.compress).map_err(Error::Frame)?;
        self.outbox.blocking_send(frame).map_err(|_| self.lost())
    }

    /// A part of a file; from a thread that may block.
    pub(crate) fn blocking_data(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.heed()?;
        let frame = frame::encode(Kind::Data, &frame::data(offset, bytes), self.compress).map_err(Error::Frame)?;
        self.outbox.blocking_send(frame).map_err(|_| self.lost())
    }

    pub(crate) async fn data(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.heed()?;
        let frame = frame::encode(Kind::Data, &frame::data(offset, bytes), self.compress).map_err(Error::Frame)?;
        self.outbox.send(frame).await.map_err(|_| self.lost())
    }

    /// As [`Link::data`], while the other side has something to say too.
    pub(crate) async fn data_meanwhile(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let frame = frame::encode(Kind::Data, &frame::data(offset, bytes), self.compress).map_err(Error::Frame)?;
        self.outbox.send(frame).await.map_err(|_| Error::Disconnected)
    }

    /// # Errors
    /// The connection is gone; the other side has failed, with its reason.
    pub(crate) async fn receive(&mut self) -> Result<Incoming> {
        let incoming = self.inbox.recv().await.ok_or(Error::Disconnected)?;
        failure_is_error(incoming?)
    }

    pub(crate) fn blocking_receive(&mut self) -> Result<Incoming> {
        let incoming = self.inbox.blocking_recv().ok_or(Error::Disconnected)?;
        failure_is_error(incoming?)
    }

    /// # Errors
    /// As [`Link::receive`]; it is data.
    pub(crate) async fn message(&mut self) -> Result<Message> {
        match self.receive().await? {
            Incoming::Message(message) => Ok(*message),
            Incoming::Data { .. } => Err(Error::Unexpected { expected: "a message", found: "data".to_owned() }),
        }
    }

    /// Sends what is queued, and hangs up.
    pub(crate) async fn close(mut self) {
        let (outbox, _) = mpsc::channel(1);
        self.outbox = outbox;
        let writer = std::mem::replace(&mut self.writer, tokio::spawn(async { Ok(()) }));
        match timeout(SILENCE, writer).await {
            Ok(Ok(Ok(()))) => {}
            // Whoever does not take the last words will ask again.
            other => tracing::debug!(?other, "the end of a connection"),
        }
    }

    /// Nothing is to come while this side sends, but that the other one fails.
    fn heed(&mut self) -> Result<()> {
        match self.inbox.try_recv() {
            Ok(incoming) => match failure_is_error(incoming?)? {
                Incoming::Message(message) => Err(wire::unexpected("nothing", &message)),
                Incoming::Data { .. } => Err(Error::Unexpected { expected: "nothing", found: "data".to_owned() }),
            },
            Err(_) => Ok(()),
        }
    }

    /// Why nothing can be sent any more.
    fn lost(&mut self) -> Error {
        self.heed().err().unwrap_or(Error::Disconnected)
    }
}

/// Ends what is under way on a link with an error.
#[derive(Debug)]
pub(crate) struct Canceller(mpsc::WeakSender<Result<Incoming>>);

impl Canceller {
    pub(crate) async fn cancel(self) {
        if let Some(inbox) = self.0.upgrade() {
            // Nobody waits any more otherwise.
            inbox.send(Err(Error::Cancelled)).await.ok();
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.reader.abort();
        self.writer.abort();
    }
}

fn failure_is_error(incoming: Incoming) -> Result<Incoming> {
    match incoming {
        Incoming::Message(message) => match *message {
            Message::Failed(failed) => Err(Error::Refused(failed.reason)),
            Message::Abort(abort) => Err(Error::Aborted(abort.reason)),
            other => Ok(Incoming::Message(Box::new(other))),
        },
        data @ Incoming::Data { .. } => Ok(data),
    }
}

async fn write_all(
    write: WriteHalf<Box<dyn Stream>>,
    mut queue: mpsc::Receiver<Vec<u8>>,
    pace: Option<Pace>,
    progress: Progress,
) -> io::Result<()> {
    let mut write = BufWriter::with_capacity(BUFFER, write);
    let alive = frame::encode(Kind::Alive, &[], false).map_err(io::Error::other)?;
    let mut next = Instant::now();
    loop {
        let frame = match queue.try_recv() {
            Ok(frame) => frame,
            Err(mpsc::error::TryRecvError::Disconnected) => break,
            Err(mpsc::error::TryRecvError::Empty) => {
                write.flush().await?;
                match timeout(ALIVE_EVERY, queue.recv()).await {
                    Ok(Some(frame)) => frame,
                    Ok(None) => break,
                    Err(_) => alive.clone(),
                }
            }
        };
        write.write_all(&frame).await?;
        let bytes = u64::try_from(frame.len()).unwrap_or(u64::MAX);
        progress.count(bytes);
        if let Some(Pace(rate)) = pace {
            next = next.max(Instant::now()) + Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / rate.max(1));
            tokio::time::sleep_until(next.into()).await;
        }
    }
    write.shutdown().await
}

async fn read_all(read: ReadHalf<Box<dyn Stream>>, inbox: mpsc::Sender<Result<Incoming>>) {
    let mut read = BufReader::with_capacity(BUFFER, read);
    loop {
        let incoming = match timeout(SILENCE, read_frame(&mut read)).await {
            Ok(Ok(Some(incoming))) => Ok(incoming),
            Ok(Ok(None)) => continue,
            Ok(Err(err)) => Err(err),
            Err(_) => Err(Error::Silent(SILENCE)),
        };
        let failed = incoming.is_err();
        if inbox.send(incoming).await.is_err() || failed {
            return;
        }
    }
}

/// `None` for a sign of life.
async fn read_frame(read: &mut BufReader<ReadHalf<Box<dyn Stream>>>) -> Result<Option<Incoming>> {
    let lost = |err: io::Error| match err.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            Error::Disconnected
        }
        _ => match tls::refusal(&err) {
            Some(alert) => Error::Certificate(alert),
            None => Error::Connection(err),
        },
    };
    let mut header = [0; HEADER];
    read.read_exact(&mut header).await.map_err(lost)?;
    let header = Header::parse(header).map_err(Error::Frame)?;
    let mut payload = vec![0; header.length];
    read.read_exact(&mut payload).await.map_err(lost)?;
    let payload = header.open(payload).map_err(Error::Frame)?;
    match header.kind {
        Kind::Alive => Ok(None),
        Kind::Message => Ok(Some(Incoming::Message(Box::new(wire::decode(&payload)?)))),
        Kind::Data => {
            let (offset, bytes) = frame::split_data(payload).map_err(Error::Frame)?;
            Ok(Some(Incoming::Data { offset, bytes }))
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::stream::{Failed, Ready, Want};

    use super::*;

    fn pair(pace: Option<Pace>) -> (Link, Link) {
        let (one, two) = tokio::io::duplex(64 << 10);
        (Link::new(Box::new(one), pace), Link::new(Box::new(two), None))
    }

    #[tokio::test]
    async fn what_is_sent_arrives_in_order() {
        let (mut one, mut two) = pair(None);
        one.compress = true;
        one.send(Message::Ready(Ready {})).await.unwrap();
        one.data(7, b"bytes").await.unwrap();
        one.close().await;
        assert!(matches!(two.message().await.unwrap(), Message::Ready(_)));
        assert!(matches!(two.receive().await.unwrap(), Incoming::Data { offset: 7, bytes } if bytes == b"bytes"));
        assert!(matches!(two.receive().await, Err(Error::Disconnected)));
    }

    #[tokio::test]
    async fn a_failure_reaches_who_is_sending() {
        let (mut one, mut two) = pair(None);
        two.send(Message::Failed(Failed { reason: "no space".to_owned() })).await.unwrap();
        let refused = loop {
            // Nobody takes the data: only the failure ends this.
            match timeout(Duration::from_secs(5), one.data(0, &[0; 1000])).await.unwrap() {
                Ok(()) => tokio::task::yield_now().await,
                Err(err) => break err,
            }
        };
        assert!(matches!(refused, Error::Refused(reason) if reason == "no space"));
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_the_end_and_signs_of_life_are_not() {
        let (one, _held) = tokio::io::duplex(1024);
        let mut alone = Link::new(Box::new(one), None);
        assert!(matches!(alone.receive().await, Err(Error::Silent(_))));

        let (_one, mut two) = pair(None);
        assert!(timeout(SILENCE * 3, two.receive()).await.is_err(), "the other side lives");
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_is_sent_than_the_pace_allows() {
        let (mut one, mut two) = pair(Some(Pace(1000)));
        let begun = tokio::time::Instant::now();
        let receiving = tokio::spawn(async move {
            while let Ok(incoming) = two.receive().await {
                drop(incoming);
            }
        });
        for _ in 0..10 {
            one.data(0, &[0; 1000]).await.unwrap();
        }
        one.send(Message::Want(Want::default())).await.unwrap();
        one.close().await;
        receiving.await.unwrap();
        assert!(begun.elapsed() >= Duration::from_secs(9), "{:?}", begun.elapsed());
    }
}
