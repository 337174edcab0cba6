//! A container that has come from elsewhere, and runs while its memory follows.

use std::sync::Arc;

use runtime_core::container::ArrivingMemory;

use super::{Task, blocking};
use crate::error::{Error, Result};

/// Where the memory of the init's container is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Memory {
    #[default]
    Here,
    Arriving,
    /// It did not come, and the container was ended.
    Lost,
}

impl Task {
    /// Watches over memory that is on its way.
    pub(super) fn await_memory(self: &Arc<Self>, memory: ArrivingMemory) -> Result<()> {
        let (task, container) = (self.clone(), self.container()?);
        self.memory.send_replace(Memory::Arriving);
        tokio::spawn(async move {
            let arrived = blocking("fetch the memory", move || memory.wait(&container)).await;
            match &arrived {
                Ok(()) => tracing::info!(id = %task.id, "all memory is here"),
                Err(err) => tracing::error!(id = %task.id, err = crate::error::chain(err), "ended a container"),
            }
            task.memory.send_replace(if arrived.is_ok() { Memory::Here } else { Memory::Lost });
        });
        Ok(())
    }

    /// Returns when all memory is here.
    ///
    /// # Errors
    /// It did not come.
    pub(crate) async fn arrived(&self) -> Result<()> {
        let mut memory = self.memory.subscribe();
        // The sender is a field of this, so that it is there for as long.
        let memory = memory.wait_for(|memory| *memory != Memory::Arriving).await.map(|memory| *memory);
        match memory {
            Ok(Memory::Lost) => Err(Error::MemoryLost { id: self.id.to_string() }),
            _ => Ok(()),
        }
    }

    /// # Errors
    /// Memory is on its way still: CRIU cannot dump what is not there.
    pub(super) fn check_memory(&self) -> Result<()> {
        match *self.memory.borrow() {
            Memory::Here => Ok(()),
            Memory::Arriving => Err(Error::Arriving { id: self.id.to_string() }),
            Memory::Lost => Err(Error::MemoryLost { id: self.id.to_string() }),
        }
    }
}
