//! Who is connected to the shim. containerd is, for as long as it knows of it: a shim that has no container and no client
//! is one that containerd gave up between `start` and Create, and nobody would ever end it.

use std::io;
use std::os::unix::net::UnixListener as StdListener;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use ttrpc::r#async::transport::Listener;

/// containerd connects within a millisecond after `start`; this is for a host that is hardly alive.
pub(crate) const ALONE_FOR: Duration = Duration::from_secs(20);

/// How many there are.
#[derive(Clone, Debug)]
pub(crate) struct Clients(Arc<watch::Sender<usize>>);

impl Clients {
    /// A listener for ttrpc that counts.
    ///
    /// # Errors
    /// The socket could not be registered with the event loop.
    pub(crate) fn of(listener: StdListener) -> io::Result<(Listener, Self)> {
        listener.set_nonblocking(true)?;
        let clients = Self(Arc::new(watch::Sender::new(0)));
        let accepting = Accepting { listener: UnixListener::from_std(listener)?, clients: clients.clone() };
        Ok((Listener::new(accepting), clients))
    }

    /// Resolves when there was none for [`ALONE_FOR`].
    pub(crate) async fn gone(&self) {
        let mut count = self.0.subscribe();
        loop {
            // The sender is ours, so that neither can fail.
            count.wait_for(|count| *count == 0).await.ok();
            if tokio::time::timeout(ALONE_FOR, count.wait_for(|count| *count > 0)).await.is_err() {
                return;
            }
        }
    }
}

struct Accepting {
    listener: UnixListener,
    clients: Clients,
}

impl Stream for Accepting {
    type Item = io::Result<Connection>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let accepted = ready!(self.listener.poll_accept(cx));
        Poll::Ready(Some(accepted.map(|(stream, _)| {
            self.clients.0.send_modify(|count| *count += 1);
            Connection { stream, clients: self.clients.clone() }
        })))
    }
}

/// A client's, counted until it is dropped.
#[derive(Debug)]
struct Connection {
    stream: UnixStream,
    clients: Clients,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.clients.0.send_modify(|count| *count -= 1);
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use ttrpc::r#async::Server;

    use super::*;

    /// Whether it resolves when nothing but time passes.
    async fn gone_within(clients: &Clients, limit: Duration) -> bool {
        tokio::time::timeout(limit, clients.gone()).await.is_ok()
    }

    #[tokio::test]
    async fn a_shim_is_alone_without_clients_and_only_then() {
        const SOON: Duration = Duration::from_millis(50);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let (listener, clients) = Clients::of(StdListener::bind(&path).unwrap()).unwrap();
        let mut server = Server::new().add_listener(listener).register_service(HashMap::new());
        server.start().await.unwrap();
        let count = |wanted: usize| {
            let mut count = clients.0.subscribe();
            async move { count.wait_for(|count| *count == wanted).await.map(drop).unwrap() }
        };

        let client = UnixStream::connect(&path).await.unwrap();
        count(1).await;
        tokio::time::pause();
        assert!(!gone_within(&clients, ALONE_FOR * 2).await, "a client is there");
        tokio::time::resume();
        drop(client);
        count(0).await;
        assert!(!gone_within(&clients, SOON).await, "it may come back");
        tokio::time::pause();
        assert!(gone_within(&clients, ALONE_FOR * 2).await);
        tokio::time::resume();
        server.shutdown().await.unwrap();
    }
}
