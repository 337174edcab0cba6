//! What can be wrong with sealed images.

use std::io;
use std::path::PathBuf;

use crate::ErrorKind;

/// Images cannot be sealed, or not be unsealed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    #[error("{operation} {}", path.display())]
    File {
        operation: &'static str,
        path: PathBuf,
        #[source]
        err: io::Error,
    },

    #[error("make the file system through which CRIU's images are sealed (it needs /dev/fuse): {operation}")]
    View {
        operation: &'static str,
        #[source]
        err: io::Error,
    },

    #[error("{name} of the checkpoint is damaged: {damage}")]
    Damaged { name: String, damage: Damage },

    #[error("line {line} of {} is neither a recipient nor an identity of age's", path.display())]
    KeyLine { path: PathBuf, line: usize },

    #[error("{} has no key in it", path.display())]
    NoKeyIn { path: PathBuf },

    #[error("{} is no file of age identities", path.display())]
    Identities {
        path: PathBuf,
        #[source]
        err: io::Error,
    },

    #[error("the checkpoint is encrypted, and no key was given to decrypt it with")]
    KeyMissing,

    #[error("no key in {} opens {} of the checkpoint", path.display(), super::KEY_FILE)]
    WrongKey { path: PathBuf },

    /// In words of our own: age's are translated, and not to be had everywhere.
    #[error("the key of the checkpoint cannot be read from {}: {problem}", path.display())]
    Key { path: PathBuf, problem: &'static str },

    #[error("a key was given to decrypt the checkpoint with, and it is not encrypted")]
    NotEncrypted,

    #[error("the key of the checkpoint cannot be encrypted for these recipients")]
    Recipients,

    #[error("the checkpoint is sealed in format {found}; this rtc reads {}", super::format::VERSION)]
    Version { found: u32 },

    #[error("the kernel gives no random numbers")]
    Random,

    #[error("zstd: {operation}")]
    Compress {
        operation: &'static str,
        #[source]
        err: io::Error,
    },

    #[error("{name} is written at byte {at}, and a sealed image from its beginning to its end: it has {length} bytes")]
    Order { name: String, at: u64, length: u64 },

    #[error("a sealed checkpoint cannot have {what}: {why}")]
    Unsupported { what: &'static str, why: &'static str },

    #[error("the thread that seals images has ended")]
    Gone,
}

/// What is not as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    #[error("it is missing")]
    Missing,
    #[error("it is no regular file")]
    NoFile,
    #[error("it is cut off, or no sealed image")]
    CutOff,
    #[error("its beginning is not that of a sealed image of this kind")]
    Header,
    #[error("its index is not what was written, or it is another file's")]
    Index,
    #[error("chunk {chunk} is not what was written")]
    Chunk { chunk: u64 },
    #[error("it has {found} bytes, and was written with {written}")]
    Size { found: u64, written: u64 },
    #[error("it is not what was written")]
    Content,
    #[error("its name is not that of an image")]
    Name,
}

impl SealError {
    pub(super) fn file(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |err| Self::File { operation, path, err }
    }

    pub(super) fn damaged(name: &str) -> impl Fn(Damage) -> Self {
        move |damage| Self::Damaged { name: name.to_owned(), damage }
    }

    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::File { err, .. } if err.kind() == io::ErrorKind::NotFound => ErrorKind::InvalidArgument,
            Self::File { .. } | Self::Random | Self::Compress { .. } | Self::Order { .. } | Self::Gone => {
                ErrorKind::Internal
            }
            Self::View { .. } => ErrorKind::Unimplemented,
            _ => ErrorKind::InvalidArgument,
        }
    }
}
