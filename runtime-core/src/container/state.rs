//! What a container leaves on disk for a later process: `ROOT/ID/state.json`.

use std::collections::HashMap;
use std::io::ErrorKind as IoKind;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{ExecCPUAffinity, Hook, LinuxCapabilities, PosixRlimit, Spec};
use rustix::fs::{AtFlags, FileType, FlockOperation, StatxFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::Stdio;
use crate::cgroup::{Cgroup, Pending};
use crate::hooks::HookState;
use crate::init::channel::Channel;
use crate::init::schedule::Schedule;
use crate::resctrl::Class;
use crate::seccomp::Filter;
use crate::{ContainerId, Error, Pid, Result, limited};

const FILE: &str = "state.json";
const START_SOCKET: &str = "start.sock";
/// Below the root, where no container's id can be.
const SECCOMP_CACHE: &str = "@seccomp";

/// A process that is not mixed up with a later one of the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct InitId {
    pub(super) pid: Pid,
    /// Clock ticks since boot (proc_pid_stat(5), field 22).
    pub(super) start_time: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct State {
    pub(super) oci_version: String,
    pub(super) id: ContainerId,
    pub(super) bundle: PathBuf,
    /// The spec's file, if it is not the bundle's config.json.
    #[serde(default)]
    pub(super) config: Option<PathBuf>,
    /// Absolute; on the host.
    #[serde(default)]
    pub(super) rootfs: PathBuf,
    #[serde(default)]
    pub(super) annotations: HashMap<String, String>,
    /// Nanoseconds since 1970.
    pub(super) created: u64,
    /// `None` while the container is being made.
    pub(super) init: Option<InitId>,
    /// None before it has been made: what is at its path then is somebody else's.
    pub(super) cgroup: Cgroup,
    /// The cgroup that is to be made, until it has been.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pending_cgroup: Option<Pending>,
    #[serde(default)]
    pub(super) class: Option<Class>,
    /// Processes outlive the init, which ends those of a pid namespace of its own.
    pub(super) shared_pid_namespace: bool,
    pub(super) poststart: Vec<Hook>,
    pub(super) poststop: Vec<Hook>,
    /// What a further process takes from the container where its own spec is silent.
    pub(super) seccomp: Option<Filter>,
    pub(super) capabilities: Option<LinuxCapabilities>,
    pub(super) rlimits: Option<Vec<PosixRlimit>>,
    #[serde(default)]
    pub(super) schedule: Schedule,
    #[serde(default)]
    pub(super) exec_cpu_affinity: Option<ExecCPUAffinity>,
    pub(super) keyring: bool,
    /// Its stdio is a pty of its own.
    #[serde(default)]
    pub(super) terminal: bool,
    /// What 0, 1 and 2 of the init were at its start ("pipe:[7]"), for a checkpoint; empty with a terminal.
    #[serde(default)]
    pub(super) stdio: Vec<String>,
    /// What CRIU calls those of them that are files of the host's; empty for the others.
    #[serde(default)]
    pub(super) stdio_files: Vec<String>,
}

impl State {
    /// It has been made, and is this container's from now on.
    pub(super) fn set_cgroup(&mut self, cgroup: &Cgroup) {
        self.cgroup = cgroup.clone();
        self.pending_cgroup = None;
    }

    /// The file of the spec that the container was made from.
    pub(super) fn config(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(|| self.bundle.join(crate::spec::CONFIG))
    }

    /// What 0, 1 and 2 of the init were. By now it may have closed them, and its children may still have them.
    pub(super) fn descriptors(&self, pid: Pid) -> std::io::Result<Vec<String>> {
        if !self.stdio.is_empty() {
            return Ok(self.stdio.clone());
        }
        let link = |fd: i32| match std::fs::read_link(format!("/proc/{pid}/fd/{fd}")) {
            Err(err) if err.kind() == IoKind::NotFound => Ok("/dev/null".to_owned()),
            link => link.map(|path| path.to_string_lossy().into_owned()),
        };
        (0..3).map(link).collect()
    }

    pub(super) fn hook_state(&self, status: &str) -> HookState {
        HookState {
            oci_version: self.oci_version.clone(),
            id: self.id.as_str().to_owned(),
            status: status.to_owned(),
            pid: self.init.filter(|_| status != "stopped").map(|init| init.pid.as_raw()),
            bundle: self.bundle.clone(),
            annotations: self.annotations.clone(),
        }
    }
}

pub(super) fn hooks(spec: &Spec, of: impl Fn(&oci_spec::runtime::Hooks) -> &Option<Vec<Hook>>) -> Vec<Hook> {
    spec.hooks().as_ref().and_then(|hooks| of(hooks).clone()).unwrap_or_default()
}

/// What the descriptors are, as /proc/PID/fd shows them ("pipe:[7]"); nothing for a terminal.
pub(super) fn describe(stdio: &Stdio) -> std::io::Result<Vec<String>> {
    let Stdio::Fds { stdin, stdout, stderr } = stdio else { return Ok(Vec::new()) };
    let link = |fd: &std::os::fd::OwnedFd| {
        let path = std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(fd)))?;
        Ok(path.to_string_lossy().into_owned())
    };
    [stdin, stdout, stderr].into_iter().map(link).collect()
}

