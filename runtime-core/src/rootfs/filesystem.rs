//! New filesystems: proc, sysfs, tmpfs, devpts, mqueue, overlay and whatever else the kernel has.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};

use super::error::{Error, step};
use super::mount::check_proc;
use super::tree::{self, DIRECTORY, Tree, attach};
use super::{Entry, copy_up, legacy};
use crate::sys::mount::{MountAttr, mount_setattr};

const SYS: &str = "/sys";

pub(super) fn mount(tree: &Tree, entry: &Entry, name: &str, source: &str) -> Result<OwnedFd, Error> {
    let target = entry.target.as_path();
    let (fd, existed) = open_target(tree, target, name)?;
    check_proc(target, &fd, name == "proc")?;
    let mut data = entry.options.data.clone();
    let mut attrs = entry.options.attrs;
    if name == "tmpfs" {
        // What the image says about its /tmp holds for the tmpfs on it too.
        if existed && !entry.options.has_data("mode") {
            let mode = fs::fstat(&fd).map_err(step("look at", target))?.st_mode & 0o7777;
            data.push(("mode".to_owned(), Some(format!("{mode:o}"))));
        }
        // Later mounts make their mount points in it; `seal` makes it read-only.
        attrs = attrs.writable();
    }
    if attrs.read_only() && !is_pseudo(name) {
        // The filesystem too, not the mount alone: a disk must not be written to, not even its journal.
        data.push(("ro".to_owned(), None));
    }
    let made = match legacy::is_needed(source, &data) {
        true => legacy::new_mount(name, source, &data, attrs, (target, &fd)),
        false => new_mount(name, source, &data, attrs.for_new_mount(), target),
    };
    let mount = match made {
        // It shows network devices: only whoever owns the network namespace may mount one.
        Err(Error::Mount { err: Errno::PERM, .. }) if name == "sysfs" => host_sysfs(entry)?,
        made => made?,
    };
    if entry.options.copy_up && name == "tmpfs" {
        // An owner in the options is meant for the whole of it.
        let owned = entry.options.has_data("uid") || entry.options.has_data("gid");
        copy_up::copy_all(&fd, &mount, !owned).map_err(step("copy up", target))?;
    }
    attach(&mount, &fd).map_err(|err| failed(name, target, String::new(), err))?;
    Ok(mount)
}

/// The host's /sys in place of a new sysfs, as crun has it. With all that is below, for a part of it alone cannot be
/// bound in a user namespace. Read-only whatever the spec says, and throughout: it is the whole host's, its cgroups too
/// (CVE-2023-25809).
fn host_sysfs(entry: &Entry) -> Result<OwnedFd, Error> {
    let failed = |err| Error::Bind { source_path: SYS.into(), target: entry.target.clone(), err };
    let mount = tree::clone_host(Path::new(SYS), true).map_err(failed)?;
    let set = entry.options.attrs.set | u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits());
    let attr = MountAttr { set, ..MountAttr::default() };
    mount_setattr(&mount, true, attr).map_err(failed)?;
    Ok(mount)
}

/// Makes a filesystem and a detached mount of it.
pub(super) fn new_mount(
    name: &str,
    source: &str,
    data: &[(String, Option<String>)],
    attrs: MountAttrFlags,
    target: &Path,
) -> Result<OwnedFd, Error> {
    let context = fsopen(name, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|err| failed(name, target, String::new(), err))?;
    let create = || {
        if !source.is_empty() {
            fsconfig_set_string(&context, "source", source)?;
        }
        configure(&context, data)?;
        fsconfig_create(&context)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attrs)
    };
    create().map_err(|err| failed(name, target, kernel_message(&context), err))
}

pub(super) fn configure(context: &OwnedFd, data: &[(String, Option<String>)]) -> Result<(), Errno> {
    for (key, value) in data {
        match value {
            // The kernel would say EINVAL; a remount has no other way.
            Some(value) if value.len() >= legacy::LONGEST_VALUE => return Err(Errno::TOOBIG),
            Some(value) => fsconfig_set_string(context, key.as_str(), unquote(value))?,
            None => fsconfig_set_flag(context, key.as_str())?,
        }
    }
    Ok(())
}

/// The quotes keep a context's commas from mount(8)'s parser; fsconfig has none.
fn unquote(value: &str) -> &str {
    value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value)
}

/// What the kernel logged to the filesystem context ("e tmpfs: Unknown parameter 'x'"), ready to be appended.
fn kernel_message(context: &OwnedFd) -> String {
    let mut buffer = [0; 256];
    match rustix::io::read(context, &mut buffer) {
        Ok(length) => {
            let text = String::from_utf8_lossy(&buffer[..length]);
            let text = text.trim_end();
            format!(": {}", text.strip_prefix("e ").unwrap_or(text))
        }
        Err(_) => String::new(),
    }
}

pub(super) fn failed(fs: &str, target: &Path, message: String, err: Errno) -> Error {
    Error::Mount { fs: fs.to_owned(), target: target.to_owned(), message, err }
}

/// The target, and whether it was there before.
fn open_target(tree: &Tree, target: &Path, name: &str) -> Result<(OwnedFd, bool), Error> {
    let opened = match name {
        // A symlink there would give another directory a procfs and leave /proc the image's own (CVE-2023-27561).
        "proc" | "sysfs" => tree.open_plain(target, DIRECTORY),
        _ => tree.open(target),
    };
    match opened {
        Ok(fd) => Ok((fd, true)),
        Err(Errno::NOENT) => Ok((tree.make_dir(target).map_err(step("make the mount point", target))?, false)),
        Err(Errno::LOOP) => Err(Error::NotADirectory { name: name.to_owned(), target: target.to_owned() }),
        Err(err) => Err(step("open the mount point", target)(err)),
    }
}

/// One superblock serves many mounts of these: read-only belongs to the mount.
fn is_pseudo(name: &str) -> bool {
    matches!(name, "proc" | "sysfs" | "tmpfs" | "devpts" | "mqueue" | "cgroup2" | "bpf" | "debugfs" | "tracefs")
}
