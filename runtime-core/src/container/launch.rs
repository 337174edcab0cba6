//! Bringing a process of ours into a container, as far as its orders.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use oci_spec::runtime::{Hook, Linux};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::PidfdGetfdFlags;
use serde::de::DeserializeOwned;

use super::namespaces::Namespaces;
use super::net_devices::{self, Moved};
use super::sources::Sources;
use super::{Stdio, launch_log, maps};
use crate::cgroup::Cgroup;
use crate::children::{self, Child};
use crate::error::{AffinityError, InitError, InitErrorKind, SeccompError};
use crate::fault::{self, Point};
use crate::hooks::HookState;
use crate::init::channel::{self, Channel};
use crate::init::message::{Go, Orders, Passed, Reply};
use crate::init::schedule::{self, Schedule};
use crate::init::{ARGV0, rlimits};
use crate::resctrl::Class;
use crate::rootfs::Plan;
use crate::seccomp::{self, ContainerProcessState, Filter, Listener};
use crate::sys::clone::{self, Spawn, Stage};
use crate::{ContainerId, Error, Pid, Result};

/// Ten seconds for one system call, on a host that has much else to do.
const FILTER_LOOKS: u32 = 10_000;
const FILTER_PAUSE: Duration = Duration::from_millis(1);

pub(super) type LentOrders<'a> = Orders<&'a Plan, &'a Filter, &'a Hook>;

/// A process that waits for its orders or carries them out. Dropped, it is ended and reaped.
#[derive(Debug)]
pub(super) struct Launched {
    id: ContainerId,
    child: Option<Child>,
    channel: Option<Channel>,
    /// Go back when the process has been ended.
    devices: Option<Moved>,
    /// That the init asks for.
    sources: Option<Sources>,
}

/// What to launch.
#[derive(Debug)]
pub(super) struct Launch<'a> {
    pub(super) id: &'a ContainerId,
    pub(super) namespaces: &'a Namespaces,
    pub(super) cgroup: &'a Cgroup,
    /// With the maps of a new user namespace.
    pub(super) linux: Option<&'a Linux>,
    pub(super) oom_score_adj: Option<i32>,
    /// The container's, for a further process.
    pub(super) init: Option<Pid>,
    /// Where the start comes from, if not from this process.
    pub(super) start_socket: Option<OwnedFd>,
    /// Of cache and memory bandwidth.
    pub(super) class: Option<&'a Class>,
    /// What the process has as 3 and on.
    pub(super) preserve_fds: &'a [OwnedFd],
}

/// A new process.
struct Made {
    pid: i32,
    pidfd: OwnedFd,
    /// It is where its maker is, and is to be brought into its cgroup.
    is_outside: bool,
}

