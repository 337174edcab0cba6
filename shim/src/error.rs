//! Why a request failed, and the one place where that becomes a ttrpc status.
//!
//! | kind                | code                | the text ends with    |
//! |---------------------|---------------------|-----------------------|
//! | not found           | NOT_FOUND           | `: not found`         |
//! | already exists      | ALREADY_EXISTS      | `: already exists`    |
//! | failed precondition | FAILED_PRECONDITION | `: failed precondition`|
//! | invalid argument    | INVALID_ARGUMENT    | `: invalid argument`  |
//! | unimplemented       | UNIMPLEMENTED       | `: not implemented`   |
//! | internal            | INTERNAL            |                       |
//!
//! The endings are those of containerd's errdefs, so that a client sees the same text as with containerd's own shim.

use std::fmt::Write;

use runtime_core::ErrorKind;
use runtime_core::id::InvalidContainerId;
use ttrpc::{Code, get_status};

use crate::process::state::Refusal;

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// A request was refused or failed; what it had begun is rolled back.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("container not created")]
    NoContainer,
    #[error("process does not exist {exec_id}")]
    NoProcess { exec_id: String },
    #[error("container {id}")]
    ContainerExists { id: String },
    #[error("id {exec_id}")]
    ExecExists { exec_id: String },
    #[error("exec id cannot be empty")]
    NoExecId,
    #[error(transparent)]
    Id(#[from] InvalidContainerId),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("container {id} init process is not running")]
    InitGone { id: String },
    #[error("process already finished")]
    Finished,
    #[error("process not created")]
    NotStarted,
    #[error("signal {0} is none")]
    Signal(u32),
    #[error("options of container {id}")]
    Options {
        id: String,
        #[source]
        err: crate::options::Error,
    },
    #[error("checkpoint of container {id}: {option} {value:?} is not supported")]
    CheckpointOption { id: String, option: &'static str, value: String },
    #[error("container {id} is in migration {migration}")]
    Migrating { id: String, migration: String },
    #[error("container {id} is not in migration {migration:?}")]
    NoMigration { id: String, migration: String },
    #[error("migration {migration} is {phase}")]
    MigrationPhase { migration: String, phase: &'static str },
    #[error("remove the streams of container {id} in {}", directory.display())]
    Streams {
        id: String,
        directory: std::path::PathBuf,
        #[source]
        err: std::io::Error,
    },
    #[error("checkpoint of a pod")]
    Pod(#[source] runtime_core::container::PodError),
    #[error("checkpoint of a pod: container {id}: {problem}")]
    PodMember { id: String, problem: String },
    #[error("the memory of container {id} is still on its way")]
    Arriving { id: String },
    #[error("the memory of container {id} did not arrive, and the container was ended")]
    MemoryLost { id: String },
    #[error("hold a dump")]
    Hold(#[source] std::io::Error),
    #[error("{what} of container {id} is not valid")]
    Json {
        what: &'static str,
        id: String,
        #[source]
        err: serde_json::Error,
    },
    #[error("record where the state of container {id} is")]
    StateRoot {
        id: String,
        #[source]
        err: std::io::Error,
    },
    #[error("failed to mount rootfs component")]
    Mount(#[from] crate::mount::Error),
    #[error("stdio of {process} of container {id}")]
    Stdio {
        process: String,
        id: String,
        #[source]
        err: crate::io::Error,
    },
    /// `operation` is `create`, `start`, `exec` …
    #[error("OCI runtime {operation} failed")]
    Runtime {
        operation: &'static str,
        #[source]
        err: Box<runtime_core::Error>,
    },
    #[error("signal process {pid}")]
    Kill {
        pid: u32,
        #[source]
        err: std::io::Error,
    },
    #[error("watch process {pid}")]
    Watch {
        pid: u32,
        #[source]
        err: std::io::Error,
    },
    #[error("encode answer")]
    Encode(#[source] protobuf::Error),
    /// A bug: a part of the shim has panicked; the log has where.
    #[error("operation was interrupted")]
    Interrupted(#[from] tokio::task::JoinError),
}

impl Error {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::NoContainer | Self::NoProcess { .. } | Self::Finished => ErrorKind::NotFound,
            Self::ContainerExists { .. } | Self::ExecExists { .. } => ErrorKind::AlreadyExists,
            Self::Refused(_)
            | Self::InitGone { .. }
            | Self::NotStarted
            | Self::Migrating { .. }
            | Self::Arriving { .. }
            | Self::MemoryLost { .. }
            | Self::NoMigration { .. }
            | Self::PodMember { .. }
            | Self::MigrationPhase { .. } => ErrorKind::FailedPrecondition,
            Self::Pod(err) => err.kind(),
            Self::CheckpointOption { .. }
            | Self::Id(_)
            | Self::NoExecId
            | Self::Signal(_)
            | Self::Options { .. }
            | Self::Json { .. } => ErrorKind::InvalidArgument,
            Self::Runtime { err, .. } => err.kind(),
            Self::Stdio { err, .. } => err.kind(),
            Self::StateRoot { .. }
            | Self::Hold(_)
            | Self::Streams { .. }
            | Self::Mount(_)
            | Self::Kill { .. }
            | Self::Watch { .. }
            | Self::Encode(_)
            | Self::Interrupted(_) => ErrorKind::Internal,
        }
    }
}

impl From<Error> for ttrpc::Error {
    fn from(err: Error) -> Self {
        let (code, ending) = match err.kind() {
            ErrorKind::NotFound => (Code::NOT_FOUND, ": not found"),
            ErrorKind::AlreadyExists => (Code::ALREADY_EXISTS, ": already exists"),
            ErrorKind::FailedPrecondition => (Code::FAILED_PRECONDITION, ": failed precondition"),
            ErrorKind::InvalidArgument => (Code::INVALID_ARGUMENT, ": invalid argument"),
            ErrorKind::Unimplemented => (Code::UNIMPLEMENTED, ": not implemented"),
            ErrorKind::Internal => (Code::INTERNAL, ""),
        };
        Self::RpcStatus(get_status(code, chain(&err) + ending))
    }
}

/// An error and its causes in one line.
pub(crate) fn chain(err: &dyn std::error::Error) -> String {
    let mut text = err.to_string();
    let mut cause = err.source();
    while let Some(err) = cause {
        // Writing to a String cannot fail.
        write!(text, ": {err}").ok();
        cause = err.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(err: Error) -> (Code, String) {
        match ttrpc::Error::from(err) {
            ttrpc::Error::RpcStatus(status) => (status.code(), status.message),
            other => panic!("no status: {other}"),
        }
    }

    #[test]
    fn the_texts_are_those_of_containerds_shim() {
        assert_eq!(status(Error::NoContainer), (Code::NOT_FOUND, "container not created: not found".into()));
        assert_eq!(status(Error::Finished), (Code::NOT_FOUND, "process already finished: not found".into()));
        assert_eq!(
            status(Error::NoProcess { exec_id: "x".into() }),
            (Code::NOT_FOUND, "process does not exist x: not found".into())
        );
        assert_eq!(
            status(Error::ExecExists { exec_id: "x".into() }),
            (Code::ALREADY_EXISTS, "id x: already exists".into())
        );
    }

    #[test]
    fn every_cause_is_told() {
        let err = serde_json::from_str::<u32>("x").unwrap_err();
        let (code, text) = status(Error::Json { what: "process spec", id: "web".into(), err });
        assert_eq!(code, Code::INVALID_ARGUMENT);
        assert!(text.starts_with("process spec of container web is not valid: expected value"), "{text}");
    }
}
