//! What the restored container's CRIU asks for, asked of the source: memory that follows.

use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use criu::{CLOSED, Layout, PageRange, PageRequest};
use proto::stream::message::Kind as Message;
use proto::stream::{Packets, Pages, PagesWanted};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::error::{Error, Result};
use crate::link::{Incoming, Link};
use crate::wire::unexpected;

/// In the image directory, where the shim's CRIU asks (`proto/rtc/migration/v1/migration.proto`).
const SOCKET: &str = "rtc-pages.sock";

/// In CRIU's pagemaps.
const PAGE: u64 = 4096;

/// Of a CRIU that waits for one after the other there are few.
const QUEUE: usize = 16;

#[derive(Debug)]
enum Asked {
    /// Where the answers go.
    Connected(OwnedWriteHalf),
    Request(Layout, PageRequest),
}

/// Serves CRIU's requests for as long as it has any. Dropping it hangs up, on which CRIU fails.
#[derive(Debug)]
pub(super) struct Fetcher {
    asked: mpsc::Receiver<Result<Asked>>,
    criu: Option<OwnedWriteHalf>,
    /// In the order in which the source answers.
    wanted: VecDeque<(Layout, PageRange)>,
    /// Of the answer that is coming in.
    bytes_left: u64,
    _listening: JoinSet<()>,
}

impl Fetcher {
    /// In an image directory, for one CRIU.
    pub(super) fn listen(images: &Path) -> Result<Self> {
        let directory = File::open(images).map_err(Error::file("open", images))?;
        // By the directory's descriptor: its path may be longer than that of a socket can be.
        let path = format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd());
        let target = images.join(SOCKET).display().to_string();
        let listener = UnixListener::bind(path).map_err(|err| Error::Listen { target, err })?;
        let (sender, asked) = mpsc::channel(QUEUE);
        let mut listening = JoinSet::new();
        listening.spawn(async move {
            if let Err(err) = serve(listener, &sender).await {
                // Who does not hear it has ended himself.
                sender.send(Err(Error::Connection(err))).await.ok();
            }
        });
        Ok(Self { asked, criu: None, wanted: VecDeque::new(), bytes_left: 0, _listening: listening })
    }

    /// Until CRIU needs no more; sends what `outbox` has too, and hands on packets for the container.
    ///
    /// # Errors
    /// The connection's to the source, or what CRIU said.
    pub(super) async fn run(
        mut self,
        link: &mut Link,
        mut outbox: mpsc::Receiver<Message>,
        packets: mpsc::Sender<Packets>,
    ) -> Result<()> {
        loop {
            tokio::select! {
                asked = self.asked.recv() => match asked {
                    Some(asked) => self.ask(link, asked?).await?,
                    None => break,
                },
                incoming = link.receive() => if let Some(came) = self.answer(incoming?).await? {
                    // Who does not take them does not run any more.
                    packets.send(came).await.ok();
                },
                Some(message) = outbox.recv() => link.send(message).await?,
            }
        }
        // CRIU may have been quicker than who has something to say.
        while let Some(message) = outbox.recv().await {
            link.send(message).await?;
        }
        Ok(())
    }

    async fn ask(&mut self, link: &mut Link, asked: Asked) -> Result<()> {
        match asked {
            Asked::Connected(criu) => self.criu = Some(criu),
            Asked::Request(layout, PageRequest::Get(range)) => {
                self.wanted.push_back((layout, range));
                let PageRange { process, address, pages } = range;
                // CRIU asks for no more than fit.
                let pages = u32::try_from(pages).unwrap_or(u32::MAX);
                link.send(Message::PagesWanted(PagesWanted { process, address, pages })).await?;
            }
            Asked::Request(_, PageRequest::Close) => self.write(&CLOSED).await?,
        }
        Ok(())
    }

    async fn answer(&mut self, incoming: Incoming) -> Result<Option<Packets>> {
        match incoming {
            Incoming::Data { bytes, .. } => {
                let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                let left = self.bytes_left.checked_sub(length);
                self.bytes_left =
                    left.ok_or_else(|| Error::Unexpected { expected: "no more pages", found: "data".to_owned() })?;
                self.write(&bytes).await.map(|()| None)
            }
            Incoming::Message(message) => match *message {
                Message::Pages(Pages { process, address, pages }) if self.bytes_left == 0 => {
                    let came = PageRange { process, address, pages: pages.into() };
                    match self.wanted.pop_front() {
                        Some((layout, range)) if range == came => {
                            self.bytes_left = range.pages.saturating_mul(PAGE);
                            self.write(&layout.answer(range)).await.map(|()| None)
                        }
                        _ => {
                            Err(Error::Unexpected { expected: "pages that were asked for", found: format!("{came:?}") })
                        }
                    }
                }
                Message::Packets(packets) => Ok(Some(packets)),
                other => Err(unexpected("Pages", &other)),
            },
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let none = || Error::Unexpected { expected: "a CRIU", found: "none".to_owned() };
        self.criu.as_mut().ok_or_else(none)?.write_all(bytes).await.map_err(Error::Connection)
    }
}

/// Ends when CRIU hangs up.
async fn serve(listener: UnixListener, asked: &mpsc::Sender<Result<Asked>>) -> std::io::Result<()> {
    let (connection, _) = listener.accept().await?;
    let (mut criu, write) = connection.into_split();
    let mut layout = None;
    asked.send(Ok(Asked::Connected(write))).await.map_err(std::io::Error::other)?;
    while let Some((found, request)) = read(&mut criu, layout).await? {
        layout = Some(found);
        let request = found.decode(&request).map_err(std::io::Error::other)?;
        asked.send(Ok(Asked::Request(found, request))).await.map_err(std::io::Error::other)?;
    }
    Ok(())
}

/// A whole request; `None` at the end.
async fn read(criu: &mut OwnedReadHalf, layout: Option<Layout>) -> std::io::Result<Option<(Layout, Vec<u8>)>> {
    let mut begin = [0; Layout::SHORT];
    match criu.read_exact(&mut begin).await {
        Err(err) if err.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    };
    let layout = layout.unwrap_or_else(|| Layout::of_first(&begin));
    let mut request = begin.to_vec();
    request.resize(layout.length(), 0);
    if let Some(rest) = request.get_mut(Layout::SHORT..) {
        criu.read_exact(rest).await?;
    }
    Ok(Some((layout, request)))
}
