//! The calls of `org.freedesktop.systemd1.Manager` that a container needs (org.freedesktop.systemd1(5)).
//!
//! Starting and stopping are jobs: the call's answer is the job's path, and `JobRemoved` tells how it ended.

use std::path::{Path, PathBuf};
use std::time::Instant;

use zvariant::{OwnedObjectPath, OwnedValue, Value};

use super::Error;
use super::address::Bus;
use super::bus::{Connection, DEADLINE};
use super::message::Target;
use crate::Pid;

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

/// Name, description, load state, active state, sub-state, whom it follows, path, job, its kind and path.
type Listed = (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

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

    /// The cgroup of this systemd, from the hierarchy's root.
    pub(super) fn control_group(&mut self) -> Result<PathBuf, Error> {
        let property = (MANAGER.interface, "ControlGroup");
        let (path,): (OwnedValue,) = self.connection.call(PROPERTIES, "Get", "", &property)?;
        let path = String::try_from(path).map_err(|err| Error::Message { operation: "Get", err: Box::new(err) })?;
        Ok(Path::new("/").join(path))
    }

    /// Moves a process of the caller's user into a delegated unit of that user's (systemd 238).
    pub(super) fn attach(&mut self, unit: &str, pid: Pid) -> Result<(), Error> {
        let pids: &[u32] = &[pid.as_raw().cast_unsigned()];
        self.connection.call(MANAGER, "AttachProcessesToUnit", unit, &(unit, "", pids))
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

    /// Stops a unit if its description ends with this token. It is no error if there is none, or another.
    pub(super) fn stop_own(&mut self, unit: &str, token: &str) -> Result<(), Error> {
        let end = format!("({token})");
        let (listed,): (Vec<Listed>,) = self.connection.call(MANAGER, "ListUnitsByNames", unit, &(&[unit][..],))?;
        match listed.iter().any(|(name, described, ..)| name == unit && described.ends_with(&end)) {
            true => self.stop(unit),
            false => Ok(()),
        }
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
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::thread::{self, JoinHandle};

    use super::super::message::peer::{answer, read_call, refusal, signal};
    use super::*;

    const UNIT: &str = "x.scope";

    type Say = fn(u32) -> Vec<u8>;

    /// A manager, and a systemd that expects these calls and says that to each.
    fn manager(script: Vec<(&'static str, Vec<Say>)>) -> (Manager, JoinHandle<()>) {
        let (stream, mut theirs) = UnixStream::pair().unwrap();
        let peer = thread::spawn(move || {
            for (expected, says) in script {
                let (serial, method) = read_call(&theirs);
                assert_eq!(method, expected);
                for say in says {
                    theirs.write_all(&say(serial)).unwrap();
                }
            }
        });
        (Manager { connection: Connection::of_stream(stream) }, peer)
    }

    fn path(path: &str) -> OwnedObjectPath {
        path.try_into().unwrap()
    }

    fn job(serial: u32) -> Vec<u8> {
        answer(serial, &(path("/job/2"),))
    }

    fn nothing(serial: u32) -> Vec<u8> {
        answer(serial, &())
    }

    fn exists(serial: u32) -> Vec<u8> {
        refusal(serial, UNIT_EXISTS, "Unit x.scope was already loaded")
    }

    fn absent(serial: u32) -> Vec<u8> {
        refusal(serial, NO_SUCH_UNIT, "Unit x.scope not loaded.")
    }

    fn removed(number: u32, result: &str) -> Vec<u8> {
        signal("JobRemoved", &(number, path(&format!("/job/{number}")), UNIT, result))
    }

    fn done(_: u32) -> Vec<u8> {
        removed(2, "done")
    }

    fn another_is_done(_: u32) -> Vec<u8> {
        removed(1, "failed")
    }

    fn failed(_: u32) -> Vec<u8> {
        removed(2, "failed")
    }

    #[test]
    fn a_start_waits_for_its_own_job() {
        // Its end may be told before the call's answer comes, and others' in between.
        for says in [vec![job as Say, another_is_done, done], vec![done, another_is_done, job]] {
            let (mut manager, peer) = manager(vec![("StartTransientUnit", says)]);
            manager.start(UNIT, &[("Delegate".to_owned(), Value::Bool(true))]).unwrap();
            peer.join().unwrap();
        }
        let (mut manager, peer) = manager(vec![("StartTransientUnit", vec![job, failed])]);
        let err = manager.start(UNIT, &[]).unwrap_err();
        assert_eq!(err.to_string(), "systemd did not start unit x.scope: its job ended with \"failed\"");
        peer.join().unwrap();
    }

    #[test]
    fn a_unit_that_has_failed_makes_room_and_an_active_one_does_not() {
        let start = "StartTransientUnit";
        let script = vec![(start, vec![exists as Say]), ("ResetFailedUnit", vec![nothing]), (start, vec![job, done])];
        let (mut systemd, peer) = manager(script);
        systemd.start(UNIT, &[]).unwrap();
        peer.join().unwrap();
        let script = vec![(start, vec![exists as Say]), ("ResetFailedUnit", vec![absent]), (start, vec![exists])];
        let (mut systemd, peer) = manager(script);
        let err = systemd.start(UNIT, &[]).unwrap_err();
        assert!(err.to_string().contains("Unit x.scope was already loaded"), "{err}");
        assert_eq!(err.kind(), crate::ErrorKind::FailedPrecondition);
        peer.join().unwrap();
    }

    #[test]
    fn a_stop_forgets_failures_and_needs_no_unit() {
        let script = vec![("StopUnit", vec![job as Say, done]), ("ResetFailedUnit", vec![absent])];
        let (mut systemd, peer) = manager(script);
        systemd.stop(UNIT).unwrap();
        peer.join().unwrap();
        let (mut systemd, peer) = manager(vec![("StopUnit", vec![absent as Say])]);
        systemd.stop(UNIT).unwrap();
        peer.join().unwrap();
    }

    fn listed_as(serial: u32, description: &str) -> Vec<u8> {
        let text = str::to_owned;
        let unit: Listed = (
            text(UNIT),
            text(description),
            text("loaded"),
            text("active"),
            text("running"),
            String::new(),
            path("/unit/x"),
            0,
            String::new(),
            path("/"),
        );
        answer(serial, &(vec![unit],))
    }

    #[test]
    fn a_unit_is_stopped_if_it_is_ours() {
        let list = "ListUnitsByNames";
        let ours: Say = |serial| listed_as(serial, "x (ours)");
        let script = vec![(list, vec![ours]), ("StopUnit", vec![job as Say, done]), ("ResetFailedUnit", vec![nothing])];
        let (mut systemd, peer) = manager(script);
        systemd.stop_own(UNIT, "ours").unwrap();
        peer.join().unwrap();
        // No further call: the peer would have ended.
        let (mut systemd, peer) = manager(vec![(list, vec![|serial| listed_as(serial, "x ours (theirs)")])]);
        systemd.stop_own(UNIT, "ours").unwrap();
        peer.join().unwrap();
    }

    #[test]
    fn an_answer_of_another_kind_is_an_error() {
        let (mut systemd, peer) = manager(vec![("StopUnit", vec![nothing as Say])]);
        assert!(matches!(systemd.stop(UNIT), Err(Error::Message { .. })));
        peer.join().unwrap();
    }

    #[test]
    fn a_version_is_the_number_in_front() {
        for (text, version) in
            [("257.8-1~deb13u2", 257), ("v245.4-1.fc32", 245), ("239 (239-82.el8)", 239), ("250~rc1", 250), ("", 0)]
        {
            assert_eq!(parse_version(text), version, "{text}");
        }
    }
}
