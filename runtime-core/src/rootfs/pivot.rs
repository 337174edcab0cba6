//! The rootfs becomes the root.

use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, MoveMountFlags, UnmountFlags, mount_change, move_mount, unmount};
use rustix::process::{chdir, chroot, fchdir, pivot_root};

use super::error::{Error, step};
use super::options::MS_PRIVATE;
use super::tree::{DIRECTORY, attach};
use super::{Plan, filesystem};

impl Plan {
    /// pivot_root (or MS_MOVE and chroot) into the rootfs, the old root detached.
    pub(crate) fn pivot(&self) -> Result<(), Error> {
        let root = self.live("pivot")?.tree.root();
        if self.no_pivot_root {
            self.hide_host()?;
            fchdir(root).map_err(step("enter the rootfs", &self.root))?;
            move_mount(root, c"", CWD, c"/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
                .map_err(step("move to / the rootfs", &self.root))?;
            chroot(".").map_err(step("chroot into", &self.root))?;
        } else {
            let host = rustix::fs::open("/", DIRECTORY, rustix::fs::Mode::empty()).map_err(step("open", "/"))?;
            fchdir(root).map_err(step("enter the rootfs", &self.root))?;
            // The old root lands on top of the new one (pivot_root(2), "pivot_root(".", ".")").
            pivot_root(".", ".").map_err(step("pivot_root into", &self.root))?;
            fchdir(&host).map_err(step("enter the old root of", &self.root))?;
            // Or the unmounting below would reach the host where the root is shared.
            mount_change(".", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
                .map_err(step("make a slave of the old root of", &self.root))?;
            unmount(".", UnmountFlags::DETACH).map_err(step("detach the old root of", &self.root))?;
        }
        chdir("/").map_err(step("enter", "/"))?;
        self.propagate_root()
    }

    /// After the pivot: before it the flag would have been the host's root's.
    fn propagate_root(&self) -> Result<(), Error> {
        match self.propagation {
            Some((flag, recursive)) if flag != MS_PRIVATE => {
                let mut flags = MountPropagationFlags::from_bits_retain(u32::try_from(flag).unwrap_or_default());
                flags.set(MountPropagationFlags::REC, recursive);
                mount_change("/", flags).map_err(step("set the propagation of", "/"))
            }
            _ => Ok(()),
        }
    }

    /// After MS_MOVE the host's mounts stay in this namespace, below the new root. An unmasked procfs or sysfs among them
    /// would let a user namespace mount a fresh one (the kernel looks for one that is wholly visible), so they go.
    fn hide_host(&self) -> Result<(), Error> {
        let table = std::fs::read("/proc/self/mountinfo")
            .map_err(|err| step("read", "/proc/self/mountinfo")(Errno::from_io_error(&err).unwrap_or(Errno::IO)))?;
        for path in kernel_mounts(&table).filter(|path| !path.starts_with(&self.root)) {
            match mount_change(&path, MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC) {
                // Below one that is gone already, or not a mount point for us.
                Err(Errno::INVAL | Errno::NOENT) => continue,
                done => done.map_err(step("make a slave of", &path))?,
            }
            match unmount(&path, UnmountFlags::DETACH) {
                // Locked in a user namespace: cover it.
                Err(Errno::INVAL | Errno::PERM) => {
                    let flags = rustix::mount::MountAttrFlags::empty();
                    let cover = filesystem::new_mount("tmpfs", "tmpfs", &[], flags, &path)?;
                    let at = rustix::fs::open(&path, DIRECTORY, rustix::fs::Mode::empty());
                    at.and_then(|at| attach(&cover, &at)).map_err(step("cover", &path))?;
                }
                done => done.map_err(step("detach", &path))?,
            }
        }
        Ok(())
    }
}

/// Mount points of procfs and sysfs in a mountinfo (proc(5)).
fn kernel_mounts(table: &[u8]) -> impl Iterator<Item = PathBuf> {
    table.split(|b| *b == b'\n').filter_map(|line| {
        let mut fields = line.split(|b| *b == b' ');
        let path = fields.nth(4)?;
        let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
        matches!(kind, b"proc" | b"sysfs").then(|| unescape(path))
    })
}

/// mountinfo writes blanks and backslashes as three octal digits.
fn unescape(path: &[u8]) -> PathBuf {
    let mut plain = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] if byte == b'\\' => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        plain.push(octal.unwrap_or(byte));
        rest = if octal.is_some() { &tail[3..] } else { tail };
    }
    std::ffi::OsString::from_vec(plain).into()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn kernel_filesystems_are_found_in_a_mount_table() {
        let table = b"22 1 0:20 / /proc rw,nosuid shared:5 - proc proc rw\n\
            23 1 0:21 / /a\\040b\\134 rw - sysfs sysfs rw\n\
            24 1 8:1 / / rw - ext4 /dev/sda1 rw\n";
        let found: Vec<_> = kernel_mounts(table).collect();
        assert_eq!(found, [Path::new("/proc"), Path::new("/a b\\")]);
    }
}
