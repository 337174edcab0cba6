//! Exec announces a process, Start of it runs it.

use std::sync::Arc;

use oci_spec::runtime::Process as Spec;
use runtime_core::container::{ExecOptions, Started};

use super::{Task, blocking};
use crate::error::{Error, Result};
use crate::events::Event;
use crate::io::Io;
use crate::process::StdioPaths;
use crate::process::exec::Exec;
use crate::process::state::{State, Verb};

impl Task {
    /// # Errors
    /// The id is taken, or the container is in no state for it.
    pub(crate) async fn add_exec(self: Arc<Self>, exec_id: &str, stdio: StdioPaths, spec: Spec) -> Result<()> {
        if exec_id.is_empty() {
            return Err(Error::NoExecId);
        }
        let _queue = self.queue.lock().await;
        if self.execs().contains_key(exec_id) {
            return Err(Error::ExecExists { exec_id: exec_id.to_owned() });
        }
        self.init.check(Verb::Exec)?;
        let exec = Arc::new(Exec::new(exec_id, stdio, spec));
        self.execs().insert(exec_id.to_owned(), exec);
        self.publisher().publish(Event::exec_added(self.id.as_str(), exec_id));
        Ok(())
    }

    /// # Errors
    /// The process could not be made; whoever waits for it is told that it never ran.
    pub(crate) async fn start_exec(self: Arc<Self>, exec_id: &str) -> Result<u32> {
        let _queue = self.queue.lock().await;
        let exec = self.exec(exec_id)?;
        exec.process.check(Verb::Start)?;
        self.init.check(Verb::Exec)?;
        // From here on the exit of the init is held back until this process has exited too.
        let counted = self.count_exec()?;
        let started = self.run_exec(&exec).await;
        match started {
            Ok(reaped) => {
                let pid = exec.process.pid();
                self.publisher().publish(Event::exec_started(self.id.as_str(), exec_id, pid));
                self.watch_exec(exec, reaped, counted);
                Ok(pid)
            }
            Err(err) => {
                exec.process.never_ran();
                Err(err)
            }
        }
    }

    async fn run_exec(&self, exec: &Exec) -> Result<crate::reaper::Reaped> {
        let stdio_failed = |err| Error::Stdio { process: exec.id.clone(), id: self.id.to_string(), err };
        let process = exec.take_spec().ok_or(Error::NotStarted)?;
        let config = exec.process.stdio.config(self.pipe_owner);
        let (mut io, stdio) =
            Io::open(&config, self.id.as_str(), &self.context.namespace).await.map_err(stdio_failed)?;
        let container = self.container()?;
        let options = ExecOptions::new(process, stdio);
        let Started { child, console, input, .. } = blocking("exec", move || container.exec(options)).await?;
        let child = Arc::new(child);
        let adopted = io.start(console, input).map_err(stdio_failed).and_then(|()| self.reaped(&child));
        if adopted.is_err() {
            // It runs already, but nobody could read its output or learn of its exit.
            child.signal(runtime_core::Signal::KILL).map_err(|err| Error::Kill { pid: 0, err })?;
        }
        exec.process.attach(io);
        exec.process.born(&child, State::Running);
        adopted
    }
}
