//! Making, walking and removing cgroup directories.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::stat::Mode;
use nix::unistd::mkdir;

use super::{Error, file};
use crate::Pid;

/// Directories that one creation has made, so that they can be taken away again if it fails.
#[derive(Debug, Default)]
pub(super) struct Made(Vec<PathBuf>);

impl Made {
    /// Makes `path` and its missing parents below `mount`; `prepare` is called for each directory of the way that was
    /// made, parents first.
    pub(super) fn make(
        &mut self,
        mount: &Path,
        path: &Path,
        prepare: &mut dyn FnMut(&Path) -> Result<(), Error>,
    ) -> Result<(), Error> {
        match mkdir(path, Mode::from_bits_truncate(0o755)) {
            Ok(()) => {
                self.0.push(path.to_owned());
                prepare(path)
            }
            Err(Errno::EEXIST) => Ok(()),
            Err(Errno::ENOENT) if path.starts_with(mount) && path != mount => {
                let parent = path.parent().unwrap_or(mount);
                self.make(mount, parent, prepare)?;
                self.make(mount, path, prepare)
            }
            Err(err) => Err(Error::Mkdir { path: path.to_owned(), err }),
        }
    }

    pub(super) fn contains(&self, path: &Path) -> bool {
        self.0.iter().any(|made| made == path)
    }

    /// Removes what was made, children first. Best effort: it runs on the way out of another error, and a parent that
    /// somebody has begun to use meanwhile must stay.
    pub(super) fn undo(self) {
        for path in self.0.iter().rev() {
            if let Err(err) = fs::remove_dir(path) {
                tracing::warn!(path = %path.display(), %err, "cgroup directory of a failed creation stays");
            }
        }
    }
}

/// `path` and every cgroup below it, children before their parents; none if it is gone.
pub(super) fn subtree(path: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    walk(path, &mut found)?;
    Ok(found)
}

fn walk(path: &Path, found: &mut Vec<PathBuf>) -> Result<(), Error> {
    let fail = |err: &std::io::Error| Error::Read { path: path.to_owned(), err: file::errno(err) };
    let gone = |err: &std::io::Error| matches!(file::errno(err), Errno::ENOENT | Errno::ENODEV);
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(err) if gone(&err) => return Ok(()),
        Err(err) => return Err(fail(&err)),
    };
    for entry in entries {
        match entry.and_then(|entry| Ok((entry.file_type()?.is_dir(), entry.path()))) {
            Ok((true, child)) => walk(&child, found)?,
            Ok((false, _)) => {}
            Err(err) if gone(&err) => {}
            Err(err) => return Err(fail(&err)),
        }
    }
    found.push(path.to_owned());
    Ok(())
}

/// Processes of the whole subtree.
pub(super) fn pids(path: &Path) -> Result<Vec<Pid>, Error> {
    let mut pids = Vec::new();
    for dir in subtree(path)? {
        pids.extend(file::read_pids(&dir.join("cgroup.procs"))?);
    }
    Ok(pids)
}

/// Removes the subtree, children first. A directory is busy for a moment after its last process has died (until that is
/// reaped); so EBUSY is tried again, at growing distances, until `until`.
pub(super) fn remove(path: &Path, until: Instant) -> Result<(), Error> {
    let mut pause = Duration::from_micros(500);
    loop {
        // A leaf first: nearly every container has no cgroups of its own, and then this is all.
        let err = match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(err) => file::errno(&err),
        };
        let err = match err {
            Errno::ENOENT => return Ok(()),
            Errno::EBUSY | Errno::ENOTEMPTY => match remove_children(path)? {
                true => continue,
                false => err,
            },
            err => return Err(remove_error(path, err)),
        };
        let now = Instant::now();
        if now >= until {
            return Err(remove_error(path, err));
        }
        thread::sleep(pause.min(until - now));
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Whether it removed any.
fn remove_children(path: &Path) -> Result<bool, Error> {
    let mut removed = false;
    for dir in subtree(path)?.iter().filter(|dir| *dir != path) {
        match fs::remove_dir(dir).map_err(|err| file::errno(&err)) {
            Ok(()) => removed = true,
            Err(Errno::EBUSY | Errno::ENOENT | Errno::ENOTEMPTY) => {}
            Err(err) => return Err(remove_error(dir, err)),
        }
    }
    Ok(removed)
}

fn remove_error(path: &Path, err: Errno) -> Error {
    // Only for the message; the error itself is already on its way.
    let processes = pids(path).map_or(0, |pids| pids.len());
    Error::Remove { path: path.to_owned(), processes, err }
}
