//! The checkpoint's key, and those of its files.

use std::fmt;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::error::Unspecified;
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use super::error::SealError;
use super::format::{HEADER, SALT};

const KEY: usize = 32;

/// What the key of a file is made for, beside its name.
const PURPOSE: &[u8] = b"rtc sealed image 1";

/// Of one checkpoint. It is printed nowhere, and overwritten in memory when it is dropped.
pub(crate) struct DataKey(Zeroizing<[u8; KEY]>);

/// Of one file, written once.
pub(super) struct FileKey(LessSafeKey);

/// What is encrypted, each under a nonce of its own.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    /// By its number.
    Chunk(u64),
    /// By the number of chunks.
    Index(u64),
}

impl DataKey {
    pub(super) fn random() -> Result<Self, SealError> {
        let mut key = Zeroizing::new([0; KEY]);
        SystemRandom::new().fill(key.as_mut_slice()).map_err(|_| SealError::Random)?;
        Ok(Self(key))
    }

    /// `None` if it has not the length of a key.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(|key: [u8; KEY]| Self(Zeroizing::new(key)))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    pub(super) fn of_file(&self, name: &str, header: &[u8; HEADER]) -> Result<FileKey, Unspecified> {
        let (kind, salt) = header.split_at(HEADER - SALT);
        let extracted = Salt::new(HKDF_SHA256, salt).extract(self.0.as_slice());
        let info = [PURPOSE, kind, name.as_bytes()];
        let key: UnboundKey = extracted.expand(&info, &AES_256_GCM)?.into();
        Ok(FileKey(LessSafeKey::new(key)))
    }
}

pub(super) fn salt() -> Result<[u8; SALT], SealError> {
    let mut salt = [0; SALT];
    SystemRandom::new().fill(&mut salt).map_err(|_| SealError::Random)?;
    Ok(salt)
}

impl FileKey {
    /// Each part once.
    pub(super) fn seal(&self, part: Part, beside: &[u8], bytes: &mut Vec<u8>) -> Result<(), Unspecified> {
        self.0.seal_in_place_append_tag(nonce(part), Aad::from(beside), bytes)
    }

    /// What was sealed, without its tag.
    pub(super) fn open<'a>(&self, part: Part, beside: &[u8], bytes: &'a mut [u8]) -> Result<&'a [u8], Unspecified> {
        self.0.open_in_place(nonce(part), Aad::from(beside), bytes).map(|plain| &*plain)
    }
}

fn nonce(part: Part) -> Nonce {
    let (kind, number) = match part {
        Part::Chunk(number) => (0, number),
        Part::Index(number) => (1, number),
    };
    let mut bytes = [0; NONCE_LEN];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes[NONCE_LEN - 1] = kind;
    Nonce::assume_unique_for_key(bytes)
}

impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataKey").finish_non_exhaustive()
    }
}

impl fmt::Debug for FileKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileKey").finish_non_exhaustive()
    }
}
