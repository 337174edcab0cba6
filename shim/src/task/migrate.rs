//! A container that leaves this host: a checkpoint that waits for a decision before it ends the container.

use std::sync::{Arc, MutexGuard, PoisonError};

use runtime_core::Signal;
use runtime_core::container::{CheckpointOptions, Checkpointed, Finding, Severity};

use super::{Task, blocking};
use crate::error::{Error, Result};
use crate::migration::{End, Hold, Phase};
use crate::process::state::{State, Verb};

impl Task {
    /// Writes the container's memory while it runs, for a dump of the same migration.
    ///
    /// # Errors
    /// Another migration is under way, or the memory could not be written.
    pub(crate) async fn pre_dump(
        self: Arc<Self>,
        options: CheckpointOptions,
        migration: String,
    ) -> Result<Checkpointed> {
        let _queue = self.queue.lock().await;
        if let Some(other) = self.any_migration().filter(|other| !other.is_over()) {
            return Err(Error::Migrating { id: self.id.to_string(), migration: other.migration.clone() });
        }
        self.init.check(Verb::Checkpoint)?;
        self.check_memory()?;
        let container = self.container()?;
        *self.pre_dumping() = Some(migration);
        let made = blocking("pre-dump", move || container.checkpoint(&options)).await;
        *self.pre_dumping() = None;
        let made = made?;
        let milliseconds = made.total.as_millis();
        tracing::info!(bytes = made.bytes, milliseconds, frozen = ?made.frozen, "wrote the memory of a running container");
        Ok(made)
    }

    /// Waits for the end of a pre-dump of a migration, if one is under way; whether one was.
    pub(crate) async fn pre_dump_over(&self, migration: &str) -> bool {
        let is_its = self.pre_dumping().as_deref() == Some(migration);
        if is_its {
            drop(self.queue.lock().await);
        }
        is_its
    }

    fn pre_dumping(&self) -> MutexGuard<'_, Option<String>> {
        self.pre_dumping.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Dumps the container and returns when the dump is held.
    ///
    /// # Errors
    /// Another migration is under way, or the container could not be dumped; it runs on then.
    pub(crate) async fn dump(self: Arc<Self>, options: CheckpointOptions, hold: Arc<Hold>) -> Result<()> {
        {
            let mut migration = self.migration.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(other) = migration.as_ref().filter(|other| !other.is_over()) {
                return Err(Error::Migrating { id: self.id.to_string(), migration: other.migration.clone() });
            }
            *migration = Some(hold.clone());
        }
        let (task, held) = (self.clone(), hold.clone());
        let mut dumping = tokio::spawn(async move {
            let dumped = task.clone().checkpoint(options).await;
            if let Err(err) = &dumped
                && held.committing()
            {
                tracing::warn!(err = crate::error::chain(err), "criu did not end a container that has left");
                task.end_for_good().await;
            }
            held.end(if held.committing() { End::Committed } else { End::Resumed });
            dumped
        });
        tokio::select! {
            biased;
            ended = &mut dumping => ended?.map(drop),
            () = hold.held() => match hold.phase() {
                Phase::Aborting | Phase::Over(End::Resumed) => dumping.await?.map(drop),
                _ => Ok(()),
            },
        }
    }

    /// The container is somebody else's now: what CRIU has left of it must not go on.
    async fn end_for_good(&self) {
        let Ok(container) = self.container() else { return };
        if let Err(err) = blocking("kill", move || container.kill(Signal::KILL, true)).await {
            tracing::error!(id = %self.id, err = crate::error::chain(&err), "end a container that has left");
        }
    }

    /// # Errors
    /// The container is in no migration of this name.
    pub(crate) fn migration(&self, name: &str) -> Result<Arc<Hold>> {
        self.any_migration()
            .filter(|hold| hold.migration == name)
            .ok_or_else(|| Error::NoMigration { id: self.id.to_string(), migration: name.to_owned() })
    }

    /// The last one.
    pub(crate) fn any_migration(&self) -> Option<Arc<Hold>> {
        self.migration.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why it could not be checkpointed now, if so.
    pub(crate) fn refuses_checkpoint(&self) -> Vec<String> {
        let refused = self.init.check(Verb::Checkpoint).err().map(|err| err.to_string());
        let other = self
            .any_migration()
            .filter(|other| !other.is_over())
            .map(|other| Error::Migrating { id: self.id.to_string(), migration: other.migration.clone() }.to_string());
        let memory = self.check_memory().err().map(|err| err.to_string());
        refused.into_iter().chain(other).chain(memory).collect()
    }

    /// What a dump would fail at, and what may be in its way.
    pub(crate) async fn check_dump(&self, options: CheckpointOptions) -> Result<(Vec<String>, Vec<String>)> {
        let container = self.container()?;
        let report = blocking("preflight", move || container.check_checkpoint(&options, None)).await?;
        let (refuse, warn): (Vec<_>, Vec<_>) =
            report.findings.into_iter().partition(|finding| finding.severity == Severity::Refuse);
        let text = |findings: Vec<Finding>| findings.iter().map(ToString::to_string).collect();
        Ok((text(refuse), text(warn)))
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.init.state() == State::Paused
    }
}
