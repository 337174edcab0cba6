//! A rootfs with the ids of a user namespace: `uidmap` and `gidmap` among the options of containerd's mounts.
//!
//! An overlay cannot be id-mapped, but its layers can: each is mounted with its new ids below the bundle for as long as it
//! takes to mount the overlay, which keeps mounts of its own (Linux 5.19). Any other mount is covered by its mapped copy.
//!
//! A shim that is killed meanwhile leaves the layers mounted, and whoever removes the bundle then would remove what is in
//! them: so they are mounted read-only, and `delete` unmounts them ([`remove_layers`]).

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount, unmount};

const LOWERDIR: &str = "lowerdir=";

/// `uidmap` and `gidmap` as the kernel takes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ids {
    uids: String,
    gids: String,
}

impl Ids {
    /// "0:100000:65536", several of them with commas. Both are given, or neither is meant, as containerd has it.
    pub(crate) fn new(uidmap: Option<&str>, gidmap: Option<&str>) -> Option<Self> {
        let lines = |map: &str| map.split(',').map(|one| one.replace(':', " ") + "\n").collect();
        Some(Self { uids: lines(uidmap?), gids: lines(gidmap?) })
    }

    fn clone_mount(&self, path: &Path, read_only: bool) -> std::io::Result<OwnedFd> {
        runtime_core::id_map::clone_mount(path, &self.uids, &self.gids, read_only)
    }

    /// Covers what is mounted on `target` with a copy that has these ids.
    pub(crate) fn cover(&self, target: &Path) -> std::io::Result<()> {
        Ok(attach(&self.clone_mount(target, false)?, target)?)
    }
}

fn attach(mount: &OwnedFd, target: &Path) -> rustix::io::Result<()> {
    move_mount(mount, c"", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// The lower layers of an overlay, mounted with other ids. Dropped, they go.
#[derive(Debug)]
pub(crate) struct Layers {
    directory: PathBuf,
}

/// Where the layers of the overlay on a rootfs are mounted: beside it.
pub(crate) fn layers_of(rootfs: &Path) -> PathBuf {
    rootfs.with_extension("layers")
}

/// Unmounts and removes the layers that a shim which died in [`Layers::mount`] left beside `rootfs`. It is no error if there
/// are none.
///
/// # Errors
/// umount2(2)'s and rmdir(2)'s; nothing in a layer is touched.
pub(crate) fn remove_layers(rootfs: &Path) -> std::io::Result<()> {
    remove_in(&layers_of(rootfs))
}

fn remove_in(directory: &Path) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(directory) {
        Err(err) if matches!(err.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        match unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            // The last may not have been mounted.
            Ok(()) | Err(Errno::INVAL) => std::fs::remove_dir(&path)?,
            Err(err) => return Err(err.into()),
        }
    }
    std::fs::remove_dir(directory)
}

impl Layers {
    /// Below `directory`, which is made. The options with the layers' new names, relative to it; `None` without layers.
    pub(crate) fn mount(ids: &Ids, directory: PathBuf, data: &[&str]) -> std::io::Result<Option<(Self, String)>> {
        let Some(layers) = data.iter().rev().find_map(|option| option.strip_prefix(LOWERDIR)) else { return Ok(None) };
        std::fs::create_dir(&directory)?;
        let this = Self { directory };
        let mut names = Vec::new();
        for layer in layers.split(':') {
            let name = names.len().to_string();
            let target = this.directory.join(&name);
            std::fs::create_dir(&target)?;
            names.push(name);
            attach(&ids.clone_mount(Path::new(layer), true)?, &target)?;
        }
        let lowerdir = format!("{LOWERDIR}{}", names.join(":"));
        let data: Vec<&str> =
            data.iter().map(|option| if option.starts_with(LOWERDIR) { lowerdir.as_str() } else { option }).collect();
        Ok(Some((this, data.join(","))))
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Layers {
    fn drop(&mut self) {
        if let Err(err) = remove_in(&self.directory) {
            tracing::warn!(path = %self.directory.display(), %err, "the layers of an overlay stay mounted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_the_kernels_lines() {
        let ids = Ids::new(Some("0:100000:10,10:200000:5"), Some("0:1:2")).unwrap();
        assert_eq!((ids.uids.as_str(), ids.gids.as_str()), ("0 100000 10\n10 200000 5\n", "0 1 2\n"));
        assert_eq!(Ids::new(Some("0:1:2"), None), None);
    }
}
