//! What happens when a process exits.

use std::sync::Arc;

use runtime_core::Signal;
use runtime_core::children::{Child, Exit};

use super::{Running, Task, blocking};
use crate::error::{Error, Result};
use crate::events::Event;
use crate::journal;
use crate::process::exec::Exec;
use crate::reaper::Reaped;

/// Counts an exec'd process as running until it is dropped.
pub(super) struct Counted(Arc<Task>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.running.send_modify(|running| running.execs -= 1);
    }
}

impl Task {
    /// # Errors
    /// The init has exited: a process that came now would outlive the exit event of its container.
    pub(super) fn count_exec(self: &Arc<Self>) -> Result<Counted> {
        let counted = self.running.send_if_modified(|running: &mut Running| {
            if !running.init_gone {
                running.execs += 1;
            }
            !running.init_gone
        });
        if counted { Ok(Counted(self.clone())) } else { Err(Error::InitGone { id: self.id.to_string() }) }
    }

    pub(super) fn reaped(&self, child: &Arc<Child>) -> Result<Reaped> {
        Reaped::new(child.clone()).map_err(|err| Error::Watch { pid: child.pid.as_raw().unsigned_abs(), err })
    }

    /// Has the init's exit journalled and published, whenever it comes.
    pub(super) fn watch_init(self: &Arc<Self>, child: &Arc<Child>) -> Result<()> {
        let (task, reaped, pid) = (self.clone(), self.reaped(child)?, child.pid);
        tokio::spawn(async move {
            match reaped.exit().await {
                Ok(exit) => {
                    if let Err(err) = journal::write(&task.bundle, pid, exit) {
                        tracing::warn!(id = %task.id, err = crate::error::chain(&err), "exit is not journalled");
                    }
                    task.init_exited(exit).await;
                }
                Err(err) => tracing::error!(id = %task.id, %pid, %err, "wait for the init"),
            }
        });
        Ok(())
    }

    /// The exit of the init is the last of its container's.
    async fn init_exited(self: Arc<Self>, exit: Exit) {
        let starting = self.starting.lock().await;
        self.running.send_modify(|running| running.init_gone = true);
        if self.shares_pids {
            self.kill_rest().await;
        }
        let mut running = self.running.subscribe();
        // The sender is a field of the task that this future holds.
        running.wait_for(|running| running.execs == 0).await.ok();
        drop(starting);
        self.init.exited(exit);
        let id = self.id.as_str();
        tracing::info!(id, pid = self.init.pid(), code = exit.code, "init has exited");
        self.publisher().publish(Event::exit(id, id, self.init.pid(), exit));
    }

    async fn kill_rest(&self) {
        let Ok(container) = self.container() else { return };
        if let Err(err) = blocking("kill", move || container.kill(Signal::KILL, true)).await {
            tracing::warn!(id = %self.id, err = crate::error::chain(&err), "end the processes that the init has left");
        }
    }

    pub(super) fn watch_exec(self: &Arc<Self>, exec: Arc<Exec>, reaped: Reaped, counted: Counted) {
        let task = self.clone();
        tokio::spawn(async move {
            match reaped.exit().await {
                Ok(exit) => {
                    exec.process.exited(exit);
                    let (id, pid) = (task.id.as_str(), exec.process.pid());
                    task.publisher().publish(Event::exit(id, &exec.id, pid, exit));
                }
                Err(err) => tracing::error!(id = %task.id, exec_id = exec.id, %err, "wait for the process"),
            }
            drop(counted);
        });
    }
}
