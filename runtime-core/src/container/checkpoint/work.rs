//! CRIU's work directory, with its log and its statistics.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::error::CheckpointError;

/// In a container's directory, if nobody gives another.
pub(super) const OURS: &str = "criu";

/// Removed when it is dropped, unless it is the user's own.
#[derive(Debug)]
pub(crate) struct Work {
    path: PathBuf,
    ours: bool,
}

impl Work {
    /// `given` is the user's, made if it is missing; without it there is one in `state_dir`.
    pub(crate) fn new(given: Option<&Path>, state_dir: &Path) -> Result<Self, CheckpointError> {
        let (path, ours) = match given {
            Some(path) => (path.to_owned(), false),
            None => (state_dir.join(OURS), true),
        };
        make_dir(&path)?;
        Ok(Self { path, ours })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn open(&self) -> Result<std::os::fd::OwnedFd, CheckpointError> {
        open_dir(&self.path)
    }

    /// Of a failure the log stays: in the bundle, if the work directory goes. The error then names that one.
    pub(crate) fn keep_log(&self, err: criu::Error, log: &str, bundle: &Path) -> criu::Error {
        if !self.ours {
            return err;
        }
        let kept = bundle.join(format!("criu-{log}"));
        let copied = fs::copy(self.path.join(log), &kept).is_ok();
        err.with_log(copied.then_some(kept))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if self.ours
            && let Err(err) = fs::remove_dir_all(&self.path)
            && err.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %err, "remove CRIU's work directory");
        }
    }
}

/// Makes a directory, 0700, with its parents; whether it was made.
pub(crate) fn make_dir(path: &Path) -> Result<bool, CheckpointError> {
    let existed = path.is_dir();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(CheckpointError::file("mkdir", path))?;
    Ok(!existed)
}

pub(crate) fn open_dir(path: &Path) -> Result<std::os::fd::OwnedFd, CheckpointError> {
    Ok(fs::File::open(path).map_err(CheckpointError::file("open", path))?.into())
}
