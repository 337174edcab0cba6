//! Mounts whose content is not in the images: bind mounts, masked files, device nodes, the cgroup directories.
//!
//! At a checkpoint they are found in the container's own mount table, not in its spec alone: what was mounted below a
//! recursive bind mount is there too. CRIU knows each by its mount point, as with runc, but for the masked files, which
//! all are "/dev/null"; so runc's images and ours are each other's.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use criu::{Common, ExtMount};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags, openat2, statx};
use serde::{Deserialize, Serialize};

use super::error::CheckpointError;
use super::mountinfo::{self, Mount};
use super::options;
use crate::Pid;
use crate::cgroup::Cgroup;
use crate::rootfs::Plan;

/// runc's name for every masked file.
const NULL: &str = "/dev/null";

/// A mount that CRIU asks for by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct External {
    pub(crate) mount_point: PathBuf,
    pub(crate) from: From,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum From {
    /// The source of the spec's bind mount on `destination`, or a directory `below` it.
    Bind { destination: PathBuf, below: PathBuf },
    /// The host's /dev/null.
    Null,
    /// The host's device of the same path.
    Device,
    /// The container's own directory in the hierarchy of these controllers; in the unified tree if there are none.
    Cgroup { controllers: Vec<String> },
}

impl External {
    fn name(&self) -> String {
        match self.from {
            From::Null => NULL.to_owned(),
            _ => text(&self.mount_point),
        }
    }

    /// For the dump: mount point and name.
    pub(crate) fn at_dump(&self) -> ExtMount {
        ExtMount { key: text(&self.mount_point), value: self.name() }
    }

    /// For the restore: name and source.
    pub(crate) fn at_restore(&self, plan: &Plan, cgroup: &Cgroup) -> Result<ExtMount, CheckpointError> {
        let source = match &self.from {
            From::Bind { destination, below } => {
                let source = plan.binds().find(|(target, _)| target == destination).map(|(_, source)| source);
                let source =
                    source.ok_or_else(|| CheckpointError::MissingMount { destination: destination.clone() })?;
                // Joining nothing would add a slash, and a file with a slash is no directory.
                if below.as_os_str().is_empty() { source.to_owned() } else { source.join(below) }
            }
            From::Null => NULL.into(),
            From::Device => self.mount_point.clone(),
            From::Cgroup { controllers } => cgroup
                .directory(controllers)
                .ok_or_else(|| CheckpointError::MissingHierarchy { controllers: controllers.join(",") })?
                .to_owned(),
        };
        Ok(ExtMount { key: self.name(), value: text(&source) })
    }
}

/// The external mounts of a running container.
pub(crate) fn find(pid: Pid, plan: &Plan) -> Result<Vec<External>, CheckpointError> {
    let path = PathBuf::from(format!("/proc/{pid}/mountinfo"));
    let mounts = mountinfo::parse(&fs::read(&path).map_err(CheckpointError::file("read", &path))?);
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    let root = rustix::fs::open(&root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|err| CheckpointError::file("open", root)(err.into()))?;
    let table = Table { root, mounts: &mounts };
    let binds =
        plan.binds().filter_map(|(target, source)| Some((table.mount_on(target)?, target, source))).collect::<Vec<_>>();
    let ours: Vec<&Path> = plan.filesystems().filter_map(|target| table.mount_on(target)).collect();
    let of = |mount: &Mount| {
        let from = table.classify(mount, &binds, &ours, plan)?;
        Some(External { mount_point: mount.point.clone(), from })
    };
    Ok(mounts.iter().filter_map(of).collect())
}

struct Table<'a> {
    root: OwnedFd,
    mounts: &'a [Mount],
}

impl<'a> Table<'a> {
    fn open(&self, path: &Path) -> Option<OwnedFd> {
        let below = path.strip_prefix("/").unwrap_or(path);
        let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        openat2(&self.root, below, flags, Mode::empty(), how).ok()
    }

    /// Where the mount is that the spec put on `target`, symlinks followed; `None` if the container has unmounted it.
    fn mount_on(&self, target: &Path) -> Option<&'a Path> {
        let fd = self.open(target)?;
        let mount = statx(&fd, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?.stx_mnt_id;
        let point = self.mounts.iter().find(|other| other.id == mount)?.point.as_path();
        let here = rustix::fs::readlinkat(CWD, format!("/proc/self/fd/{}", number(&fd)), Vec::new()).ok()?;
        (here.to_bytes() == point.as_os_str().as_encoded_bytes()).then_some(point)
    }

    fn classify(&self, mount: &Mount, binds: &[(&Path, &Path, &Path)], ours: &[&Path], plan: &Plan) -> Option<From> {
        if mount.fs == "cgroup" || mount.fs == "cgroup2" {
            return Some(From::Cgroup { controllers: controllers(mount) });
        }
        let bind = |point: &Path, target: &Path| From::Bind {
            destination: target.to_owned(),
            below: mount.point.strip_prefix(point).unwrap_or(Path::new("")).to_owned(),
        };
        if let Some((point, target, _)) = binds.iter().find(|(point, ..)| *point == mount.point) {
            return Some(bind(point, target));
        }
        if ours.contains(&mount.point.as_path()) {
            return None;
        }
        // A mount of the host's that came along with a recursive bind; one that the container made has no twin there.
        let above = binds.iter().filter(|(point, ..)| mount.point.starts_with(point));
        if let Some((point, target, source)) = above.max_by_key(|(point, ..)| point.as_os_str().len())
            && let Ok(below) = mount.point.strip_prefix(point)
            && is_mount_point(&source.join(below))
        {
            return Some(bind(point, target));
        }
        self.device(mount, plan)
    }

