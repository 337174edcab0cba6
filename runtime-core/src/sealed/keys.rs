//! For whom a checkpoint is encrypted, in the words and files of age (age-encryption.org): recipients are public, identities
//! decrypt. Only the checkpoint's own key is encrypted so.

use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::str::FromStr;

use age::{DecryptError, Decryptor, Encryptor, IdentityFile, x25519};
use zeroize::Zeroizing;

use super::cipher::DataKey;
use super::error::SealError;
use super::options::SealOptions;
use crate::limited;

/// Bytes of a file of keys, or of [`super::KEY_FILE`] with very many recipients.
const LONGEST: usize = 1 << 20;

/// Longer than a key, so that one that is too long is seen.
const LONGER_THAN_A_KEY: u64 = 64;

/// A recipient of age's (`age1…`).
#[derive(Clone, PartialEq, Eq)]
pub struct Recipient(x25519::Recipient);

/// What is no [`Recipient`]. It is not repeated: somebody may have taken his identity for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a recipient is age1 and what age-keygen prints behind it")]
pub struct InvalidRecipient;

impl FromStr for Recipient {
    type Err = InvalidRecipient;

    fn from_str(text: &str) -> Result<Self, InvalidRecipient> {
        text.parse().map(Self).map_err(|_: &str| InvalidRecipient)
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// All of them; at the least one.
pub(super) fn recipients(options: &SealOptions) -> Result<Vec<Recipient>, SealError> {
    let mut all = options.recipients.clone();
    for path in &options.key_files {
        all.extend(in_file(path)?);
    }
    Ok(all)
}

/// As age's `-R`, and for the file's own keys as `-e -i`.
fn in_file(path: &Path) -> Result<Vec<Recipient>, SealError> {
    let bytes = limited::read(path, LONGEST).map(Zeroizing::new).map_err(SealError::file("read", path))?;
    let mut found = Vec::new();
    for (at, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = str::from_utf8(line).map(str::trim).ok();
        if line.is_some_and(|line| line.is_empty() || line.starts_with('#')) {
            continue;
        }
        let recipient = |line: &str| line.parse::<Recipient>().ok();
        let identity = |line: &str| Some(Recipient(line.parse::<x25519::Identity>().ok()?.to_public()));
        let key = line.and_then(|line| recipient(line).or_else(|| identity(line)));
        found.push(key.ok_or_else(|| SealError::KeyLine { path: path.to_owned(), line: at + 1 })?);
    }
    if found.is_empty() {
        return Err(SealError::NoKeyIn { path: path.to_owned() });
    }
    Ok(found)
}

/// Writes the key for the recipients into a new file.
pub(super) fn wrap(key: &DataKey, recipients: &[Recipient], path: &Path) -> Result<(), SealError> {
    let all = recipients.iter().map(|recipient| &recipient.0 as &dyn age::Recipient);
    let encryptor = Encryptor::with_recipients(all).map_err(|_| SealError::Recipients)?;
    let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    let file = file.map_err(SealError::file("open", path))?;
    let write = || {
        let mut writer = encryptor.wrap_output(file)?;
        writer.write_all(key.as_bytes())?;
        writer.finish().map(drop)
    };
    write().map_err(SealError::file("write", path))
}

/// Reads it with the identities of a file.
pub(super) fn unwrap(path: &Path, identities: &Path) -> Result<DataKey, SealError> {
    let damaged = |problem| SealError::Key { path: path.to_owned(), problem };
    let failed = |err| match err {
        DecryptError::NoMatchingKeys => SealError::WrongKey { path: identities.to_owned() },
        DecryptError::UnknownFormat | DecryptError::InvalidHeader => damaged("it is no file of age's, or damaged"),
        _ => damaged("it is damaged"),
    };
    let wrapped = limited::read(path, LONGEST).map_err(SealError::file("read", path))?;
    let identities = read_identities(identities)?;
    let decryptor = Decryptor::new(wrapped.as_slice()).map_err(failed)?;
    let all = identities.iter().map(|identity| &**identity as &dyn age::Identity);
    let reader = decryptor.decrypt(all).map_err(failed)?;
    let mut key = Zeroizing::new(Vec::with_capacity(128));
    let read = reader.take(LONGER_THAN_A_KEY).read_to_end(&mut key);
    read.map_err(|_| damaged("it is damaged"))?;
    DataKey::from_bytes(&key).ok_or_else(|| damaged("it has another length than a key"))
}

type Identities = Vec<Box<dyn age::Identity + Send + Sync>>;

fn read_identities(path: &Path) -> Result<Identities, SealError> {
    let file = File::open(path).and_then(|file| limited::read_open(file, LONGEST));
    let bytes = file.map(Zeroizing::new).map_err(SealError::file("read", path))?;
    let wrong = |err| SealError::Identities { path: path.to_owned(), err };
    let identities = IdentityFile::from_buffer(bytes.as_slice()).map_err(wrong)?.into_identities();
    let identities = identities.map_err(|_| SealError::NoKeyIn { path: path.to_owned() })?;
    if identities.is_empty() {
        return Err(SealError::NoKeyIn { path: path.to_owned() });
    }
    Ok(identities)
}

#[cfg(test)]
mod tests {
    use age::secrecy::ExposeSecret;

    use super::*;

    /// An identity, its secret line, and a directory.
    fn key() -> (x25519::Identity, String, tempfile::TempDir) {
        let identity = x25519::Identity::generate();
        let line = identity.to_string().expose_secret().to_owned();
        (identity, line, tempfile::tempdir().unwrap())
    }

    #[test]
    fn a_key_comes_back_to_each_of_its_recipients_and_to_nobody_else() {
        let (one, secret, dir) = key();
        let (two, other_secret, _) = key();
        let (_, foreign, _) = key();
        let path = |name: &str| dir.path().join(name);
        for (name, line) in [("one", secret), ("two", other_secret), ("foreign", foreign)] {
            fs::write(path(name), format!("# a comment\n\n{line}\n")).unwrap();
        }
        let data = DataKey::random().unwrap();
        let recipients = [Recipient(one.to_public()), Recipient(two.to_public())];
        wrap(&data, &recipients, &path("key")).unwrap();
        for identities in ["one", "two"] {
            assert_eq!(unwrap(&path("key"), &path(identities)).unwrap().as_bytes(), data.as_bytes());
        }
        assert!(matches!(unwrap(&path("key"), &path("foreign")), Err(SealError::WrongKey { .. })));
    }

    #[test]
    fn recipients_come_from_both_kinds_of_files() {
        let (identity, secret, dir) = key();
        let (path, recipient) = (dir.path().join("keys"), identity.to_public().to_string());
        fs::write(&path, format!("# mine\n{secret}\n  {recipient}\r\n")).unwrap();
        let options = SealOptions { key_files: vec![path], ..SealOptions::default() };
        let all = recipients(&options).unwrap();
        assert_eq!(all.iter().map(ToString::to_string).collect::<Vec<_>>(), [recipient.as_str(), &recipient]);
    }

    #[test]
    fn what_is_no_key_is_told_by_its_line_and_not_repeated() {
        let (_, secret, dir) = key();
        let path = dir.path().join("keys");
        let broken = secret.replace("1", "2");
        fs::write(&path, format!("# mine\n{broken}\n")).unwrap();
        let refused = in_file(&path).unwrap_err();
        assert!(matches!(refused, SealError::KeyLine { line: 2, .. }), "{refused}");
        let told = format!("{refused} {refused:?} {:?}", unwrap(&path, &path));
        assert!(!told.contains(&broken[20..40]), "{told}");
        assert_eq!(secret.parse::<Recipient>(), Err(InvalidRecipient));
        fs::write(&path, "# nothing\n").unwrap();
        assert!(matches!(in_file(&path), Err(SealError::NoKeyIn { .. })));
        assert!(matches!(read_identities(&path).map(|found| found.len()), Err(SealError::NoKeyIn { .. })));
    }

    #[test]
    fn a_key_file_that_is_altered_or_cut_off_opens_with_no_key() {
        let (identity, secret, dir) = key();
        let (keys, path) = (dir.path().join("identity"), dir.path().join("key"));
        fs::write(&keys, secret).unwrap();
        wrap(&DataKey::random().unwrap(), &[Recipient(identity.to_public())], &path).unwrap();
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 4;
            fs::write(&path, bytes).unwrap();
            assert!(unwrap(&path, &keys).is_err(), "byte {at}");
            fs::write(&path, &whole[..at]).unwrap();
            assert!(unwrap(&path, &keys).is_err(), "{at} bytes");
        }
    }
}
