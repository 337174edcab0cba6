//! Delete of a process, and of the container with its init.

use std::sync::Arc;
use std::time::SystemTime;

use runtime_core::children::Exit;
use runtime_core::{ErrorKind, Signal};

use super::{Task, blocking, streams};
use crate::error::{Error, Result};
use crate::events::Event;
use crate::mount;
use crate::process::Process;
use crate::process::state::{State, Verb};

/// What a Delete answers with.
#[derive(Debug)]
pub(crate) struct Deleted {
    pub(crate) pid: u32,
    pub(crate) exit: Exit,
}

impl Deleted {
    fn of(process: &Process) -> Self {
        let snapshot = process.snapshot();
        // What never ran has no exit.
        let exit = snapshot.exit.unwrap_or_else(|| Exit { code: 0, at: SystemTime::now() });
        Self { pid: snapshot.pid, exit }
    }
}

impl Task {
    /// # Errors
    /// The process runs.
    pub(crate) async fn delete_exec(self: Arc<Self>, exec_id: &str) -> Result<Deleted> {
        let _queue = self.queue.lock().await;
        let exec = self.exec(exec_id)?;
        exec.process.check(Verb::Delete)?;
        exec.process.close_io().await;
        exec.process.enter(State::Deleted);
        self.execs().remove(exec_id);
        Ok(Deleted::of(&exec.process))
    }

    /// Takes the container away: what is left of its processes, stdio, cgroups, state and mounts. May be called again
    /// after a failure.
    ///
    /// # Errors
    /// The container runs, or something could not be removed.
    pub(crate) async fn delete(self: Arc<Self>) -> Result<Deleted> {
        let _queue = self.queue.lock().await;
        self.init.check(Verb::Delete)?;
        if self.init.state() == State::Created {
            self.end_unstarted().await?;
        }
        self.init.close_io().await;
        let execs: Vec<_> = self.execs().drain().map(|(_, exec)| exec).collect();
        for exec in execs {
            exec.process.close_io().await;
        }
        self.remove().await?;
        self.init.enter(State::Deleted);
        let deleted = Deleted::of(&self.init);
        self.publisher().publish(Event::delete(self.id.as_str(), deleted.pid, deleted.exit));
        Ok(deleted)
    }

    /// An init that waits for a Start that will not come.
    async fn end_unstarted(&self) -> Result<()> {
        let exited = self.init.wait();
        match self.init.signal(Signal::KILL) {
            Ok(()) | Err(Error::Finished) => {}
            Err(err) => return Err(err),
        }
        exited.await;
        Ok(())
    }

    async fn remove(&self) -> Result<()> {
        if let Ok(container) = self.container() {
            match blocking("delete", move || container.delete(false)).await {
                // A checkpoint that ended the container has taken its state with it.
                Err(Error::Runtime { err, .. }) if err.kind() == ErrorKind::NotFound => {}
                other => other?,
            }
        }
        let rootfs = self.bundle.join("rootfs");
        tokio::task::spawn_blocking(move || mount::unmount_all(&rootfs)).await??;
        let removed = streams::remove(&self.bundle);
        removed.map_err(|(directory, err)| Error::Streams { id: self.id.to_string(), directory, err })
    }
}
