//! Frames over the socket between the parent and the init (see [`super::message`]).

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::message::{Go, Reply};
use crate::sys::clone::{FAILED_BEFORE_EXEC, Failed, Stage};

/// Larger than any orders can be: args and env are limited to 6 MiB by execve(2).
const MAX_FRAME: u32 = 64 << 20;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {
    #[error("write to the socket between runtime and init")]
    Send(#[source] Errno),
    #[error("read from the socket between runtime and init")]
    Receive(#[source] Errno),
    #[error("encode a message for the init")]
    Encode(#[source] serde_json::Error),
    #[error("decode a message of the init")]
    Decode(#[source] serde_json::Error),
    #[error("a message of {0} bytes between runtime and init is too long")]
    TooLong(u32),
    #[error("the init said something out of turn")]
    OutOfTurn,
    #[error("the other end closed the socket between runtime and init")]
    Closed,
    #[error(transparent)]
    BeforeExec(#[from] Failed),
}

/// One end. Closed when it is dropped.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

impl Channel {
    /// The parent's end and the end that the new process inherits; both close-on-exec.
    pub(crate) fn pair() -> Result<(Self, OwnedFd), Errno> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        Ok((Self(ours), theirs))
    }

    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// A socket for [`Channel::accept_start`], bound at `path`.
    pub(crate) fn bind_start(path: &Path) -> Result<OwnedFd, Errno> {
        let socket = start_socket()?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(socket)
    }

    /// Sends `Go` to the init that waits at `path`, and returns the channel that it answers on.
    pub(crate) fn send_start(path: &Path) -> Result<Self, Error> {
        let (ours, theirs) = Self::pair().map_err(Error::Send)?;
        let socket = start_socket().map_err(Error::Send)?;
        let address = SocketAddrUnix::new(path).map_err(Error::Send)?;
        rustix::net::connect(&socket, &address).map_err(Error::Send)?;
        Self(socket).send_with(&Go, Some(theirs.as_fd()))?;
        Ok(ours)
    }

    /// Waits for the `Go` of a starter that lives to hear of it, and returns the channel to that one.
    pub(crate) fn accept_start(socket: OwnedFd) -> Result<Self, Error> {
        let socket = Self(socket);
        loop {
            let mut datagram = [0; 64];
            let mut starter = None;
            socket.receive_some(&mut datagram, &mut starter)?;
            let Some(starter) = starter.map(Self) else { continue };
            if starter.send(&Reply::Starting).is_ok() {
                return Ok(starter);
            }
        }
    }

    /// The byte that lets a process with a new user namespace go on, before it can read frames.
    pub(crate) fn maps_written(&self) -> Result<(), Error> {
        self.write(&[0], None)
    }

    pub(crate) fn send(&self, message: &impl Serialize) -> Result<(), Error> {
        self.send_with(message, None)
    }

    /// Sends a message and a duplicate of `fd`.
    pub(crate) fn send_with(&self, message: &impl Serialize, fd: Option<BorrowedFd<'_>>) -> Result<(), Error> {
        let mut frame = vec![0; 4];
        serde_json::to_writer(&mut frame, message).map_err(Error::Encode)?;
        let length = u32::try_from(frame.len() - 4).unwrap_or(u32::MAX);
        if length > MAX_FRAME {
            return Err(Error::TooLong(length));
        }
        frame[..4].copy_from_slice(&length.to_ne_bytes());
        self.write(&frame, fd)
    }

    fn write(&self, mut bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<(), Error> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = fd.map(|fd| [fd]);
        if let Some(fds) = &fds {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        while !bytes.is_empty() {
            // NOSIGNAL: the init has SIGPIPE at its default, and a dead peer must be an error here.
            match sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
                Ok(sent) => {
                    bytes = bytes.get(sent..).unwrap_or_default();
                    control.clear();
                }
                Err(Errno::INTR) => {}
                Err(err) => return Err(Error::Send(err)),
            }
        }
        Ok(())
    }

    pub(crate) fn receive<T: DeserializeOwned>(&self) -> Result<T, Error> {
        Ok(self.receive_with()?.0)
    }

    /// Receives a message and the descriptor that came with it.
    pub(crate) fn receive_with<T: DeserializeOwned>(&self) -> Result<(T, Option<OwnedFd>), Error> {
        let mut fd = None;
        let length = self.word(&mut fd)?;
        if length == FAILED_BEFORE_EXEC {
            let (stage, errno) = (self.word(&mut fd)?, self.word(&mut fd)?);
            let stage = Stage::from_raw(stage).unwrap_or(Stage::Exec);
            return Err(Failed { stage, err: crate::sys::errno::told(errno as i32) }.into());
        }
        if length > MAX_FRAME {
            return Err(Error::TooLong(length));
        }
        let mut frame = vec![0; length as usize];
        self.read(&mut frame, &mut fd)?;
        Ok((serde_json::from_slice(&frame).map_err(Error::Decode)?, fd))
    }

    fn word(&self, fd: &mut Option<OwnedFd>) -> Result<u32, Error> {
        let mut word = [0; 4];
        self.read(&mut word, fd)?;
        Ok(u32::from_ne_bytes(word))
    }

    fn read(&self, mut buffer: &mut [u8], fd: &mut Option<OwnedFd>) -> Result<(), Error> {
        while !buffer.is_empty() {
            let read = self.receive_some(buffer, fd)?;
            if read == 0 {
                return Err(Error::Closed);
            }
            buffer = buffer.get_mut(read..).unwrap_or_default();
        }
        Ok(())
    }

    fn receive_some(&self, buffer: &mut [u8], fd: &mut Option<OwnedFd>) -> Result<usize, Error> {
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let read = match recvmsg(&self.0, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(message) => message.bytes,
                Err(Errno::INTR) => continue,
                // The peer died with our bytes unread.
                Err(Errno::CONNRESET) => 0,
                Err(err) => return Err(Error::Receive(err)),
            };
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(mut fds) = message {
                    *fd = fds.next();
                }
            }
            return Ok(read);
        }
    }
}

fn start_socket() -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn a_message_carries_a_descriptor() {
        let (parent, init) = Channel::pair().unwrap();
        let init = Channel::new(init);
        let pipe = rustix::pipe::pipe().unwrap();
        init.send_with(&Reply::Ready { warnings: vec!["w".into()] }, Some(pipe.1.as_fd())).unwrap();
        init.send(&Reply::Hooks).unwrap();
        let (reply, fd) = parent.receive_with::<Reply>().unwrap();
        assert!(matches!(reply, Reply::Ready { warnings } if warnings == ["w"]));
        rustix::io::write(fd.unwrap(), b"x").unwrap();
        assert_eq!(rustix::io::read(&pipe.0, &mut [0u8; 2]), Ok(1));
        assert!(matches!(parent.receive_with::<Reply>().unwrap(), (Reply::Hooks, None)));
    }

    #[test]
    fn the_end_of_the_other_side_is_told_apart() {
        let (parent, init) = Channel::pair().unwrap();
        drop(init);
        assert!(matches!(parent.receive::<Reply>(), Err(Error::Closed)));
        assert!(matches!(parent.send(&Go), Err(Error::Send(Errno::PIPE))));
    }

    #[test]
    fn of_two_starters_one_starts_and_the_other_hears_that_it_did_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("start.sock");
        let socket = Channel::bind_start(&path).unwrap();
        // One that dies before it hears of it, and somebody who has nothing to say.
        drop(Channel::send_start(&path).unwrap());
        let noise = start_socket().unwrap();
        rustix::net::connect(&noise, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::io::write(&noise, b"noise").unwrap();
        let (first, second) = (Channel::send_start(&path).unwrap(), Channel::send_start(&path).unwrap());
        let accepted = Channel::accept_start(socket).unwrap();
        assert!(matches!(first.receive::<Reply>().unwrap(), Reply::Starting));
        assert!(matches!(second.receive::<Reply>(), Err(Error::Closed)));
        assert!(matches!(Channel::send_start(&path), Err(Error::Send(Errno::CONNREFUSED))));
        drop(accepted);
        assert!(matches!(first.receive::<Reply>(), Err(Error::Closed)));
    }

    #[test]
    fn a_failure_before_exec_is_read_as_numbers() {
        let (parent, init) = Channel::pair().unwrap();
        let init = Channel::new(init);
        for word in [FAILED_BEFORE_EXEC, Stage::Join as u32, Errno::PERM.raw_os_error() as u32] {
            init.write(&word.to_ne_bytes(), None).unwrap();
        }
        let Err(Error::BeforeExec(failed)) = parent.receive::<Reply>() else { panic!("not a failure") };
        assert_eq!((failed.stage, failed.err), (Stage::Join, Errno::PERM));
    }

    #[test]
    fn a_failure_with_a_number_that_is_none_is_a_failure() {
        let (parent, init) = Channel::pair().unwrap();
        let init = Channel::new(init);
        for word in [FAILED_BEFORE_EXEC, u32::MAX, u32::MAX] {
            init.write(&word.to_ne_bytes(), None).unwrap();
        }
        let Err(Error::BeforeExec(failed)) = parent.receive::<Reply>() else { panic!("not a failure") };
        assert_eq!(failed.err, Errno::IO);
    }

    #[test]
    fn a_frame_that_claims_too_much_is_refused() {
        let (parent, init) = Channel::pair().unwrap();
        Channel::new(init).write(&(MAX_FRAME + 1).to_ne_bytes(), None).unwrap();
        assert!(matches!(parent.receive::<Reply>(), Err(Error::TooLong(_))));
    }
}
