//! The calls of `org.freedesktop.systemd1.Manager` that a container needs (org.freedesktop.systemd1(5)).
//!
//! Starting and stopping are jobs: the call's answer is the job's path, and `JobRemoved` tells how it ended.

use std::time::Instant;

use zvariant::{OwnedObjectPath, OwnedValue, Value};

use super::Error;
use super::bus::{Bus, Connection, DEADLINE};
use super::message::Target;

const MANAGER: Target = Target {
    destination: "org.freedesktop.systemd1",
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
};

const PROPERTIES: Target = Target { interface: "org.freedesktop.DBus.Properties", ..MANAGER };

/// A job of another's that contradicts ours goes.
const MODE: &str = "replace";

pub(super) const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// A property of a unit and its value.
pub(super) type Property = (String, Value<'static>);

#[derive(Debug)]
pub(super) struct Manager {
    connection: Connection,
}

impl Manager {
    pub(super) fn connect(bus: Bus) -> Result<Self, Error> {
        // sd_booted(3)
        if !std::path::Path::new("/run/systemd/system").is_dir() {
            return Err(Error::NotRunning);
        }
        let mut connection = Connection::new(bus)?;
        // The pid that it gets from us is to be of the process that we mean.
        if !connection.shares_pids()? {
            return Err(Error::PidNamespace);
        }
        if connection.by_bus {
            // Else it sends no signals there.
            let () = connection.call(MANAGER, "Subscribe", "", &())?;
        }
        Ok(Self { connection })
    }

    /// systemd's version: 257 of "257.8-1~deb13u2", "v257" …; 0 if it tells none.
    pub(super) fn version(&mut self) -> Result<u32, Error> {
        let property = (MANAGER.interface, "Version");
        let (version,): (OwnedValue,) = self.connection.call(PROPERTIES, "Get", "", &property)?;
        Ok(String::try_from(version).map(|text| parse_version(&text)).unwrap_or_default())
    }

    /// Starts a new unit and waits until it is active.
    ///
    /// # Errors
    /// [`Error::Call`] with [`UNIT_EXISTS`], and then nothing of that unit is changed.
    pub(super) fn start(&mut self, unit: &str, properties: &[Property]) -> Result<(), Error> {
        let aux: &[(&str, &[Property])] = &[];
        let arguments = (unit, MODE, properties, aux);
        let mut started = self.connection.call(MANAGER, "StartTransientUnit", unit, &arguments);
        if matches!(&started, Err(Error::Call { name, .. }) if name == UNIT_EXISTS) {
            // What is left of one that failed goes when its failure is forgotten. One that is active stays.
            self.reset_failed(unit)?;
            started = self.connection.call(MANAGER, "StartTransientUnit", unit, &arguments);
        }
        let (job,): (OwnedObjectPath,) = started?;
        self.wait("start", unit, &job)
    }

    /// Stops a unit, waits until it is, and forgets that it has failed. It is no error if there is none.
    pub(super) fn stop(&mut self, unit: &str) -> Result<(), Error> {
        match self.connection.call(MANAGER, "StopUnit", unit, &(unit, MODE)) {
            Ok((job,)) => self.wait("stop", unit, &job)?,
            Err(Error::Call { name, .. }) if name == NO_SUCH_UNIT => return Ok(()),
            Err(err) => return Err(err),
        }
        self.reset_failed(unit)
    }

    /// It is no error if there is no such unit, which is so for one that has not failed.
    fn reset_failed(&mut self, unit: &str) -> Result<(), Error> {
        match self.connection.call(MANAGER, "ResetFailedUnit", unit, &(unit,)) {
            Err(Error::Call { name, .. }) if name == NO_SUCH_UNIT => Ok(()),
            other => other,
        }
    }

    /// Changes properties of a unit until it or the host is stopped.
    pub(super) fn set(&mut self, unit: &str, properties: &[Property]) -> Result<(), Error> {
        const RUNTIME: bool = true;
        self.connection.call(MANAGER, "SetUnitProperties", unit, &(unit, RUNTIME, properties))
    }

    fn wait(&mut self, operation: &'static str, unit: &str, job: &OwnedObjectPath) -> Result<(), Error> {
        let until = Instant::now() + DEADLINE;
        loop {
            let signal = self.connection.signal("JobRemoved", until).map_err(|err| match err {
                Error::Timeout { deadline, .. } => Error::JobTimeout { operation, unit: unit.to_owned(), deadline },
                err => err,
            })?;
            let (_, removed, _, result): (u32, OwnedObjectPath, String, String) = signal.arguments("JobRemoved")?;
            if removed != *job {
                continue;
            }
            return match result.as_str() {
                "done" => Ok(()),
                _ => Err(Error::Job { operation, unit: unit.to_owned(), result }),
            };
        }
    }
}

fn parse_version(text: &str) -> u32 {
    let digits = text.trim_start_matches('v');
    let end = digits.find(|character: char| !character.is_ascii_digit()).unwrap_or(digits.len());
    digits.get(..end).and_then(|digits| digits.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_the_number_in_front() {
        for (text, version) in
            [("257.8-1~deb13u2", 257), ("v245.4-1.fc32", 245), ("239 (239-82.el8)", 239), ("250~rc1", 250), ("", 0)]
        {
            assert_eq!(parse_version(text), version, "{text}");
        }
    }
}
