//! Bind mounts and the flags of mounts.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::Entry;
use super::error::{Error, step};
use super::mount::{check_proc, is_procfs};
use super::options::Options;
use super::tree::{self, Tree, attach};
use crate::sys::mount::{MountAttr, mount_setattr};

/// The mount has all its flags before it is attached: at no moment is a read-only source writable in the container.
pub(super) fn mount(tree: &Tree, entry: &Entry, source: &Path, opened: Option<OwnedFd>) -> Result<OwnedFd, Error> {
    let target = entry.target.as_path();
    let failed = |err| Error::Bind { source_path: source.to_owned(), target: target.to_owned(), err };
    let mount = match opened {
        Some(mount) => mount,
        // Never without the ids that were asked for.
        None if entry.ids.is_some() => return Err(failed(Errno::BADF)),
        None => tree::clone_host(source, entry.options.recursive_bind).map_err(failed)?,
    };
    set_attrs(&mount, &entry.options).map_err(failed)?;
    let fd = match tree::is_directory(&mount).map_err(failed)? {
        true => tree.make_dir(target),
        false => tree.make_file(target),
    }
    .map_err(step("make the mount point", target))?;
    check_proc(target, &fd, is_procfs(&mount).map_err(failed)?)?;
    attach(&mount, &fd).map_err(failed)?;
    Ok(mount)
}

/// Flags of one mount, then those for its whole tree.
pub(super) fn set_attrs(mount: impl AsFd, options: &Options) -> Result<(), Errno> {
    if !options.attrs.is_empty() {
        let exact = options.attrs.exact();
        match mount_setattr(&mount, false, MountAttr { set: exact.set, clear: exact.clear, propagation: 0 }) {
            // In a user namespace the host's flags are locked, all but one: keep those that nobody asked to clear.
            Err(Errno::PERM) => {
                let attrs = options.attrs.remount();
                let clear = attrs.clear | exact.clear & u64::from(MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW.bits());
                mount_setattr(&mount, false, MountAttr { set: attrs.set, clear, propagation: 0 })?;
            }
            done => done?,
        }
    }
    let attrs = options.recursive_attrs;
    if !attrs.is_empty() {
        mount_setattr(&mount, true, MountAttr { set: attrs.set, clear: attrs.clear, propagation: 0 })?;
    }
    Ok(())
}
