//! The container's cgroup: v1 and hybrid, or v2.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use crate::{ContainerId, Pid};

pub mod stats;

pub use stats::Stats;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {}

/// Where a container's cgroup is, in every hierarchy. Cheap to make and to store; holds no descriptors.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cgroup {}

/// A hierarchy as a `cgroup` mount inside the container shows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum View {
    /// Name of the directory or link below /sys/fs/cgroup ("cpu", "systemd"), and the host's directory of this container.
    V1(Vec<(String, PathBuf)>),
    V2(PathBuf),
}

/// Tells of OOM kills: an eventfd on v1, inotify on `memory.events` on v2.
#[derive(Debug)]
pub struct OomWatch {
    fd: OwnedFd,
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl OomWatch {
    /// OOM kills since the last call; 0 after a wake-up that was none, `None` once the cgroup is gone. Never blocks.
    pub fn read(&mut self) -> Result<Option<u64>, Error> {
        todo!()
    }
}

impl Cgroup {
    /// `cgroups_path` is the spec's: absolute from the hierarchy's root, relative below the caller's own cgroup, or, when
    /// it is `None`, the container's id below the caller's own cgroup (as runc does). Changes nothing.
    pub fn new(_id: &ContainerId, _cgroups_path: Option<&Path>) -> Result<Self, Error> {
        todo!()
    }

    /// Makes the directories and applies the limits and the device rules. Removes what it made when it fails. A limit
    /// whose controller is missing is refused by name; a value that is the kernel's default needs no controller.
    pub fn create(&self, _resources: Option<&LinuxResources>) -> Result<(), Error> {
        todo!()
    }

    /// For clone3's CLONE_INTO_CGROUP: the directory in the unified tree, where there is one.
    pub fn clone_into(&self) -> Result<Option<OwnedFd>, Error> {
        todo!()
    }

    /// Moves a process into every v1 hierarchy (and into the unified tree where `clone_into` was not used).
    pub fn add(&self, _pid: Pid, _unified_too: bool) -> Result<(), Error> {
        todo!()
    }

    pub fn update(&self, _resources: &LinuxResources) -> Result<(), Error> {
        todo!()
    }

    /// Freezes the whole subtree; returns when every process is frozen, or thaws again and fails at the deadline.
    pub fn freeze(&self, _deadline: Duration) -> Result<(), Error> {
        todo!()
    }

    pub fn thaw(&self, _deadline: Duration) -> Result<(), Error> {
        todo!()
    }

    pub fn frozen(&self) -> Result<bool, Error> {
        todo!()
    }

    /// Processes of the whole subtree.
    pub fn pids(&self) -> Result<Vec<Pid>, Error> {
        todo!()
    }

    /// SIGKILL to every process of the subtree, frozen or not; returns when the subtree is empty, or at the deadline.
    pub fn kill(&self, _deadline: Duration) -> Result<(), Error> {
        todo!()
    }

    pub fn stats(&self) -> Result<Stats, Error> {
        todo!()
    }

    pub fn oom_watch(&self) -> Result<OomWatch, Error> {
        todo!()
    }

    pub fn view(&self) -> View {
        todo!()
    }

    /// Removes the directories, children first; retries EBUSY until the deadline. It is no error if they are gone.
    pub fn remove(&self, _deadline: Duration) -> Result<(), Error> {
        todo!()
    }
}
