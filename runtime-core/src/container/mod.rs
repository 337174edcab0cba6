//! A container and its verbs, one file each.
//!
//! ```text
//!            create            start              (init exits)           delete
//!   (none) ----------> Created -------> Running ----------------> Stopped -----> (none)
//!                         |              |   ^                       ^
//!                         |        pause |   | resume                |
//!                         |              v   |                       |
//!                         |             Paused ----------------------+
//!                         +------------------------------------------+
//! ```
//! `restore` makes a container that is Running at once.
//!
//! All methods block and may be called from any thread; one container's methods are to be called one at a time by its
//! owner, but for [`Container::status`], [`Container::pids`], [`Container::stats`] and [`Container::kill`].

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxResources, Process as ProcessSpec, Spec};

use crate::cgroup::{OomWatch, Stats};
use crate::children::Child;
use crate::{ContainerId, Pid, Result, Signal};

/// The OCI runtime specification's `status`, and runc's `paused`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Created,
    Running,
    Paused,
    Stopped,
}

/// What becomes file descriptors 0, 1 and 2 of a process.
#[derive(Debug)]
pub enum Stdio {
    /// The process gets these; the caller keeps the other ends. `/dev/null` where the user gave nothing.
    Fds { stdin: OwnedFd, stdout: OwnedFd, stderr: OwnedFd },
    /// A pty of the container's own devpts; the master comes back as [`Started::console`].
    Terminal,
}

/// What a container is made from.
#[derive(Debug)]
pub struct CreateOptions {
    pub id: ContainerId,
    /// Where the state of all containers of one namespace is kept, for instance `/run/containerd/rtc/k8s.io`; the
    /// container's own is the directory `id` in it.
    pub root: PathBuf,
    /// Absolute. `spec.root.path` is relative to it.
    pub bundle: PathBuf,
    pub spec: Spec,
    pub stdio: Stdio,
    /// chroot after MS_MOVE instead of pivot_root, for a rootfs on a ramdisk.
    pub no_pivot_root: bool,
    pub no_new_keyring: bool,
    /// The pid as seen by the caller is written here, without a newline, as runc does.
    pub pid_file: Option<PathBuf>,
}

/// A process that an owner has to wait for.
#[derive(Debug)]
pub struct Started {
    pub child: Child,
    /// The pty's master where [`Stdio::Terminal`] was asked for.
    pub console: Option<OwnedFd>,
}

/// A further process in a running container.
#[derive(Debug)]
pub struct ExecOptions {
    pub process: ProcessSpec,
    pub stdio: Stdio,
    pub pid_file: Option<PathBuf>,
}

/// A container of this process: its state directory, its cgroup, and the channel to its init.
#[derive(Debug)]
pub struct Container {}

impl Container {
    /// Makes the namespaces, the cgroup and the root filesystem and leaves the container's init waiting for
    /// [`Container::start`]. Everything that can be found wrong is found here, a missing executable included.
    /// The roll-back after a failure is complete: no process, mount, cgroup or file is left.
    pub fn create(_options: CreateOptions) -> Result<(Self, Started)> {
        todo!()
    }

    /// Finds a container that an earlier process made, from its state directory. Such a container can be killed and
    /// deleted, and its status, pids and stats read; it cannot be started, because the channel to its init is gone.
    pub fn load(_root: &Path, _id: &ContainerId) -> Result<Self> {
        todo!()
    }

    /// Lets the init execute the user's program; returns when execve(2) has succeeded.
    pub fn start(&self) -> Result<()> {
        todo!()
    }

    /// Runs a further process in the namespaces and the cgroup of the container; returns when execve(2) has succeeded.
    pub fn exec(&self, _options: ExecOptions) -> Result<Started> {
        todo!()
    }

    /// Sends a signal to the init, or with `all` to every process of the cgroup's subtree. SIGKILL takes effect in a
    /// paused container too.
    pub fn kill(&self, _signal: Signal, _all: bool) -> Result<()> {
        todo!()
    }

    pub fn pause(&self) -> Result<()> {
        todo!()
    }

    pub fn resume(&self) -> Result<()> {
        todo!()
    }

    pub fn update(&self, _resources: &LinuxResources) -> Result<()> {
        todo!()
    }

    /// Ends what is left of the container (processes of a shared pid namespace too), removes its cgroups and its state
    /// directory, and runs the poststop hooks. A running container is refused unless `force`. The caller unmounts the
    /// rootfs that it mounted. May be called again after a failure.
    pub fn delete(&self, _force: bool) -> Result<()> {
        todo!()
    }

    pub fn status(&self) -> Result<Status> {
        todo!()
    }

    /// The init's pid; the caller's pid namespace.
    pub fn pid(&self) -> Pid {
        todo!()
    }

    /// Every process of the cgroup's subtree.
    pub fn pids(&self) -> Result<Vec<Pid>> {
        todo!()
    }

    pub fn stats(&self) -> Result<Stats> {
        todo!()
    }

    /// A descriptor that becomes readable when the kernel's OOM killer has struck in the container's cgroup.
    pub fn oom_watch(&self) -> Result<OomWatch> {
        todo!()
    }
}