impl Launch<'_> {
    /// Makes the process, in its namespaces and its cgroups, and gives it its orders.
    pub(super) fn run(&self, stdio: &Stdio, orders: &mut LentOrders<'_>) -> Result<Launched> {
        let mut launched = self.spawn(stdio, &orders.process.schedule)?;
        let pid = launched.child()?.pid;
        fault::after(self.id, Point::Spawn)?;
        if let Some(class) = self.class {
            class.join(pid).map_err(|err| Error::Resctrl { id: self.id.clone(), err })?;
        }
        // Before it becomes root of its namespace, and its files in /proc that user's.
        self.set_oom_score_adj(pid)?;
        fault::after(self.id, Point::OomScore)?;
        if self.namespaces.makes(libc::CLONE_NEWUSER) {
            maps::write(self.id, self.linux, pid)?;
            launched.channel()?.maps_written().map_err(|err| launched.failed("write the id maps", err))?;
        }
        fault::after(self.id, Point::Maps)?;
        if self.namespaces.user() {
            self.set_rlimits(pid, orders)?;
        }
        // The initial namespace never denies it: most containers have nothing to read here.
        if self.namespaces.user() || crate::caller::in_user_namespace() {
            orders.process.set_groups = maps::may_set_groups(self.id, pid)?;
        }
        if !orders.process.set_groups && !orders.process.groups.is_empty() {
            // As runc goes on.
            tracing::warn!(id = %self.id, "no additional groups: the user namespace denies setgroups(2)");
        }
        fault::after(self.id, Point::Rlimits)?;
        if orders.environment.is_some() {
            launched.devices = net_devices::move_in(self.id, self.linux, self.namespaces, pid)?;
        }
        fault::after(self.id, Point::NetDevices)?;
        self.give(&mut launched, orders)?;
        fault::after(self.id, Point::Orders)?;
        Ok(launched)
    }

    /// The orders, with what the init cannot open itself.
    fn give(&self, launched: &mut Launched, orders: &mut LentOrders<'_>) -> Result<()> {
        if let Some(environment) = &mut orders.environment {
            launched.sources = Sources::new(self.id, self.namespaces, environment.rootfs, launched.pid()?)?;
            environment.sources = launched.sources.as_ref().map(Sources::places).unwrap_or_default();
        }
        fault::after(self.id, Point::Sources)?;
        launched.channel()?.send(orders).map_err(|err| launched.failed("give orders to the init", err))
    }

    fn spawn(&self, stdio: &Stdio, schedule: &Schedule) -> Result<Launched> {
        let in_cgroup = |err| Error::Cgroup { id: self.id.clone(), err };
        let cgroup = self.cgroup.clone_into().map_err(in_cgroup)?;
        let tasks_files = self.cgroup.join_files().map_err(in_cgroup)?;
        let system = |operation| move |err: std::io::Error| Error::System { id: self.id.clone(), operation, err };
        let exe = crate::exe::prepare().map_err(system("seal our own binary"))?;
        let (ours, theirs) = Channel::pair().map_err(|err| system("make a socket pair")(err.into()))?;
        let null = match stdio {
            Stdio::Fds { .. } => None,
            Stdio::Terminal => Some(open_null().map_err(|err| system("open /dev/null")(err.into()))?),
        };
        let stdio = match (stdio, &null) {
            (Stdio::Fds { stdin, stdout, stderr }, _) => [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
            (Stdio::Terminal, Some(null)) => [null.as_fd(); 3],
            (Stdio::Terminal, None) => [theirs.as_fd(); 3],
        };
        let joins = self.namespaces.joins();
        let passed = self.namespaces.mount.iter().chain(&self.start_socket).chain(self.preserve_fds);
        let passed: Vec<_> = passed.map(AsFd::as_fd).collect();
        let argv0 = std::ffi::CString::new(ARGV0).map_err(|err| system("name the init")(err.into()))?;
        let spawn = Spawn {
            exe: exe.as_fd(),
            argv0: &argv0,
            stdio,
            socket: theirs.as_fd(),
            passed: &passed,
            new: self.namespaces.new,
            joins: &joins,
            cgroup: cgroup.as_ref().map(AsFd::as_fd),
            tasks_files: &tasks_files,
            time_offsets: self.namespaces.time_offsets.as_deref(),
            middle: self.namespaces.need_middle(),
            wait: self.namespaces.makes(libc::CLONE_NEWUSER),
            root: self.namespaces.user(),
        };
        let mut hold = children::hold();
        let made = schedule::with_affinity(schedule, || self.clone_into_cgroup(spawn));
        let made = made.map_err(|err| Error::Affinity { id: self.id.clone(), err: AffinityError(err) })??;
        let Made { pid, pidfd, is_outside } = made;
        let pid = Pid::new(pid).ok_or_else(|| system("clone")(std::io::ErrorKind::InvalidData.into()))?;
        let child = hold.adopt(pid, pidfd);
        drop(hold);
        launch_log::made(pid);
        let launched =
            Launched { id: self.id.clone(), child: Some(child), channel: Some(ours), devices: None, sources: None };
        if is_outside {
            // It does nothing yet, and is still the caller's user, whom systemd wants it to be.
            self.cgroup.attach(pid).map_err(in_cgroup)?;
        }
        Ok(launched)
    }

    /// What [`Launch::run`] passes.
    pub(super) fn passed(&self) -> Passed {
        Passed {
            mount_namespace: self.namespaces.mount.is_some(),
            start_socket: self.start_socket.is_some(),
            // More than the kernel lets a process have does not arise.
            preserved: u32::try_from(self.preserve_fds.len()).unwrap_or(u32::MAX),
        }
    }

    fn clone_into_cgroup(&self, spawn: Spawn<'_>) -> Result<Made> {
        let in_cgroup = spawn.cgroup.is_some();
        let made = |is_outside| move |(pid, pidfd)| Made { pid, pidfd, is_outside };
        let refused = match (clone::spawn(&spawn), self.init) {
            (Err(err), Some(init))
                if err.stage == Stage::Clone && matches!(err.err, Errno::BUSY | Errno::OPNOTSUPP) =>
            {
                (err, init)
            }
            // The one thing of clone3 that a mode or an owner refuses.
            (Err(err), _) if err.stage == Stage::Clone && err.err == Errno::ACCESS && in_cgroup => {
                if self.cgroup.attaches() {
                    let outside = clone::spawn(&Spawn { cgroup: None, ..spawn });
                    return outside.map(made(true)).map_err(|err| self.before_exec(err));
                }
                return Err(Error::Cgroup { id: self.id.clone(), err: self.cgroup.not_movable() });
            }
            (Err(err), None) if err.stage == Stage::Clone && err.err == Errno::BUSY && in_cgroup => {
                let err = self.cgroup.not_joinable(err.err);
                return Err(Error::Cgroup { id: self.id.clone(), err });
            }
            (other, _) => return other.map(made(false)).map_err(|err| self.before_exec(err)),
        };
        let (err, init) = refused;
        let beside = self.cgroup.clone_beside(init).map_err(|err| Error::Cgroup { id: self.id.clone(), err })?;
        let Some(cgroup) = beside else { return Err(self.before_exec(err)) };
        let beside = clone::spawn(&Spawn { cgroup: Some(cgroup.as_fd()), ..spawn });
        beside.map(made(false)).map_err(|err| self.before_exec(err))
    }

    fn before_exec(&self, err: clone::Failed) -> Error {
        Error::Init { id: self.id.clone(), operation: "make the init", err: InitError(InitErrorKind::BeforeExec(err)) }
    }

    fn set_oom_score_adj(&self, pid: Pid) -> Result<()> {
        let Some(adj) = self.oom_score_adj else { return Ok(()) };
        let path = format!("/proc/{pid}/oom_score_adj");
        match std::fs::write(&path, adj.to_string()) {
            Err(err) if err.kind() == std::io::ErrorKind::PermissionDenied => {
                tracing::warn!(id = %self.id, adj, "left oom_score_adj as it is: lowering it needs CAP_SYS_RESOURCE");
                Ok(())
            }
            Err(err) => Err(Error::File { id: self.id.clone(), operation: "write", path: path.into(), err }),
            Ok(()) => Ok(()),
        }
    }

    /// From here, because root of a user namespace may not raise them.
    fn set_rlimits(&self, pid: Pid, orders: &mut LentOrders<'_>) -> Result<()> {
        let limits = std::mem::take(&mut orders.process.rlimits);
        let mut warnings = Vec::new();
        rlimits::apply(rustix::process::Pid::from_raw(pid.as_raw()), &limits, &mut warnings).map_err(|err| {
            let err = std::io::Error::other(err);
            Error::System { id: self.id.clone(), operation: "set resource limits", err }
        })?;
        warn(self.id, &warnings);
        Ok(())
    }
}