/// CRIU's name for a file that is not in the container's mounts (`criu --external file[MNT_ID:INODE]`), for each descriptor
/// that is one.
pub(super) fn describe_files(stdio: &Stdio) -> std::io::Result<Vec<String>> {
    let Stdio::Fds { stdin, stdout, stderr } = stdio else { return Ok(Vec::new()) };
    let name = |fd: &std::os::fd::OwnedFd| {
        let stat = rustix::fs::fstat(fd)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile | FileType::CharacterDevice => {}
            _ => return Ok(String::new()),
        }
        let flags = StatxFlags::MNT_ID;
        let mount = rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, flags)?.stx_mnt_id;
        Ok(format!("file[{mount:x}:{:x}]", stat.st_ino))
    };
    [stdin, stdout, stderr].into_iter().map(name).collect()
}

pub(super) fn seccomp_cache(root: &Path) -> PathBuf {
    root.join(SECCOMP_CACHE)
}

/// A container's directory below the root.
#[derive(Debug)]
pub(super) struct Directory {
    id: ContainerId,
    path: PathBuf,
}

impl Directory {
    pub(super) fn new(root: &Path, id: &ContainerId) -> Self {
        Self { id: id.clone(), path: root.join(id.as_str()) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn fail(&self, operation: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        let (id, path) = (self.id.clone(), path.to_owned());
        move |err| Error::File { id, operation, path, err }
    }

    /// Makes it; this is what makes an id taken. As long as the caller keeps what it gets, the container is in the making.
    pub(super) fn make(&self) -> Result<OwnedFd> {
        let mut builder = std::fs::DirBuilder::new();
        builder.mode(0o700);
        let mut made = builder.create(&self.path);
        if made.as_ref().is_err_and(|err| err.kind() == IoKind::NotFound) {
            let root = self.path.parent().unwrap_or(Path::new("/"));
            builder.recursive(true).create(root).map_err(self.fail("mkdir", root))?;
            made = builder.recursive(false).create(&self.path);
        }
        match made {
            Err(err) if err.kind() == IoKind::AlreadyExists => Err(Error::AlreadyExists { id: self.id.clone() }),
            other => other.map_err(self.fail("mkdir", &self.path)),
        }?;
        self.hold().map_err(|err| {
            // The first error is the one to tell, and there is nothing in it.
            std::fs::remove_dir(&self.path).ok();
            self.fail("lock", &self.path)(err.into())
        })
    }

    /// A lock goes with its owner, however that ends; the processes that it makes have it until they execute.
    fn hold(&self) -> Result<OwnedFd, Errno> {
        let directory = self.open()?;
        rustix::fs::flock(&directory, FlockOperation::LockExclusive)?;
        Ok(directory)
    }

    /// Whether a process that [made](Self::make) it is still at it.
    pub(super) fn is_held(&self) -> Result<bool> {
        let looked = self.open().and_then(|directory| {
            match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockShared) {
                Err(Errno::WOULDBLOCK) => Ok(true),
                other => other.map(|()| false),
            }
        });
        match looked {
            // Deleted, or its making undone.
            Err(Errno::NOENT) => Ok(false),
            looked => looked.map_err(|err| self.fail("look at the lock of", &self.path)(err.into())),
        }
    }

    fn open(&self) -> Result<OwnedFd, Errno> {
        rustix::fs::open(&self.path, OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::DIRECTORY, Mode::empty())
    }

    /// Replaces the state whole or not at all.
    pub(super) fn write(&self, state: &State) -> Result<()> {
        let (path, new) = (self.path.join(FILE), self.path.join(".state.json.new"));
        let json = serde_json::to_vec(state).map_err(|err| self.bad(err))?;
        std::fs::write(&new, json).map_err(self.fail("write", &new))?;
        std::fs::rename(&new, &path).map_err(self.fail("rename to", &path))
    }

    /// # Errors
    /// [`Error::Foreign`] for a state that another user could have written: it says what to signal, to remove and to
    /// run.
    pub(super) fn read(&self) -> Result<State> {
        let path = self.path.join(FILE);
        let failed = |err: Errno| match err {
            Errno::NOENT => Error::NotFound { id: self.id.clone() },
            err => self.fail("read", &path)(err.into()),
        };
        // What is looked at is what is read, whoever owns the directories above.
        let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::open(&self.path, flags | OFlags::DIRECTORY, Mode::empty()).map_err(failed)?;
        let (owner, caller) =
            (rustix::fs::fstat(&directory).map_err(failed)?.st_uid, rustix::process::geteuid().as_raw());
        if owner != caller {
            return Err(Error::Foreign { id: self.id.clone(), path: self.path.clone(), owner, caller });
        }
        let file = rustix::fs::openat(&directory, FILE, flags | OFlags::RDONLY, Mode::empty()).map_err(failed)?;
        let json = limited::read_open(file.into(), limited::DOCUMENT).map_err(self.fail("read", &path))?;
        let state: State = serde_json::from_slice(&json).map_err(|err| self.bad(err))?;
        match state.id == self.id {
            true => Ok(state),
            false => Err(Error::OtherState { id: self.id.clone(), path, found: state.id }),
        }
    }

    /// The init is to wait there for its start.
    pub(super) fn bind_start_socket(&self) -> Result<OwnedFd> {
        self.at_short_path(|path| Channel::bind_start(&path.join(START_SOCKET)))
            .and_then(|bound| bound)
            .map_err(|err| self.fail("bind", &self.path.join(START_SOCKET))(err.into()))
    }

    pub(super) fn at_start_socket<T>(&self, call: impl FnOnce(&Path) -> T) -> Result<T, Errno> {
        self.at_short_path(|path| call(&path.join(START_SOCKET)))
    }

    /// Calls with a path of this directory that is short enough for the addresses of sockets in it, whatever the root is.
    pub(super) fn at_short_path<T>(&self, call: impl FnOnce(&Path) -> T) -> Result<T, Errno> {
        let directory = rustix::fs::open(&self.path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        Ok(call(Path::new(&format!("/proc/self/fd/{}", directory.as_raw_fd()))))
    }

    fn bad(&self, err: serde_json::Error) -> Error {
        Error::State { id: self.id.clone(), path: self.path.join(FILE), err }
    }

    /// It is no error if it is gone.
    pub(super) fn remove(&self) -> Result<()> {
        match std::fs::remove_dir_all(&self.path) {
            Err(err) if err.kind() != IoKind::NotFound => Err(self.fail("remove", &self.path)(err)),
            _ => Ok(()),
        }
    }
}

/// The start time of a process that exists.
pub(super) fn start_time(pid: Pid) -> std::io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    crate::stat::start_time(&stat).ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_a_start_time() {
        assert!(start_time(Pid::new(std::process::id() as i32).unwrap()).unwrap() > 0);
    }

    #[test]
    fn a_state_of_others_is_not_used() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can give a directory away");
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let directory = Directory::new(root.path(), &ContainerId::parse("web").unwrap());
        directory.make().unwrap();
        let own = root.path().join("web");
        let state = serde_json::json!({
            "ociVersion": "1.2.0", "id": "web", "bundle": "/b", "created": 0, "init": null,
            "cgroup": {"v1": [], "unified": null}, "sharedPidNamespace": false, "poststart": [], "poststop": [],
            "seccomp": null, "capabilities": null, "rlimits": null, "keyring": true,
        });
        std::fs::write(own.join(FILE), state.to_string()).unwrap();
        directory.read().unwrap();
        // Under another's name.
        let other = Directory::new(root.path(), &ContainerId::parse("db").unwrap());
        std::fs::create_dir(root.path().join("db")).unwrap();
        std::fs::copy(own.join(FILE), root.path().join("db").join(FILE)).unwrap();
        assert!(matches!(other.read(), Err(Error::OtherState { .. })));
        // A directory of one's own, by way of somebody else's link.
        std::os::unix::fs::symlink(&own, root.path().join("link")).unwrap();
        let link = Directory::new(root.path(), &ContainerId::parse("link").unwrap());
        assert!(matches!(link.read(), Err(Error::File { .. })));
        std::os::unix::fs::chown(&own, Some(1000), None).unwrap();
        assert!(matches!(directory.read(), Err(Error::Foreign { owner: 1000, .. })));
    }

    #[test]
    fn an_id_is_taken_once() {
        let root = std::env::temp_dir().join(format!("rtc-state-{}", std::process::id()));
        let directory = Directory::new(&root, &ContainerId::parse("web").unwrap());
        assert!(!directory.is_held().unwrap());
        let held = directory.make().unwrap();
        assert!(directory.is_held().unwrap());
        assert!(matches!(directory.make(), Err(Error::AlreadyExists { .. })));
        drop(held);
        assert!(!directory.is_held().unwrap());
        assert!(matches!(directory.read(), Err(Error::NotFound { .. })));
        directory.remove().unwrap();
        directory.remove().unwrap();
        std::fs::remove_dir(root).unwrap();
    }
}
