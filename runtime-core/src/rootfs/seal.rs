//! The last look of the mount table: what is read-only and what is masked.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use super::error::{Error, step};
use super::tree::{Tree, attach, clone_fd, is_directory};
use super::{Kind, Plan, filesystem};
use crate::sys::mount::{MountAttr, mount_setattr};

const READ_ONLY: MountAttr =
    MountAttr { set: MountAttrFlags::MOUNT_ATTR_RDONLY.bits() as u64, clear: 0, propagation: 0 };

impl Plan {
    /// Read-only paths, masked paths, then the root itself read-only. Last of the mount steps.
    pub(crate) fn seal(&self) -> Result<(), Error> {
        let tree = Tree::current()?;
        // Closed here: it must not be left open in a created container.
        let null = &self.live("seal")?.take_null()?;
        for path in &self.readonly {
            make_read_only(&tree, path)?;
        }
        let mut masks = Masks { null, null_used: false, empty: None };
        for path in &self.masked {
            masks.mask(&tree, path)?;
        }
        // Mounted writable, so that mount points could be made in them.
        for entry in self.mounts.iter().filter(|entry| entry.options.attrs.read_only()) {
            if matches!(&entry.kind, Kind::Filesystem { name, .. } if name == "tmpfs") {
                let mount = tree.open(&entry.target).map_err(step("find the mount on", &entry.target))?;
                mount_setattr(&mount, false, READ_ONLY).map_err(step("make read-only", &entry.target))?;
            }
        }
        if self.read_only {
            mount_setattr(tree.root(), false, READ_ONLY).map_err(step("make read-only", "/"))?;
        }
        Ok(())
    }
}

/// The path as a mount of its own, read-only with all below it; its other flags stay.
fn make_read_only(tree: &Tree, path: &Path) -> Result<(), Error> {
    let Some(fd) = find(tree, path)? else { return Ok(()) };
    let bind = || {
        let mount = clone_fd(&fd, true)?;
        mount_setattr(&mount, true, READ_ONLY)?;
        attach(&mount, &fd)
    };
    bind().map_err(step("make read-only", path))
}

/// `None` for a path that is not there. Symlinks lead to what they stand for inside the container, so that this is what
/// is covered under all its names; the links of /proc/PID/fd, which lead anywhere, are refused (CVE-2025-31133).
fn find(tree: &Tree, path: &Path) -> Result<Option<OwnedFd>, Error> {
    match tree.open(path) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(err) => Err(step("find", path)(err)),
    }
}

/// What masked paths are covered with: one null device and one empty directory for all of them.
struct Masks<'a> {
    null: &'a OwnedFd,
    /// Before Linux 6.15 only a mount that is attached can be cloned: the first goes on itself, the others as its copies.
    null_used: bool,
    empty: Option<OwnedFd>,
}

impl Masks<'_> {
    fn mask(&mut self, tree: &Tree, path: &Path) -> Result<(), Error> {
        let Some(fd) = find(tree, path)? else { return Ok(()) };
        let failed = |err| step("mask", path)(err);
        if is_directory(&fd).map_err(failed)? { self.cover_directory(&fd, path) } else { self.cover_file(&fd) }.map_err(
            |err| match err {
                Failure::Mount(err) => err,
                Failure::Call(err) => failed(err),
            },
        )
    }

    fn cover_file(&mut self, fd: &OwnedFd) -> Result<(), Failure> {
        if self.null_used {
            return Ok(attach(clone_fd(self.null, false)?, fd)?);
        }
        self.null_used = true;
        Ok(attach(self.null, fd)?)
    }

    fn cover_directory(&mut self, fd: &OwnedFd, path: &Path) -> Result<(), Failure> {
        if let Some(empty) = &self.empty {
            return Ok(attach(clone_fd(empty, false)?, fd)?);
        }
        let pair = |key: &str, value: &str| (key.to_owned(), Some(value.to_owned()));
        let data = [pair("nr_blocks", "1"), pair("nr_inodes", "1"), pair("mode", "755")];
        let flags = MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let empty = filesystem::new_mount("tmpfs", "tmpfs", &data, flags, path).map_err(Failure::Mount)?;
        attach(&empty, fd)?;
        self.empty = Some(empty);
        Ok(())
    }
}

enum Failure {
    Mount(Error),
    Call(Errno),
}

impl From<Errno> for Failure {
    fn from(err: Errno) -> Self {
        Self::Call(err)
    }
}
