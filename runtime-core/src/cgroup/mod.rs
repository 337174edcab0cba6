//! The container's cgroup: v1 and hybrid, or v2.
//!
//! - `hierarchy`: what is mounted and where we are in it, read once in a process.
//! - `directory`: making, walking and removing directories; `v1` and `v2`: what joining needs in each version.
//! - `rootless`: for whoever may not make them all. `pending`: one that is about to be made.
//! - `limits_v1`, `limits_v2`, `devices` (with `devices_v1`, `devices_v2`): the spec's resources.
//! - `freezer`, `kill`, `oom`, [`stats`] (with `stats_v1`, `stats_v2`).
//! - `systemd`, and `unit`, which is what of it concerns the directories: the other driver, by which systemd makes them.
//!
//! A **hybrid** host has v1 controllers and a unified tree beside them. The container is in both; limits, devices and the
//! freezer are v1's, as with runc, and `cgroup.kill` is the unified tree's.
//!
//! **cgroups-rs** writes the v1 limits of cpu, memory and pids: its controllers know those files and cost one
//! open and one write each. The rest is ours. Its freezer returns before anything is frozen, it has no device filter for
//! v2, its statistics turn read errors into zeros, it takes a hybrid host for v1, and its `Cgroup` reads mountinfo and
//! opens every controller each time, which the start of a container would pay for.
//!
//! Joining v1: the kernel makes a writer of `cgroup.procs` wait for an RCU grace period (8 to 14 ms measured for the
//! first of a row of writes), since the whole thread group moves. A thread that writes 0 to `tasks` moves itself without
//! that (Linux 5.5): 0.4 ms for nine hierarchies. Hence [`Cgroup::join_files`], for a process that has one thread.

mod criu;
mod details;
mod devices;
mod devices_v1;
mod devices_v2;
mod directory;
mod error;
mod file;
mod freezer;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod hierarchy;
mod kill;
mod limits_v1;
mod limits_v2;
mod oom;
mod pending;
mod rootless;
pub mod stats;
mod stats_v1;
mod stats_v2;
mod sub;
mod systemd;
mod unit;
mod v1;
mod v2;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use crate::{ContainerId, Pid, Signal};
use directory::Made;
use hierarchy::Hierarchies;

pub use details::{Cpuset, Details};
pub use error::Error;
pub use oom::OomWatch;
pub(crate) use pending::Pending;
pub use stats::Stats;
pub use sub::SubCgroup;
pub(crate) use systemd::{ANNOTATION_PREFIX, Placeholder};
pub use systemd::{Bus, Error as SystemdError};
pub use unit::CgroupDriver;

/// Where a container's cgroup is, in every hierarchy. Cheap to make and to store; holds no descriptors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cgroup {
    v1: Vec<Dir>,
    unified: Option<Dir>,
    /// The unit of systemd's whose cgroup it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unit: Option<systemd::Unit>,
}

/// The container's directory in one hierarchy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Dir {
    /// The kernel's names; empty in the unified tree.
    controllers: Vec<String>,
    mount: PathBuf,
    path: PathBuf,
}

impl Dir {
    fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|name| name == controller)
    }
}

/// A hierarchy as a `cgroup` mount inside the container shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum View {
    /// Name of the directory or link below /sys/fs/cgroup ("cpu", "systemd"), and the host's directory of this container.
    V1(Vec<(String, PathBuf)>),
    V2(PathBuf),
}

impl Cgroup {
    /// `cgroups_path` is the spec's: absolute from the hierarchy's root, relative below the caller's own cgroup (on v2
    /// beside it, as runc does, for our own cgroup has processes and cannot hand out controllers), or, when it is `None`,
    /// the container's id in the place of a relative path. `slice:prefix:name`, which is for the systemd driver
    /// ([`CgroupDriver`]), is a path like any other. Changes nothing.
    ///
    /// # Errors
    /// [`Error::NotMounted`], or the files of /proc cannot be read.
    pub fn new(id: &ContainerId, cgroups_path: Option<&Path>) -> Result<Self, Error> {
        let (v1, unified) = Hierarchies::of_self()?.resolve(id, cgroups_path);
        Ok(Self { v1, unified, unit: None })
    }

