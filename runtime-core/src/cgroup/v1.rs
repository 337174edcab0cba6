//! cgroup v1: one directory in each hierarchy.

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;

use super::directory::Made;
use super::{Dir, Error, file};

/// Makes the container's directory in one hierarchy.
pub(super) fn make(dir: &Dir, made: &mut Made) -> Result<(), Error> {
    if dir.has("cpuset") {
        made.make(&dir.mount, &dir.path, &mut |path| inherit_cpuset(path))
    } else {
        made.make(&dir.mount, &dir.path, &mut |_| Ok(()))
    }
}

/// A v1 cpuset begins empty, and no process can join it before it has cpus and memory nodes.
fn inherit_cpuset(path: &Path) -> Result<(), Error> {
    let Some(parent) = path.parent() else { return Ok(()) };
    for name in ["cpuset.cpus", "cpuset.mems"] {
        // With cgroup.clone_children set in the parent the kernel has already copied them.
        let own = path.join(name);
        if file::read(&own)?.is_some_and(|value| !value.trim().is_empty()) {
            continue;
        }
        let from = parent.join(name);
        let mut value = file::read(&from)?.ok_or(Error::Read { path: from, err: Errno::ENOENT })?;
        if value.trim().is_empty() && parent.join("cgroup.procs").exists() {
            // A parent that somebody else made and never filled.
            inherit_cpuset(parent)?;
            value = file::read(&parent.join(name))?.unwrap_or_default();
        }
        file::write(&own, value.trim())?;
    }
    Ok(())
}

/// The file with which a single-threaded process moves itself.
pub(super) fn tasks_file(dir: &Dir) -> Result<OwnedFd, Error> {
    let path = dir.path.join("tasks");
    match OpenOptions::new().write(true).open(&path) {
        Ok(file) => Ok(file.into()),
        Err(err) => Err(Error::Open { path, err: file::errno(&err) }),
    }
}
