//! Mounts that CRIU cannot make again: of filesystems whose content is in a process, which the container has mounted itself.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::report::{Kind, Report};
use crate::Pid;
use crate::container::Container;
use crate::container::checkpoint::{mountinfo, mounts, plan};

const IN_USER_SPACE: &str = "fuse";

pub(super) fn check(container: &Container, init: Pid, pids: &[Pid], report: &mut Report) {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for pid in pids {
        let namespace = fs::read_link(format!("/proc/{pid}/ns/mnt"));
        if namespace.is_ok_and(|namespace| seen.insert(namespace)) {
            found.extend(in_user_space(*pid).into_iter().map(|point| (*pid, point)));
        }
    }
    if found.is_empty() {
        return;
    }
    // Without the spec it cannot be told which are external.
    let Some(external) = external(container, init) else { return };
    for (pid, point) in found.into_iter().filter(|(_, point)| !external.iter().any(|other| point.starts_with(other))) {
        let what = format!("a FUSE filesystem is mounted on {}", point.display());
        let why = "what is in it is in a process, and CRIU cannot mount it again";
        report.refuse(Kind::Mount, Some(pid.as_raw()), what, why, "unmount it before the checkpoint");
    }
}

/// Where such a filesystem is mounted; the root itself is somebody else's. None of a process that has just ended.
fn in_user_space(pid: Pid) -> Vec<PathBuf> {
    let mounts = mountinfo::parse(&fs::read(format!("/proc/{pid}/mountinfo")).unwrap_or_default());
    // A subtype comes behind a dot.
    let is = |mount: &mountinfo::Mount| mount.fs.split('.').next() == Some(IN_USER_SPACE);
    mounts.into_iter().filter(is).map(|mount| mount.point).filter(|point| point != Path::new("/")).collect()
}

fn external(container: &Container, init: Pid) -> Option<Vec<PathBuf>> {
    let spec = crate::spec::load_file(&container.state.config()).ok()?;
    let plan = plan(&container.state.bundle, &spec, &container.state.cgroup).ok()?;
    let mounts = mounts::find(init, &plan).ok()?;
    Some(mounts.into_iter().map(|mount| mount.mount_point).collect())
}