    /// Makes the directories and applies the limits and the device rules. Removes what it made when it fails, parents
    /// included. A limit whose controller is missing is refused by name; a value that is the kernel's default needs no
    /// controller. An existing cgroup is taken over if it is empty.
    ///
    /// # Errors
    /// [`Error::InUse`] if the cgroup exists and has processes, [`Error::Frozen`] if it or one above it is frozen: a process
    /// that joined it would never run. Both are then somebody else's.
    pub fn create(&self, resources: Option<&LinuxResources>) -> Result<(), Error> {
        let mut made = Made::default();
        match self.make(&mut made).and_then(|()| self.apply(resources)) {
            Ok(()) => Ok(()),
            Err(err) => {
                made.undo();
                Err(err)
            }
        }
    }

    fn make(&self, made: &mut Made) -> Result<(), Error> {
        for dir in &self.v1 {
            v1::make(dir, made)?;
        }
        if let Some(dir) = &self.unified {
            v2::make(dir, self.is_v2(), made)?;
        }
        for dir in self.dirs().filter(|dir| !made.contains(&dir.path)) {
            let processes = directory::pids(&dir.path)?.len();
            if processes > 0 {
                return Err(Error::InUse { path: dir.path.clone(), processes });
            }
        }
        match self.freezer() {
            Some(freezer) if freezer.holds()? => Err(Error::Frozen { path: freezer.path().to_owned() }),
            _ => Ok(()),
        }
    }

    fn apply(&self, resources: Option<&LinuxResources>) -> Result<(), Error> {
        if self.is_none() {
            return Ok(());
        }
        if let Some(resources) = resources {
            self.limit(resources)?;
        }
        let rules = resources.and_then(|resources| resources.devices().as_deref()).unwrap_or_default();
        self.set_devices(rules, devices::Change::Create)
    }

    fn limit(&self, resources: &LinuxResources) -> Result<(), Error> {
        match &self.unified {
            Some(dir) if self.is_v2() => limits_v2::apply(dir, resources),
            _ => limits_v1::apply(&self.v1, resources),
        }
    }

    /// Here too, for systemd knows no such check: it would have the container killed.
    fn refuse_usage(&self, resources: &LinuxResources) -> Result<(), Error> {
        let Some(memory) = resources.memory() else { return Ok(()) };
        match (&self.unified, self.controller("memory")) {
            (Some(dir), _) if self.is_v2() => limits_v2::refuse_usage(dir, "memory.current", memory),
            (_, Some(dir)) => limits_v2::refuse_usage(dir, "memory.usage_in_bytes", memory),
            _ => Ok(()),
        }
    }

    fn set_devices(
        &self,
        rules: &[oci_spec::runtime::LinuxDeviceCgroup],
        change: devices::Change,
    ) -> Result<(), Error> {
        let rules = devices::rules(rules)?;
        match (&self.unified, self.controller("devices")) {
            (Some(dir), _) if self.is_v2() => devices_v2::set(dir, &rules, change),
            (_, Some(dir)) => devices_v1::set(dir, &rules, change),
            // v1 without the devices controller: runc goes on too, there is nothing that could hold the rules.
            _ => Ok(()),
        }
    }

    /// For clone3's CLONE_INTO_CGROUP: the directory in the unified tree, where there is one.
    pub fn clone_into(&self) -> Result<Option<OwnedFd>, Error> {
        self.unified.as_ref().map(v2::open).transpose()
    }

