//! Pause, resume, update, kill, and the questions about a container.

use std::sync::Arc;

use oci_spec::runtime::LinuxResources;
use runtime_core::cgroup::Stats;
use runtime_core::{Pid, Signal};

use super::{Task, blocking};
use crate::error::{Error, Result};
use crate::events::Event;
use crate::process::kill_error;
use crate::process::state::{State, Verb};

impl Task {
    /// # Errors
    /// The container does not run, or could not be frozen in time; it runs on then.
    pub(crate) async fn pause(self: Arc<Self>) -> Result<()> {
        let _queue = self.queue.lock().await;
        self.init.check(Verb::Pause)?;
        let container = self.container()?;
        self.init.enter(State::Pausing);
        let paused = blocking("pause", move || container.pause()).await;
        self.init.enter(if paused.is_ok() { State::Paused } else { State::Running });
        paused?;
        self.publisher().publish(Event::paused(self.id.as_str()));
        Ok(())
    }

    /// # Errors
    /// The container is not paused, or could not be thawed in time.
    pub(crate) async fn resume(self: Arc<Self>) -> Result<()> {
        let _queue = self.queue.lock().await;
        self.init.check(Verb::Resume)?;
        let container = self.container()?;
        blocking("resume", move || container.resume()).await?;
        self.init.enter(State::Running);
        self.publisher().publish(Event::resumed(self.id.as_str()));
        Ok(())
    }

    /// # Errors
    /// A limit is not valid or has no controller.
    pub(crate) async fn update(self: Arc<Self>, resources: LinuxResources) -> Result<()> {
        let _queue = self.queue.lock().await;
        self.init.check(Verb::Update)?;
        let container = self.container()?;
        blocking("update", move || container.update(&resources)).await
    }

    /// Signals a process, or with `all` every process of the container. Does not queue: it is what ends a stuck one.
    ///
    /// # Errors
    /// The process has exited.
    pub(crate) async fn kill(&self, exec_id: &str, signal: Signal, all: bool) -> Result<()> {
        let process = self.process(exec_id)?;
        if !exec_id.is_empty() {
            return process.signal(signal);
        }
        // After the init, `all` still reaches what it has left behind in a pid namespace that it did not own.
        if process.snapshot().exit.is_some() && !all {
            return Err(Error::Finished);
        }
        let container = self.container()?;
        match blocking("kill", move || container.kill(signal, all)).await {
            Err(Error::Runtime { err, .. }) => Err(kill_error(err)),
            other => other,
        }
    }

    /// Every process of the container, with the exec id of those that have one.
    pub(crate) async fn pids(&self) -> Result<Vec<(Pid, Option<String>)>> {
        let container = self.container()?;
        let pids = blocking("ps", move || container.pids()).await?;
        let execs = self.execs();
        let exec_of = |pid: Pid| {
            let pid = pid.as_raw().unsigned_abs();
            execs.values().find(|exec| exec.process.pid() == pid).map(|exec| exec.id.clone())
        };
        Ok(pids.into_iter().map(|pid| (pid, exec_of(pid))).collect())
    }

    pub(crate) async fn stats(&self) -> Result<Stats> {
        let container = self.container()?;
        blocking("stats", move || container.stats()).await
    }

    /// # Errors
    /// The process has exited, or its terminal refuses the size.
    pub(crate) fn resize(&self, exec_id: &str, width: u32, height: u32) -> Result<()> {
        let process = self.process(exec_id)?;
        if !exec_id.is_empty() {
            process.check(Verb::Resize)?;
        }
        let name = if exec_id.is_empty() { "init" } else { exec_id };
        process.resize(width, height).map_err(|err| Error::Stdio {
            process: name.to_owned(),
            id: self.id.to_string(),
            err,
        })
    }

    /// Every client has closed its end of stdin: the process sees the end too.
    ///
    /// # Errors
    /// There is no such process.
    pub(crate) fn close_stdin(&self, exec_id: &str) -> Result<()> {
        self.process(exec_id)?.close_stdin();
        Ok(())
    }
}
