//! Filesystems with options that are too long for fsconfig(2), by mount(2): an overlay of many layers.
//!
//! mount(2) cannot make a detached mount, and what it has made cannot be opened by descriptor where another process may
//! change the tree. So the mount is made in a scratch tmpfs on the target, which nobody else knows of, copied from there,
//! and the scratch goes again.

use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, Mode};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, UnmountFlags, fsconfig_create, fsmount, fsopen, unmount,
};

use super::error::Error;
use super::filesystem::failed;
use super::options::Attrs;
use super::tree::{self, DIRECTORY};
use crate::sys::mount::{MountAttr, mount_setattr};

type Data = [(String, Option<String>)];

/// fsconfig(2) takes this many bytes of a value, its ending zero included.
pub(super) const LONGEST_VALUE: usize = 256;
/// mount(2) reads this much of the options; a page on every architecture that we build for is at least this.
const LONGEST_OPTIONS: usize = 4096;
const NAME: &str = "mount";

pub(super) fn is_needed(source: &str, data: &Data) -> bool {
    source.len() >= LONGEST_VALUE
        || data.iter().any(|(_, value)| value.as_ref().is_some_and(|v| v.len() >= LONGEST_VALUE))
}

/// A detached mount. `at` is where it will go; until then it covers that for a moment. While the host's /proc is there.
pub(super) fn new_mount(
    name: &str,
    source: &str,
    data: &Data,
    attrs: Attrs,
    target: (&Path, &OwnedFd),
) -> Result<OwnedFd, Error> {
    let (target, at) = target;
    let (options, flags) = options(data);
    if options.len() >= LONGEST_OPTIONS {
        let message =
            format!(": its options are {} bytes, and the kernel takes {}", options.len(), LONGEST_OPTIONS - 1);
        return Err(failed(name, target, message, Errno::TOOBIG));
    }
    let make = || {
        let scratch = scratch()?;
        tree::attach(&scratch, at)?;
        let mount = mount_in(&scratch, name, source, &options, flags);
        unmount(path_of(&scratch), UnmountFlags::DETACH)?;
        let mount = mount?;
        mount_setattr(&mount, false, MountAttr { set: attrs.set, clear: attrs.clear, propagation: 0 })?;
        Ok(mount)
    };
    make().map_err(|err| failed(name, target, String::new(), err))
}

fn scratch() -> Result<OwnedFd, Errno> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

fn mount_in(scratch: &OwnedFd, name: &str, source: &str, options: &str, flags: MountFlags) -> Result<OwnedFd, Errno> {
    fs::mkdirat(scratch, NAME, Mode::RWXU)?;
    let options = CString::new(options).map_err(|_| Errno::INVAL)?;
    rustix::mount::mount(source, format!("{}/{NAME}", path_of(scratch)), name, flags, options.as_c_str())?;
    tree::clone_fd(fs::openat(scratch, NAME, DIRECTORY, Mode::empty())?, false)
}

fn path_of(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// As mount(2) has them: what the VFS takes for every filesystem is a flag there.
fn options(data: &Data) -> (String, MountFlags) {
    let mut flags = MountFlags::empty();
    let mut text = Vec::new();
    for (key, value) in data {
        match (key.as_str(), value) {
            ("ro", None) => flags |= MountFlags::RDONLY,
            ("sync", None) => flags |= MountFlags::SYNCHRONOUS,
            ("dirsync", None) => flags |= MountFlags::DIRSYNC,
            ("lazytime", None) => flags |= MountFlags::LAZYTIME,
            ("mand", None) => flags |= MountFlags::PERMIT_MANDATORY_FILE_LOCKING,
            ("async" | "nolazytime" | "nomand", None) => {}
            (key, None) => text.push(key.to_owned()),
            (key, Some(value)) => text.push(format!("{key}={value}")),
        }
    }
    (text.join(","), flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_the_vfs_are_no_options_of_the_filesystem() {
        let data = [("ro", None), ("index", Some("off")), ("sync", None), ("xino", None), ("async", None)]
            .map(|(key, value): (&str, Option<&str>)| (key.to_owned(), value.map(str::to_owned)));
        assert_eq!(options(&data), ("index=off,xino".to_owned(), MountFlags::RDONLY | MountFlags::SYNCHRONOUS));
        assert!(!is_needed("overlay", &data));
        assert!(!is_needed(&"x".repeat(255), &data) && is_needed(&"x".repeat(256), &data));
    }
}