    /// Where [`Self::clone_into`] is refused: cgroup v2 keeps processes out of a cgroup that has handed controllers down,
    /// as a container with a cgroup mount of its own may do. Then the cgroup that its `init` is in by now, if that is
    /// below the container's (runc does the same).
    pub fn clone_beside(&self, init: Pid) -> Result<Option<OwnedFd>, Error> {
        let Some(dir) = &self.unified else { return Ok(None) };
        let path = hierarchy::unified_of(init)?;
        match path.filter(|path| path.starts_with(&dir.path)) {
            Some(path) => v2::open(&Dir { path, ..dir.clone() }).map(Some),
            None => Ok(None),
        }
    }

    /// Gives a v2 directory to the host's `uid`, with the files that the kernel names for it (cgroups(7), "delegation"): the
    /// container may then make cgroups of its own. Nothing on v1, where that is not safe.
    pub(crate) fn own(&self, uid: u32) -> Result<(), Error> {
        match &self.unified {
            Some(dir) if self.is_v2() => v2::own(dir, uid),
            _ => Ok(()),
        }
    }

    /// The `tasks` file of every v1 hierarchy, open for writing; none on v2. A process **with a single thread** moves
    /// itself by one write(2) of "0" to each, which is 20 times faster than moving it by `cgroup.procs`. The kernel checks the
    /// permission against the opener's credentials, so they work in any user, pid, mount or cgroup namespace. A process
    /// must close them before anything that is not trusted runs. For the unified tree see [`Self::clone_into`].
    pub fn join_files(&self) -> Result<Vec<OwnedFd>, Error> {
        self.v1.iter().map(v1::tasks_file).collect()
    }

    /// Changes limits of a running container; what `resources` does not name stays. Device rules change only if there are
    /// any in it.
    pub fn update(&self, resources: &LinuxResources) -> Result<(), Error> {
        self.need("an update")?;
        if let Some(unit) = &self.unit {
            self.refuse_usage(resources)?;
            self.set_unit(unit, resources)?;
        }
        self.limit(resources)?;
        match resources.devices() {
            Some(rules) => self.set_devices(rules, devices::Change::Update),
            None => Ok(()),
        }
    }

    /// Freezes the whole subtree; returns when every process is frozen, or thaws again and fails at the deadline.
    pub fn freeze(&self, deadline: Duration) -> Result<(), Error> {
        self.need("a pause")?;
        match self.freezer() {
            Some(freezer) => freezer.freeze(Instant::now(), deadline),
            None => Err(self.no_freezer()),
        }
    }

    /// Returns when the subtree is thawed. It is no error if it was not frozen, or is gone.
    pub fn thaw(&self, deadline: Duration) -> Result<(), Error> {
        match self.freezer() {
            Some(freezer) => freezer.thaw(Instant::now(), deadline),
            None => Err(self.no_freezer()),
        }
    }

    /// Whether this cgroup itself was frozen; not if only one above it was.
    pub fn frozen(&self) -> Result<bool, Error> {
        self.freezer().map_or(Ok(false), |freezer| freezer.frozen())
    }

    /// Processes of the whole subtree; none if the cgroup is gone.
    pub fn pids(&self) -> Result<Vec<Pid>, Error> {
        self.main_dir().map_or(Ok(Vec::new()), |dir| directory::pids(&dir.path))
    }

    /// SIGKILL to every process of the subtree, frozen or not; returns when the subtree is empty, or at the deadline.
    /// Zombies count until they are reaped, except on v2 and hybrid hosts.
    pub fn kill(&self, deadline: Duration) -> Result<(), Error> {
        kill::kill(self, deadline)
    }

