//! A container that leaves this host: a checkpoint that waits for a decision before it ends the container.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use runtime_core::Signal;
use runtime_core::container::{CheckpointOptions, Finding, Severity};

use super::{Task, blocking};
use crate::error::{Error, Result};
use crate::migration::{End, Hold, Phase};
use crate::process::state::{State, Verb};

impl Task {
    /// Dumps the container and returns when the dump is held; since when the container stands still, at the latest.
    ///
    /// # Errors
    /// Another migration is under way, or the container could not be dumped; it runs on then.
    pub(crate) async fn dump(self: Arc<Self>, options: CheckpointOptions, hold: Arc<Hold>) -> Result<Instant> {
        {
            let mut migration = self.migration.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(other) = migration.as_ref().filter(|other| !other.is_over()) {
                return Err(Error::Migrating { id: self.id.to_string(), migration: other.migration.clone() });
            }
            *migration = Some(hold.clone());
        }
        let begun = Instant::now();
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
            ended = &mut dumping => ended?.map(|()| begun),
            () = hold.held() => match hold.phase() {
                Phase::Aborting | Phase::Over(End::Resumed) => dumping.await?.map(|()| begun),
                _ => Ok(begun),
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
        refused.into_iter().chain(other).collect()
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
