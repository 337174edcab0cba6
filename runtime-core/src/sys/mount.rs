//! mount_setattr(2), which neither nix nor rustix wraps.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// `struct mount_attr`: what to set, what to clear (MOUNT_ATTR_*), and a propagation type (MS_SHARED and its kin, or 0).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct MountAttr {
    pub(crate) set: u64,
    pub(crate) clear: u64,
    pub(crate) propagation: u64,
}

/// Changes the mount whose root `mount` is, and all below it if `recursive`. All or nothing (Linux 5.12).
pub(crate) fn mount_setattr(mount: impl AsFd, recursive: bool, attr: MountAttr) -> Result<(), Errno> {
    let attr =
        libc::mount_attr { attr_set: attr.set, attr_clr: attr.clear, propagation: attr.propagation, userns_fd: 0 };
    call(mount, recursive, attr)
}

/// Gives a detached mount, and all below it if `recursive`, the ids of a user namespace (Linux 5.12). Once and for ever.
///
/// # Errors
/// EINVAL for a filesystem that cannot be id-mapped.
pub(crate) fn id_map(mount: impl AsFd, recursive: bool, user_namespace: BorrowedFd<'_>) -> Result<(), Errno> {
    let userns_fd = u64::try_from(user_namespace.as_raw_fd()).map_err(|_| Errno::BADF)?;
    let attr = libc::mount_attr { attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd };
    call(mount, recursive, attr)
}

fn call(mount: impl AsFd, recursive: bool, attr: libc::mount_attr) -> Result<(), Errno> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a NUL-terminated literal, and `attr` is a whole `struct mount_attr` of the size that is passed;
    // the kernel reads both and keeps neither. The descriptor is borrowed for the call.
    let code = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if code == 0 { Ok(()) } else { Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)) }
}
