//! `start`: the init becomes the user's program.

use std::sync::PoisonError;

use super::{Container, Status, launch};
use crate::{Error, Result, hooks};

pub(super) fn start(container: &Container) -> Result<()> {
    let channel = container.channel.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(channel) = channel else {
        let status = container.status()?;
        let problem = match status {
            Status::Stopped => "cannot start a container that has stopped",
            Status::Created => "cannot start a container that another process created",
            Status::Running | Status::Paused => "cannot start an already running container",
        };
        return Err(Error::WrongStatus { id: container.id().clone(), problem, status });
    };
    if !super::status::alive(container) {
        let (id, status) = (container.id().clone(), Status::Stopped);
        return Err(Error::WrongStatus { id, problem: "cannot start a container that has stopped", status });
    }
    launch::execute(container.id(), &channel)?;
    // The specification wants a warning and no more when these fail.
    if let Err(err) = hooks::run("poststart", &container.state.poststart, &container.state.hook_state("running")) {
        tracing::warn!(id = %container.id(), err = &err as &dyn std::error::Error, "poststart hook");
    }
    Ok(())
}
