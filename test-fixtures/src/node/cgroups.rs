//! A node's cgroups on the host: one directory in every mounted hierarchy, named by the owner so that leftovers of a
//! killed test can be told and removed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::owner::{self, is_orphaned, subdirectories};
use crate::{Error, Result};

/// What a node mounts on `/sys/fs/cgroup`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cgroups {
    /// The v1 controllers, and cgroup2 on `unified`. Only on a host that has v1 hierarchies mounted.
    Hybrid,
    /// cgroup2 alone. On a hybrid host it has no limit controllers, but the freezer and `cgroup.kill`.
    V2,
}

impl Cgroups {
    /// The layouts that a node can have on this host.
    pub fn supported() -> Vec<Self> {
        let Ok(hierarchies) = Hierarchy::mounted() else { return Vec::new() };
        let has = |v2: bool| hierarchies.iter().any(|h| h.is_v2() == v2);
        [(Self::Hybrid, has(false)), (Self::V2, has(true))]
            .into_iter()
            .filter_map(|(c, yes)| yes.then_some(c))
            .collect()
    }
}

/// A cgroup hierarchy that the host has mounted.
#[derive(Clone, Debug)]
pub(super) struct Hierarchy {
    mount_point: PathBuf,
    /// The v1 mount options that name it (`cpu`, `name=systemd`); `cgroup2` for the unified one.
    option: String,
}

impl Hierarchy {
    pub(super) fn is_v2(&self) -> bool {
        self.option == "cgroup2"
    }

    /// `options=directory`, as `init.sh` reads it.
    pub(super) fn word(&self) -> String {
        let directory = self.mount_point.file_name().unwrap_or_default().to_string_lossy();
        format!("{}={directory}", self.option)
    }

    /// Gives the root's children, of which a node is one, the controllers that it has. Those that it cannot give (a
    /// process in a root that is none, as in a container) are what nodes do without.
    fn enable_controllers(&self) {
        let all = fs::read_to_string(self.mount_point.join("cgroup.controllers")).unwrap_or_default();
        for controller in all.split_whitespace() {
            fs::write(self.mount_point.join("cgroup.subtree_control"), format!("+{controller}")).ok();
        }
    }

    pub(super) fn mounted() -> Result<Vec<Self>> {
        let path = "/proc/self/mountinfo";
        let table = fs::read_to_string(path).map_err(Error::path("read", path))?;
        let mut seen = BTreeSet::new();
        let all = table.lines().filter_map(Self::parse).filter(|h| seen.insert(h.option.clone()));
        Ok(all.collect())
    }

    fn parse(line: &str) -> Option<Self> {
        let (mount, source) = line.split_once(" - ")?;
        let mount_point = PathBuf::from(mount.split(' ').nth(4)?);
        let mut source = source.split(' ');
        let option = match source.next()? {
            "cgroup2" => "cgroup2".to_owned(),
            "cgroup" => {
                let options = source.nth(1)?.split(',');
                let names = options.filter(|o| !matches!(*o, "rw" | "ro" | "xattr" | "clone_children"));
                let names: Vec<&str> = names.filter(|o| !o.starts_with("release_agent=")).collect();
                names.join(",")
            }
            _ => return None,
        };
        Some(Self { mount_point, option })
    }
}

/// The directories that are one node's.
#[derive(Debug)]
pub(super) struct NodeCgroups {
    pub(super) hierarchies: Vec<Hierarchy>,
    /// Of each of the directories.
    pub(super) name: String,
}

impl NodeCgroups {
    /// Makes the directories of node number `number` of this process, after those of dead owners were removed.
    pub(super) fn create(number: u32) -> Result<Self> {
        let hierarchies = Hierarchy::mounted()?;
        sweep(&hierarchies);
        let this = Self { hierarchies, name: owner::name("node", number) };
        match this.make() {
            Ok(()) => Ok(this),
            Err(error) => {
                this.remove();
                Err(error)
            }
        }
    }