impl Launched {
    fn child(&self) -> Result<&Child> {
        self.child.as_ref().ok_or_else(|| self.failed("find the process", channel::Error::Closed))
    }

    fn channel(&self) -> Result<&Channel> {
        self.channel.as_ref().ok_or_else(|| self.failed("find the socket", channel::Error::Closed))
    }

    pub(super) fn pid(&self) -> Result<Pid> {
        Ok(self.child()?.pid)
    }

    /// A further pidfd of the process.
    pub(super) fn pidfd(&self) -> Result<OwnedFd> {
        let pidfd = self.child()?.pidfd().try_clone_to_owned();
        pidfd.map_err(|err| Error::System { id: self.id.clone(), operation: "duplicate a pidfd", err })
    }

    /// Waits until the process is ready for its start; `hooks` are run when it asks for them, an agent is told of it as
    /// `listener` says, and sources of the mounts in `plan` are opened for it. The pty's master, if any.
    pub(super) fn ready(
        &self,
        hooks: impl Fn() -> Result<()>,
        listener: Option<(&Listener, &HookState)>,
        plan: Option<&Plan>,
    ) -> Result<Option<OwnedFd>> {
        let mut spoke = false;
        loop {
            let said = self.receive()?;
            if !std::mem::replace(&mut spoke, true) {
                launch_log::working();
            }
            match said {
                (Reply::Source { place }, _) => self.give_source(place, plan)?,
                (Reply::Hooks, _) => {
                    hooks()?;
                    self.go()?;
                }
                (Reply::Listener { fd }, _) => self.tell_agent(fd, listener)?,
                (Reply::Ready { warnings }, console) => {
                    warn(&self.id, &warnings);
                    launch_log::ready(plan.is_some());
                    return Ok(console);
                }
                (Reply::Failed(failure), _) => return Err(init_failed(&self.id, failure)),
                (Reply::Starting, _) => return Err(self.failed("hear from the init", channel::Error::OutOfTurn)),
            }
        }
    }

