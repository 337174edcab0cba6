//! `cgroup` mounts.
//!
//! What is bound is always this container's own directory of each hierarchy: with a cgroup namespace that is what a
//! fresh mount would show, and without one it keeps the host's tree out of sight.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{self, Mode};
use rustix::io::Errno;

use super::Entry;
use super::error::{Error, step};
use super::filesystem::new_mount;
use super::mount::check_proc;
use super::tree::{self, Tree, attach};
use crate::cgroup::View;
use crate::sys::mount::{MountAttr, mount_setattr};

pub(super) fn mount(tree: &Tree, entry: &Entry, view: &View) -> Result<OwnedFd, Error> {
    let target = entry.target.as_path();
    let fd = tree.make_dir(target).map_err(step("make the mount point", target))?;
    check_proc(target, &fd, false)?;
    let mount = match view {
        View::V2(dir) => bound(entry, dir)?,
        View::V1(hierarchies) => {
            let top = hierarchy_top(entry)?;
            attach(&top, &fd).map_err(step("mount the cgroup directory on", target))?;
            fill(entry, &top, hierarchies)?;
            // Without a cgroup of its own there is nothing to show, and what is below (a bind of /sys) is covered
            // (CVE-2023-25809).
            if hierarchies.is_empty() {
                let sealed = MountAttr { set: libc::MOUNT_ATTR_RDONLY, ..MountAttr::default() };
                mount_setattr(&top, false, sealed).map_err(step("make read-only", target))?;
            }
            if entry.options.attrs.read_only() {
                let read_only = MountAttr { set: entry.options.attrs.set, ..MountAttr::default() };
                mount_setattr(&top, false, read_only).map_err(step("make read-only", target))?;
            }
            return Ok(top);
        }
    };
    attach(&mount, &fd).map_err(step("mount the cgroup on", target))?;
    Ok(mount)
}

fn bound(entry: &Entry, dir: &Path) -> Result<OwnedFd, Error> {
    let failed = |err| Error::Bind { source_path: dir.to_owned(), target: entry.target.clone(), err };
    let mount = tree::clone_host(dir, false).map_err(failed)?;
    let attrs = entry.options.attrs;
    mount_setattr(&mount, false, MountAttr { set: attrs.set, clear: attrs.clear, propagation: 0 }).map_err(failed)?;
    Ok(mount)
}

/// The tmpfs that the hierarchies' directories are in.
fn hierarchy_top(entry: &Entry) -> Result<OwnedFd, Error> {
    let data = [("mode".to_owned(), Some("755".to_owned()))];
    new_mount("tmpfs", "tmpfs", &data, entry.options.attrs.writable().for_new_mount(), &entry.target)
}

fn fill(entry: &Entry, top: &OwnedFd, hierarchies: &[(String, std::path::PathBuf)]) -> Result<(), Error> {
    for (name, dir) in hierarchies {
        let target = entry.target.join(name);
        let home = home_of(dir, hierarchies);
        if name != home {
            // Controllers that share a hierarchy: cpu -> cpu,cpuacct.
            fs::symlinkat(home, top, name.as_str()).map_err(step("link", target))?;
            continue;
        }
        fs::mkdirat(top, name.as_str(), Mode::from_raw_mode(0o755)).map_err(step("make", &target))?;
        let at = tree::open_in(top, name.as_ref()).map_err(step("open", &target))?;
        match bound(entry, dir) {
            // A host hierarchy that this container was not put in shows as an empty directory.
            Err(Error::Bind { err: Errno::NOENT, .. }) => {}
            mount => attach(mount?, &at).map_err(step("mount the cgroup on", target))?,
        }
    }
    Ok(())
}

/// Of several names of one hierarchy, the directory's: the one that names all controllers, else the first.
fn home_of<'a>(dir: &Path, hierarchies: &'a [(String, std::path::PathBuf)]) -> &'a str {
    let mut names = hierarchies.iter().filter(|(_, other)| other == dir).map(|(name, _)| name.as_str());
    let first = names.next().unwrap_or_default();
    if first.contains(',') { first } else { names.find(|name| name.contains(',')).unwrap_or(first) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_all_controllers_is_the_directory() {
        let entry = |name: &str, dir: &str| (name.to_owned(), dir.into());
        let all = [entry("cpu", "/a"), entry("cpu,cpuacct", "/a"), entry("cpuacct", "/a"), entry("memory", "/m")];
        for (name, dir) in [("cpu,cpuacct", "/a"), ("memory", "/m")] {
            assert_eq!(home_of(Path::new(dir), &all), name);
        }
        assert_eq!(home_of(Path::new("/a"), &[entry("cpu", "/a"), entry("cpuacct", "/a")]), "cpu");
    }
}
