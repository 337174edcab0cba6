//! From `start` to the serving process: the socket, and the word that containerd knows of it.
//!
//! ```text
//! start                                       serve
//!   | -- spawn, one end of a pair = stdin ---> |
//!   | bind                                     | starts up meanwhile
//!   | -- the listening socket ---------------> | serves
//!   | answers containerd                       |
//!   | -- commit -----------------------------> | stays
//! ```
//! containerd kills `start` when its own client goes away, at any moment. The pair is closed then before the commit, and
//! the serving process, of which nobody has ever heard, removes the socket and ends.

use std::io::{IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use tokio::io::AsyncReadExt;

const LISTENER: u8 = b'L';
const COMMIT: u8 = b'C';

/// The end of `start`. Dropped without a commit, it ends the serving process.
#[derive(Debug)]
pub(crate) struct Giver(UnixStream);

impl Giver {
    /// This end, and the one that becomes the serving process's stdin.
    ///
    /// # Errors
    /// socketpair(2)'s.
    pub(crate) fn pair() -> std::io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = UnixStream::pair()?;
        Ok((Self(ours), theirs.into()))
    }

    /// # Errors
    /// sendmsg(2)'s: EPIPE when the serving process has ended.
    pub(crate) fn give(&self, listener: &UnixListener) -> std::io::Result<()> {
        let fds = [listener.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        loop {
            match sendmsg(&self.0, &[IoSlice::new(&[LISTENER])], &mut control, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                other => return Ok(other.map(drop)?),
            }
        }
    }

    /// containerd has the address.
    ///
    /// # Errors
    /// write(2)'s: EPIPE when the serving process has ended.
    pub(crate) fn commit(mut self) -> std::io::Result<()> {
        self.0.write_all(&[COMMIT])
    }
}

/// The end of the serving process, before it has the socket.
#[derive(Debug)]
pub(crate) struct Taker(UnixStream);

impl Taker {
    /// # Errors
    /// `fd` is no socket.
    pub(crate) fn new(fd: OwnedFd) -> std::io::Result<Self> {
        let stream = UnixStream::from(fd);
        stream.peer_addr()?;
        Ok(Self(stream))
    }

    /// Blocks until `start` has bound the socket. `None` when it ended before.
    ///
    /// # Errors
    /// recvmsg(2)'s.
    pub(crate) fn take(self) -> std::io::Result<Option<(UnixListener, Pledge)>> {
        let listener = receive(self.0.as_fd())?;
        Ok(listener.map(|listener| (UnixListener::from(listener), Pledge(self.0))))
    }
}

fn receive(socket: BorrowedFd<'_>) -> std::io::Result<Option<OwnedFd>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Ok(None),
            other => break other.map(drop)?,
        }
    }
    let rights = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok(rights)
}

/// The end of the serving process, once it serves.
#[derive(Debug)]
pub(crate) struct Pledge(UnixStream);

impl Pledge {
    /// Whether containerd was told the address; resolves when `start` is done.
    ///
    /// # Errors
    /// The socket could not be registered or read.
    pub(crate) async fn kept(self) -> std::io::Result<bool> {
        self.0.set_nonblocking(true)?;
        let mut stream = tokio::net::UnixStream::from_std(self.0)?;
        match stream.read_u8().await {
            Ok(byte) => Ok(byte == COMMIT),
            Err(err)
                if matches!(err.kind(), std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset) =>
            {
                Ok(false)
            }
            Err(err) => Err(err),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_changes_hands() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let (giver, end) = Giver::pair().unwrap();
        giver.give(&UnixListener::bind(&path).unwrap()).unwrap();
        let (listener, pledge) = Taker::new(end).unwrap().take().unwrap().unwrap();
        assert_eq!(listener.local_addr().unwrap().as_pathname(), Some(path.as_path()));
        giver.commit().unwrap();
        assert!(pledge.kept().await.unwrap());
    }

    #[tokio::test]
    async fn a_start_that_is_killed_is_noticed_at_each_step() {
        let (giver, end) = Giver::pair().unwrap();
        drop(giver);
        assert!(Taker::new(end).unwrap().take().unwrap().is_none());

        let directory = tempfile::tempdir().unwrap();
        let (giver, end) = Giver::pair().unwrap();
        giver.give(&UnixListener::bind(directory.path().join("socket")).unwrap()).unwrap();
        drop(giver);
        let (_, pledge) = Taker::new(end).unwrap().take().unwrap().unwrap();
        assert!(!pledge.kept().await.unwrap());
    }

    #[test]
    fn anything_but_a_socket_is_refused() {
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(Taker::new(null.into()).is_err());
    }
}
