//! The error type of this crate's boundary.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;

use crate::binary::Version;
use crate::images;
use crate::notify::NotificationKind;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What is known of a failure in CRIU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// `cr_errno` of the reply.
    pub errno: Option<i32>,
    /// The last line that CRIU logged as an error and that says more than that it failed.
    pub line: Option<String>,
    /// CRIU's log, where there is one.
    pub log: Option<PathBuf>,
    /// What a person can do about it, for failures that are well known.
    pub advice: Option<&'static str>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.line, self.errno) {
            (Some(line), _) => f.write_str(line)?,
            (None, Some(errno)) => write!(f, "errno {errno} ({})", io::Error::from_raw_os_error(errno))?,
            (None, None) => f.write_str("criu gave no reason")?,
        }
        if let Some(advice) = self.advice {
            write!(f, "; {advice}")?;
        }
        if let Some(log) = &self.log {
            write!(f, " (log: {})", log.display())?;
        }
        Ok(())
    }
}

/// A request to CRIU failed. CRIU and its children are gone when it is returned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("no executable criu in PATH ({path}): install CRIU {} or newer", crate::MINIMUM)]
    NotFound { path: String },

    #[error("{} is CRIU {found}, which is too old: {needed} or newer is needed", path.display())]
    TooOld { path: PathBuf, found: Version, needed: Version },

    #[error("start {}", path.display())]
    Spawn {
        path: PathBuf,
        #[source]
        err: io::Error,
    },

    #[error("{action} for criu {operation}")]
    Io {
        operation: &'static str,
        action: &'static str,
        #[source]
        err: Errno,
    },

    #[error("request for criu {operation} has {bytes} bytes, more than a socket message can hold")]
    RequestTooLong { operation: &'static str, bytes: usize },

    #[error("criu {operation} sent a message longer than {limit} bytes")]
    ReplyTooLong { operation: &'static str, limit: usize },

    #[error("criu {operation} sent descriptors that were cut off")]
    DescriptorsTruncated { operation: &'static str },

    #[error("criu {operation} sent a message that is no criu_resp")]
    Decode {
        operation: &'static str,
        #[source]
        err: prost::DecodeError,
    },

    #[error("criu {operation} sent a message of type {found} where {expected} was due")]
    UnexpectedType { operation: &'static str, expected: &'static str, found: String },

    #[error("criu {operation} sent no {what} with its {message} message")]
    Incomplete { operation: &'static str, message: String, what: &'static str },

    #[error("criu {operation} ended with status {status} in the middle of the request: {failure}")]
    Died { operation: &'static str, status: u32, failure: Failure },

    #[error("criu {operation} was ended because it took longer than {limit:?}: {failure}")]
    Deadline { operation: &'static str, limit: Duration, failure: Failure },

    #[error("criu {operation} was ended because it has done nothing for {after:?}: {failure}")]
    Stalled { operation: &'static str, after: Duration, failure: Failure },

    #[error("criu {operation} failed: {failure}")]
    Failed { operation: &'static str, failure: Failure },

    #[error("criu {operation} was stopped at {notification}")]
    Refused {
        operation: &'static str,
        notification: NotificationKind,
        #[source]
        err: Box<dyn StdError + Send + Sync>,
    },

    #[error("checkpoint in {}", dir.display())]
    Images {
        dir: PathBuf,
        #[source]
        err: images::Error,
    },
}

impl Error {
    /// The same with another path of CRIU's log, for a caller that moves or removes it.
    pub fn with_log(mut self, log: Option<PathBuf>) -> Self {
        if let Self::Died { failure, .. }
        | Self::Deadline { failure, .. }
        | Self::Stalled { failure, .. }
        | Self::Failed { failure, .. } = &mut self
        {
            failure.log = log;
        }
        self
    }

    /// What CRIU itself said, for the failures that it had a say in.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Died { failure, .. }
            | Self::Deadline { failure, .. }
            | Self::Stalled { failure, .. }
            | Self::Failed { failure, .. } => Some(failure),
            _ => None,
        }
    }
}
