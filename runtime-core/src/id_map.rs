//! Mounts with other ids, for whoever mounts a root filesystem before there is a container.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::children;

/// A detached mount of `path`, whose filesystem's ids appear as the maps say (user_namespaces(7), "uid_map"): the first id of
/// a line is the filesystem's, the second the host's. It is the caller's to attach (move_mount(2)), and goes if it does not.
///
/// # Errors
/// open_tree(2)'s and mount_setattr(2)'s: EINVAL for a filesystem that cannot be id-mapped, or for maps that cannot be.
pub fn clone_mount(path: &Path, uid_map: &str, gid_map: &str) -> io::Result<OwnedFd> {
    let ids = {
        // Its process is a child of ours that nobody else may reap.
        let _hold = children::hold();
        crate::sys::user_namespace::make(uid_map, gid_map)?
    };
    let mount = open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    crate::sys::mount::id_map(&mount, false, ids.as_fd())?;
    Ok(mount)
}
