//! Which cgroup hierarchies are mounted, where, and where in them this process is.
//!
//! Read once in a process: mounts of cgroup filesystems do not change under a running container engine.

use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

use super::file;
use super::{Dir, Error};
use crate::{ContainerId, Pid};

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Hierarchy {
    /// Controllers as the kernel names them ("cpu", "name=systemd"); empty for the unified tree.
    pub(super) controllers: Vec<String>,
    pub(super) mount: PathBuf,
    /// The directory of this process below `mount`.
    own: PathBuf,
}

/// All hierarchies of this process. Without v1 ones the host is "v2", with both it is "hybrid".
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Hierarchies {
    pub(super) v1: Vec<Hierarchy>,
    pub(super) unified: Option<Hierarchy>,
}

impl Hierarchies {
    /// Those of this process; kept for its life after the first success.
    pub(super) fn of_self() -> Result<&'static Self, Error> {
        static CACHE: OnceLock<Hierarchies> = OnceLock::new();
        if let Some(found) = CACHE.get() {
            return Ok(found);
        }
        let found = Self::discover(Path::new("/proc/self/mountinfo"), Path::new("/proc/self/cgroup"))?;
        Ok(CACHE.get_or_init(|| found))
    }

    fn discover(mountinfo: &Path, cgroup: &Path) -> Result<Self, Error> {
        let mounts = file::read(mountinfo)?.unwrap_or_default();
        let groups = file::read(cgroup)?.unwrap_or_default();
        let found = Self::parse(&mounts, &groups);
        if found.v1.is_empty() && found.unified.is_none() {
            return Err(Error::NotMounted { path: mountinfo.to_owned() });
        }
        Ok(found)
    }

    pub(super) fn parse(mountinfo: &str, cgroup: &str) -> Self {
        let mounts: Vec<Mount> = mountinfo.lines().filter_map(Mount::parse).collect();
        let mut found = Self::default();
        // "4:memory:/a", "2:cpu,cpuacct:/a", "9:name=systemd:/a", "0::/a" (cgroups(7))
        for line in cgroup.lines() {
            let mut fields = line.splitn(3, ':');
            let (Some(_), Some(names), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
            let controllers: Vec<String> = names.split(',').filter(|n| !n.is_empty()).map(str::to_owned).collect();
            let path = Path::new(path);
            let candidates = mounts.iter().filter(|mount| match controllers.first() {
                None => mount.v2,
                Some(first) => !mount.v2 && mount.options.split(',').any(|option| option == first),
            });
            // A hierarchy can be mounted more than once (bind mounts in containers): one that shows our own cgroup is
            // the right one.
            let Some(mount) = candidates.min_by_key(|mount| !path.starts_with(&mount.root)) else { continue };
            let own = path.strip_prefix(&mount.root).map(|rest| join_below(&mount.point, rest));
            let hierarchy = Hierarchy {
                // Outside the mount's root (or of our cgroup namespace): the mount's root is all that can be seen.
                own: own.unwrap_or_else(|_| mount.point.clone()),
                mount: mount.point.clone(),
                controllers,
            };
            if hierarchy.controllers.is_empty() {
                found.unified = Some(hierarchy);
            } else {
                found.v1.push(hierarchy);
            }
        }
        found
    }

    pub(super) fn is_v2(&self) -> bool {
        self.v1.is_empty()
    }

    /// Directories of a container, for each hierarchy; see [`super::Cgroup::new`].
    pub(super) fn resolve(&self, id: &ContainerId, cgroups_path: Option<&Path>) -> (Vec<Dir>, Option<Dir>) {
        let cgroups_path = cgroups_path.filter(|path| !path.as_os_str().is_empty());
        let dir = |hierarchy: &Hierarchy| {
            let path = match cgroups_path {
                Some(path) if path.is_absolute() => join_below(&hierarchy.mount, path),
                relative => {
                    // On v2 below the parent of our own cgroup, as runc does: our own has processes (us), so that it
                    // cannot hand out controllers.
                    let base = match hierarchy.own.parent() {
                        Some(parent) if self.is_v2() && hierarchy.own != hierarchy.mount => parent,
                        _ => &hierarchy.own,
                    };
                    join_below(base, relative.unwrap_or(Path::new(id.as_str())))
                }
            };
            Dir { controllers: hierarchy.controllers.clone(), mount: hierarchy.mount.clone(), path }
        };
        (self.v1.iter().map(dir).collect(), self.unified.as_ref().map(dir))
    }
}

/// The directory of a process in the unified tree, as our own mount shows it; `None` if it cannot be seen there.
pub(super) fn unified_of(pid: Pid) -> Result<Option<PathBuf>, Error> {
    let cgroup = PathBuf::from(format!("/proc/{pid}/cgroup"));
    let found = Hierarchies::discover(Path::new("/proc/self/mountinfo"), &cgroup)?;
    Ok(found.unified.map(|unified| unified.own))
}

/// The directories of a process in all hierarchies, as our own mounts show them.
pub(super) fn directories_of(pid: Pid) -> Result<Vec<PathBuf>, Error> {
    let cgroup = PathBuf::from(format!("/proc/{pid}/cgroup"));
    let found = Hierarchies::discover(Path::new("/proc/self/mountinfo"), &cgroup)?;
    Ok(found.v1.into_iter().chain(found.unified).map(|hierarchy| hierarchy.own).collect())
}

