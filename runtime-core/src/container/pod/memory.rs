//! /dev/shm of a pod: a tmpfs of the host's, which the members have as a bind mount. CRIU takes it for the host's own and
//! carries nothing of it, but the names of the files that are open or mapped.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::fs::statfs;

use super::error::PodError;
use super::manifest::{PodManifest, SharedMemory};
use super::members::Member;
use super::tree;

const SHM: &str = "/dev/shm";
const DIRECTORY: &str = "shm";

/// Of statfs(2).
const TMPFS: u64 = 0x0102_1994;

/// A shared /dev/shm: where it is on the host, and whose.
#[derive(Clone, Debug)]
pub(super) struct Source {
    path: PathBuf,
    members: Vec<String>,
}

/// Those that are the pod's. The host's own, for a pod in the host's IPC namespace, is not.
pub(super) fn find(members: &[Member]) -> Vec<Source> {
    let is_host = |metadata: &Metadata| fs::metadata(SHM).is_ok_and(|host| host.dev() == metadata.dev());
    let mut found: Vec<((u64, u64), Source)> = Vec::new();
    for member in members {
        let Some(path) = source(&member.spec) else { continue };
        let Ok(metadata) = fs::metadata(&path) else { continue };
        let is_tmpfs = statfs(&path).is_ok_and(|stat| u64::try_from(stat.f_type) == Ok(TMPFS));
        if is_host(&metadata) || !is_tmpfs {
            continue;
        }
        let key = (metadata.dev(), metadata.ino());
        match found.iter_mut().find(|(other, _)| *other == key) {
            Some((_, source)) => source.members.push(member.id.clone()),
            None => found.push((key, Source { path, members: vec![member.id.clone()] })),
        }
    }
    found.into_iter().map(|(_, source)| source).collect()
}

/// What is bound on /dev/shm.
pub(super) fn source(spec: &Spec) -> Option<PathBuf> {
    let mount = spec.mounts().iter().flatten().find(|mount| mount.destination() == Path::new(SHM))?;
    let is_bind = |option: &String| option == "bind" || option == "rbind";
    let bind = mount.typ().as_deref() == Some("bind") || mount.options().iter().flatten().any(is_bind);
    mount.source().clone().filter(|_| bind)
}

/// The processes stand still meanwhile.
pub(super) fn save(sources: &[Source], dir: &Path) -> Result<Vec<SharedMemory>, PodError> {
    let save = |(at, source): (usize, &Source)| {
        let directory = if at == 0 { DIRECTORY.to_owned() } else { format!("{DIRECTORY}-{at}") };
        let bytes = tree::copy(&source.path, &dir.join(&directory))?;
        Ok(SharedMemory { directory, members: source.members.clone(), bytes })
    };
    sources.iter().enumerate().map(save).collect()
}

/// Before any of the members is restored. `sources` has what each has as /dev/shm now; what is in there goes.
pub(super) fn put_back(
    manifest: &PodManifest,
    dir: &Path,
    sources: &HashMap<String, Option<PathBuf>>,
) -> Result<(), PodError> {
    let mut places = Vec::new();
    for memory in &manifest.shared_memory {
        let mut place: Option<(PathBuf, (u64, u64))> = None;
        for member in &memory.members {
            let path = sources.get(member).cloned().flatten();
            let path = path.ok_or_else(|| PodError::NoSharedMemory { member: member.clone() })?;
            let metadata = fs::metadata(&path).map_err(PodError::file("look at", &path))?;
            let key = (metadata.dev(), metadata.ino());
            if place.as_ref().is_some_and(|(_, other)| *other != key) {
                return Err(PodError::Apart { members: memory.members.clone() });
            }
            place = Some((path, key));
        }
        places.extend(place.map(|(path, _)| (dir.join(&memory.directory), path)));
    }
    for (from, to) in places {
        tree::clear(&to)?;
        tree::copy(&from, &to)?;
    }
    Ok(())
}
