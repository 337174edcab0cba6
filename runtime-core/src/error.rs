//! The error type of this crate's boundary.

use crate::ContainerId;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller can do about an [`Error`]; `shim` maps it to a ttrpc code in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// No such container or process, or it has exited.
    NotFound,
    AlreadyExists,
    /// Asked at the wrong moment: start twice, pause a stopped container, checkpoint without CRIU.
    FailedPrecondition,
    /// The spec, an option or an image is wrong; retrying does not help.
    InvalidArgument,
    /// The kernel or the host lacks what was asked for.
    Unimplemented,
    Internal,
}

/// An operation on a container failed; what it had begun is rolled back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("cgroup of container {id}")]
    Cgroup {
        id: ContainerId,
        #[source]
        err: crate::cgroup::Error,
    },
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Cgroup { .. } => ErrorKind::Internal,
        }
    }
}
