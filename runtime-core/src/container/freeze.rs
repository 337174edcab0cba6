//! `pause` and `resume`: the cgroup's freezer.

use super::kill::DEADLINE;
use super::{Container, Status};
use crate::{Error, Result};

pub(super) fn pause(container: &Container) -> Result<()> {
    match container.status()? {
        Status::Created | Status::Running => container.state.cgroup.freeze(DEADLINE).map_err(container.cgroup_failed()),
        status @ (Status::Creating | Status::Paused | Status::Stopped) => Err(Error::WrongStatus {
            id: container.id().clone(),
            problem: "cannot pause a container that is not running",
            status,
        }),
    }
}

pub(super) fn resume(container: &Container) -> Result<()> {
    match container.status()? {
        Status::Paused => container.state.cgroup.thaw(DEADLINE).map_err(container.cgroup_failed()),
        status => Err(Error::WrongStatus {
            id: container.id().clone(),
            problem: "cannot resume a container that is not paused",
            status,
        }),
    }
}
