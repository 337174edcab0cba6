//! The systemd cgroup driver: the container's cgroup is a unit of systemd's, a transient scope or slice.
//!
//! ```text
//!   us                                            systemd
//!   state.json
//!   a process that holds the place
//!   StartTransientUnit(its pid,       ----------->  makes the cgroup, writes limits and device rules, moves the process in
//!     limits, device rules)
//!                                     <-----------  JobRemoved "done"
//!   is it where we look for it?
//!   v1's other hierarchies, all files
//!   clone3 of the init into the cgroup
//!   the place is given up
//!   …
//!   the cgroup is empty               ----------->  stops a scope by itself
//!   StopUnit, ResetFailedUnit         ----------->  the unit is gone
//! ```
//! A user's own systemd does the same in its part of cgroup v2. There a process that is elsewhere, as in the session of a
//! login, may not be cloned into a unit: it is made where its maker is, and systemd moves it in before it has its orders.
//!
//! All else works on the cgroup's directory, as with the other driver: systemd leaves what is below a delegated unit alone.
//! Limits are written twice, as properties and then into the files: systemd rounds some values and has no word for others,
//! and without the properties it would write its own over ours ([`limits`]).
//!
//! runc hands over its init, which has to wait outside of its cgroup until then; here nothing of a container is ever in
//! another cgroup, and nothing has to be moved but a process that does nothing.
//!
//! | module | what |
//! | --- | --- |
//! | `name` | `cgroupsPath` to unit and slice |
//! | `address` | which systemd, and where it listens |
//! | `bus`, `message` | a connection, and what goes over it |
//! | `manager` | systemd's methods, with their jobs |
//! | `limits`, `devices`, `annotations` with `gvariant` | properties |
//! | `placeholder` | the first process |

mod address;
mod annotations;
mod bus;
mod devices;
mod error;
#[cfg(feature = "fuzzing")]
pub(super) mod fuzzing;
mod gvariant;
mod limits;
mod manager;
mod message;
mod name;
mod placeholder;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};
use zvariant::Value;

use super::devices::Rule;
use crate::{ContainerId, Pid};
use manager::{Manager, Property};
use name::Place;

pub use address::Bus;
pub(crate) use annotations::PREFIX as ANNOTATION_PREFIX;
pub use error::Error;
pub(super) use limits::Current;
pub(crate) use placeholder::Placeholder;

/// A new random number with every reading (random(4)).
const RANDOM: &str = "/proc/sys/kernel/random/uuid";

/// A container's unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unit {
    name: String,
    slice: String,
    bus: Bus,
    /// In its description: tells it from another's unit of the same name. Empty for one of an earlier rtc.
    #[serde(default)]
    token: String,
}

/// What a unit is to be.
#[derive(Debug)]
pub(super) struct Settings<'a> {
    /// Whether the host has cgroup v2 alone.
    pub(super) v2: bool,
    pub(super) resources: Option<&'a LinuxResources>,
    /// `None` leaves them as they are.
    pub(super) rules: Option<Vec<Rule>>,
    /// For what an update leaves out.
    pub(super) current: Current,
}

impl Unit {
    /// With the path of its cgroup from the hierarchy's root. Changes nothing, and speaks to nobody.
    pub(super) fn new(
        id: &ContainerId,
        cgroups_path: Option<&Path>,
        annotations: &HashMap<String, String>,
        bus: Bus,
    ) -> Result<(Self, PathBuf), Error> {
        let cgroups_path = cgroups_path.map(Path::to_string_lossy);
        let place = Place::new(id, cgroups_path.as_deref(), bus)?;
        let path = place.path()?;
        // They are made use of later, and found wrong now.
        annotations::properties(annotations)?;
        let token = std::fs::read_to_string(RANDOM).map_err(|err| Error::Token { path: RANDOM.into(), err })?;
        let token = token.trim_end().to_owned();
        Ok((Self { name: place.unit, slice: place.slice, bus, token }, path))
    }

    /// Where the slices of its systemd are, from the hierarchy's root: a user's has but a part of it.
    pub(super) fn root(&self) -> Result<PathBuf, Error> {
        match self.bus {
            Bus::System => Ok("/".into()),
            Bus::User => Manager::connect(self.bus)?.control_group(),
        }
    }

    /// Whether systemd can move a process into it that this one may not move: one that is in another part of the tree than
    /// the user's systemd has.
    pub(super) fn attaches(&self) -> bool {
        self.bus == Bus::User && !self.is_slice()
    }

    pub(super) fn attach(&self, pid: Pid) -> Result<(), Error> {
        Manager::connect(self.bus)?.attach(&self.name, pid)
    }