    /// Sends a signal to every process of the subtree. It is frozen meanwhile, so that no process escapes by forking; one
    /// that was frozen before stays so. Without a freezer the processes are signalled as they are found.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        kill::signal(self, signal)
    }

    pub fn stats(&self) -> Result<Stats, Error> {
        self.need("a statistic")?;
        match &self.unified {
            Some(dir) if self.is_v2() => Ok(Stats::V2(Box::new(stats_v2::read(&dir.path)?))),
            _ => Ok(Stats::V1(Box::new(stats_v1::read(&self.v1)?))),
        }
    }

    /// What [`Self::stats`] leaves out.
    pub fn details(&self) -> Result<Details, Error> {
        self.need("a statistic")?;
        match &self.unified {
            Some(dir) if self.is_v2() => Details::v2(&dir.path),
            _ => Details::v1(&self.v1),
        }
    }

    /// # Errors
    /// [`Error::MissingController`] without a memory controller: nothing can run out of memory there.
    pub fn oom_watch(&self) -> Result<OomWatch, Error> {
        self.need("a watch for OOM kills")?;
        match (&self.unified, self.controller("memory")) {
            (Some(dir), _) if self.is_v2() => OomWatch::v2(&dir.path),
            (_, Some(dir)) => OomWatch::v1(&dir.path),
            _ => Err(self.missing("OOM watch", "memory")),
        }
    }

    /// How many processes the kernel has ended for lack of memory. 0 where nothing counts: without a memory controller, and
    /// once the cgroup is gone.
    pub(crate) fn oom_kills(&self) -> Result<u64, Error> {
        match (&self.unified, self.controller("memory")) {
            (Some(dir), _) if self.is_v2() => oom::kills(&dir.path.join(oom::COUNTER_V2)),
            (_, Some(dir)) => oom::kills(&dir.path.join(oom::COUNTER_V1)),
            _ => Ok(None),
        }
        .map(Option::unwrap_or_default)
    }

    pub fn view(&self) -> View {
        if let (true, Some(dir)) = (self.is_v2(), &self.unified) {
            return View::V2(dir.path.clone());
        }
        let mut names = Vec::new();
        for dir in &self.v1 {
            let mount = dir.mount.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            // "cpu,cpuacct" is a directory, "cpu" and "cpuacct" are links to it.
            for name in dir.controllers.iter().map(|name| name.trim_start_matches("name=")) {
                if name != mount {
                    names.push((name.to_owned(), dir.path.clone()));
                }
            }
            names.push((mount, dir.path.clone()));
        }
        View::V1(names)
    }

    /// Removes the container's directories and what is below them, children first; retries EBUSY until the deadline. It
    /// is no error if they are gone. systemd's unit is stopped first. Parents stay, those that `create` made too
    /// ("/default"), as with runc: another container may be about to use them.
    pub fn remove(&self, deadline: Duration) -> Result<(), Error> {
        let until = Instant::now() + deadline;
        let mut first = self.unit.as_ref().map_or(Ok(()), |unit| self.stop_unit(unit, until));
        // The rest is removed even if one fails.
        for dir in self.dirs() {
            let removed = directory::remove(&dir.path, until);
            first = first.and(removed);
        }
        first
    }

    fn is_v2(&self) -> bool {
        self.v1.is_empty()
    }

    fn dirs(&self) -> impl Iterator<Item = &Dir> {
        self.v1.iter().chain(&self.unified)
    }

    /// The v1 hierarchy with this controller.
    fn controller(&self, name: &str) -> Option<&Dir> {
        self.v1.iter().find(|dir| dir.has(name))
    }

    /// The directory that tells which processes there are: the unified tree misses those that were moved into v1 alone.
    fn main_dir(&self) -> Option<&Dir> {
        self.controller("freezer").or(self.controller("devices")).or(self.v1.first()).or(self.unified.as_ref())
    }

    fn freezer(&self) -> Option<freezer::Freezer<'_>> {
        match (&self.unified, self.controller("freezer")) {
            (_, Some(dir)) => Some(freezer::Freezer::V1(&dir.path)),
            (Some(dir), None) => Some(freezer::Freezer::V2(&dir.path)),
            (None, None) => None,
        }
    }

    fn no_freezer(&self) -> Error {
        self.missing("freeze", "freezer")
    }

    fn missing(&self, limit: &'static str, controller: &str) -> Error {
        Error::MissingController {
            limit,
            value: String::new(),
            controller: controller.to_owned(),
            version: "v1",
            path: self.v1.first().map(|dir| dir.path.clone()).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests;
