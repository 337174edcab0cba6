//! What CRIU's notifications bring while it restores: the process, its terminal, and the moment before it runs.

use std::error::Error as StdError;
use std::os::fd::OwnedFd;

use criu::{Answer, Notification};
use oci_spec::runtime::{Hook, Linux};

use super::super::Stdio;
use super::super::checkpoint::input::{self, Carried};
use super::super::checkpoint::{CheckpointError, RestoreHolder, network, typed};
use super::super::class::NewClass;
use super::super::namespaces::Namespaces;
use super::super::net_devices::{self, Moved};
use super::super::state::{self, Directory, InitId, State};
use super::failed;
use crate::children::{self, Child};
use crate::sys::process::pidfd_signal;
use crate::{ContainerId, Error, Pid, Result};

/// What the notifications bring.
pub(super) struct Arriving<'a> {
    pub(super) id: &'a ContainerId,
    pub(super) directory: &'a Directory,
    pub(super) class: &'a NewClass<'a>,
    pub(super) namespaces: &'a Namespaces,
    pub(super) linux: Option<&'a Linux>,
    /// Go back when the process has been ended.
    pub(super) devices: Option<Moved>,
    pub(super) state: State,
    pub(super) unread: &'a Carried,
    pub(super) stdio: &'a Stdio,
    /// What the standard input was, if the container is to have a terminal.
    pub(super) terminal: Option<&'a str>,
    /// The network namespace is new, and its loopback device is down.
    pub(super) loopback: bool,
    pub(super) prestart: Vec<Hook>,
    pub(super) create_runtime: Vec<Hook>,
    pub(super) child: Option<Child>,
    pub(super) console: Option<OwnedFd>,
    pub(super) holder: Option<&'a dyn RestoreHolder>,
}

impl Arriving<'_> {
    pub(super) fn notified(&mut self, notification: Notification) -> Result<Answer, Box<dyn StdError + Send + Sync>> {
        tracing::debug!(id = %self.id, ?notification, "restore");
        match notification {
            Notification::SetupNamespaces { pid } => self.arrived(pid)?,
            Notification::PostSetupNamespaces => {
                if self.loopback {
                    self.bring_loopback_up()?;
                }
                if let (Some(holder), Some(child)) = (self.holder, &self.child) {
                    holder.namespaces_made(child.pid);
                }
            }
            Notification::PostRestore { .. } => {
                self.directory.write(&self.state)?;
                self.type_again()?;
                input::give(self.unread, self.stdio).map_err(failed(self.id))?;
                self.holder.map_or(Ok(()), RestoreHolder::restored)?;
            }
            Notification::OrphanPtsMaster(master) if self.is_console(&master) => self.console = Some(master),
            _ => {}
        }
        Ok(Answer::Acknowledge)
    }

    /// The root process exists, and is our child. It waits for the answer to this notification, so that its pid is its own.
    fn arrived(&mut self, pid: i32) -> Result<()> {
        let id = self.id;
        let system = |operation| move |err| Error::System { id: id.clone(), operation, err };
        let pid = Pid::new(pid).ok_or_else(|| Error::NotRunning { id: self.id.clone() })?;
        let child = children::hold().register(pid).map_err(system("register the restored process"))?;
        self.child = Some(child);
        let start_time = state::start_time(pid).map_err(system("read the restored process's start time"))?;
        self.state.init = Some(InitId { pid, start_time });
        // Its children come into the class with it.
        self.class.join(pid)?;
        self.devices = net_devices::move_in(self.id, self.linux, self.namespaces, pid)?;
        let hook_state = self.state.hook_state("creating");
        crate::hooks::run("prestart", &self.prestart, &hook_state)
            .and_then(|()| crate::hooks::run("createRuntime", &self.create_runtime, &hook_state))
            .map_err(|err| Error::Hook { id: self.id.clone(), err })
    }

    /// A process may have another terminal open, which exec gave it: without a master that one is hung up.
    fn is_console(&self, master: &OwnedFd) -> bool {
        let Some(was) = self.terminal else { return false };
        let name = rustix::pty::ptsname(master, Vec::new());
        !was.starts_with("/dev/pts/") || name.is_ok_and(|name| name.to_bytes() == was.as_bytes())
    }

    /// The terminal has its modes by now.
    fn type_again(&self) -> Result<()> {
        let Some(console) = self.console.as_ref().filter(|_| typed::possible()) else { return Ok(()) };
        let refused = CheckpointError::file("put the unread input into", "the new terminal");
        typed::give(console, &self.unread.taken).map_err(refused).map_err(failed(self.id))
    }

    fn bring_loopback_up(&self) -> Result<()> {
        let Some(child) = &self.child else { return Ok(()) };
        let failed = |err| Error::System { id: self.id.clone(), operation: "bring up the loopback device", err };
        network::loopback_up(child.pid).map_err(failed)
    }

    /// The process of CRIU's reply is the one that is registered.
    pub(super) fn finish(&mut self, pid: Pid) -> Result<()> {
        match &self.child {
            Some(child) if child.pid == pid => Ok(()),
            _ => Err(Error::NotRunning { id: self.id.clone() }),
        }
    }

    pub(super) fn into_parts(self, id: &ContainerId) -> Result<(State, Child, Option<OwnedFd>, Option<Moved>)> {
        let child = self.child.ok_or_else(|| Error::NotRunning { id: id.clone() })?;
        Ok((self.state, child, self.console, self.devices))
    }

    /// Ends and reaps the root process; the cgroup's other processes are the caller's.
    pub(super) fn end(&mut self) {
        if let Some(child) = self.child.take() {
            end(&child);
        }
        drop(self.devices.take());
    }
}

pub(super) fn end(child: &Child) {
    // It may be gone already.
    pidfd_signal(child.pidfd(), libc::SIGKILL).ok();
    if let Err(err) = child.wait() {
        tracing::warn!(pid = %child.pid, %err, "wait for a process that was not restored");
    }
}