    /// Nobody but root gives a cgroup a device program (CAP_BPF), so a user's systemd has no device rules either.
    pub(super) fn has_devices(&self) -> bool {
        self.bus == Bus::System
    }

    /// Starts it around a process; the unit is active, or there is none.
    pub(super) fn start(
        &self,
        first: Pid,
        settings: &Settings<'_>,
        annotations: &HashMap<String, String>,
    ) -> Result<(), super::Error> {
        let mut manager = Manager::connect(self.bus)?;
        let version = manager.version()?;
        let mut properties = self.own_properties(first, settings.v2);
        properties.extend(self.with_token(annotations::properties(annotations)?));
        properties.extend(settings.properties(version)?);
        if !self.is_slice() {
            properties.extend(limits::oom_policy(settings.resources, version));
        }
        let err = match manager.start(&self.name, &properties) {
            Ok(()) => return Ok(()),
            Err(err) => err,
        };
        let stopped = match err {
            Error::Job { .. } | Error::JobTimeout { .. } => manager.stop(&self.name),
            // Over the same connection, on which systemd hears of the start first.
            Error::Timeout { .. } => manager.stop_own(&self.name, &self.token),
            Error::Socket { .. } | Error::Message { .. } | Error::TooLong { .. } => self.stop_own(),
            // Refused.
            _ => Ok(()),
        };
        Err(match stopped {
            Ok(()) => err.into(),
            Err(stop) => Error::NotStopped { unit: self.name.clone(), err: Box::new(err), stop: Box::new(stop) }.into(),
        })
    }

    fn described(&self, description: &str) -> Value<'static> {
        Value::from(format!("{description} ({})", self.token))
    }

    /// Those of annotations: another description is also one by which we know it.
    fn with_token(&self, properties: Vec<Property>) -> impl Iterator<Item = Property> {
        properties.into_iter().map(|(name, value)| match &value {
            Value::Str(text) if name == "Description" => (name, self.described(text)),
            _ => (name, value),
        })
    }

    /// Stops it if it is this one, started by us, and not another's of that name. It is no error if there is none.
    pub(super) fn stop_own(&self) -> Result<(), Error> {
        Manager::connect(self.bus)?.stop_own(&self.name, &self.token)
    }

    fn own_properties(&self, first: Pid, v2: bool) -> Vec<Property> {
        let own = |name: &str, value: Value<'static>| (name.to_owned(), value);
        let yes = || Value::Bool(true);
        let mut properties = vec![own("Description", self.described(&format!("rtc container {}", self.name)))];
        if self.is_slice() {
            // Its name says where it is; the process comes in by our own hand, for a slice starts without one.
            properties.push(own("Wants", Value::from(vec![self.slice.clone()])));
        } else {
            properties.push(own("Slice", Value::from(self.slice.clone())));
            properties.push(own("Delegate", yes()));
            properties.push(own("PIDs", Value::from(vec![first.as_raw().cast_unsigned()])));
        }
        // The controllers of all of them are there then, as with the other driver.
        let io = if v2 { "IOAccounting" } else { "BlockIOAccounting" };
        properties.extend(["MemoryAccounting", "CPUAccounting", io, "TasksAccounting"].map(|name| own(name, yes())));
        // No order at shutdown that the engine has not asked for.
        properties.push(own("DefaultDependencies", Value::Bool(false)));
        properties
    }

    /// Changes limits and device rules; what `settings` does not name stays.
    pub(super) fn set(&self, settings: &Settings<'_>) -> Result<(), super::Error> {
        let mut manager = Manager::connect(self.bus)?;
        let properties = settings.properties(manager.version()?)?;
        if properties.is_empty() { Ok(()) } else { Ok(manager.set(&self.name, &properties)?) }
    }

    /// Ends every process that is in it. It is no error if it is gone.
    pub(super) fn stop(&self) -> Result<(), Error> {
        Manager::connect(self.bus)?.stop(&self.name)
    }

    pub(super) fn elsewhere(&self, path: &Path) -> Error {
        Error::Elsewhere { unit: self.name.clone(), path: path.to_owned() }
    }

    pub(super) fn is_slice(&self) -> bool {
        self.name.ends_with(".slice")
    }
}

impl Settings<'_> {
    fn properties(&self, version: u32) -> Result<Vec<Property>, super::Error> {
        let mut properties = match self.resources {
            Some(resources) if self.v2 => limits::Limits::v2(resources, version, self.current)?,
            Some(resources) => limits::Limits::v1(resources, version, self.current)?,
            None => Vec::new(),
        };
        if let Some(rules) = &self.rules {
            properties.extend(devices::properties(rules, self.v2, version)?);
        }
        Ok(properties)
    }
}
