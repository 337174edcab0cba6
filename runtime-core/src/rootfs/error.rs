use std::path::PathBuf;

use rustix::io::Errno;

use crate::ErrorKind;

/// What is wrong with the spec's root filesystem, or which step of making it failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {
    #[error("the spec has no {0}")]
    Missing(&'static str),
    #[error("the spec has no new mount namespace: the container's mounts would be made on the host")]
    NoMountNamespace,
    #[error("mount on {}: {reason}", target.display())]
    InvalidMount { target: PathBuf, reason: &'static str },
    #[error("map the ids of {} for its mount on {}", source_path.display(), target.display())]
    IdMap {
        source_path: PathBuf,
        target: PathBuf,
        #[source]
        err: Errno,
    },
    #[error("rootfs propagation {0:?} is not one of shared, slave, private, unbindable, with or without a leading r")]
    InvalidPropagation(String),
    #[error("device {}: {reason}", path.display())]
    InvalidDevice { path: PathBuf, reason: &'static str },
    #[error("path {path:?} is to be masked or read-only but is not absolute")]
    RelativePath { path: String },
    #[error("sysctl {key:?}: {reason}")]
    InvalidSysctl { key: String, reason: &'static str },
    #[error("mount on {}: the destination is inside /proc and not one of the files that may be replaced", target.display())]
    InsideProc { target: PathBuf },
    /// As runc words it.
    #[error("filesystem {name:?} must be mounted on ordinary directory: there is a symlink at {}", target.display())]
    NotADirectory { name: String, target: PathBuf },
    #[error("mount on {}: {what} has been found there", target.display())]
    HostileTarget { target: PathBuf, what: &'static str },
    #[error("bind {} on {}", source_path.display(), target.display())]
    Bind {
        source_path: PathBuf,
        target: PathBuf,
        #[source]
        err: Errno,
    },
    #[error("mount {fs} on {}{message}", target.display())]
    Mount {
        fs: String,
        target: PathBuf,
        /// The kernel's own words from the filesystem context, ": " before them, or nothing.
        message: String,
        #[source]
        err: Errno,
    },
    #[error("{operation} {}", path.display())]
    Step {
        operation: &'static str,
        path: PathBuf,
        #[source]
        err: Errno,
    },
    #[error("{} is not the device that it must be: {found}", path.display())]
    WrongDevice { path: PathBuf, found: String },
    #[error("{0} was called before `mount`")]
    OutOfOrder(&'static str),
}

impl Error {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Missing(_)
            | Self::NoMountNamespace
            | Self::InvalidMount { .. }
            | Self::InvalidPropagation(_)
            | Self::InvalidDevice { .. }
            | Self::RelativePath { .. }
            | Self::InvalidSysctl { .. }
            | Self::InsideProc { .. }
            | Self::NotADirectory { .. }
            | Self::HostileTarget { .. }
            | Self::WrongDevice { .. } => ErrorKind::InvalidArgument,
            Self::Bind { err, .. } | Self::Mount { err, .. } | Self::Step { err, .. } => kind_of(*err),
            // A filesystem that cannot be id-mapped.
            Self::IdMap { err: Errno::INVAL, .. } => ErrorKind::Unimplemented,
            Self::IdMap { .. } => ErrorKind::Internal,
            Self::OutOfOrder(_) => ErrorKind::Internal,
        }
    }
}

/// Of what the kernel said to a path, an option or a value of the spec, or to what the image has in its place.
fn kind_of(err: Errno) -> ErrorKind {
    match err {
        Errno::NOENT
        | Errno::NOTDIR
        | Errno::ISDIR
        | Errno::LOOP
        | Errno::NAMETOOLONG
        | Errno::TOOBIG
        | Errno::INVAL
        | Errno::NOTBLK
        | Errno::ROFS => ErrorKind::InvalidArgument,
        // No such filesystem, or an option that this kernel's does not have.
        Errno::NODEV | Errno::OPNOTSUPP => ErrorKind::Unimplemented,
        _ => ErrorKind::Internal,
    }
}

/// For `map_err`: the step's name and the path that it was about.
pub(super) fn step(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(Errno) -> Error {
    let path = path.into();
    move |err| Error::Step { operation, path, err }
}
