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
    /// Create is under way: the id is taken, but nothing can be asked of it yet. Closed when it has ended.
    Reserved(watch::Receiver<()>),
    Task(Arc<Task>),
}

/// An id in the making; free again when this is dropped and there is no task.
struct Reservation<'a> {
    sandbox: &'a Sandbox,
    id: &'a str,
    _ended: watch::Sender<()>,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        let mut tasks = self.sandbox.tasks();
        if matches!(tasks.get(self.id), Some(Slot::Reserved(_))) {
            tasks.remove(self.id);
        }
    }
}

impl Sandbox {
    pub(crate) fn new(context: Context) -> Self {
        Self { tasks: Mutex::default(), context, shutdown: watch::Sender::new(false) }
    }

    /// # Errors
    /// As [`task::create`]; the id is free again then.
    pub(crate) async fn create(&self, request: Create) -> Result<Arc<Task>> {
        let id = request.id.to_string();
        let reservation = self.reserve(&id)?;
        let task = task::create(request, self.context.clone()).await?;
        self.tasks().insert(id.clone(), Slot::Task(task.clone()));
        drop(reservation);
        Ok(task)
    }

    fn reserve<'a>(&'a self, id: &'a str) -> Result<Reservation<'a>> {
        let (sender, receiver) = watch::channel(());
        match self.tasks().entry(id.to_owned()) {
            Entry::Occupied(_) => return Err(Error::ContainerExists { id: id.to_owned() }),
            Entry::Vacant(slot) => slot.insert(Slot::Reserved(receiver)),
        };
        Ok(Reservation { sandbox: self, id, _ended: sender })
    }

    /// The container, once a Create that is under way has ended: containerd deletes what its client has given up, and will
    /// not ask again.
    ///
    /// # Errors
    /// No such container.
    pub(crate) async fn made(&self, id: &str) -> Result<Arc<Task>> {
        loop {
            let mut ended = match self.tasks().get(id) {
                Some(Slot::Task(task)) => return Ok(task.clone()),
                Some(Slot::Reserved(ended)) => ended.clone(),
                None => return Err(Error::NoContainer),
            };
            // An error is the end.
            while ended.changed().await.is_ok() {}
        }
    }

    /// # Errors
    /// No such container, or not yet.
    pub(crate) fn task(&self, id: &str) -> Result<Arc<Task>> {
        match self.tasks().get(id) {
            Some(Slot::Task(task)) => Ok(task.clone()),
            Some(Slot::Reserved(_)) | None => Err(Error::NoContainer),
        }
    }

    /// Every container.
    ///
    /// # Errors
    /// One is only being made.
    pub(crate) fn all(&self) -> Result<Vec<Arc<Task>>> {
        let task = |slot: &Slot| match slot {
            Slot::Task(task) => Ok(task.clone()),
            Slot::Reserved(_) => Err(Error::NotStarted),
        };
        self.tasks().values().map(task).collect()
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
