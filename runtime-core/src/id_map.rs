//! Mounts with other ids, for whoever mounts a root filesystem before there is a container.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::children;
use crate::sys::mount::{self, MountAttr};

/// A detached mount of `path`, whose filesystem's ids appear as the maps say (user_namespaces(7), "uid_map"): the first id of
/// a line is the filesystem's, the second the host's. With `read_only` nobody can write through it, whatever `path` allows.
/// It is the caller's to attach (move_mount(2)), and goes if it does not.
///
/// # Errors
/// open_tree(2)'s and mount_setattr(2)'s: EINVAL for a filesystem that cannot be id-mapped, or for maps that cannot be.
pub fn clone_mount(path: &Path, uid_map: &str, gid_map: &str, read_only: bool) -> io::Result<OwnedFd> {
    let ids = {
        // Its process is a child of ours that nobody else may reap.
        let _hold = children::hold();
        crate::sys::user_namespace::make(uid_map, gid_map)?
    };
    let detached = open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    mount::id_map(&detached, false, ids.as_fd())?;
    if read_only {
        mount::mount_setattr(&detached, false, MountAttr { set: libc::MOUNT_ATTR_RDONLY, ..MountAttr::default() })?;
    }
    Ok(detached)
}
