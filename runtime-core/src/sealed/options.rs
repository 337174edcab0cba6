//! What can be asked for, and what is written down of it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::KEY_FILE;
use super::error::SealError;
use super::format;
use super::keys::Recipient;

/// Not zstd's own, which is 3: that takes more than twice the time, in which the container stands still, for a twentieth less.
const LEVEL: i32 = 1;
/// The further ones are for windows that are larger than a chunk is.
const HIGHEST: i32 = 19;

const ZSTD: &str = "zstd";
const AES: &str = "aes-256-gcm";

/// How images are kept: as CRIU writes them, where nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SealOptions {
    pub compress: Option<Compression>,
    /// Who can decrypt them. They are encrypted if there is any, here or in `key_files`.
    pub recipients: Vec<Recipient>,
    /// Files with recipients or identities, one a line.
    pub key_files: Vec<PathBuf>,
}

/// By zstd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compression {
    level: i32,
}

/// What is no [`Compression`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a compression is zstd or zstd:LEVEL, with a level from 1 to {HIGHEST}, and {given:?} is not")]
pub struct InvalidCompression {
    given: String,
}

impl Compression {
    pub(super) fn level(self) -> i32 {
        self.level
    }
}

impl FromStr for Compression {
    type Err = InvalidCompression;

    fn from_str(text: &str) -> Result<Self, InvalidCompression> {
        let level = match text.strip_prefix(ZSTD) {
            Some("") => Some(LEVEL),
            Some(rest) => rest.strip_prefix(':').and_then(|level| level.parse().ok()),
            None => None,
        };
        let level = level.filter(|level| (1..=HIGHEST).contains(level));
        level.map(|level| Self { level }).ok_or_else(|| InvalidCompression { given: text.to_owned() })
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ZSTD}:{}", self.level)
    }
}

impl SealOptions {
    /// What is said here over what is said there. Nobody who was to be able to decrypt is left out.
    pub(crate) fn over(&self, other: &Self) -> Self {
        Self {
            compress: self.compress.or(other.compress),
            recipients: [other.recipients.as_slice(), &self.recipients].concat(),
            key_files: [other.key_files.as_slice(), &self.key_files].concat(),
        }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.compress.is_some() || self.encrypts()
    }

    pub(crate) fn encrypts(&self) -> bool {
        !self.recipients.is_empty() || !self.key_files.is_empty()
    }
}

/// In `rtc.json`: how the images are kept, and nothing that is secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Sealing {
    /// [`format::VERSION`] of the files.
    format: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) compression: Option<Algorithm>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) encryption: Option<Encryption>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Algorithm {
    pub(crate) algorithm: String,
    pub(crate) level: i32,
}

/// How images are encrypted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Encryption {
    pub(crate) cipher: String,
    /// The file with the key, encrypted for the recipients.
    pub(crate) key: String,
}

impl Sealing {
    pub(super) fn of(options: &SealOptions) -> Self {
        let zstd = |compression: Compression| Algorithm { algorithm: ZSTD.to_owned(), level: compression.level };
        let aes = || Encryption { cipher: AES.to_owned(), key: KEY_FILE.to_owned() };
        Self {
            format: format::VERSION,
            compression: options.compress.map(zstd),
            encryption: options.encrypts().then(aes),
        }
    }

    pub(super) fn check(&self) -> Result<(), SealError> {
        match self.format {
            format::VERSION => Ok(()),
            found => Err(SealError::Version { found }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compression_is_zstd_with_a_level_or_without() {
        let level = |text: &str| text.parse::<Compression>().map(Compression::level);
        assert_eq!((level("zstd"), level("zstd:1"), level("zstd:19")), (Ok(1), Ok(1), Ok(19)));
        assert_eq!("zstd:7".parse::<Compression>().unwrap().to_string(), "zstd:7");
        for wrong in ["", "gzip", "zstd:", "zstd:0", "zstd:20", "zstd:-1", "zstd3", "zstd:1:2", "ZSTD"] {
            assert!(level(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_said_is_added_to_what_was_said() {
        let of = |compress: &str, key: &str| SealOptions {
            compress: Some(compress.parse().unwrap()),
            key_files: vec![key.into()],
            ..SealOptions::default()
        };
        let both = of("zstd:1", "/new").over(&of("zstd:9", "/old"));
        assert_eq!((both.compress.unwrap().level(), both.key_files.len(), both.encrypts()), (1, 2, true));
        assert!(!SealOptions::default().over(&SealOptions::default()).is_on());
    }
}
