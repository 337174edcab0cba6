//! A cgroup that systemd makes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use oci_spec::runtime::{LinuxResources, Spec};

use super::directory::{self, Made};
use super::hierarchy::{self, Hierarchies};
use super::systemd::{Bus, Current, Error as SystemdError, Placeholder, Settings, Unit};
use super::{Cgroup, Error, devices, file, v1, v2};
use crate::{ContainerId, Pid};

/// Who makes a container's cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CgroupDriver {
    /// We do, in the file system.
    #[default]
    Cgroupfs,
    /// systemd does, as the cgroup of a unit; `cgroupsPath` has the form `slice:prefix:name`.
    Systemd(Bus),
}

/// How long an update may keep a v1 container frozen.
const FREEZE: Duration = Duration::from_secs(10);

impl Cgroup {
    /// As [`Cgroup::new`], by either driver.
    pub(crate) fn of_spec(id: &ContainerId, spec: &Spec, driver: CgroupDriver) -> Result<Self, Error> {
        let path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
        let CgroupDriver::Systemd(bus) = driver else { return Self::new(id, path) };
        let none = HashMap::new();
        let annotations = spec.annotations().as_ref().unwrap_or(&none);
        let (unit, path) = Unit::new(id, path, annotations, bus)?;
        let hierarchies = Hierarchies::of_self()?;
        if bus == Bus::User && !hierarchies.is_v2() {
            return Err(SystemdError::UserOnV1.into());
        }
        let path = unit.root()?.join(path.strip_prefix("/").unwrap_or(&path));
        let (v1, unified) = hierarchies.resolve(id, Some(&path));
        Ok(Self { v1, unified, unit: Some(unit) })
    }

    pub(crate) fn unit(&self) -> Option<&Unit> {
        self.unit.as_ref()
    }

    /// Starts the unit with `first` in it. There is none when it fails.
    pub(crate) fn start_unit(
        &self,
        unit: &Unit,
        first: &Placeholder,
        resources: Option<&LinuxResources>,
        annotations: Option<&HashMap<String, String>>,
    ) -> Result<(), Error> {
        let rules = resources.and_then(|resources| resources.devices().as_deref()).unwrap_or_default();
        let rules = unit.has_devices().then(|| devices::rules(rules)).transpose()?;
        let settings = Settings { v2: self.is_v2(), resources, rules, current: Current::default() };
        unit.start(first.pid(), &settings, annotations.unwrap_or(&HashMap::new()))?;
        match self.is_placed(unit, first) {
            Ok(true) => Ok(()),
            other => {
                if let Err(err) = unit.stop() {
                    tracing::warn!(%err, "stop a unit that is elsewhere");
                }
                other?;
                Err(unit.elsewhere(self.main_dir().map_or(Path::new(""), |dir| &dir.path)).into())
            }
        }
    }

    /// Whether systemd sees the hierarchies as we do, and has put the unit there.
    fn is_placed(&self, unit: &Unit, first: &Placeholder) -> Result<bool, Error> {
        if unit.is_slice() {
            return Ok(self.dirs().any(|dir| dir.path.exists()));
        }
        let found = hierarchy::directories_of(first.pid())?;
        Ok(self.dirs().any(|dir| found.contains(&dir.path)))
    }

    /// What systemd has no hand in: the other hierarchies of v1, and all that it has no property for. The unit is the
    /// caller's to stop if it fails.
    pub(crate) fn fill_unit(&self, first: &mut Placeholder, resources: Option<&LinuxResources>) -> Result<(), Error> {
        // What it makes goes with the unit.
        let mut made = Made::default();
        for dir in &self.v1 {
            v1::make(dir, &mut made)?;
        }
        if let Some(dir) = &self.unified {
            v2::make(dir, self.is_v2(), &mut made)?;
        }
        for dir in self.dirs() {
            let processes = directory::pids(&dir.path)?.into_iter().filter(|pid| *pid != first.pid()).count();
            if processes > 0 {
                return Err(Error::InUse { path: dir.path.clone(), processes });
            }
        }
        match self.freezer() {
            Some(freezer) if freezer.holds()? => return Err(Error::Frozen { path: freezer.path().to_owned() }),
            _ => {}
        }
        self.apply(resources)?;
        // The placeholder is a task too, and the limit is not to be one less for it.
        let Some(path) = self.tasks_max() else { return Ok(()) };
        first.tasks_max = read_tasks_max(&path)?;
        first.tasks_max.map_or(Ok(()), |limit| file::write(&path, &limit.saturating_add(1).to_string()))
    }

