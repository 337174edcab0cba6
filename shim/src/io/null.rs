//! `/dev/null`, for the streams that the user gave no end for.

use std::os::fd::OwnedFd;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::error::{Error, Stream};

pub(super) fn open_null(stream: Stream) -> Result<OwnedFd, Error> {
    let flags = if stream == Stream::Stdin { OFlag::O_RDONLY } else { OFlag::O_WRONLY };
    open("/dev/null", flags | OFlag::O_CLOEXEC, Mode::empty()).map_err(|err| Error::Open {
        stream,
        path: "/dev/null".into(),
        err,
    })
}
