//! What a migration fails with.

use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;

use crate::frame::FrameError;
use crate::network::HookError;
use crate::tls::TlsError;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    // The connection.
    #[error("{0:?} names no other side: unix:///PATH, ssh://[USER@]NODE or tls://HOST:PORT")]
    Target(String),
    #[error("connect to {target}")]
    Connect {
        target: String,
        #[source]
        err: std::io::Error,
    },
    #[error("listen on {target}")]
    Listen {
        target: String,
        #[source]
        err: std::io::Error,
    },
    #[error("tls of {target}")]
    Tls {
        target: String,
        #[source]
        err: TlsError,
    },
    #[error("the other side takes no connection with this certificate: {0:?}")]
    Certificate(rustls::AlertDescription),
    #[error("the connection to the other side")]
    Connection(#[source] std::io::Error),
    #[error("the other side has hung up")]
    Disconnected,
    #[error("nothing was heard of the other side for {0:?}")]
    Silent(Duration),
    #[error("it was interrupted")]
    Cancelled,
    #[error("a frame of the migration protocol")]
    Frame(#[source] FrameError),
    #[error("a message of the migration protocol")]
    Message(#[source] prost::DecodeError),
    #[error("the other side sent {found} where {expected} was expected")]
    Unexpected { expected: &'static str, found: String },
    #[error("no common version of the migration protocol: {} to {} and {} to {}", theirs.0, theirs.1, ours.0, ours.1)]
    Version { theirs: (u32, u32), ours: (u32, u32) },
    /// What the destination says.
    #[error("the destination: {0}")]
    Refused(String),
    /// What the source says.
    #[error("the source: {0}")]
    Aborted(String),

    // What is not moved, and where it is not moved to.
    #[error("container {id}: {problem}")]
    Unfit { id: String, problem: String },
    #[error("{}: {problem}", path.display())]
    NoPod { path: PathBuf, problem: String },
    #[error("container {id} does not exist in containerd")]
    NoContainer { id: String },
    #[error("container {id}: its runtime {runtime} has no migration service")]
    NoService {
        id: String,
        runtime: String,
        #[source]
        err: Box<Error>,
    },
    #[error("{0}")]
    Destination(String),

    // Of this host.
    #[error("containerd at {address}")]
    ContainerdConnect {
        address: PathBuf,
        #[source]
        err: tonic::transport::Error,
    },
    #[error("containerd: {operation} {what}")]
    Containerd {
        operation: &'static str,
        what: String,
        #[source]
        err: Box<tonic::Status>,
    },
    #[error("containerd's answer to {operation} {what} lacks {lacks}")]
    Answer { operation: &'static str, what: String, lacks: &'static str },
    #[error("the shim of container {id}: {operation}")]
    Shim {
        id: String,
        operation: &'static str,
        #[source]
        err: ttrpc::Error,
    },
    #[error("{operation} {}", path.display())]
    File {
        operation: &'static str,
        path: PathBuf,
        #[source]
        err: std::io::Error,
    },
    #[error("the other side sent a path that leads out of its tree: {0:?}")]
    Path(String),
    #[error("{what} is no valid JSON")]
    Json {
        what: String,
        #[source]
        err: serde_json::Error,
    },
    #[error("a migration of container {id} is under way (`rtc migrate status`)")]
    Busy { id: String },
    #[error("a migration of container {id} was not brought to its end: `rtc migrate recover` first")]
    Unrecovered { id: String },
    #[error("the network hook {} at {moment}", executable.display())]
    NetworkHook {
        executable: PathBuf,
        moment: String,
        #[source]
        err: HookError,
    },
    /// Source and destination may both have it, so that neither is ended.
    #[error(
        "it is not known whether the destination runs container {id}: it stays frozen here until `rtc migrate recover` \
         can ask"
    )]
    Undecided {
        id: String,
        #[source]
        err: Box<Error>,
    },
    /// The destination's side of it: what the source hears must not be that it was not started.
    #[error(
        "it is not known whether container {id}, which was being started here, runs: `rtc migrate recover` will find out"
    )]
    Unsettled {
        id: String,
        #[source]
        err: Box<Error>,
    },
    /// Neither side has it any more.
    #[error(
        "container {id} was lost: it ran at the destination, and its memory did not all come there; it runs nowhere, and what \
         it has written until it left is here still"
    )]
    Lost {
        id: String,
        #[source]
        err: Box<Error>,
    },
    #[error("{err}; and to take it back failed too: {roll_back}")]
    RollBack { err: Box<Error>, roll_back: Box<Error> },
    /// A bug: a part of this program has panicked.
    #[error("an operation was interrupted")]
    Interrupted(#[from] tokio::task::JoinError),
}

impl Error {
    pub(crate) fn file(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |err| Self::File { operation, path, err }
    }

    pub(crate) fn system(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(Errno) -> Self {
        let path = path.into();
        move |err| Self::File { operation, path, err: err.into() }
    }

    pub(crate) fn and_roll_back(self, roll_back: Result<()>) -> Self {
        match roll_back {
            Ok(()) => self,
            Err(roll_back) => Self::RollBack { err: Box::new(self), roll_back: Box::new(roll_back) },
        }
    }

    /// Whether the connection is gone, so that the other side's state is unknown.
    pub(crate) fn is_of_the_link(&self) -> bool {
        matches!(
            self,
            Self::Connect { .. }
                | Self::Tls { .. }
                | Self::Connection(_)
                | Self::Disconnected
                | Self::Silent(_)
                | Self::Frame(_)
        )
    }

    /// Whether the source may hear this of its destination, and take it for certain that the container does not run there, and
    /// never has. Else it has to ask.
    pub(crate) fn is_a_refusal(&self) -> bool {
        !self.is_of_the_link() && !matches!(self, Self::Aborted(_) | Self::Unsettled { .. } | Self::Lost { .. })
    }

    /// With all its causes in one line.
    pub fn chain(&self) -> String {
        use std::error::Error as _;
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(err) = cause {
            text.push_str(": ");
            text.push_str(&err.to_string());
            cause = err.source();
        }
        text
    }
}
