//! `update`: new limits for a container that lives.

use oci_spec::runtime::{LinuxIntelRdt, LinuxResources};

use super::{Container, Status};
use crate::{Error, Result};

pub(super) fn update(container: &Container, resources: &LinuxResources) -> Result<()> {
    match container.status()? {
        Status::Creating | Status::Created | Status::Running | Status::Paused => {
            container.state.cgroup.update(resources).map_err(container.cgroup_failed())
        }
        status @ Status::Stopped => Err(Error::WrongStatus {
            id: container.id().clone(),
            problem: "cannot update a container that has stopped",
            status,
        }),
    }
}

pub(super) fn update_class(container: &Container, schemata: &LinuxIntelRdt) -> Result<()> {
    let Some(class) = &container.state.class else { return Ok(()) };
    class.update(schemata).map_err(|err| Error::Resctrl { id: container.id().clone(), err })
}
