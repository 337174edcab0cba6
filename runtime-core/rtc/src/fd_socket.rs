//! A unix socket that a descriptor is sent to, with a name as its data (as runc does).

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::error::Error;

pub(crate) struct FdSocket {
    path: PathBuf,
    socket: OwnedFd,
}

impl FdSocket {
    pub(crate) fn connect(path: &Path) -> Result<Self, Error> {
        let socket = UnixStream::connect(path);
        let socket = socket.map_err(|err| Error::File { operation: "connect to", path: path.to_owned(), err })?;
        Ok(Self { path: path.to_owned(), socket: socket.into() })
    }

    pub(crate) fn send(&self, name: &str, fd: BorrowedFd<'_>) -> Result<(), Error> {
        let failed = |err| Error::File { operation: "send a descriptor to", path: self.path.clone(), err };
        send(self.socket.as_fd(), name.as_bytes(), fd).map_err(failed)
    }
}

/// One message with one descriptor.
pub(crate) fn send(socket: BorrowedFd<'_>, data: &[u8], fd: BorrowedFd<'_>) -> std::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(socket, &[IoSlice::new(data)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}
