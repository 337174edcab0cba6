//! Start of the init: it executes the user's program, or is restored.

use std::sync::Arc;

use super::{Task, blocking};
use crate::error::{Error, Result};
use crate::events::Event;
use crate::oom;
use crate::process::state::{State, Verb};

impl Task {
    /// # Errors
    /// The program could not be executed, and the init is gone and its exit published; or CRIU could not restore it.
    pub(crate) async fn start(self: Arc<Self>) -> Result<u32> {
        let _queue = self.queue.lock().await;
        let _starting = self.starting.lock().await;
        self.init.check(Verb::Start)?;
        if self.init.state() == State::CreatedFromCheckpoint {
            self.restore().await?;
        } else {
            let container = self.container()?;
            blocking("start", move || container.start()).await?;
            self.init.enter(State::Running);
        }
        self.watch_oom(self.container()?).await;
        let pid = self.init.pid();
        self.publisher().publish(Event::start(self.id.as_str(), pid));
        Ok(pid)
    }

    /// A container without a memory controller has no OOM events; it runs all the same.
    async fn watch_oom(self: &Arc<Self>, container: Arc<runtime_core::container::Container>) {
        match blocking("watch OOM", move || container.oom_watch()).await {
            Ok(watch) => {
                let (id, publisher) = (self.id.clone(), self.publisher().clone());
                tokio::spawn(async move { oom::publish(id.as_str(), watch, &publisher).await });
            }
            Err(err @ Error::Runtime { .. }) => {
                tracing::warn!(err = crate::error::chain(&err), "no OOM events for this container");
            }
            Err(err) => tracing::error!(err = crate::error::chain(&err), "watch OOM"),
        }
    }
}
