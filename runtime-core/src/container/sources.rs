//! Sources of bind mounts that the container's init needs the host's rights for (see [`crate::rootfs`]).

use std::os::fd::{AsFd, OwnedFd};

use nix::sched::CloneFlags;

use super::inside;
use super::namespaces::Namespaces;
use crate::error::RootfsError;
use crate::rootfs::Plan;
use crate::{ContainerId, Error, Pid, Result, children};

/// What it takes to open them.
#[derive(Debug)]
pub(super) struct Sources {
    /// By the mounts' places in the plan; with the user namespace that has the ids of a mount's own.
    needed: Vec<(usize, Option<OwnedFd>)>,
    user_namespace: OwnedFd,
    mount_namespace: OwnedFd,
}

impl Sources {
    /// `pid` is an init that waits for its orders. `None`: there is no such source.
    pub(super) fn new(id: &ContainerId, namespaces: &Namespaces, plan: &Plan, pid: Pid) -> Result<Option<Self>> {
        // Without the host's rights there is nothing to open that the init could not.
        let all = namespaces.user() && rustix::process::geteuid().is_root();
        let needed = plan.needed_sources(all);
        if needed.is_empty() {
            return Ok(None);
        }
        let own = |place| plan.source_maps(place).map(|(uids, gids)| user_namespace(id, uids, gids)).transpose();
        let needed = needed.into_iter().map(|place| Ok((place, own(place)?))).collect::<Result<_>>()?;
        let mount_namespace = match &namespaces.mount {
            Some(joined) => joined.try_clone().map_err(|err| Error::System {
                id: id.clone(),
                operation: "duplicate a mount namespace",
                err,
            })?,
            None => inside::namespace(id, pid, "mnt")?,
        };
        Ok(Some(Self { needed, user_namespace: inside::namespace(id, pid, "user")?, mount_namespace }))
    }

    pub(super) fn places(&self) -> Vec<usize> {
        self.needed.iter().map(|(place, _)| *place).collect()
    }

    /// A detached mount, as the source is now. `None` for a place that needs none.
    pub(super) fn open(&self, id: &ContainerId, plan: &Plan, place: usize) -> Result<Option<OwnedFd>> {
        let Some((_, own)) = self.needed.iter().find(|(needed, _)| *needed == place) else { return Ok(None) };
        let containers = plan.source_is_containers(place).then_some(&self.user_namespace);
        let ids = own.as_ref().or(containers).map(AsFd::as_fd);
        let opened = inside::run(id, &self.mount_namespace, CloneFlags::CLONE_NEWNS, || plan.open_source(place, ids))?;
        opened.map(Some).map_err(|err| Error::Rootfs { id: id.clone(), err: RootfsError(err) })
    }
}

fn user_namespace(id: &ContainerId, uids: &str, gids: &str) -> Result<OwnedFd> {
    // Its process is a child of ours that nobody else may reap.
    let _hold = children::hold();
    crate::sys::user_namespace::make(uids, gids).map_err(|err| Error::System {
        id: id.clone(),
        operation: "make a user namespace for the ids of a mount",
        err,
    })
}