    fn make(&self) -> Result<()> {
        for hierarchy in &self.hierarchies {
            let path = hierarchy.mount_point.join(&self.name);
            fs::create_dir(&path).map_err(Error::path("create cgroup", &path))?;
            if hierarchy.is_v2() {
                hierarchy.enable_controllers();
            }
            if hierarchy.option.split(',').any(|o| o == "cpuset") {
                // A v1 cpuset starts empty, and nothing can run in it then.
                for file in ["cpuset.cpus", "cpuset.mems"] {
                    let parent = hierarchy.mount_point.join(file);
                    let value = fs::read(&parent).map_err(Error::path("read", parent))?;
                    fs::write(path.join(file), value).map_err(Error::path("write", path.join(file)))?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn directories(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.hierarchies.iter().map(|h| h.mount_point.join(&self.name))
    }

    /// Where commands that are run in the node go: in cgroup2 into a child, so that the node's root stays empty and can
    /// have controllers for its other children (the no-internal-process rule).
    pub(super) fn of_commands(&self) -> impl Iterator<Item = PathBuf> + '_ {
        self.hierarchies.iter().map(|h| {
            let root = h.mount_point.join(&self.name);
            if h.is_v2() { root.join("init") } else { root }
        })
    }

    /// Moves the node's first processes out of the root of its cgroup2.
    pub(super) fn settle(&self, pids: &[u32]) -> Result<()> {
        for hierarchy in self.hierarchies.iter().filter(|h| h.is_v2()) {
            let init = hierarchy.mount_point.join(&self.name).join("init");
            fs::create_dir(&init).map_err(Error::path("create cgroup", &init))?;
            for pid in pids {
                let procs = init.join("cgroup.procs");
                fs::write(&procs, pid.to_string()).map_err(Error::path("write", &procs))?;
            }
        }
        Ok(())
    }

    /// Every cgroup below the node's own, as paths relative to the hierarchy's mount.
    pub(super) fn list(&self) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        for hierarchy in &self.hierarchies {
            let root = hierarchy.mount_point.join(&self.name);
            let mut queue = vec![root.clone()];
            while let Some(directory) = queue.pop() {
                let children = subdirectories(&directory);
                let relative = |path: &PathBuf| path.strip_prefix(&root).map(|p| p.display().to_string());
                all.extend(
                    children.iter().filter_map(|c| relative(c).ok()).map(|c| format!("{}:{c}", hierarchy.option)),
                );
                queue.extend(children);
            }
        }
        all
    }

    /// Removes the directories, and all below them. The node's processes are gone by now, but their zombies may keep a
    /// cgroup busy for a moment.
    pub(super) fn remove(&self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        for directory in self.directories() {
            while !remove_subtree(&directory) && Instant::now() < deadline {
                sleep(Duration::from_millis(5));
            }
        }
    }
}

/// Removes the cgroups of nodes whose owner was killed before it could.
fn sweep(hierarchies: &[Hierarchy]) {
    for directory in hierarchies.iter().flat_map(|h| subdirectories(&h.mount_point)) {
        if is_orphaned(&directory) {
            // Busy ones stay for the next sweep.
            remove_subtree(&directory);
        }
    }
}

/// Says whether nothing is left.
fn remove_subtree(path: &Path) -> bool {
    for child in subdirectories(path) {
        remove_subtree(&child);
    }
    match fs::remove_dir(path) {
        Ok(()) => true,
        Err(e) => e.kind() == std::io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_hierarchies_from_mountinfo() {
        let v1 = "36 30 0:31 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct";
        let named = "37 30 0:32 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd";
        let v2 = "38 30 0:33 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(Hierarchy::parse(v1).unwrap().word(), "cpu,cpuacct=cpu,cpuacct");
        assert_eq!(Hierarchy::parse(named).unwrap().word(), "name=systemd=systemd");
        assert_eq!(Hierarchy::parse(v2).unwrap().word(), "cgroup2=unified");
        assert!(Hierarchy::parse("38 30 0:33 / /proc rw - proc proc rw").is_none());
    }
}
