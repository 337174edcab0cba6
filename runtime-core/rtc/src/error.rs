//! What a command can fail with. Where runc has words for it, these are runc's: callers look for them.

use std::path::PathBuf;

use runtime_core::container::Status;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("container id cannot be empty")]
    EmptyId,
    #[error("invalid container ID format")]
    InvalidId,
    #[error("container does not exist")]
    NotExist,
    #[error("container with given ID already exists")]
    Exist,
    #[error("container not running")]
    NotRunning,
    #[error("container not paused")]
    NotPaused,
    #[error("cannot delete container {id} that is not stopped: {status}")]
    NotStopped { id: String, status: Status },
    #[error("Option --root argument should not be set to /")]
    RootIsRoot,
    #[error("invalid log-format: {0}")]
    LogFormat(String),
    #[error("unknown signal {0:?}")]
    UnknownSignal(String),
    #[error("duration interval must be greater than 0")]
    Interval,
    #[error("container with id {id} is not running")]
    Stopped { id: String },
    #[error("Container cannot be checkpointed in {status} state")]
    CannotCheckpoint { status: Status },
    #[error("--parent-path must be relative")]
    AbsoluteParent,
    #[error("invalid --parent-path: stat {}", path.display())]
    Parent {
        path: PathBuf,
        #[source]
        err: std::io::Error,
    },
    #[error("namespace {0:?} is not supported")]
    EmptyNamespace(String),
    #[error("invalid value for {option}: {value:?}")]
    Value { option: &'static str, value: String },
    #[error("parse the resources in {}", path.display())]
    Resources {
        path: PathBuf,
        #[source]
        err: serde_json::Error,
    },
    #[error("Intel RDT/CAT: l3 cache schema is not enabled")]
    L3CacheSchema,
    #[error("Intel RDT/MBA: memory bandwidth schema is not enabled")]
    MemBwSchema,
    #[error("wait for an out-of-memory kill")]
    Poll(#[source] rustix::io::Errno),
    #[error("invalid format option")]
    Format,
    #[error("File {0} exists. Remove it first")]
    SpecExists(&'static str),
    #[error("couldn't find PID field in ps output")]
    NoPidField,
    #[error("unable to parse pid: {0:?}")]
    PidField(String),
    /// `output` is what it said on stdout and stderr.
    #[error("{status}: {output}")]
    Ps { status: std::process::ExitStatus, output: String },
    #[error("{operation} {}", path.display())]
    File {
        operation: &'static str,
        path: PathBuf,
        #[source]
        err: std::io::Error,
    },
    #[error("write the output")]
    Output(#[source] std::io::Error),
    #[error("encode {what}")]
    Encode {
        what: &'static str,
        #[source]
        err: serde_json::Error,
    },
    #[error(transparent)]
    Runtime(runtime_core::Error),
}

impl From<runtime_core::Error> for Error {
    fn from(err: runtime_core::Error) -> Self {
        match err {
            runtime_core::Error::NotFound { .. } => Self::NotExist,
            runtime_core::Error::AlreadyExists { .. } => Self::Exist,
            runtime_core::Error::NotRunning { .. } => Self::NotRunning,
            err => Self::Runtime(err),
        }
    }
}
