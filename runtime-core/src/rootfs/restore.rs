//! What checkpoint and restore need to know of the root filesystem: CRIU makes the mounts itself.

use std::path::{Path, PathBuf};

use rustix::fs::{self, CWD, Mode};

use super::error::{Error, step};
use super::tree::{self, DIRECTORY, Tree};
use super::{Entry, Kind, Plan};

impl Plan {
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Target and source of every bind mount of the spec.
    pub(crate) fn binds(&self) -> impl Iterator<Item = (&Path, &Path)> {
        self.mounts.iter().filter_map(|entry| match &entry.kind {
            Kind::Bind { source } => Some((entry.target.as_path(), source.as_path())),
            _ => None,
        })
    }

    /// Targets of what the spec mounts that is no bind mount.
    pub(crate) fn filesystems(&self) -> impl Iterator<Item = &Path> {
        self.mounts.iter().filter(|entry| !matches!(entry.kind, Kind::Bind { .. })).map(|entry| entry.target.as_path())
    }

    pub(crate) fn cgroup_mounts(&self) -> impl Iterator<Item = &Path> {
        self.mounts.iter().filter(|entry| matches!(entry.kind, Kind::Cgroup)).map(|entry| entry.target.as_path())
    }

    pub(crate) fn devices(&self) -> impl Iterator<Item = &Path> {
        self.devices.iter().map(|device| device.path.as_path())
    }

    pub(crate) fn masked(&self) -> &[PathBuf] {
        &self.masked
    }

    /// Makes the mount points of the spec that the rootfs lacks. A mount point in a bind mount is made in its source; one
    /// in another filesystem of the spec comes back with the content of that.
    ///
    /// # Errors
    /// As [`Plan::mount`]. What was made stays, as after a create.
    pub(crate) fn make_mount_points(&self) -> Result<(), Error> {
        let rootfs = open_tree(&self.root)?;
        for (i, entry) in self.mounts.iter().enumerate() {
            let above = self.mounts[..i].iter().rfind(|other| is_below(&entry.target, &other.target));
            match above.map(|other| (&other.kind, &other.target)) {
                None => make(&rootfs, &entry.target, entry)?,
                Some((Kind::Bind { source }, target)) if source.is_dir() => {
                    let rest = entry.target.strip_prefix(target).unwrap_or(Path::new(""));
                    make(&open_tree(source)?, &Path::new("/").join(rest), entry)?;
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Where a path of the spec is, below the rootfs, once its symlinks are followed.
    pub(crate) fn real_path(&self, path: &Path) -> PathBuf {
        let resolve = || -> Option<PathBuf> {
            let found = open_tree(&self.root).ok()?.open(path).ok()?;
            let root = std::fs::canonicalize(&self.root).ok()?;
            let found = rustix::fs::readlinkat(CWD, format!("/proc/self/fd/{}", fd_number(&found)), Vec::new()).ok()?;
            let found = PathBuf::from(std::ffi::OsString::from(found.into_string().ok()?));
            Some(Path::new("/").join(found.strip_prefix(root).ok()?))
        };
        resolve().unwrap_or_else(|| tree::clean(path))
    }
}

fn fd_number(fd: &std::os::fd::OwnedFd) -> i32 {
    std::os::fd::AsRawFd::as_raw_fd(fd)
}

fn is_below(path: &Path, other: &Path) -> bool {
    path != other && path.starts_with(other)
}

fn open_tree(path: &Path) -> Result<Tree, Error> {
    fs::openat(CWD, path, DIRECTORY, Mode::empty()).map(Tree::new).map_err(step("open", path))
}

fn make(tree: &Tree, target: &Path, entry: &Entry) -> Result<(), Error> {
    let made = match &entry.kind {
        Kind::Remount => return Ok(()),
        Kind::Bind { source } if !source.is_dir() => tree.make_file(target),
        _ => tree.make_dir(target),
    };
    made.map(drop).map_err(step("make the mount point", &entry.target))
}

#[cfg(test)]
mod tests {
    use super::super::PlanOptions;
    use super::*;
    use crate::cgroup::View;

    fn plan(bundle: &Path, mounts: &str) -> Plan {
        let json = format!(
            r#"{{"ociVersion":"1.2.0","root":{{"path":"rootfs"}},"linux":{{"namespaces":[{{"type":"mount"}}]}},"mounts":[{mounts}]}}"#
        );
        let spec = serde_json::from_str(&json).unwrap();
        let cgroup = View::V2("/sys/fs/cgroup/x".into());
        let options = PlanOptions {
            bundle,
            cgroup: &cgroup,
            no_pivot_root: false,
            user_namespace: false,
            network_namespace: true,
        };
        Plan::new(&spec, &options).unwrap()
    }

    #[test]
    fn mount_points_are_made_where_they_belong() {
        let bundle = std::env::temp_dir().join(format!("rtc-mount-points-{}", std::process::id()));
        for dir in ["rootfs/etc", "data", "outside"] {
            std::fs::create_dir_all(bundle.join(dir)).unwrap();
        }
        std::fs::write(bundle.join("hosts"), "").unwrap();
        // A hostile image: the way to the mount point leads out of the rootfs.
        std::os::unix::fs::symlink(bundle.join("outside"), bundle.join("rootfs/link")).unwrap();
        let plan = plan(
            &bundle,
            r#"{"destination":"/run","type":"tmpfs"},
               {"destination":"/run/lock","type":"tmpfs"},
               {"destination":"/etc/hosts","type":"bind","source":"hosts"},
               {"destination":"/data","type":"bind","source":"data"},
               {"destination":"/data/sub/x","type":"bind","source":"hosts"},
               {"destination":"/link/y","type":"tmpfs"}"#,
        );
        plan.make_mount_points().unwrap();
        // The link's target is made where it is inside the root.
        let inside = bundle.join("outside/y").strip_prefix("/").unwrap().to_owned();
        assert!(bundle.join("rootfs").join(inside).is_dir());
        assert!(bundle.join("rootfs/run").is_dir() && !bundle.join("rootfs/run/lock").exists());
        assert!(bundle.join("rootfs/etc/hosts").is_file() && bundle.join("rootfs/data").is_dir());
        assert!(bundle.join("data/sub/x").is_file() && !bundle.join("rootfs/data/sub").exists());
        assert!(!bundle.join("outside/y").exists());
        std::fs::remove_dir_all(bundle).unwrap();
    }

    #[test]
    fn symlinks_of_the_image_are_followed_inside_the_rootfs() {
        let bundle = std::env::temp_dir().join(format!("rtc-real-path-{}", std::process::id()));
        std::fs::create_dir_all(bundle.join("rootfs/run/lock")).unwrap();
        std::fs::create_dir_all(bundle.join("rootfs/var")).unwrap();
        std::os::unix::fs::symlink("/run", bundle.join("rootfs/var/run")).unwrap();
        let plan = plan(&bundle, "");
        assert_eq!(plan.real_path(Path::new("/var/run/lock")), Path::new("/run/lock"));
        assert_eq!(plan.real_path(Path::new("/not/../there")), Path::new("/there"));
        std::fs::remove_dir_all(bundle).unwrap();
    }
}
