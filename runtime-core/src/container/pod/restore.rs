//! The restore of a pod.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, Spec};

use super::error::PodError;
use super::manifest::{Joined, PodManifest};
use super::meeting::{Meeting, Stage};
use super::memory;
use crate::container::{Container, RestoreHolder, RestoreOptions, Started};
use crate::{Error, Pid, Result, Signal};

/// How long the first member waits for the others to be asked for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A pod that is being restored: each of its members is, by [`PodRestore::restore`] in a thread of its own.
#[derive(Debug)]
pub struct PodRestore {
    dir: PathBuf,
    manifest: PodManifest,
    meeting: Meeting,
    /// What each member has as /dev/shm now.
    memory: Mutex<HashMap<String, Option<PathBuf>>>,
}

impl PodRestore {
    /// The pod's checkpoint that a container's is part of, and what the container is called there. `None` for one that is not.
    ///
    /// # Errors
    /// Its `pod.json` cannot be read.
    pub fn around(image_dir: &Path) -> Result<Option<(PathBuf, String)>, PodError> {
        PodManifest::around(image_dir)
    }

    /// # Errors
    /// `pod.json` is missing or cannot be read.
    pub fn new(dir: &Path) -> Result<Self, PodError> {
        let missing = || PodError::file("find pod.json in", dir)(std::io::ErrorKind::NotFound.into());
        let manifest = PodManifest::read(dir)?.ok_or_else(missing)?;
        let meeting = Meeting::new(manifest.members.len());
        Ok(Self { dir: dir.to_owned(), manifest, meeting, memory: Mutex::default() })
    }

    /// All members run, or none will: nobody can be restored by this any more.
    pub fn is_over(&self) -> bool {
        self.meeting.failed().is_some() || self.meeting.is_open(Stage::Ended)
    }

    /// Restores a member, when all others are being restored as well; namespaces that it had joined are those that the others
    /// have now. Returns when all of them run.
    ///
    /// # Errors
    /// As [`Container::restore`], for this member or another, or the others were not asked for within half a minute. Nothing
    /// of any member is left then.
    pub fn restore(self: &Arc<Self>, member: &str, mut options: RestoreOptions) -> Result<(Container, Started)> {
        let id = options.create.id.clone();
        let failed = |err| Error::Pod { id: id.clone(), err };
        let seat = Arc::new(Seat { pod: self.clone(), member: member.to_owned() });
        self.begin(member, memory::source(&options.create.spec)).map_err(failed)?;
        for joined in self.joined(member).map_err(failed)? {
            let pid = self.meeting.pid_of(&joined.of).map_err(failed)?;
            join(&mut options.create.spec, joined, pid);
        }
        options.holder = Some(seat.clone());
        let (container, started) = Container::restore(options)?;
        match self.meeting.reach(member, Stage::Ended, || Ok(())) {
            Ok(()) => Ok((container, started)),
            Err(err) => Err(match undo(&container, &started) {
                Ok(()) => failed(err),
                Err(roll_back) => Error::RollBack { err: Box::new(failed(err)), roll_back: Box::new(roll_back) },
            }),
        }
    }

    fn begin(&self, member: &str, shm: Option<PathBuf>) -> Result<(), PodError> {
        let twice = self.memory().insert(member.to_owned(), shm).is_some();
        if twice {
            return Err(PodError::Twice { member: member.to_owned() });
        }
        let put_back = || memory::put_back(&self.manifest, &self.dir, &self.memory());
        self.meeting.reach_within(member, Stage::Begun, PATIENCE, put_back)
    }

    fn joined(&self, member: &str) -> Result<&[Joined], PodError> {
        let found = self.manifest.members.iter().find(|other| other.id == member);
        let missing = || PodError::NoMember { path: self.dir.clone(), member: member.to_owned() };
        found.map(|member| member.joined.as_slice()).ok_or_else(missing)
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, HashMap<String, Option<PathBuf>>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A container that runs, of a pod that does not.
fn undo(container: &Container, started: &Started) -> Result<()> {
    let ended = started.child.signal(Signal::KILL).and_then(|()| started.child.wait());
    ended.map_err(|err| Error::System { id: container.id().clone(), operation: "end the init", err })?;
    container.delete(true)
}

/// The process that the spec's path names may be gone.
fn join(spec: &mut Spec, joined: &Joined, pid: Pid) {
    let typ = match joined.kind.as_str() {
        "net" => LinuxNamespaceType::Network,
        "ipc" => LinuxNamespaceType::Ipc,
        "uts" => LinuxNamespaceType::Uts,
        // Of a newer rtc: its version would have been another.
        _ => return,
    };
    let path = PathBuf::from(format!("/proc/{pid}/ns/{}", joined.kind));
    let mut linux = spec.linux().clone().unwrap_or_default();
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    namespaces.retain(|namespace| namespace.typ() != typ);
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(typ).set_path(Some(path));
    namespaces.push(namespace);
    linux.set_namespaces(Some(namespaces));
    spec.set_linux(Some(linux));
}

/// One member's place among the others. Whoever leaves it before all are restored has failed.
#[derive(Debug)]
struct Seat {
    pod: Arc<PodRestore>,
    member: String,
}

impl RestoreHolder for Seat {
    fn namespaces_made(&self, pid: Pid) {
        self.pod.meeting.announce(&self.member, pid);
    }

    fn restored(&self) -> Result<(), Box<dyn StdError + Send + Sync>> {
        Ok(self.pod.meeting.reach(&self.member, Stage::Restored, || Ok(()))?)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.pod.meeting.fail(&self.member, Stage::Ended);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_joined_namespace_is_that_of_the_new_process() {
        let namespaces = r#"[{"type":"ipc","path":"/proc/1/ns/ipc"},{"type":"mount"}]"#;
        let json = format!(r#"{{"ociVersion":"1.2.0","linux":{{"namespaces":{namespaces}}}}}"#);
        let mut spec = serde_json::from_str(&json).unwrap();
        for kind in ["ipc", "net"] {
            join(&mut spec, &Joined { kind: kind.into(), of: "pause".into() }, Pid::new(77).unwrap());
        }
        let namespaces = spec.linux().as_ref().unwrap().namespaces().clone().unwrap();
        let found: Vec<_> = namespaces.iter().map(|one| (one.typ(), one.path().clone())).collect();
        assert_eq!(
            found,
            [
                (LinuxNamespaceType::Mount, None),
                (LinuxNamespaceType::Ipc, Some("/proc/77/ns/ipc".into())),
                (LinuxNamespaceType::Network, Some("/proc/77/ns/net".into())),
            ]
        );
    }
}