    /// A single device node that is mounted: the mask of a file, or a device in a user namespace. The console is none of
    /// these: its pty is the container's own.
    fn device(&self, mount: &Mount, plan: &Plan) -> Option<From> {
        if matches!(mount.fs.as_str(), "devpts" | "proc" | "sysfs") {
            return None;
        }
        let stat = rustix::fs::fstat(self.open(&mount.point)?).ok()?;
        if !matches!(FileType::from_raw_mode(stat.st_mode), FileType::CharacterDevice | FileType::BlockDevice) {
            return None;
        }
        let is_null = stat.st_rdev == rustix::fs::makedev(1, 3);
        let is_device = plan.devices().any(|device| device == mount.point);
        let is_mask = plan.masked().contains(&mount.point) || !is_device;
        Some(if is_null && is_mask { From::Null } else { From::Device })
    }
}

/// Those that the kernel names in a v1 hierarchy's options ("rw,cpu,cpuacct"); none for the unified tree.
fn controllers(mount: &Mount) -> Vec<String> {
    if mount.fs == "cgroup2" {
        return Vec::new();
    }
    let options = mount.super_options.split(',').filter(|option| !is_generic(option));
    options.map(str::to_owned).collect()
}

/// An option of a v1 hierarchy that is no controller (cgroup1_show_options() in the kernel).
fn is_generic(option: &str) -> bool {
    let flags = ["rw", "ro", "seclabel", "noprefix", "xattr", "cpuset_v2_mode", "clone_children", "favordynmods"];
    flags.contains(&option) || option.starts_with("release_agent=")
}

/// What runc would have named: for images without a manifest.
pub(crate) fn as_runc_names(plan: &Plan, cgroup: &Cgroup) -> Vec<ExtMount> {
    let mut mounts: Vec<ExtMount> = plan
        .binds()
        .map(|(target, source)| ExtMount { key: text(&plan.real_path(target)), value: text(source) })
        .collect();
    mounts.push(ExtMount { key: NULL.to_owned(), value: NULL.to_owned() });
    mounts.extend(plan.devices().map(|path| ExtMount { key: text(path), value: text(path) }));
    for target in plan.cgroup_mounts() {
        for (name, dir) in cgroup.v1_directories() {
            mounts.push(ExtMount { key: text(&target.join(name)), value: text(dir) });
        }
    }
    mounts
}

/// What a call says of external things: a mount that was found before has another name or source then.
pub(crate) fn add(external: &[options::External], common: &mut Common) {
    for one in external {
        let Some((key, value)) = one.mount() else {
            common.external.push(one.to_string());
            continue;
        };
        common.ext_mounts.retain(|mount| mount.key != key);
        common.ext_mounts.push(ExtMount { key: key.to_owned(), value: value.to_owned() });
    }
}

fn is_mount_point(path: &Path) -> bool {
    let (Ok(metadata), Some(parent)) = (fs::symlink_metadata(path), path.parent()) else { return false };
    if metadata.is_symlink() {
        return false;
    }
    let id = |path: &Path| statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MNT_ID).map(|stat| stat.stx_mnt_id);
    matches!((id(path), id(parent)), (Ok(own), Ok(parent)) if own != parent)
}

fn number(fd: &OwnedFd) -> i32 {
    std::os::fd::AsRawFd::as_raw_fd(fd)
}

/// protobuf strings are UTF-8, and so is the JSON that these paths came from.
fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(fs: &str, super_options: &str) -> Mount {
        Mount { id: 1, root: "/".into(), point: "/x".into(), fs: fs.into(), super_options: super_options.into() }
    }

    #[test]
    fn a_hierarchy_is_known_by_its_controllers() {
        assert_eq!(controllers(&mount("cgroup", "rw,cpu,cpuacct")), ["cpu", "cpuacct"]);
        assert_eq!(controllers(&mount("cgroup", "rw,xattr,release_agent=/x,name=systemd")), ["name=systemd"]);
        assert!(controllers(&mount("cgroup2", "rw,nsdelegate")).is_empty());
    }

    #[test]
    fn what_is_said_of_a_mount_is_over_what_was_found() {
        let mut common = Common::new(fs::File::open("/").unwrap().into());
        let mount = |key: &str, value: &str| ExtMount { key: key.into(), value: value.into() };
        common.ext_mounts = vec![mount("/a", "/old"), mount("/b", "/b")];
        let external = ["mnt[/a]:/new", "mnt[/c]:/c", "veth[eth0]:v"].map(|text| text.parse().unwrap());
        add(&external, &mut common);
        assert_eq!(common.ext_mounts, [mount("/b", "/b"), mount("/a", "/new"), mount("/c", "/c")]);
        assert_eq!(common.external, ["veth[eth0]:v"]);
    }

    #[test]
    fn masked_files_share_runcs_name() {
        let masked = External { mount_point: "/proc/kcore".into(), from: From::Null };
        assert_eq!(masked.at_dump(), ExtMount { key: "/proc/kcore".into(), value: "/dev/null".into() });
        let bind = From::Bind { destination: "/d".into(), below: "".into() };
        let bind = External { mount_point: "/data".into(), from: bind };
        assert_eq!(bind.at_dump(), ExtMount { key: "/data".into(), value: "/data".into() });
    }
}