    fn give_source(&self, place: usize, plan: Option<&Plan>) -> Result<()> {
        let opened = match (&self.sources, plan) {
            (Some(sources), Some(plan)) => sources.open(&self.id, plan, place)?,
            _ => None,
        };
        let sent = self.channel()?.send_with(&Go, opened.as_ref().map(AsFd::as_fd));
        sent.map_err(|err| self.failed("speak to the init", err))
    }

    fn tell_agent(&self, fd: i32, listener: Option<(&Listener, &HookState)>) -> Result<()> {
        let Some((listener, state)) = listener else { return Ok(()) };
        let filter = self.take_filter(fd)?;
        let state = ContainerProcessState::new(listener, self.pid()?.as_raw(), state);
        seccomp::notify(listener, &state, filter)
            .map_err(|err| Error::Seccomp { id: self.id.clone(), err: SeccompError(err) })
    }

    /// The init cannot say when it has its filter: saying so may be what the filter holds back. So it is looked for.
    fn take_filter(&self, fd: i32) -> Result<OwnedFd> {
        let failed = |err: Errno| {
            let operation = "take over the seccomp filter's notifications";
            Error::System { id: self.id.clone(), operation, err: err.into() }
        };
        let child = self.child()?;
        for _ in 0..FILTER_LOOKS {
            match rustix::process::pidfd_getfd(child.pidfd(), fd, PidfdGetfdFlags::empty()) {
                Ok(taken) if is_filter(&taken) => return Ok(taken),
                Ok(_) | Err(Errno::BADF) => {}
                Err(err) => return Err(failed(err)),
            }
            if child.exited(Some(FILTER_PAUSE)).map_err(|_| failed(Errno::CHILD))? {
                // It says why on the socket.
                return match self.receive()? {
                    (Reply::Failed(failure), _) => Err(init_failed(&self.id, failure)),
                    _ => Err(failed(Errno::SRCH)),
                };
            }
        }
        Err(failed(Errno::TIMEDOUT))
    }

    fn go(&self) -> Result<()> {
        self.channel()?.send(&Go).map_err(|err| self.failed("speak to the init", err))
    }

    fn receive<T: DeserializeOwned>(&self) -> Result<(T, Option<OwnedFd>)> {
        self.channel()?.receive_with().map_err(|err| self.failed("hear from the init", err))
    }

    /// Lets the process execute its program.
    pub(super) fn execute(&self) -> Result<()> {
        super::execute::execute(&self.id, self.channel()?, self.pid()?)
    }

    /// Gives the process and its channel away; from now on they live on their own.
    pub(super) fn into_parts(mut self) -> Option<(Child, Channel)> {
        if let Some(devices) = self.devices.take() {
            devices.keep();
        }
        self.child.take().zip(self.channel.take())
    }

    fn failed(&self, operation: &'static str, err: channel::Error) -> Error {
        let err = match (err, &self.child) {
            (channel::Error::BeforeExec(failed), _) => InitErrorKind::BeforeExec(failed),
            (channel::Error::Closed, Some(child)) => match child.wait() {
                Ok(exit) => InitErrorKind::Died { code: exit.code },
                Err(_) => InitErrorKind::Channel(channel::Error::Closed),
            },
            (err, _) => InitErrorKind::Channel(err),
        };
        Error::Init { id: self.id.clone(), operation, err: InitError(err) }
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        if let Some(child) = &self.child {
            // It may have exited already; either way it is there to be reaped.
            crate::sys::process::pidfd_signal(child.pidfd(), libc::SIGKILL).ok();
            if let Err(err) = child.wait() {
                tracing::error!(id = %self.id, pid = %child.pid, %err, "reaping a failed init");
            }
        }
    }
}

pub(super) fn init_failed(id: &ContainerId, failure: crate::init::message::Failure) -> Error {
    let operation = failure.step.operation();
    Error::Init { id: id.clone(), operation, err: InitError(InitErrorKind::Failed(failure)) }
}

fn warn(id: &ContainerId, warnings: &[String]) {
    for warning in warnings {
        tracing::warn!(%id, "{warning}");
    }
}

fn is_filter(fd: &OwnedFd) -> bool {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    std::fs::read_link(path).is_ok_and(|target| target.as_os_str() == "anon_inode:seccomp notify")
}

fn open_null() -> Result<OwnedFd, rustix::io::Errno> {
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

/// Writes a pid file whole or not at all, without a newline, as runc does.
pub(super) fn write_pid_file(id: &ContainerId, path: &Path, pid: Pid) -> Result<()> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    let new = path.with_file_name(name);
    std::fs::write(&new, pid.to_string()).and_then(|()| std::fs::rename(&new, path)).map_err(|err| Error::File {
        id: id.clone(),
        operation: "write pid file",
        path: path.into(),
        err,
    })
}
