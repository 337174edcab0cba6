//! Frames over the socket between the parent and the init (see [`super::message`]).

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

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
            return Err(Failed { stage, err: Errno::from_raw_os_error(errno as i32) }.into());
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
            if read == 0 {
                return Err(Error::Closed);
            }
            buffer = buffer.get_mut(read..).unwrap_or_default();
        }
        Ok(())
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::message::{Go, Reply};

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
    fn a_frame_that_claims_too_much_is_refused() {
        let (parent, init) = Channel::pair().unwrap();
        Channel::new(init).write(&(MAX_FRAME + 1).to_ne_bytes(), None).unwrap();
        assert!(matches!(parent.receive::<Reply>(), Err(Error::TooLong(_))));
    }
}
