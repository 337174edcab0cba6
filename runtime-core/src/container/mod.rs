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
//! `restore` makes a container that is Running at once. One that another process is making is Creating.
//!
//! All methods block and may be called from any thread; one container's methods are to be called one at a time by its
//! owner, but for [`Container::status`], [`Container::pids`], [`Container::stats`] and [`Container::kill`].

mod arriving;
mod checkpoint;
mod class;
mod create;
mod delete;
mod exec;
mod execute;
mod freeze;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod inside;
mod kill;
mod launch;
mod launch_log;
mod load;
mod maps;
mod namespaces;
mod net_devices;
mod notify;
mod pod;
mod process;
mod processes;
mod restore;
mod sources;
mod start;
mod state;
mod status;
mod update;

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oci_spec::runtime::{LinuxIntelRdt, LinuxResources, Process as ProcessSpec, Spec};

pub(crate) use self::checkpoint::CHECKPOINT_ANNOTATIONS;
pub use crate::cgroup::{Bus, CgroupDriver, SubCgroup};
use crate::cgroup::{Details, OomWatch, Stats};
use crate::children::Child;
use crate::init::channel::Channel;
pub use crate::sealed::{Damage, SealError};
use crate::{ContainerId, Pid, Result, Signal};
pub use arriving::ArrivingMemory;
pub use checkpoint::{
    CgroupMode, Change, CheckpointError, CheckpointOptions, Checkpointed, Checksums, Comparison, Compression,
    CriuOptions, Difference, External, Finding, FindingKind, Held, HeldDump, Holder, HostDescription, Input,
    Inspection, InvalidCompression, InvalidRecipient, Maker, MemoryChange, NetworkLock, OptionChange, OwnedFile,
    PAGES_SOCKET, PageServer, ProcessName, Recipient, Record, Report, RestoreCheck, RestoreHolder, RestoreOptions,
    RestoreTimings, STAGE, STALL, SealOptions, SealRecord, Sets, Severity, SizeChange, Stranger, Timings, Transport,
    Verify, criu_features, criu_version, parse_ghost_limit, parse_network_lock,
};
pub use maps::IdMapsError;
pub use pod::{Joined, PodCheckpointed, PodDump, PodError, PodManifest, PodMember, PodRestore, SharedMemory};
pub use status::Status;

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
    /// Absolute; where the spec is from, if not from the bundle's config.json. A checkpoint reads it again.
    pub config: Option<PathBuf>,
    pub stdio: Stdio,
    /// chroot after MS_MOVE instead of pivot_root, for a rootfs on a ramdisk.
    pub no_pivot_root: bool,
    pub no_new_keyring: bool,
    /// The pid as seen by the caller is written here, without a newline, as runc does.
    pub pid_file: Option<PathBuf>,
    pub start_by: StartBy,
    /// What the process has as descriptors 3 and on.
    pub preserve_fds: Vec<OwnedFd>,
    /// Give the container a socket for sd_notify(3); see [`Container::bind_notify_socket`].
    pub notify_socket: bool,
    /// A container whose spec names no cgroup and asks for no limits may do without a cgroup where this process may
    /// make none. As a rule if it is unprivileged.
    pub rootless_cgroup: bool,
    pub cgroup_driver: CgroupDriver,
}

impl CreateOptions {
    /// With everything else as it usually is.
    pub fn new(id: ContainerId, root: PathBuf, bundle: PathBuf, spec: Spec, stdio: Stdio) -> Self {
        Self {
            id,
            root,
            bundle,
            spec,
            config: None,
            stdio,
            no_pivot_root: false,
            no_new_keyring: false,
            pid_file: None,
            start_by: StartBy::Creator,
            preserve_fds: Vec::new(),
            notify_socket: false,
            rootless_cgroup: crate::caller::is_unprivileged(),
            cgroup_driver: CgroupDriver::default(),
        }
    }
}

/// Who may call [`Container::start`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartBy {
    /// The process that created the container, by the very [`Container`]. The init ends with it.
    Creator,
    /// Any process that has [`Container::load`]ed it. The init outlives its creator.
    Anyone,
}

