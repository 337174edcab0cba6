//! What takes long to make and is the same for all tests: made once, and kept in `$RTC_CACHE` (default
//! `/var/cache/rtc`).
//!
//! A thing's name ends with a hash of all that it is made from, so that a changed recipe makes a new thing. It is made
//! beside its place and renamed when complete: what has the name is whole. A lock per kind makes parallel callers wait
//! for the one that makes it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// `$RTC_CACHE`, else `/var/cache/rtc`.
pub fn directory() -> PathBuf {
    std::env::var_os("RTC_CACHE").map_or_else(|| PathBuf::from("/var/cache/rtc"), PathBuf::from)
}

/// Twelve digits that stand for `words`.
pub(crate) fn hash<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let mut hash = Sha256::new();
    for word in words {
        hash.update(word);
        hash.update([0]);
    }
    hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// Makes `path`, a file or a directory, with `make` unless it is there. `make` gets the place where to make it. Blocks,
/// also while another process makes it.
///
/// # Errors
/// Those of `make`; nothing is left behind then.
pub(crate) fn ensure(path: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    if path.exists() {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    fs::create_dir_all(parent).map_err(Error::path("create", parent))?;
    let kind = name.rsplit_once('-').map_or(&*name, |(kind, _hash)| kind);
    let lock_path = parent.join(format!(".{kind}.lock"));
    let lock = File::create(&lock_path).map_err(Error::path("create", &lock_path))?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|e| Error::path("lock", &lock_path)(e.into()))?;
    if path.exists() {
        return Ok(());
    }
    // The lock is ours, so a half-made thing with this name is what a killed process left.
    let partial = parent.join(format!(".{name}.partial"));
    remove(&partial)?;
    let made = make(&partial).and_then(|()| fs::rename(&partial, path).map_err(Error::path("rename", &partial)));
    if made.is_err() {
        remove(&partial)?;
    }
    made
}

/// Removes a file or a directory with all that is in it, if it is there.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::path("remove", path)(e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_once_and_whole() {
        let directory = std::env::temp_dir().join(format!("rtc-cache-{}", std::process::id()));
        let path = directory.join("thing-0123456789ab");
        let failed = ensure(&path, |partial| {
            fs::write(partial, "half").map_err(Error::path("write", partial))?;
            Err(Error::NotBuilt { path: partial.to_owned() })
        });
        assert!(failed.is_err());
        assert!(!path.exists());
        let mut made = 0;
        for _ in 0..2 {
            ensure(&path, |partial| {
                made += 1;
                fs::write(partial, "whole").map_err(Error::path("write", partial))
            })
            .unwrap();
        }
        assert_eq!((made, fs::read_to_string(&path).unwrap().as_str()), (1, "whole"));
        // The thing and its lock, and no half of it.
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 2);
        fs::remove_dir_all(directory).unwrap();
    }
}
