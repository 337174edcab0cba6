//! The error type of this crate's boundary.

use std::path::PathBuf;

use rustix::io::Errno;

use crate::ContainerId;
use crate::container::{CheckpointError, IdMapsError, PodError, Status};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller can do about an [`Error`]; `shim` maps it to a ttrpc code in one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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

/// What the runtime's caller and its init say of an errno: strerror(3)'s words in lower case, as the programs of this
/// field have them and their users look for them.
pub(crate) fn errno_text(errno: i32) -> String {
    nix::errno::Errno::from_raw(errno).desc().to_lowercase()
}

/// The errno that an error of any of the crates in use stands for.
pub(crate) fn errno(err: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let rustix = err.downcast_ref::<Errno>().map(|err| err.raw_os_error());
    let nix = || err.downcast_ref::<nix::errno::Errno>().map(|err| *err as i32);
    let io = || err.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
    rustix.or_else(nix).or_else(io)
}

/// An error and its causes in one line, the kernel's in the words of strerror(3).
pub fn chain(err: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(err), |err| err.source());
    let words = causes.map(|err| errno(err).map_or_else(|| err.to_string(), errno_text));
    words.collect::<Vec<_>>().join(": ")
}

/// An operation on a container failed; what it had begun is rolled back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("invalid spec")]
    Spec(#[from] crate::spec::Error),
    #[error("container {id} does not exist")]
    NotFound { id: ContainerId },
    #[error("container {id} already exists")]
    AlreadyExists { id: ContainerId },
    /// There is no process to signal, as runc words it.
    #[error("container {id}: container not running")]
    NotRunning { id: ContainerId },
    /// `problem` is worded as runc words it.
    #[error("{problem} (container {id} is {status})")]
    WrongStatus { id: ContainerId, problem: &'static str, status: Status },
    #[error("container {id}: {what} is not supported by this host")]
    Unsupported { id: ContainerId, what: &'static str },
    #[error("{operation} {path} of container {id}")]
    File {
        id: ContainerId,
        operation: &'static str,
        path: PathBuf,
        #[source]
        err: std::io::Error,
    },
    #[error("read the state of container {id} in {path}")]
    State {
        id: ContainerId,
        path: PathBuf,
        #[source]
        err: serde_json::Error,
    },
    #[error("join {kind} namespace {path} for container {id}")]
    Namespace {
        id: ContainerId,
        kind: &'static str,
        path: PathBuf,
        #[source]
        err: Errno,
    },
    #[error("write the {file} of container {id}")]
    IdMaps {
        id: ContainerId,
        file: &'static str,
        #[source]
        err: IdMapsError,
    },
    /// What such a state says would be done with the caller's rights.
    #[error("{} of container {id} belongs to user {owner}, and not to user {caller}, who asks for it", path.display())]
    Foreign { id: ContainerId, path: PathBuf, owner: u32, caller: u32 },
    #[error("the state in {} is that of container {found}, and not of {id}", path.display())]
    OtherState { id: ContainerId, path: PathBuf, found: ContainerId },
    #[error("{operation} for container {id}")]
    System {
        id: ContainerId,
        operation: &'static str,
        #[source]
        err: std::io::Error,
    },
    #[error("cgroup of container {id}")]
    Cgroup {
        id: ContainerId,
        #[source]
        err: crate::cgroup::Error,
    },
    #[error("root filesystem of container {id}")]
    Rootfs {
        id: ContainerId,
        #[source]
        err: RootfsError,
    },
    #[error("seccomp profile of container {id}")]
    Seccomp {
        id: ContainerId,
        #[source]
        err: SeccompError,
    },
    #[error("give a process of container {id} its CPUs")]
    Affinity {
        id: ContainerId,
        #[source]
        err: AffinityError,
    },
    #[error("{operation} network device {device} for container {id}")]
    NetDevice {
        id: ContainerId,
        operation: &'static str,
        device: String,
        #[source]
        err: Errno,
    },
    #[error("class of cache and memory bandwidth of container {id}")]
    Resctrl {
        id: ContainerId,
        #[source]
        err: crate::resctrl::Error,
    },
    #[error("container {id}")]
    Hook {
        id: ContainerId,
        #[source]
        err: crate::hooks::Error,
    },
    /// A process of the container failed on its way to the user's program.
    #[error("container {id}: failed to {operation}")]
    Init {
        id: ContainerId,
        operation: &'static str,
        #[source]
        err: InitError,
    },
    #[error("{operation} container {id}")]
    Criu {
        id: ContainerId,
        operation: &'static str,
        #[source]
        err: Box<criu::Error>,
    },
    #[error("{operation} container {id}")]
    Checkpoint {
        id: ContainerId,
        operation: &'static str,
        #[source]
        err: CheckpointError,
    },
    #[error("restore container {id} with its pod")]
    Pod {
        id: ContainerId,
        #[source]
        err: PodError,
    },
    /// An operation failed, and so did undoing what it had begun.
    #[error("cleaning up failed as well ({})", chain(roll_back.as_ref()))]
    RollBack {
        #[source]
        err: Box<Error>,
        roll_back: Box<Error>,
    },
}

/// What is wrong with the root filesystem that a spec asks for.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct RootfsError(pub(crate) crate::rootfs::Error);

/// Why a seccomp profile could not be compiled.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct SeccompError(pub(crate) crate::seccomp::Error);

/// Why a process cannot come into being on the CPUs that its spec names.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct AffinityError(pub(crate) crate::init::schedule::Error);

/// What an init said before it ended, or that it said nothing.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct InitError(#[from] pub(crate) InitErrorKind);

#[derive(Debug, thiserror::Error)]
pub(crate) enum InitErrorKind {
    #[error(transparent)]
    Failed(#[from] crate::init::message::Failure),
    #[error(transparent)]
    BeforeExec(#[from] crate::sys::clone::Failed),
    #[error(transparent)]
    Channel(#[from] crate::init::channel::Error),
    #[error("it ended with {code} without a word")]
    Died { code: u32 },
    #[error("it died before it executed the program")]
    DiedUnexecuted,
    #[error("it was killed for lack of memory: the memory limit is too low")]
    OutOfMemory,
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Spec(err) => err.kind(),
            Self::NotFound { .. } | Self::NotRunning { .. } => ErrorKind::NotFound,
            Self::AlreadyExists { .. } => ErrorKind::AlreadyExists,
            Self::IdMaps { .. } | Self::Foreign { .. } | Self::WrongStatus { .. } => ErrorKind::FailedPrecondition,
            Self::Unsupported { .. } => ErrorKind::Unimplemented,
            Self::Seccomp { err: SeccompError(crate::seccomp::Error::Listener { .. }), .. } => {
                ErrorKind::FailedPrecondition
            }
            Self::Namespace { .. } | Self::Seccomp { .. } => ErrorKind::InvalidArgument,
            Self::Rootfs { err, .. } => err.0.kind(),
            Self::Cgroup { err, .. } => err.kind(),
            Self::Affinity { err, .. } => err.0.kind(),
            Self::Resctrl { err, .. } => err.kind(),
            // No such device, or a name that is taken or cannot be.
            Self::NetDevice { err: Errno::NODEV | Errno::EXIST | Errno::INVAL, .. } => ErrorKind::InvalidArgument,
            Self::Init { err: InitError(InitErrorKind::Failed(failure)), .. } => failure.kind,
            Self::Init { err: InitError(InitErrorKind::OutOfMemory), .. } => ErrorKind::InvalidArgument,
            Self::RollBack { err, .. } => err.kind(),
            Self::Criu { err, .. } => criu_kind(err),
            Self::Checkpoint { err, .. } => err.kind(),
            Self::Pod { err, .. } => err.kind(),
            Self::File { .. }
            | Self::State { .. }
            | Self::OtherState { .. }
            | Self::System { .. }
            | Self::Hook { .. }
            | Self::NetDevice { .. }
            | Self::Init { .. } => ErrorKind::Internal,
        }
    }
}

fn criu_kind(err: &criu::Error) -> ErrorKind {
    match err {
        criu::Error::NotFound { .. } | criu::Error::TooOld { .. } => ErrorKind::FailedPrecondition,
        criu::Error::Images { .. } => ErrorKind::InvalidArgument,
        // What has advice is for the caller to change.
        err if err.failure().is_some_and(|failure| failure.advice.is_some()) => ErrorKind::FailedPrecondition,
        _ => ErrorKind::Internal,
    }
}