    /// The container's own process is in the cgroup now.
    pub(crate) fn give_up_place(&self, first: Placeholder) -> Result<(), Error> {
        let limit = first.tasks_max;
        drop(first);
        let (Some(limit), Some(path)) = (limit, self.tasks_max()) else { return Ok(()) };
        // Whoever has changed it meanwhile, an update or systemd, meant it without the placeholder.
        match read_tasks_max(&path)? == limit.checked_add(1) {
            true => file::write(&path, &limit.to_string()),
            false => Ok(()),
        }
    }

    fn tasks_max(&self) -> Option<PathBuf> {
        let dir = self.controller("pids").or(self.unified.as_ref().filter(|_| self.is_v2()));
        dir.map(|dir| dir.path.join("pids.max"))
    }

    /// For a process that clone3(2) may not put into the cgroup: whether systemd does so, as its unit's.
    pub(crate) fn attaches(&self) -> bool {
        self.unit.as_ref().is_some_and(Unit::attaches)
    }

    /// # Errors
    /// systemd refuses a process of another user's.
    pub(crate) fn attach(&self, pid: Pid) -> Result<(), Error> {
        match &self.unit {
            Some(unit) => Ok(unit.attach(pid)?),
            None => Err(self.not_movable()),
        }
    }

    /// Before the files: systemd writes its own values into them when a property changes.
    pub(super) fn set_unit(&self, unit: &Unit, resources: &LinuxResources) -> Result<(), Error> {
        let rules = resources.devices().as_deref().filter(|_| unit.has_devices());
        let rules = rules.map(devices::rules).transpose()?;
        let settings = Settings { v2: self.is_v2(), resources: Some(resources), rules, current: self.current()? };
        if self.is_v2() || self.frozen()? {
            return unit.set(&settings);
        }
        // On v1 systemd denies all devices and then allows those of its list, whatever has changed: nothing may run
        // meanwhile. Without a freezer there is no other way.
        let Some(freezer) = self.freezer() else { return unit.set(&settings) };
        freezer.freeze(Instant::now(), FREEZE)?;
        let set = unit.set(&settings);
        set.and(freezer.thaw(Instant::now(), FREEZE))
    }

    fn current(&self) -> Result<Current, Error> {
        match (&self.unified, self.controller("cpu")) {
            (Some(dir), _) if self.is_v2() => Current::v2(&dir.path),
            (_, Some(dir)) => Current::v1(&dir.path),
            _ => Ok(Current::default()),
        }
    }

    /// systemd would end what is still in it, which may be another container's by now: so it is waited for as for a
    /// directory that is to be removed.
    pub(super) fn stop_unit(&self, unit: &Unit, until: Instant) -> Result<(), Error> {
        let mut pause = Duration::from_micros(500);
        loop {
            let processes = self.pids()?.len();
            if processes == 0 {
                return Ok(unit.stop()?);
            }
            let now = Instant::now();
            if now >= until {
                let path = self.main_dir().map(|dir| dir.path.clone()).unwrap_or_default();
                return Err(Error::Remove { path, processes, err: Errno::EBUSY });
            }
            thread::sleep(pause.min(until - now));
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }
}

/// "max" is none.
fn read_tasks_max(path: &Path) -> Result<Option<i64>, Error> {
    Ok(file::read(path)?.and_then(|text| text.trim().parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::super::Dir;
    use super::*;

    #[test]
    fn an_update_knows_what_is_set_in_either_version() {
        let place = tempfile::tempdir().unwrap();
        for (name, text) in [("cpu.max", "1 2"), ("cpu.cfs_quota_us", "3"), ("cpu.cfs_period_us", "4")] {
            std::fs::write(place.path().join(name), text).unwrap();
        }
        let dir = |controller: &str| Dir {
            controllers: vec![controller.to_owned()],
            mount: "/".into(),
            path: place.path().into(),
        };
        let current = |v1: Vec<Dir>, unified| Cgroup { v1, unified, unit: None }.current().unwrap();
        let path = place.path();
        assert_eq!(current(Vec::new(), Some(dir("cpu"))), Current::v2(path).unwrap());
        // Hybrid: the unified tree has no limits.
        assert_eq!(current(vec![dir("pids"), dir("cpu")], Some(dir("hugetlb"))), Current::v1(path).unwrap());
        assert_eq!(current(vec![dir("pids")], None), Current::default());
        assert_ne!(Current::v1(path).unwrap(), Current::v2(path).unwrap());
    }
}
