//! Sources of bind mounts that the init cannot open or map itself.
//!
//! A user namespace's root may not pass every directory above a source, and nobody but the owner of a filesystem may give a
//! mount other ids (mount_setattr(2), MOUNT_ATTR_IDMAP). So the caller does both, in a thread that has joined the
//! container's mount namespace, where the host's mounts have the flags that are locked for the container. The init asks for
//! each when it comes to it.

use std::fmt::Write;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{LinuxIdMapping, Mount};
use serde::{Deserialize, Serialize};

use super::error::Error;
use super::options::{Depth, MS_SLAVE, Options};
use super::{Entry, Kind, Plan, tree};
use crate::sys::mount::{MountAttr, id_map, mount_setattr};

/// Other ids for a mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct IdMap {
    depth: Depth,
    /// `uid_map` and `gid_map`; `None` for those of the container's user namespace.
    maps: Option<(String, String)>,
}

impl IdMap {
    /// # Errors
    /// Why the mappings cannot be.
    pub(super) fn new(mount: &Mount, options: &Options) -> Result<Option<Self>, &'static str> {
        fn given(maps: &Option<Vec<LinuxIdMapping>>) -> Option<&Vec<LinuxIdMapping>> {
            maps.as_ref().filter(|maps| !maps.is_empty())
        }
        let maps = match (given(mount.uid_mappings()), given(mount.gid_mappings())) {
            (Some(uids), Some(gids)) => Some((id_lines(Some(uids)), id_lines(Some(gids)))),
            (None, None) => None,
            _ => return Err("uidMappings and gidMappings must be given together"),
        };
        if maps.is_none() && options.id_map.is_none() {
            return Ok(None);
        }
        // Mappings alone are taken for "idmap", as runc takes them.
        Ok(Some(Self { depth: options.id_map.unwrap_or(Depth::One), maps }))
    }

    pub(super) fn is_containers(&self) -> bool {
        self.maps.is_none()
    }
}

/// The contents of a uid_map or gid_map (user_namespaces(7)).
pub(crate) fn id_lines(mappings: Option<&Vec<LinuxIdMapping>>) -> String {
    let mut text = String::new();
    for map in mappings.into_iter().flatten() {
        // To a string it cannot fail.
        writeln!(text, "{} {} {}", map.container_id(), map.host_id(), map.size()).ok();
    }
    text
}

impl Plan {
    /// The mounts, by their place in the spec, whose sources the caller has to open. `all`: those that need no other ids too.
    pub(crate) fn needed_sources(&self, all: bool) -> Vec<usize> {
        let needed = |entry: &Entry| matches!(entry.kind, Kind::Bind { .. }) && (all || entry.ids.is_some());
        self.mounts.iter().enumerate().filter(|(_, entry)| needed(entry)).map(|(place, _)| place).collect()
    }

    /// Where the first mount with other ids is.
    pub(crate) fn id_mapped(&self) -> Option<&Path> {
        self.mounts.iter().find(|entry| entry.ids.is_some()).map(|entry| entry.target.as_path())
    }

    /// The maps of a mount's own user namespace.
    pub(crate) fn source_maps(&self, place: usize) -> Option<&(String, String)> {
        self.mounts.get(place)?.ids.as_ref()?.maps.as_ref()
    }

    /// Whether a mount has the ids of the container's user namespace.
    pub(crate) fn source_is_containers(&self, place: usize) -> bool {
        self.mounts.get(place).and_then(|entry| entry.ids.as_ref()).is_some_and(IdMap::is_containers)
    }

    /// A detached mount of a source, with its ids. In a thread that has joined the container's mount namespace.
    pub(crate) fn open_source(&self, place: usize, ids: Option<BorrowedFd<'_>>) -> Result<OwnedFd, Error> {
        let entry = self.mounts.get(place).ok_or(Error::Missing("mount"))?;
        let Kind::Bind { source } = &entry.kind else { return Err(Error::Missing("source")) };
        let failed = |err| Error::Bind { source_path: source.clone(), target: entry.target.clone(), err };
        let mount = tree::clone_host(source, entry.options.recursive_bind).map_err(failed)?;
        // Nothing that the container mounts below it may reach the host, as if the init had opened it.
        let (propagation, recursive) = self.propagation.unwrap_or((MS_SLAVE, true));
        let attr = MountAttr { propagation, ..MountAttr::default() };
        mount_setattr(&mount, recursive, attr).map_err(failed)?;
        if let (Some(map), Some(ids)) = (&entry.ids, ids) {
            id_map(&mount, map.depth == Depth::Tree, ids).map_err(|err| Error::IdMap {
                source_path: source.clone(),
                target: entry.target.clone(),
                err,
            })?;
        }
        Ok(mount)
    }
}
