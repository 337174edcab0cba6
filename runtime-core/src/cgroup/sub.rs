//! Cgroups below the container's, which a further process can be run in.

use std::path::{Component, Path, PathBuf};

use rustix::fs::Access;
use rustix::io::Errno;

use super::rootless::errno;
use super::{Cgroup, Dir, Error};

const PROCS: &str = "cgroup.procs";

/// An existing cgroup below a container's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubCgroup {
    /// The v1 controller that it is for; `None` for all, and on v2.
    pub controller: Option<String>,
    /// Relative to the container's.
    pub path: PathBuf,
}

impl Cgroup {
    /// With the directories that `subs` name in place of the container's.
    ///
    /// # Errors
    /// A path that leads out or to no cgroup, or a controller that there is no hierarchy of.
    pub(crate) fn below(&self, subs: &[SubCgroup]) -> Result<Self, Error> {
        let this = self.descend(subs)?;
        for dir in this.dirs().filter(|_| !subs.is_empty()) {
            let path = dir.path.join(PROCS);
            rustix::fs::access(&path, Access::EXISTS).map_err(|err| Error::Join { path, err: errno(err) })?;
        }
        Ok(this)
    }

    /// For a process that the kernel does not let in.
    pub(crate) fn not_joinable(&self, err: Errno) -> Error {
        let path = self.unified.as_ref().map(|dir| dir.path.join(PROCS)).unwrap_or_default();
        Error::Join { path, err: errno(err) }
    }

    fn descend(&self, subs: &[SubCgroup]) -> Result<Self, Error> {
        let mut this = self.clone();
        if !subs.is_empty() {
            // The unit's cgroup is another.
            this.unit = None;
        }
        for sub in subs {
            match &sub.controller {
                None => this.v1.iter_mut().chain(&mut this.unified).try_for_each(|dir| descend(dir, &sub.path))?,
                Some(controller) => {
                    let dir = this.v1.iter_mut().find(|dir| dir.has(controller));
                    let dir = dir.ok_or_else(|| Error::UnknownController { controller: controller.clone() })?;
                    // "cpu" and "cpuacct" are one hierarchy, and name the same cgroup in it.
                    let path = self.controller(controller).map(|own| own.path.clone()).unwrap_or_default();
                    dir.path = path;
                    descend(dir, &sub.path)?;
                }
            }
        }
        Ok(this)
    }
}

fn descend(dir: &mut Dir, path: &Path) -> Result<(), Error> {
    for component in path.components() {
        match component {
            Component::Normal(name) => dir.path.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(Error::NotBelow { path: path.to_owned() });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(controllers: &[&str]) -> Dir {
        let controllers = controllers.iter().map(|name| (*name).to_owned()).collect();
        Dir { controllers, mount: "/sys/fs/cgroup".into(), path: "/sys/fs/cgroup/c".into() }
    }

    fn below(cgroup: &Cgroup, controller: Option<&str>, path: &str) -> Result<Cgroup, String> {
        let sub = SubCgroup { controller: controller.map(str::to_owned), path: path.into() };
        cgroup.descend(&[sub]).map_err(|err| err.to_string())
    }

    #[test]
    fn a_sub_cgroup_is_below_in_the_hierarchies_that_are_meant() {
        let cgroup = Cgroup { v1: vec![dir(&["cpu", "cpuacct"]), dir(&["pids"])], unified: Some(dir(&[])), unit: None };
        let all = below(&cgroup, None, "/a/./b").unwrap();
        assert!(all.dirs().all(|dir| dir.path == Path::new("/sys/fs/cgroup/c/a/b")), "{all:?}");
        let cpu = below(&cgroup, Some("cpuacct"), "a").unwrap();
        let paths: Vec<_> = cpu.dirs().map(|dir| dir.path.to_str().unwrap()).collect();
        assert_eq!(paths, ["/sys/fs/cgroup/c/a", "/sys/fs/cgroup/c", "/sys/fs/cgroup/c"]);
        assert!(below(&cgroup, None, "../d").is_err());
        let sub = SubCgroup { controller: None, path: "nowhere".into() };
        let said = crate::error::chain(&cgroup.below(&[sub]).unwrap_err());
        assert!(said.ends_with("/c/nowhere/cgroup.procs: no such file or directory"), "{said}");
        assert!(below(&cgroup, Some("rdma"), "a").unwrap_err().contains("rdma"));
    }
}
