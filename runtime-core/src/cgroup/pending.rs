//! A cgroup that is to be made, for whoever has to clean up after a maker that was killed.
//!
//! What is at its path may have been somebody else's all the time, or have become so: nothing is ever killed here, and nothing
//! removed but what was not there before and has nobody in it.

use std::fs;
use std::path::PathBuf;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::{Cgroup, Error, file};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Pending {
    cgroup: Cgroup,
    /// Those of its directories that were not there.
    missing: Vec<PathBuf>,
}

impl Pending {
    /// Right before `cgroup` is made.
    pub(crate) fn new(cgroup: &Cgroup) -> Self {
        let missing = cgroup.dirs().map(|dir| &dir.path).filter(|path| !path.exists());
        Self { cgroup: cgroup.clone(), missing: missing.cloned().collect() }
    }

    /// Removes what of it has been made. It is no error if that is nothing, or if somebody has come into it.
    pub(crate) fn discard(&self) -> Result<(), Error> {
        if let Some(unit) = self.cgroup.unit() {
            unit.stop_own()?;
        }
        for path in &self.missing {
            match fs::remove_dir(path).map_err(|err| file::errno(&err)) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(err @ (Errno::EBUSY | Errno::ENOTEMPTY)) => {
                    tracing::info!(path = %path.display(), %err, "a cgroup that was to be made is another's by now");
                }
                Err(err) => return Err(Error::Remove { path: path.clone(), processes: 0, err }),
            }
        }
        Ok(())
    }
}
