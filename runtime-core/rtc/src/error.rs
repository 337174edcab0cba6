//! What a command can fail with. Where runc has words for it, these are runc's: callers look for them.

use std::path::PathBuf;

use runtime_core::container::Status;

use crate::inspect::number;

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
    #[error("{} belongs to user {owner}: $XDG_RUNTIME_DIR is not the caller's own", path.display())]
    ForeignRoot { path: PathBuf, owner: u32 },
    /// The caller chooses what is executed, and where files are written.
    #[error("rtc must not be set-user-id or set-group-id: whoever runs it would have all rights of its owner")]
    SetUserId,
    #[error("strconv.ParseBool: parsing {0:?}: invalid syntax")]
    ParseBool(String),
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
    #[error("Use --page-server ADDRESS:PORT to specify page server")]
    PageServer,
    #[error("no descriptor {0} for --status-fd")]
    StatusFd(i32),
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
    #[error("parse the description of a host in {}", path.display())]
    Target {
        path: PathBuf,
        #[source]
        err: serde_json::Error,
    },
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
    #[error("JSON specification file {0} not found")]
    NoConfig(&'static str),
    /// What is wrong with a process, or with a moment to start one.
    #[error("{0}")]
    Process(&'static str),
    #[error("{0}")]
    Start(&'static str),
    #[error("cannot exec in a paused container (use --ignore-paused to override)")]
    ExecPaused,
    #[error("cannot allocate tty if rtc will detach without setting console socket")]
    NoConsoleSocket,
    #[error("cannot use console socket if rtc will not detach or allocate tty")]
    NeedlessConsoleSocket,
    #[error("unable to stat preserved-fd {at} (of {count}): no such file or directory")]
    PreservedFd { at: u16, count: u16 },
    #[error("bad {what}: {value:?}")]
    BadUser {
        what: &'static str,
        value: String,
        #[source]
        err: std::num::ParseIntError,
    },
    #[error("additional-gids must be a positive number {0}")]
    AdditionalGid(i64),
    #[error("invalid --cgroup argument: {given} ({problem})")]
    SubCgroup { given: String, problem: &'static str },
    #[error("invalid --cgroup argument(s): controller {0} specified multiple times")]
    SubCgroupTwice(String),
    #[error("get the current directory")]
    CurrentDirectory(#[source] std::io::Error),
    #[error("{operation}")]
    System {
        operation: &'static str,
        #[source]
        err: std::io::Error,
    },
    /// Of a command whose failure is told with its name.
    #[error("{command} failed")]
    Failed {
        command: &'static str,
        #[source]
        err: Box<Error>,
    },
    #[error("exec failed")]
    Exec(#[source] Box<Error>),
    #[error("inspect")]
    Images(#[source] runtime_core::images::Error),
    #[error("the checkpoint in {} is encrypted, and is compared by who has its key (--decrypt-key)", directory.display())]
    Encrypted { directory: PathBuf },
    #[error("read the checkpoint of a pod")]
    Pod(#[source] runtime_core::container::PodError),
    #[error("the checkpoint in {} has {}", directory.display(), number::count(*count as u64, "problem"))]
    DamagedCheckpoint { directory: PathBuf, count: usize },
    #[error(transparent)]
    Runtime(runtime_core::Error),
}

impl Error {
    pub(crate) fn failed(command: &'static str) -> impl FnOnce(Self) -> Self {
        move |err| Self::Failed { command, err: Box::new(err) }
    }

    pub(crate) fn system(operation: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |err| Self::System { operation, err }
    }

    /// What the command ends with. 255 tells a failed exec from a program that ran and failed.
    pub(crate) fn exit_code(&self) -> u8 {
        if matches!(self, Self::Exec(_)) { 255 } else { 1 }
    }
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
