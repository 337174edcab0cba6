//! Cgroups for a caller that may not be allowed to make any.
//!
//! As with runc: a container whose spec names no cgroup and asks for no limits does without one, or without those of
//! single v1 hierarchies. What is asked for and cannot be had is an error that names it.

use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;
use rustix::fs::Access;
use rustix::io::Errno;

use super::{Cgroup, Dir, Error, limits_v1, limits_v2};
use crate::ContainerId;

impl Cgroup {
    /// As [`Cgroup::new`], without the hierarchies that this process may make no cgroup in. Changes nothing.
    ///
    /// # Errors
    /// As [`Cgroup::new`]; [`Error::NotPermitted`] where `cgroups_path` leads, [`Error::NoLimit`] for a limit in
    /// `resources` that would need what is left out.
    pub fn permitted(
        id: &ContainerId,
        cgroups_path: Option<&Path>,
        resources: Option<&LinuxResources>,
    ) -> Result<Self, Error> {
        let given = cgroups_path.is_some_and(|path| !path.as_os_str().is_empty());
        let mut this = match Self::new(id, cgroups_path) {
            Err(err @ Error::NotMounted { .. }) if !given => {
                no_limit(resources, |resources| limits_v2::apply(&nowhere(), resources), err)?;
                return Ok(Self::none());
            }
            this => this?,
        };
        let was_v2 = this.is_v2();
        let mut refused = None;
        let mut keep = |dir: &Dir| match may_make(dir) {
            Ok(()) => true,
            Err(err) => {
                refused.get_or_insert(Error::NotPermitted { path: dir.path.clone(), err: errno(err) });
                false
            }
        };
        this.v1.retain(&mut keep);
        this.unified = this.unified.filter(&mut keep);
        let Some(err) = refused else { return Ok(this) };
        if given {
            return Err(err);
        }
        no_limit(
            resources,
            |resources| match was_v2 {
                true => limits_v2::apply(&nowhere(), resources),
                false => without_v1(&this.v1, resources),
            },
            err,
        )?;
        tracing::debug!(%id, left_out = this.is_none(), "no permission for cgroups");
        Ok(this)
    }

    /// Of a container that has no cgroup of its own, and so is in its creator's.
    pub fn none() -> Self {
        Self { v1: Vec::new(), unified: None, unit: None }
    }

    pub fn is_none(&self) -> bool {
        self.v1.is_empty() && self.unified.is_none()
    }

    /// What clone3(2) means by EACCES.
    pub(crate) fn not_movable(&self) -> Error {
        let path = self.unified.as_ref().map(|dir| dir.path.clone()).unwrap_or_default();
        Error::Move { path, err: nix::errno::Errno::EACCES }
    }

    /// # Errors
    /// [`Error::None`] for what takes a cgroup, if there is none.
    pub(super) fn need(&self, operation: &'static str) -> Result<(), Error> {
        if self.is_none() { Err(Error::None { operation }) } else { Ok(()) }
    }
}

/// Here no controller is: each limit that is not the kernel's default is an error with its name.
fn nowhere() -> Dir {
    Dir { controllers: Vec::new(), mount: "/".into(), path: "/".into() }
}

/// The first limit that no hierarchy is there for.
fn without_v1(kept: &[Dir], resources: &LinuxResources) -> Result<(), Error> {
    match limits_v1::apply(&[], resources) {
        Err(Error::MissingController { controller, .. }) if kept.iter().any(|dir| dir.has(&controller)) => Ok(()),
        other => other,
    }
}

/// `why` there is nothing that could hold the first limit that is asked for.
fn no_limit(
    resources: Option<&LinuxResources>,
    find: impl FnOnce(&LinuxResources) -> Result<(), Error>,
    why: Error,
) -> Result<(), Error> {
    match resources.map_or(Ok(()), find) {
        Err(Error::MissingController { limit, value, .. }) => Err(Error::NoLimit { limit, value, err: Box::new(why) }),
        other => other,
    }
}

/// Whether the directory can be made, or joined if it is there. What is asked for is found wanting here, before
/// anything is made; the kernel has the last word when it is.
fn may_make(dir: &Dir) -> Result<(), Errno> {
    let procs = dir.path.join("cgroup.procs");
    match access(&procs, Access::WRITE_OK) {
        Err(Errno::NOENT) => {}
        found => return found,
    }
    let mut at: PathBuf = dir.path.clone();
    loop {
        match access(&at, Access::WRITE_OK | Access::EXEC_OK) {
            Err(Errno::NOENT) if at != dir.mount && at.pop() => {}
            found => return found,
        }
    }
}

fn access(path: &Path, how: Access) -> Result<(), Errno> {
    rustix::fs::access(path, how)
}

pub(super) fn errno(err: Errno) -> nix::errno::Errno {
    nix::errno::Errno::from_raw(err.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(json: serde_json::Value) -> LinuxResources {
        serde_json::from_value(json).unwrap()
    }

    fn why() -> Error {
        Error::NotPermitted { path: "/sys/fs/cgroup/c".into(), err: nix::errno::Errno::EACCES }
    }

    #[test]
    fn a_limit_that_nothing_could_hold_is_named() {
        let v2 = |json| no_limit(Some(&resources(json)), |resources| limits_v2::apply(&nowhere(), resources), why());
        v2(serde_json::json!({"devices": [{"allow": false, "access": "rwm"}], "cpu": {"shares": 1024}})).unwrap();
        let err = v2(serde_json::json!({"pids": {"limit": 10}})).unwrap_err();
        let said = crate::error::chain(&err);
        assert!(said.starts_with("cannot set pids limit: container could not join or create cgroup"), "{said}");
        assert!(said.contains("10") && said.ends_with("mkdir /sys/fs/cgroup/c: permission denied"), "{said}");
    }

    #[test]
    fn a_v1_limit_needs_its_own_hierarchy_alone() {
        let pids = [Dir { controllers: vec!["pids".to_owned()], mount: "/".into(), path: "/".into() }];
        let limit = resources(serde_json::json!({"pids": {"limit": 10}, "memory": {"limit": 4096}}));
        let err = no_limit(Some(&limit), |resources| without_v1(&pids, resources), why()).unwrap_err();
        assert!(matches!(&err, Error::NoLimit { limit: "memory limit", value, .. } if value == "4096"), "{err:?}");
        let limit = resources(serde_json::json!({"pids": {"limit": 10}}));
        no_limit(Some(&limit), |resources| without_v1(&pids, resources), why()).unwrap();
    }

    #[test]
    fn what_cannot_be_made_is_found_by_its_nearest_parent() {
        let mount = tempfile::tempdir().unwrap();
        let dir =
            |path: &str| Dir { controllers: Vec::new(), mount: mount.path().into(), path: mount.path().join(path) };
        may_make(&dir("a/b/c")).unwrap();
        let outside = Dir { controllers: Vec::new(), mount: "/proc/self".into(), path: "/proc/self/none/c".into() };
        assert!(may_make(&outside).is_err());
    }

    #[test]
    fn without_a_cgroup_nothing_that_needs_one_is_done() {
        let none = Cgroup::none();
        let freeze = none.freeze(std::time::Duration::ZERO).unwrap_err();
        assert!(matches!(freeze, Error::None { .. }), "{freeze}");
        assert!(none.update(&LinuxResources::default()).is_err() && none.stats().is_err() && none.oom_watch().is_err());
        assert!(none.pids().unwrap().is_empty() && !none.frozen().unwrap());
        none.create(None).unwrap();
        none.remove(std::time::Duration::ZERO).unwrap();
    }
}
