//! The containers of this shim, and its end: it goes when containerd asks for that and no container is left.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::error::{Error, Result};
use crate::task::{self, Context, Create, Task};

#[derive(Debug)]
pub(crate) struct Sandbox {
    tasks: Mutex<HashMap<String, Slot>>,
    context: Context,
    shutdown: watch::Sender<bool>,
}

#[derive(Debug)]
enum Slot {
    /// Create is under way: the id is taken, but nothing can be asked of it yet.
    Reserved,
    Task(Arc<Task>),
}

impl Sandbox {
    pub(crate) fn new(context: Context) -> Self {
        Self { tasks: Mutex::default(), context, shutdown: watch::Sender::new(false) }
    }

    /// # Errors
    /// As [`task::create`]; the id is free again then.
    pub(crate) async fn create(&self, request: Create) -> Result<Arc<Task>> {
        let id = request.id.to_string();
        match self.tasks().entry(id.clone()) {
            Entry::Occupied(_) => return Err(Error::ContainerExists { id }),
            Entry::Vacant(slot) => slot.insert(Slot::Reserved),
        };
        let created = task::create(request, self.context.clone()).await;
        match &created {
            Ok(task) => self.tasks().insert(id, Slot::Task(task.clone())),
            Err(_) => self.tasks().remove(&id),
        };
        created
    }

    /// # Errors
    /// No such container, or not yet.
    pub(crate) fn task(&self, id: &str) -> Result<Arc<Task>> {
        match self.tasks().get(id) {
            Some(Slot::Task(task)) => Ok(task.clone()),
            Some(Slot::Reserved) | None => Err(Error::NoContainer),
        }
    }

    pub(crate) fn remove(&self, id: &str) {
        self.tasks().remove(id);
    }

    /// Ends the shim unless it still has containers.
    pub(crate) fn shut_down(&self) {
        let left = self.tasks().len();
        if left == 0 {
            self.shutdown.send_replace(true);
        } else {
            tracing::debug!(left, "shutdown waits for the other containers");
        }
    }

    /// Resolves when the shim is to end.
    pub(crate) async fn ended(&self) {
        // The sender is ours.
        self.shutdown.subscribe().wait_for(|ended| *ended).await.ok();
    }

    fn tasks(&self) -> MutexGuard<'_, HashMap<String, Slot>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
