//! What can go wrong between a container's stdio and containerd's end of it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;
use runtime_core::ErrorKind;

/// One of a process's three streams, as messages name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdin,
    Stdout,
    Stderr,
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stdin => "stdin",
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        })
    }
}

/// The stdio of a process could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{stream} {uri:?}: {reason}")]
    Uri { stream: Stream, uri: String, reason: &'static str },

    #[error("open {path} for {stream}")]
    Open {
        stream: Stream,
        path: PathBuf,
        #[source]
        err: Errno,
    },

    #[error("make directory {path} for {stream}")]
    Directory {
        stream: Stream,
        path: PathBuf,
        #[source]
        err: Errno,
    },

    #[error("make a pipe for {stream}")]
    Pipe {
        stream: Stream,
        #[source]
        err: Errno,
    },

    #[error("watch {stream} for input and output")]
    Watch {
        stream: Stream,
        #[source]
        err: std::io::Error,
    },

    #[error("start logger {binary}")]
    LoggerStart {
        binary: PathBuf,
        #[source]
        err: std::io::Error,
    },

    #[error("logger {binary} ended with status {status} before it was ready")]
    LoggerEnded { binary: PathBuf, status: u32 },

    #[error("logger {binary} was not ready within {} s", timeout.as_secs())]
    LoggerNotReady { binary: PathBuf, timeout: Duration },

    #[error("resize the terminal to {width}x{height}")]
    Resize {
        width: u16,
        height: u16,
        #[source]
        err: Errno,
    },

    #[error("the process has no terminal")]
    NoTerminal,
}

impl Error {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Uri { .. } | Self::LoggerEnded { .. } => ErrorKind::InvalidArgument,
            Self::Open { err: Errno::ENOENT, .. } => ErrorKind::NotFound,
            Self::LoggerStart { err, .. } if err.kind() == std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            Self::NoTerminal | Self::LoggerNotReady { .. } => ErrorKind::FailedPrecondition,
            Self::Open { .. }
            | Self::Directory { .. }
            | Self::Pipe { .. }
            | Self::Watch { .. }
            | Self::LoggerStart { .. }
            | Self::Resize { .. } => ErrorKind::Internal,
        }
    }
}