/// A process that an owner has to wait for.
#[derive(Debug)]
pub struct Started {
    pub child: Child,
    /// The pty's master where [`Stdio::Terminal`] was asked for.
    pub console: Option<OwnedFd>,
    /// Of a restored container with a terminal: to be typed into it before anything else.
    pub input: Vec<u8>,
    /// Of a container that was restored with [`RestoreOptions::fetch_pages`]: who brings the rest of its memory, to be waited
    /// for.
    pub arriving: Option<ArrivingMemory>,
}

/// A further process in a running container.
#[derive(Debug)]
pub struct ExecOptions {
    pub process: ProcessSpec,
    pub stdio: Stdio,
    pub pid_file: Option<PathBuf>,
    /// What the process has as descriptors 3 and on.
    pub preserve_fds: Vec<OwnedFd>,
    /// In a paused container the call returns once the container is resumed.
    pub ignore_paused: bool,
    /// In place of the container's own cgroup.
    pub sub_cgroups: Vec<SubCgroup>,
}

impl ExecOptions {
    /// With everything else as it usually is.
    pub fn new(process: ProcessSpec, stdio: Stdio) -> Self {
        Self { process, stdio, pid_file: None, preserve_fds: Vec::new(), ignore_paused: false, sub_cgroups: Vec::new() }
    }
}

/// A container of this process: its state directory, its cgroup, and the channel to its init.
#[derive(Debug)]
pub struct Container {
    directory: state::Directory,
    state: state::State,
    /// `None` when there is no such process any more.
    pidfd: Option<OwnedFd>,
    /// To an init that waits for the start.
    channel: Mutex<Option<Channel>>,
}

impl Container {
    /// Makes the namespaces, the cgroup and the root filesystem and leaves the container's init waiting for
    /// [`Container::start`]. Everything that can be found wrong is found here, a missing executable included.
    /// The roll-back after a failure is complete: no process, mount, cgroup or file is left.
    pub fn create(mut options: CreateOptions) -> Result<(Self, Started)> {
        if options.notify_socket {
            notify::add_to(&mut options.spec, &options.root.join(options.id.as_str()));
        }
        create::create(&options)
    }

    /// Finds a container that another process made, from its state directory. It can be started only if it was made with
    /// [`StartBy::Anyone`].
    pub fn load(root: &Path, id: &ContainerId) -> Result<Self> {
        load::load(root, id)
    }

    /// Lets the init execute the user's program; returns when execve(2) has succeeded.
    pub fn start(&self) -> Result<()> {
        start::start(self)
    }

    /// Runs a further process in the namespaces and the cgroup of the container; returns when execve(2) has succeeded.
    pub fn exec(&self, options: ExecOptions) -> Result<Started> {
        exec::exec(self, &options)
    }

    /// Sends a signal to the init, or with `all` to every process of the cgroup's subtree. SIGKILL takes effect in a
    /// paused container too.
    pub fn kill(&self, signal: Signal, all: bool) -> Result<()> {
        kill::kill(self, signal, all)
    }

    pub fn pause(&self) -> Result<()> {
        freeze::pause(self)
    }

