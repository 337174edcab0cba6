//! What can be wrong with a checkpoint beside what CRIU says.

use std::io;
use std::path::PathBuf;

use super::execs::Stranger;
use super::inventory::Difference;
use super::manifest;
use super::preflight::Report;
use crate::error::RootfsError;
use crate::sealed::SealError;
use crate::{ContainerId, ErrorKind, Pid};

/// Why a checkpoint cannot be made or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
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

    /// Compared with the inventory in the manifest.
    #[error("{name} of the checkpoint is damaged: {difference}")]
    Image { name: String, difference: Difference },

    /// Images that are compressed or encrypted.
    #[error(transparent)]
    Sealed(#[from] SealError),

    #[error("{} is not the one that was written with the sealed images", path.display())]
    Statement { path: PathBuf },

    #[error("read the mounts of the spec")]
    Rootfs(#[source] RootfsError),

    #[error("encode the manifest")]
    Encode(#[source] serde_json::Error),

    #[error("the checkpoint needs a bind mount on {}, and the spec has none", destination.display())]
    MissingMount { destination: PathBuf },

    #[error("the checkpoint needs the cgroup hierarchy {controllers:?}, and this host has none like it")]
    MissingHierarchy { controllers: String },

    #[error("the checkpoint needs an external {kind} namespace, and the spec names no path for one")]
    MissingNamespace { kind: &'static str },

    #[error(
        "linux.netDevices moves devices into the container's network namespace, and the images have one with devices of its own"
    )]
    NetDevices,

    #[error("CRIU cannot restore the id-mapped mount on {}", .0.display())]
    IdMapped(PathBuf),

    #[error("CRIU cannot join a {kind} namespace")]
    UnsupportedNamespace { kind: &'static str },

    #[error(
        "a rootless container cannot be checkpointed or restored: CRIU needs root of the host, whose capabilities \
         reach every namespace"
    )]
    Rootless,

    #[error("the parent images {}: {problem}", path.display())]
    Parent { path: PathBuf, problem: &'static str },

    #[error("lazy pages need the address and the port of a page server to serve them on")]
    LazyPagesNowhere,

    #[error("the memory is not in the checkpoint: it needs a `criu lazy-pages` that fetches it")]
    NoMemory,

    #[error("criu lazy-pages for container {id}")]
    LazyPages {
        id: ContainerId,
        #[source]
        err: Box<criu::Error>,
    },

    #[error("a pre-dump {problem}")]
    PreDump { problem: &'static str },

    #[error("CRIU offers no {feature} here: it needs {needs}")]
    Feature { feature: &'static str, needs: &'static str },

    #[error("process {pid} has executed nothing since its vfork, and CRIU cannot dump a parent that waits for that")]
    Vfork { pid: Pid },

    #[error(
        "process {pid} is stopped by a signal, and CRIU cannot take hold of it in a cgroup (v1) that has to stay frozen: let the \
         process go on (SIGCONT), or resume the container if it is paused"
    )]
    Stopped { pid: Pid },

    #[error("the images in {} are those of a dump that failed: its container ran on", path.display())]
    FailedDump { path: PathBuf },

    #[error("another checkpoint is being written to {}", path.display())]
    Busy { path: PathBuf },

    #[error(
        "{} holds a checkpoint whose making was cut off when its images were complete: restore from there or move it away, or \
         remove it if its container runs",
        path.display()
    )]
    CutOff { path: PathBuf },

    #[error("{} holds a checkpoint, which would be written over while new images are made: {why}", path.display())]
    Taken { path: PathBuf, why: &'static str },

    /// What the preflight refuses.
    #[error("{0}")]
    Refused(Report),

    #[error("{} has {found} bytes, and is not the file that the checkpoint says", path.display())]
    Unread { path: PathBuf, found: usize },

    #[error(
        "the checkpoint holds input that was not read yet, and the new standard input is no pipe that could take it"
    )]
    NoPlaceForInput,

    #[error("annotation {name} is {value:?}, and should be {expected}")]
    Annotation { name: String, value: String, expected: &'static str },

    #[error(
        "CRIU carries the init and its descendants: not among them, and to be ended by the checkpoint, {}",
        list(processes)
    )]
    Execs { processes: Vec<Stranger> },

    #[error("the checkpoint was taken back")]
    TakenBack(#[source] Box<dyn std::error::Error + Send + Sync>),

    #[error("the standard streams of the checkpoint are {was}, and those of the new container are {is}")]
    Stdio { was: &'static str, is: &'static str },
}

impl CheckpointError {
    pub(in crate::container) fn file(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |err| Self::File { operation, path, err }
    }

    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::File { err, .. } if matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::FileTooLarge) => {
                ErrorKind::InvalidArgument
            }
            Self::Sealed(err) => err.kind(),
            Self::File { .. } | Self::Encode(_) => ErrorKind::Internal,
            Self::Feature { .. }
            | Self::Vfork { .. }
            | Self::Stopped { .. }
            | Self::Execs { .. }
            | Self::Rootless
            | Self::TakenBack(_)
            | Self::Busy { .. }
            | Self::CutOff { .. }
            | Self::Taken { .. }
            | Self::Refused(_) => ErrorKind::FailedPrecondition,
            _ => ErrorKind::InvalidArgument,
        }
    }
}

fn list(processes: &[Stranger]) -> String {
    let one_or_more = if processes.len() == 1 { "is process" } else { "are processes" };
    let names: Vec<String> = processes.iter().map(ToString::to_string).collect();
    format!("{one_or_more} {}", names.join(", "))
}
