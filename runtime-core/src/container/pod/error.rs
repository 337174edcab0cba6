//! Why a pod cannot be checkpointed or restored, beside what is wrong with one of its members.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::manifest;
use crate::container::{CheckpointError, Status};
use crate::{Error, ErrorKind};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PodError {
    #[error("no container of the pod runs")]
    Empty,

    #[error("{} is there already, and is no empty directory", .0.display())]
    NotEmpty(PathBuf),

    #[error("{operation} {}", path.display())]
    File {
        operation: &'static str,
        path: PathBuf,
        #[source]
        err: io::Error,
    },

    #[error("read {}", path.display())]
    Manifest {
        path: PathBuf,
        #[source]
        err: serde_json::Error,
    },

    #[error("{} has version {found}; this rtc reads up to {}", path.display(), manifest::VERSION)]
    ManifestVersion { path: PathBuf, found: u32 },

    #[error("encode the manifest of a pod")]
    Encode(#[source] serde_json::Error),

    #[error("container {member} is {status}: all containers of a pod that have not ended have to run")]
    WrongStatus { member: String, status: Status },

    /// `why` is what CRIU lacks.
    #[error("containers {} share their {kind} namespace, and {why}", members.join(" and "))]
    Shared { kind: &'static str, members: Vec<String>, why: &'static str },

    #[error(
        "containers {} have attached System V shared memory of the IPC namespace that they share, and CRIU restores it for \
         one container alone",
        members.join(" and ")
    )]
    SystemVMemory { members: Vec<String> },

    #[error(
        "an annotation of container {member} has its images compressed or encrypted, and a pod's shared memory would lie \
         beside them as it is"
    )]
    Sealed { member: String },

    #[error("container {member} has POSIX message queues ({}), and CRIU carries none", names.join(", "))]
    MessageQueues { member: String, names: Vec<String> },

    #[error("containers {} share memory that has no name any more ({name}), and CRIU would give each a copy", members.join(" and "))]
    Unnamed { members: Vec<String>, name: String },

    #[error("container {member}")]
    Member {
        member: String,
        #[source]
        err: Box<Error>,
    },

    #[error("{} says nothing of a container {member}", path.display())]
    NoMember { path: PathBuf, member: String },

    #[error("container {member} of the pod is being restored already")]
    Twice { member: String },

    /// What all others fail with.
    #[error("container {member} of the pod failed")]
    Failed { member: String },

    #[error(
        "the containers of a pod are restored together: only {} were started within {} s",
        come.join(" and "),
        waited.as_secs()
    )]
    Late { come: Vec<String>, waited: Duration },

    #[error(
        "the pod's checkpoint has shared memory, and container {member} has no bind mount on /dev/shm to put it into"
    )]
    NoSharedMemory { member: String },

    #[error("containers {} shared their /dev/shm, and have one each now", members.join(" and "))]
    Apart { members: Vec<String> },
}

impl PodError {
    pub(super) fn file(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |err| Self::File { operation, path, err }
    }

    pub(super) fn member(member: &str) -> impl Fn(Error) -> Self + use<> {
        let member = member.to_owned();
        move |err| Self::Member { member: member.clone(), err: Box::new(err) }
    }

    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Member { err, .. } => err.kind(),
            Self::File { err, .. } if err.kind() == io::ErrorKind::NotFound => ErrorKind::InvalidArgument,
            Self::File { .. } | Self::Encode(_) => ErrorKind::Internal,
            Self::NotEmpty(_) => ErrorKind::AlreadyExists,
            Self::Manifest { .. }
            | Self::ManifestVersion { .. }
            | Self::NoMember { .. }
            | Self::NoSharedMemory { .. }
            | Self::Apart { .. } => ErrorKind::InvalidArgument,
            _ => ErrorKind::FailedPrecondition,
        }
    }
}

impl From<PodError> for CheckpointError {
    fn from(err: PodError) -> Self {
        Self::TakenBack(Box::new(err))
    }
}
