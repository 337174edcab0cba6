//! What can go wrong between us and systemd.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::ErrorKind;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// As runc words it, as are the path's and the slice's.
    #[error("systemd not running on this host, cannot use systemd cgroups manager")]
    NotRunning,
    /// In runc's words.
    #[error("cannot use rootless systemd cgroups manager on cgroup v1")]
    UserOnV1,
    #[error("neither XDG_RUNTIME_DIR nor DBUS_SESSION_BUS_ADDRESS says where the user's systemd is")]
    NoUser,
    #[error("DBUS_SESSION_BUS_ADDRESS {address:?} names no unix socket")]
    Address { address: String },
    #[error("systemd is in another pid namespace, and would take another process for the container's")]
    PidNamespace,
    #[error(
        "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {cgroups_path:?} instead"
    )]
    Path { cgroups_path: String },
    #[error("invalid slice name: {slice:?}")]
    Slice { slice: String },
    #[error("cgroupsPath makes {unit:?}, which cannot be the name of a systemd unit: {reason}")]
    Name { unit: String, reason: &'static str },
    #[error("annotation {key}={value:?}: {reason}")]
    Annotation { key: String, value: String, reason: String },
    #[error("{resource} {value:?} cannot be a property of a systemd unit: {reason}")]
    Resource { resource: String, value: String, reason: &'static str },
    #[error("reach systemd at {address}")]
    Connect {
        address: PathBuf,
        #[source]
        err: io::Error,
    },
    #[error("{operation} over the D-Bus socket {address}")]
    Socket {
        operation: &'static str,
        address: PathBuf,
        #[source]
        err: io::Error,
    },
    #[error("the D-Bus socket {address} refuses this process: {answer:?}")]
    Refused { address: PathBuf, answer: String },
    #[error("{operation}: the D-Bus message is none")]
    Message {
        operation: &'static str,
        #[source]
        err: Box<zvariant::Error>,
    },
    #[error("{operation}: a D-Bus message of {bytes} bytes is longer than this program takes")]
    TooLong { operation: &'static str, bytes: usize },
    #[error("no answer of systemd to {operation} after {deadline:?}")]
    Timeout { operation: &'static str, deadline: Duration },
    #[error("systemd refuses {operation} of unit {unit}: {message} ({name})")]
    Call { operation: &'static str, unit: String, name: String, message: String },
    #[error("systemd did not {operation} unit {unit}: its job ended with {result:?}")]
    Job { operation: &'static str, unit: String, result: String },
    #[error("systemd did not {operation} unit {unit} within {deadline:?}")]
    JobTimeout { operation: &'static str, unit: String, deadline: Duration },
    #[error("systemd has put unit {unit} elsewhere than in cgroup {path}, where this process would look for it")]
    Elsewhere { unit: String, path: PathBuf },
    #[error("start unit {unit}, and what may have come of it could not be stopped: {stop}")]
    NotStopped {
        unit: String,
        #[source]
        err: Box<Error>,
        stop: Box<Error>,
    },
    #[error("read {}", path.display())]
    Token {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
    #[error("start the first process of unit {unit}")]
    Placeholder {
        unit: String,
        #[source]
        err: io::Error,
    },
}

impl Error {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::NotRunning
            | Self::PidNamespace
            | Self::UserOnV1
            | Self::NoUser
            | Self::Address { .. }
            | Self::Elsewhere { .. } => ErrorKind::FailedPrecondition,
            Self::Call { name, .. } if name == super::manager::UNIT_EXISTS => ErrorKind::FailedPrecondition,
            Self::Path { .. }
            | Self::Slice { .. }
            | Self::Name { .. }
            | Self::Annotation { .. }
            | Self::Resource { .. } => ErrorKind::InvalidArgument,
            Self::NotStopped { err, .. } => err.kind(),
            Self::Connect { .. }
            | Self::Token { .. }
            | Self::Socket { .. }
            | Self::Refused { .. }
            | Self::Message { .. }
            | Self::TooLong { .. }
            | Self::Timeout { .. }
            | Self::Call { .. }
            | Self::Job { .. }
            | Self::JobTimeout { .. }
            | Self::Placeholder { .. } => ErrorKind::Internal,
        }
    }
}
