//! The checkpoint of all containers of this shim.

use std::path::PathBuf;
use std::sync::Arc;

use runtime_core::container::{Container, CriuOptions, PodCheckpointed, PodDump};

use crate::error::{Error, Result};
use crate::process::state::State;
use crate::task::Task;

/// What is asked for.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) image_dir: PathBuf,
    pub(super) leave_running: bool,
    pub(super) criu: CriuOptions,
}

/// # Errors
/// One of the containers could not be dumped; all run on then.
pub(super) async fn checkpoint(tasks: Vec<Arc<Task>>, options: Options) -> Result<PodCheckpointed> {
    let (tasks, containers): (Vec<_>, Vec<_>) = running(tasks)?.into_iter().unzip();
    let sandbox = tasks.first().filter(|task| task.is_sandbox()).map(|task| task.id.clone());
    let (dir, leave_running) = (options.image_dir.clone(), options.leave_running);
    let looked = move || PodDump::new(&dir, sandbox.as_ref(), &containers, leave_running);
    let pod = tokio::task::spawn_blocking(looked).await?.map_err(Error::Pod)?;

    let mut dumps = Vec::with_capacity(tasks.len());
    for (task, (_, mut dump)) in tasks.iter().zip(pod.options()) {
        dump.criu = options.criu.clone();
        dumps.push(tokio::spawn(task.clone().checkpoint(dump)));
    }
    let (mut made, mut errors) = (Vec::with_capacity(dumps.len()), Vec::new());
    for (task, dump) in tasks.iter().zip(dumps) {
        let dumped = dump.await.map_err(Error::from).and_then(|dumped| dumped);
        made.push(dumped.as_ref().ok().cloned());
        errors.extend(dumped.err().map(|err| (task.id.to_string(), err)));
    }
    let (whole, finished) = (pod.clone(), move || pod.finish(&made));
    match tokio::task::spawn_blocking(finished).await? {
        Ok(made) => Ok(made),
        Err(err) => {
            // Its own reason, and not that of those who were taken back for it.
            let failed = whole.failed();
            let its = |(id, _): &(String, Error)| failed.as_ref().is_none_or(|failed| failed == id);
            let position = errors.iter().position(its);
            Err(position.map_or(Error::Pod(err), |at| errors.swap_remove(at).1))
        }
    }
}

/// Those that have not ended, the sandbox first and then as they were made.
fn running(mut tasks: Vec<Arc<Task>>) -> Result<Vec<(Arc<Task>, Arc<Container>)>> {
    tasks.retain(|task| !matches!(task.init.state(), State::Stopped | State::Deleted));
    let mut all = Vec::with_capacity(tasks.len());
    for task in tasks {
        if let Some(problem) = task.refuses_checkpoint().into_iter().next() {
            return Err(Error::PodMember { id: task.id.to_string(), problem });
        }
        let container = task.container()?;
        all.push((!task.is_sandbox(), container.created(), task, container));
    }
    all.sort_by_key(|one| (one.0, one.1));
    Ok(all.into_iter().map(|(_, _, task, container)| (task, container)).collect())
}
