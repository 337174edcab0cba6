//! Why a directory is no checkpoint, or not a whole one.

use std::io;

use super::DESCRIPTORS;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("there is no {file}: it is not a checkpoint, or an unfinished one")]
    Missing { file: String },

    #[error("{action} {file}")]
    Io {
        action: &'static str,
        file: String,
        #[source]
        err: io::Error,
    },

    /// `offset` is where what is wrong begins, in bytes.
    #[error("{file} is damaged at byte {offset}: {reason}")]
    Damaged { file: String, offset: u64, reason: &'static str },

    #[error("its image format is {found}, which CRIU does not read any more or not yet")]
    Format { found: u32 },

    #[error("{DESCRIPTORS} is not a list of strings")]
    Descriptors(#[source] serde_json::Error),

    #[error("{file} and what was read before have more than {limit} bytes of entries, which no checkpoint has")]
    TooMuch { file: String, limit: u64 },
}