    pub fn resume(&self) -> Result<()> {
        freeze::resume(self)
    }

    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        update::update(self, resources)
    }

    /// Whether it is in a class of cache and memory bandwidth, which [`Container::update_class`] needs.
    pub fn has_class(&self) -> bool {
        self.state.class.is_some()
    }

    /// Changes the schemata of the container's class; nothing without one.
    pub fn update_class(&self, schemata: &LinuxIntelRdt) -> Result<()> {
        update::update_class(self, schemata)
    }

    /// Writes the container's processes into an image directory; they end, or run on with
    /// [`CheckpointOptions::leave_running`]. A paused container can be checkpointed, and stays paused if it runs on. Blocks
    /// until CRIU has ended. After a failure the container runs as before, and the directory is as it was.
    ///
    /// # Errors
    /// [`Error::Criu`](crate::Error::Criu) with CRIU's own words, [`Error::Checkpoint`](crate::Error::Checkpoint), or the
    /// container does not run.
    pub fn checkpoint(&self, options: &CheckpointOptions) -> Result<Checkpointed> {
        checkpoint::checkpoint(self, options)
    }

    /// What would stand in the way of such a checkpoint, and with `target` of its restore on that host. The container is not
    /// touched: neither frozen nor traced, and nothing is written. Blocks for some milliseconds.
    ///
    /// # Errors
    /// The container does not run.
    pub fn check_checkpoint(&self, options: &CheckpointOptions, target: Option<&HostDescription>) -> Result<Report> {
        checkpoint::preflight::check(self, options, target)
    }

    /// What would stand in the way of a restore. Nothing is made.
    ///
    /// # Errors
    /// The id or the spec's cgroup path make no sense.
    pub fn check_restore(check: &RestoreCheck<'_>) -> Result<Report> {
        checkpoint::preflight::restore::check(check)
    }

    /// Makes a container from an image directory that rtc or runc wrote; it is Running at once. What the checkpoint was
    /// told needs not be told again. After a failure nothing of the container is left, and the images are as they were.
    ///
    /// # Errors
    /// As [`Container::create`] and [`Container::checkpoint`].
    pub fn restore(options: RestoreOptions) -> Result<(Self, Started)> {
        restore::restore(&options)
    }

    /// Ends what is left of the container (processes of a shared pid namespace too), removes its cgroups and its state
    /// directory, and runs the poststop hooks. A running container is refused unless `force`. The caller unmounts the
    /// rootfs that it mounted. May be called again after a failure.
    pub fn delete(&self, force: bool) -> Result<()> {
        delete::delete(self, force)
    }

    /// Removes what a [`Container::create`] that was killed has left before it had written what it makes: there is nothing
    /// to load then. It is no error if nothing is there. Not for a container that may still be in the making.
    pub fn discard(root: &Path, id: &ContainerId) -> Result<()> {
        state::Directory::new(root, id).remove()
    }

    pub fn status(&self) -> Result<Status> {
        status::status(self)
    }

    pub fn id(&self) -> &ContainerId {
        &self.state.id
    }

    /// The init's pid; the caller's pid namespace. `None` if this container's making was cut off before it had one.
    pub fn pid(&self) -> Option<Pid> {
        self.state.init.map(|init| init.pid)
    }

    /// Absolute.
    pub fn bundle(&self) -> &Path {
        &self.state.bundle
    }

    /// The root filesystem on the host; absolute.
    pub fn rootfs(&self) -> &Path {
        &self.state.rootfs
    }

    /// Those of the spec.
    pub fn annotations(&self) -> &HashMap<String, String> {
        &self.state.annotations
    }

    pub fn created(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(self.state.created)
    }

    /// Readable (poll(2)) once the init has exited. `None` if it had exited before this container was loaded.
    pub fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(AsFd::as_fd)
    }

    /// The socket for a container with [`CreateOptions::notify_socket`], `None` for others. To be bound before the start, by
    /// whoever starts it and passes on what comes.
    pub fn bind_notify_socket(&self) -> Result<Option<UnixDatagram>> {
        notify::bind(&self.directory)
    }

    /// Every process of the cgroup's subtree; of the pid namespace, for a container without a cgroup.
    ///
    /// # Errors
    /// There is neither a cgroup nor a pid namespace of its own, or it cannot be read.
    pub fn pids(&self) -> Result<Vec<Pid>> {
        processes::pids(self)
    }

    pub fn stats(&self) -> Result<Stats> {
        self.state.cgroup.stats().map_err(self.cgroup_failed())
    }

    /// What [`Container::stats`] leaves out.
    pub fn details(&self) -> Result<Details> {
        self.state.cgroup.details().map_err(self.cgroup_failed())
    }

    /// A descriptor that becomes readable when the kernel's OOM killer has struck in the container's cgroup.
    pub fn oom_watch(&self) -> Result<OomWatch> {
        self.state.cgroup.oom_watch().map_err(self.cgroup_failed())
    }

    fn cgroup_failed(&self) -> impl FnOnce(crate::cgroup::Error) -> crate::Error {
        let id = self.state.id.clone();
        move |err| crate::Error::Cgroup { id, err }
    }
}
