//! A container of this shim: one owner with a queue.
//!
//! Create, Start, Exec, Pause, Resume, Update, Checkpoint and Delete run one after the other, in the order in which they
//! came: each holds [`Task::queue`], a fair lock, and runs in a tokio task of its own, so that a client that goes away
//! in the middle stops nothing half-way. State, Wait, Kill, Pids, Stats, ResizePty and CloseIO do not queue: they read a
//! snapshot or make one call, and so answer for a container that is stuck.
//!
//! Events of one container are published in this order, whatever happens at once:
//! ```text
//!   create  start  (exec-added  exec-started  exit of exec)*  exit of init  delete
//!             |          |                          |              |
//!             |          `- counted as running -----'              `- waits for `starting` and for no exec running
//!             `- holds `starting`
//! ```

mod arrive;
mod checkpoint;
mod create;
mod delete;
mod exec;
mod exit;
mod migrate;
mod start;
pub(crate) mod streams;
mod verbs;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use runtime_core::ContainerId;
use runtime_core::container::Container;
use tokio::sync::watch;

pub(crate) use checkpoint::checkpoint_options;
pub(crate) use create::{Create, STATE_ROOT_FILE, create};

use self::arrive::Memory;
use crate::bootstrap::group;
use crate::error::{Error, Result};
use crate::migration::Hold;
use crate::options::Options;
use crate::pod::Restores;
use crate::process::exec::Exec;
use crate::process::{PipeOwner, Process};
use crate::publisher::Publisher;

#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) id: ContainerId,
    pub(crate) bundle: PathBuf,
    pub(crate) init: Process,
    /// Set by Create, or by Start where Create was from a checkpoint.
    container: OnceLock<Arc<Container>>,
    execs: Mutex<HashMap<String, Arc<Exec>>>,
    running: watch::Sender<Running>,
    /// The owner's queue: whoever holds it may call the methods of [`Container`] that are to be called one at a time.
    queue: tokio::sync::Mutex<()>,
    /// Held while the init is started, so that its exit is published after its start.
    starting: tokio::sync::Mutex<()>,
    /// Without a pid namespace of its own nothing ends with the init.
    shares_pids: bool,
    pipe_owner: PipeOwner,
    /// Where Create was told to restore from; empty otherwise.
    checkpoint: String,
    /// The last one that was begun.
    migration: Mutex<Option<Arc<Hold>>>,
    /// The migration whose memory is being written while the container runs.
    pre_dumping: Mutex<Option<String>>,
    memory: watch::Sender<Memory>,
    options: Options,
    context: Context,
}

/// What all tasks of a shim share.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) namespace: Arc<str>,
    pub(crate) publisher: Publisher,
    /// Pods that are being restored.
    pub(crate) restores: Restores,
}

/// Which processes hold the exit of the init back.
#[derive(Clone, Copy, Debug, Default)]
struct Running {
    execs: usize,
    init_gone: bool,
}

impl Task {
    /// # Errors
    /// Create was from a checkpoint and Start has not restored it yet.
    pub(crate) fn container(&self) -> Result<Arc<Container>> {
        self.container.get().cloned().ok_or(Error::NotStarted)
    }

    /// The others of its pod have joined its namespaces.
    pub(crate) fn is_sandbox(&self) -> bool {
        let group = self.container.get().and_then(|container| group::of_annotations(container.annotations()));
        group == Some(self.id.as_str())
    }

    /// The init for an empty id.
    ///
    /// # Errors
    /// There is no such process.
    pub(crate) fn process(&self, exec_id: &str) -> Result<ProcessRef<'_>> {
        if exec_id.is_empty() { Ok(ProcessRef::Init(&self.init)) } else { self.exec(exec_id).map(ProcessRef::Exec) }
    }

    fn exec(&self, exec_id: &str) -> Result<Arc<Exec>> {
        self.execs().get(exec_id).cloned().ok_or_else(|| Error::NoProcess { exec_id: exec_id.to_owned() })
    }

    fn execs(&self) -> MutexGuard<'_, HashMap<String, Arc<Exec>>> {
        self.execs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publisher(&self) -> &Publisher {
        &self.context.publisher
    }
}

/// One of a task's processes.
pub(crate) enum ProcessRef<'a> {
    Init(&'a Process),
    Exec(Arc<Exec>),
}

impl std::ops::Deref for ProcessRef<'_> {
    type Target = Process;

    fn deref(&self) -> &Process {
        match self {
            Self::Init(process) => process,
            Self::Exec(exec) => &exec.process,
        }
    }
}

/// Runs a call of the runtime on a thread where it may block.
async fn blocking<T: Send + 'static>(
    operation: &'static str,
    call: impl FnOnce() -> runtime_core::Result<T> + Send + 'static,
) -> Result<T> {
    let span = tracing::Span::current();
    let done = tokio::task::spawn_blocking(move || span.in_scope(call)).await?;
    done.map_err(|err| Error::Runtime { operation, err: Box::new(err) })
}