/// Appends `path` without ever leaving `base`: `..` in it goes at most back to `base`, as in runc's CleanPath.
fn join_below(base: &Path, path: &Path) -> PathBuf {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part),
            Component::ParentDir => drop(parts.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    let mut joined = base.to_owned();
    joined.extend(parts);
    joined
}

/// A line of /proc/PID/mountinfo (proc_pid_mountinfo(5)) with a cgroup filesystem.
struct Mount {
    root: PathBuf,
    point: PathBuf,
    v2: bool,
    /// The superblock's, which name the controllers.
    options: String,
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        let v2 = match right.next()? {
            "cgroup" => false,
            "cgroup2" => true,
            _ => return None,
        };
        let mut left = left.split(' ').skip(3);
        Some(Self {
            root: unescape(left.next()?),
            point: unescape(left.next()?),
            v2,
            options: right.nth(1)?.to_owned(),
        })
    }
}

/// Undoes the kernel's octal escapes of blank, tab, newline and backslash.
fn unescape(text: &str) -> PathBuf {
    let mut plain = text.to_owned();
    for (escape, character) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        if plain.contains(escape) {
            plain = plain.replace(escape, character);
        }
    }
    plain.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID_MOUNTS: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    const HYBRID_GROUPS: &str = "9:name=systemd:/\n4:memory:/api/x\n3:cpuset:/\n2:cpu,cpuacct:/\n0::/svc\n";

    fn id() -> ContainerId {
        ContainerId::parse("c1").unwrap()
    }

    fn paths(found: &Hierarchies, cgroups_path: Option<&str>) -> Vec<String> {
        let (v1, unified) = found.resolve(&id(), cgroups_path.map(Path::new));
        v1.iter().chain(&unified).map(|dir| dir.path.display().to_string()).collect()
    }

    #[test]
    fn hybrid_with_co_mounted_and_named_hierarchies() {
        let found = Hierarchies::parse(HYBRID_MOUNTS, HYBRID_GROUPS);
        assert!(!found.is_v2());
        let controllers: Vec<_> = found.v1.iter().map(|h| h.controllers.join(",")).collect();
        assert_eq!(controllers, ["name=systemd", "memory", "cpu,cpuacct"], "cpuset is not mounted");
        assert_eq!(
            paths(&found, Some("/default/c1")),
            [
                "/sys/fs/cgroup/systemd/default/c1",
                "/sys/fs/cgroup/memory/default/c1",
                "/sys/fs/cgroup/cpu,cpuacct/default/c1",
                "/sys/fs/cgroup/unified/default/c1"
            ]
        );
        assert_eq!(
            paths(&found, None),
            [
                "/sys/fs/cgroup/systemd/c1",
                "/sys/fs/cgroup/memory/api/x/c1",
                "/sys/fs/cgroup/cpu,cpuacct/c1",
                "/sys/fs/cgroup/unified/svc/c1"
            ]
        );
    }

    #[test]
    fn v2_relative_paths_lie_beside_the_callers_own_cgroup() {
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
        let found = Hierarchies::parse(mounts, "0::/system.slice/containerd.service\n");
        assert!(found.is_v2());
        assert_eq!(paths(&found, Some("pod/c")), ["/sys/fs/cgroup/system.slice/pod/c"]);
        assert_eq!(paths(&found, Some("/k8s/c")), ["/sys/fs/cgroup/k8s/c"]);
        let at_root = Hierarchies::parse(mounts, "0::/\n");
        assert_eq!(paths(&at_root, None), ["/sys/fs/cgroup/c1"]);
    }

    #[test]
    fn the_mounts_root_is_taken_off_and_dots_cannot_leave_it() {
        let mounts = "31 23 0:28 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
        let found = Hierarchies::parse(mounts, "0::/docker/abc/init\n");
        assert_eq!(found.unified.as_ref().unwrap().own, Path::new("/sys/fs/cgroup/init"));
        assert_eq!(paths(&found, Some("/../../etc")), ["/sys/fs/cgroup/etc"]);
        assert_eq!(paths(&found, Some("../../../etc")), ["/sys/fs/cgroup/etc"]);
        let outside = Hierarchies::parse(mounts, "0::/../other\n");
        assert_eq!(outside.unified.unwrap().own, Path::new("/sys/fs/cgroup"));
    }

    #[test]
    fn of_two_mounts_the_one_that_shows_our_cgroup_is_taken() {
        let mounts = "1 0 0:28 /other /mnt rw - cgroup cgroup rw,pids\n\
                      2 0 0:28 / /sys/fs/cgroup/pids\\040x rw - cgroup cgroup rw,pids\n";
        let found = Hierarchies::parse(mounts, "8:pids:/mine\n");
        assert_eq!(found.v1[0].own, Path::new("/sys/fs/cgroup/pids x/mine"));
    }

    #[test]
    fn nothing_mounted_is_an_error() {
        let empty = Path::new("/dev/null");
        assert!(matches!(Hierarchies::discover(empty, empty), Err(Error::NotMounted { .. })));
    }
}
