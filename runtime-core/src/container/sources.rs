//! Sources of bind mounts that the container's init needs the host's rights for (see [`crate::rootfs`]).

use std::os::fd::{AsFd, OwnedFd};

use nix::sched::CloneFlags;

use super::inside;
use super::namespaces::Namespaces;
use crate::error::RootfsError;
use crate::rootfs::Plan;
use crate::{ContainerId, Error, Pid, Result, children};

/// Detached mounts, each with its place in the plan. `pid` is an init that waits for its orders.
pub(super) fn open(id: &ContainerId, namespaces: &Namespaces, plan: &Plan, pid: Pid) -> Result<Vec<(usize, OwnedFd)>> {
    // Without the host's rights there is nothing to open that the init could not.
    let all = namespaces.user() && rustix::process::geteuid().is_root();
    let needed = plan.needed_sources(all);
    if needed.is_empty() {
        return Ok(Vec::new());
    }
    let containers = inside::namespace(id, pid, "user")?;
    let mut sources = Vec::with_capacity(needed.len());
    for place in needed {
        let own = plan.source_maps(place).map(|(uids, gids)| user_namespace(id, uids, gids)).transpose()?;
        sources.push((place, own));
    }
    let joined = namespaces.mount.as_ref().map(OwnedFd::try_clone).transpose();
    let mounts = match joined {
        Ok(Some(joined)) => joined,
        Ok(None) => inside::namespace(id, pid, "mnt")?,
        Err(err) => return Err(Error::System { id: id.clone(), operation: "duplicate a mount namespace", err }),
    };
    let open = || {
        let one = |(place, own): (usize, Option<OwnedFd>)| {
            let containers = plan.source_is_containers(place).then_some(&containers);
            let ids = own.as_ref().or(containers).map(AsFd::as_fd);
            Ok((place, plan.open_source(place, ids)?))
        };
        sources.into_iter().map(one).collect::<Result<Vec<_>, _>>()
    };
    let opened = inside::run(id, &mounts, CloneFlags::CLONE_NEWNS, open)?;
    opened.map_err(|err| Error::Rootfs { id: id.clone(), err: RootfsError(err) })
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
