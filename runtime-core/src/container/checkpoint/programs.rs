//! What identifies a root filesystem: the programs that ran in it, and their sizes.
//!
//! CRIU maps them again at a restore and fails when one is not there or has another size. Inodes and times differ in every
//! copy of an image, and to read all of a root filesystem takes longer than to restore.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, fstat, openat2};
use serde::{Deserialize, Serialize};

use super::mountinfo;
use crate::Pid;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Program {
    /// As the container sees it.
    pub(crate) path: PathBuf,
    /// Bytes.
    pub(crate) size: u64,
}

impl Program {
    /// The size of what has its name in this root filesystem.
    pub(crate) fn find(&self, root: &Path) -> Option<u64> {
        let root = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let below = self.path.strip_prefix("/").unwrap_or(&self.path);
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let file = openat2(root, below, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), how).ok()?;
        u64::try_from(fstat(file).ok()?.st_size).ok()
    }
}

/// The programs of these processes that are in the root filesystem itself, not in a mount in it. Without a process that has
/// just ended.
pub(crate) fn of(init: Pid, pids: &[Pid]) -> Vec<Program> {
    let mounts = mountinfo::parse(&fs::read(format!("/proc/{init}/mountinfo")).unwrap_or_default());
    let in_mount = |path: &Path| mounts.iter().any(|m| m.point != Path::new("/") && path.starts_with(&m.point));
    let program = |pid: &Pid| {
        let link = format!("/proc/{pid}/exe");
        let path = fs::read_link(&link).ok()?;
        let is_there = !path.to_string_lossy().ends_with(" (deleted)") && !in_mount(&path);
        is_there.then(|| Some(Program { path, size: fs::metadata(&link).ok()?.len() }))?
    };
    pids.iter().filter_map(program).collect::<BTreeSet<_>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_within_the_root_and_not_beyond_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("bin")).unwrap();
        fs::write(dir.path().join("bin/a"), "four").unwrap();
        std::os::unix::fs::symlink("/bin/a", dir.path().join("b")).unwrap();
        let find = |path: &str| Program { path: path.into(), size: 4 }.find(dir.path());
        assert_eq!(find("/bin/a"), Some(4));
        assert_eq!(find("/b"), Some(4));
        assert_eq!(find("/../../../proc/self/exe"), None);
        assert_eq!(find("/bin/none"), None);
    }
}
