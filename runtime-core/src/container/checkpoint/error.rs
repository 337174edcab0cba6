//! What can be wrong with a checkpoint beside what CRIU says.

use std::io;
use std::path::PathBuf;

use super::manifest;
use crate::error::RootfsError;

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

    #[error("CRIU cannot restore the id-mapped mount on {}", .0.display())]
    IdMapped(PathBuf),

    #[error("CRIU cannot join a {kind} namespace")]
    UnsupportedNamespace { kind: &'static str },

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

    /// The caller can do something about it.
    pub(crate) fn is_invalid_argument(&self) -> bool {
        match self {
            Self::File { err, .. } => err.kind() == io::ErrorKind::NotFound,
            Self::Encode(_) => false,
            _ => true,
        }
    }
}
