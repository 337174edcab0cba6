//! The `shim_cgroup` option: the serving process is put into a cgroup that the administrator has made.

use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/fs/cgroup";

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cgroup {path:?} leaves the hierarchy")]
    Outside { path: String },
    #[error("no hierarchy has a cgroup {path:?}")]
    Missing { path: String },
    #[error("write {pid} to {}", file.display())]
    Write {
        pid: u32,
        file: PathBuf,
        #[source]
        err: std::io::Error,
    },
}

/// Moves a process into `path`: in the one hierarchy of v2, or in each of v1's that has it.
///
/// # Errors
/// No hierarchy has the cgroup, or a move is refused; the caller ends the process then.
pub(crate) fn join(path: &str, pid: u32) -> Result<(), Error> {
    join_below(Path::new(ROOT), path, pid)
}

fn join_below(root: &Path, path: &str, pid: u32) -> Result<(), Error> {
    if Path::new(path).components().any(|part| part == std::path::Component::ParentDir) {
        return Err(Error::Outside { path: path.to_owned() });
    }
    let mut joined = false;
    for hierarchy in hierarchies(root) {
        let file = hierarchy.join(path.trim_start_matches('/')).join("cgroup.procs");
        if file.exists() {
            std::fs::write(&file, pid.to_string()).map_err(|err| Error::Write { pid, file, err })?;
            joined = true;
        }
    }
    if joined { Ok(()) } else { Err(Error::Missing { path: path.to_owned() }) }
}

fn hierarchies(root: &Path) -> Vec<PathBuf> {
    if root.join("cgroup.controllers").exists() {
        return vec![root.to_owned()];
    }
    let Ok(entries) = std::fs::read_dir(root) else { return Vec::new() };
    // Links such as `cpu -> cpu,cpuacct` name a hierarchy a second time.
    entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(root: &Path, cgroup: &str) -> PathBuf {
        let directory = root.join(cgroup);
        std::fs::create_dir_all(&directory).unwrap();
        let file = directory.join("cgroup.procs");
        std::fs::write(&file, "").unwrap();
        file
    }

    #[test]
    fn every_v1_hierarchy_that_has_the_cgroup_is_joined() {
        let root = tempfile::tempdir().unwrap();
        let (cpu, memory) = (make(root.path(), "cpu/shims"), make(root.path(), "memory/shims"));
        std::fs::create_dir_all(root.path().join("pids")).unwrap();
        join_below(root.path(), "/shims", 42).unwrap();
        assert_eq!(std::fs::read_to_string(cpu).unwrap(), "42");
        assert_eq!(std::fs::read_to_string(memory).unwrap(), "42");
    }

    #[test]
    fn v2_has_one_hierarchy() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("cgroup.controllers"), "").unwrap();
        let procs = make(root.path(), "a/shims");
        join_below(root.path(), "a/shims", 7).unwrap();
        assert_eq!(std::fs::read_to_string(procs).unwrap(), "7");
    }

    #[test]
    fn a_cgroup_that_nobody_made_is_refused() {
        let root = tempfile::tempdir().unwrap();
        assert!(matches!(join_below(root.path(), "/shims", 1), Err(Error::Missing { .. })));
        assert!(matches!(join_below(root.path(), "../x", 1), Err(Error::Outside { .. })));
    }
}
