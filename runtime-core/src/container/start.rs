//! `start`: the init becomes the user's program.

use std::sync::PoisonError;

use super::{Container, Status, execute, kill};
use crate::{Error, Result, Signal, hooks};

pub(super) fn start(container: &Container) -> Result<()> {
    let channel = container.channel.lock().unwrap_or_else(PoisonError::into_inner).take();
    match channel.zip(container.pid()) {
        Some(_) if !super::status::alive(container) => return Err(refused(container, Status::Stopped)),
        Some((channel, pid)) => execute::execute(container.id(), &channel, pid)?,
        None => from_elsewhere(container)?,
    }
    let hooks = hooks::run("poststart", &container.state.poststart, &container.state.hook_state("running"));
    hooks.map_err(|err| {
        let err = Error::Hook { id: container.id().clone(), err };
        // Since 1.3 of the specification: the container is stopped, and left for its delete.
        match kill::kill(container, Signal::KILL, false) {
            Ok(()) | Err(Error::NotRunning { .. }) => err,
            Err(roll_back) => Error::RollBack { err: Box::new(err), roll_back: Box::new(roll_back) },
        }
    })
}

/// The init waits at its start socket, if it was made so.
fn from_elsewhere(container: &Container) -> Result<()> {
    let pid = match (container.status()?, container.pid()) {
        (Status::Created, Some(pid)) => pid,
        (other, _) => return Err(refused(container, other)),
    };
    let started = container
        .directory
        .at_start_socket(|path| execute::execute_at(container.id(), path, pid))
        .map_err(|err| kill::system(container, "open the state directory", err))?;
    // It was another who started it, or has ended it.
    if started? { Ok(()) } else { Err(refused(container, container.status()?)) }
}

fn refused(container: &Container, status: Status) -> Error {
    let problem = match status {
        Status::Creating => "cannot start a container in the creating state",
        Status::Stopped => "cannot start a container that has stopped",
        Status::Created => "cannot start a container that its creator or another process is starting",
        Status::Running | Status::Paused => "cannot start an already running container",
    };
    Error::WrongStatus { id: container.id().clone(), problem, status }
}
