//! Framing: one protobuf message in each SOCK_SEQPACKET message, at most one descriptor beside it.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use prost::Message;
use proto::criu::rpc::{CriuReq, CriuResp};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendFlags, Shutdown, SocketFlags,
    SocketType, recvmsg, send, shutdown, socketpair,
};

use crate::error::{Error, Result};

/// Bytes. CRIU's replies have a few hundred; `cr_errmsg` is a line of its log.
const LONGEST_REPLY: usize = 64 * 1024;

pub(crate) fn decode(operation: &'static str, message: &[u8]) -> Result<CriuResp> {
    CriuResp::decode(message).map_err(|err| Error::Decode { operation, err })
}

/// This process's end of the socket pair.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: OwnedFd,
    operation: &'static str,
}

/// What came from CRIU.
#[derive(Debug)]
pub(crate) enum Received {
    Message(Box<CriuResp>, Option<OwnedFd>),
    /// CRIU closed its end, or died.
    Closed,
    TimedOut,
}

impl Channel {
    /// The channel, and the end that CRIU gets.
    pub(crate) fn new(operation: &'static str) -> Result<(Self, OwnedFd)> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|err| Error::Io { operation, action: "make a socket pair", err })?;
        Ok((Self { socket: ours, operation }, theirs))
    }

    pub(crate) fn send(&self, request: &CriuReq) -> Result<()> {
        let operation = self.operation;
        let message = request.encode_to_vec();
        loop {
            match send(&self.socket, &message, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::MSGSIZE) => return Err(Error::RequestTooLong { operation, bytes: message.len() }),
                // CRIU is gone; the receive that follows finds out how.
                Err(Errno::PIPE | Errno::CONNRESET) => return Ok(()),
                Err(err) => return Err(Error::Io { operation, action: "send a message", err }),
            }
        }
    }

    /// The next message; `process` is CRIU's pidfd. A message that CRIU sent before it died is still received.
    pub(crate) fn receive(&self, process: BorrowedFd<'_>, timeout: Option<Duration>) -> Result<Received> {
        let timeout = timeout.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        });
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN), PollFd::from_borrowed_fd(process, PollFlags::IN)];
        match poll(&mut fds, timeout.as_ref()) {
            // Spurious for the caller, who counts the time itself.
            Ok(0) | Err(Errno::INTR) => return Ok(Received::TimedOut),
            Ok(_) => {}
            Err(err) => return Err(Error::Io { operation: self.operation, action: "wait for a message", err }),
        }
        // The process end alone: a child of CRIU's may still hold the socket open, so an end of file would not come.
        if fds[0].revents().is_empty() { Ok(Received::Closed) } else { self.read() }
    }

    fn read(&self) -> Result<Received> {
        let operation = self.operation;
        let mut buffer = vec![0; LONGEST_REPLY];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let message = match recvmsg(&self.socket, &mut [IoSliceMut::new(&mut buffer)], &mut control, flags) {
            Ok(message) => message,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Received::TimedOut),
            Err(Errno::CONNRESET) => return Ok(Received::Closed),
            Err(err) => return Err(Error::Io { operation, action: "receive a message", err }),
        };
        // Owned before any check, so that an error closes what came.
        let fd = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        if message.bytes == 0 {
            return Ok(Received::Closed);
        }
        if message.flags.contains(ReturnFlags::TRUNC) {
            return Err(Error::ReplyTooLong { operation, limit: LONGEST_REPLY });
        }
        if message.flags.contains(ReturnFlags::CTRUNC) {
            return Err(Error::DescriptorsTruncated { operation });
        }
        let response = decode(operation, &buffer[..message.bytes])?;
        Ok(Received::Message(Box::new(response), fd))
    }

    /// CRIU sees an end of file where it waits for an answer, and takes back what it has begun.
    pub(crate) fn hang_up(&self) {
        // It fails only when the other end is closed already.
        let _closed = shutdown(self.socket.as_fd(), Shutdown::Both);
    }
}
