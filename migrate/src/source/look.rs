//! What there is to move, and whether it can be.

use std::fs;
use std::path::{Path, PathBuf};

use prost_types::Any;
use proto::containerd::services::containers::v1::Container;
use proto::containerd::v1::types::{Process, Status};
use proto::migration::migration::PreflightResponse;
use proto::stream::{self, Welcome};
use serde_json::Value;

use super::{Migrate, Mode, container};
use crate::containerd::{Containerd, writable_layer};
use crate::error::{Error, Result};
use crate::network::{Hook, Recorder};
use crate::node::Host;
use crate::shim::{DumpOptions, Shim};
use crate::{image, spec, wire};

/// A container that can be moved.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) containerd: Containerd,
    pub(super) shim: Shim,
    /// As it is to be at the destination.
    pub(super) container: Container,
    pub(super) task: Process,
    pub(super) preflight: PreflightResponse,
    /// The directory of what it has written.
    pub(super) layer: PathBuf,
    /// What its snapshot stands on.
    pub(super) parent: String,
    pub(super) image: Option<stream::Image>,
    pub(super) host: Host,
    pub(super) hook: Option<Hook>,
    /// The container has joined a network namespace, and the destination takes the packets that come meanwhile.
    pub(super) records: bool,
    /// Why its memory cannot go ahead, or follow, where that is not asked for in any case.
    pub(super) no_precopy: Option<String>,
    pub(super) no_postcopy: Option<String>,
}

const NEEDS_TRACKING: &str = "needs a kernel that tracks which memory is written to (CONFIG_MEM_SOFT_DIRTY), and this one \
                              does not";

impl Source {
    pub(super) async fn look(options: &Migrate, migration: &str) -> Result<Self> {
        let id = &options.id;
        let unfit = |problem: String| Error::Unfit { id: id.clone(), problem };
        let (containerd, mut container) = container(&options.containerd, id).await?;
        let netns = adapt(&mut container, options)?;
        let task = containerd.task(id).await?.ok_or_else(|| unfit("it does not run".to_owned()))?;
        match task.status() {
            Status::Running => {}
            Status::Paused => {
                return Err(unfit("it is paused, and would run at the destination: resume it first".to_owned()));
            }
            _ => return Err(unfit("it does not run".to_owned())),
        }
        let (shim, preflight) = ask_shim(options, task.pid, migration).await.map_err(|err| {
            let runtime = container.runtime.as_ref().map(|runtime| runtime.name.clone()).unwrap_or_default();
            Error::NoService { id: id.clone(), runtime, err: Box::new(err) }
        })?;
        if !preflight.problems.is_empty() {
            return Err(unfit(preflight.problems.join("; ")));
        }
        if options.mode == Mode::PreCopy && !preflight.tracks_memory {
            return Err(unfit(format!("pre-copy {NEEDS_TRACKING}")));
        }
        let (snapshotter, key) = (container.snapshotter.as_str(), container.snapshot_key.as_str());
        if key.is_empty() {
            return Err(unfit("its root filesystem is no snapshot of containerd's".to_owned()));
        }
        let snapshot = containerd.snapshot(snapshotter, key).await?.unwrap_or_default();
        let layer = writable_layer(&containerd.mounts(snapshotter, key).await?).ok_or_else(|| {
            unfit(format!("snapshots of {snapshotter} have no directory with what the container has written"))
        })?;
        let image = match snapshot.parent.as_str() {
            "" => None,
            top => {
                let image = containerd.image(&container.image).await?;
                let image =
                    image.ok_or_else(|| unfit(format!("containerd has its image {} no more", container.image)))?;
                Some(image::inventory(&containerd, image, top).await?)
            }
        };
        let (parent, host) = (snapshot.parent, Host::this());
        let records = netns.is_some();
        let hook = options.network_hook.as_deref().map(|path| Hook::new(path, netns)).transpose()?;
        let (no_precopy, no_postcopy) = (None, None);
        Ok(Self {
            containerd,
            shim,
            container,
            task,
            preflight,
            layer,
            parent,
            image,
            host,
            hook,
            records,
            no_precopy,
            no_postcopy,
        })
    }

    /// Whether the destination is one that processes of this host can go on at.
    pub(super) fn check(&mut self, welcome: &Welcome, mode: Mode) -> Result<()> {
        let Host { architecture, .. } = &self.host;
        if welcome.architecture != *architecture {
            let problem = format!("it is of {}, and the container of {architecture}", welcome.architecture);
            return Err(Error::Refused(problem));
        }
        if welcome.criu.is_empty() {
            return Err(Error::Refused("it has no CRIU that could restore the container".to_owned()));
        }
        let (ours, theirs) = (&self.preflight.criu_version, &welcome.criu);
        if version(theirs) < version(ours) {
            return Err(Error::Refused(format!("its CRIU {theirs} is older than {ours}, which makes the images")));
        }
        match (mode, self.check_rounds(welcome)) {
            (Mode::PreCopy, Err(err)) => return Err(err),
            (Mode::Auto, Err(err)) => self.no_precopy = Some(err.to_string()),
            _ => {}
        }
        match (mode, self.check_lazy_pages(welcome)) {
            (Mode::PostCopy, Err(err)) => return Err(err),
            (Mode::Auto, Err(err)) => self.no_postcopy = Some(err.to_string()),
            _ => {}
        }
        Ok(())
    }

    fn check_rounds(&self, welcome: &Welcome) -> Result<()> {
        if !self.preflight.tracks_memory {
            let problem = format!("pre-copy {NEEDS_TRACKING}");
            return Err(Error::Unfit { id: self.container.id.clone(), problem });
        }
        if welcome.version < wire::ROUNDS {
            return Err(Error::Refused(format!("its {} is too old for pre-copy", welcome.software)));
        }
        Ok(())
    }

    fn check_lazy_pages(&self, welcome: &Welcome) -> Result<()> {
        let needs = "needs CRIU and a kernel that can bring memory to a running process (userfaultfd)";
        if welcome.version < wire::LAZY_PAGES {
            return Err(Error::Refused(format!("its {} is too old for post-copy", welcome.software)));
        }
        if !welcome.lazy_pages {
            return Err(Error::Refused(format!("post-copy {needs}, and it has none")));
        }
        if !self.preflight.lazy_pages {
            return Err(Error::Unfit { id: self.container.id.clone(), problem: format!("post-copy {needs}") });
        }
        Ok(())
    }

    /// Keeps what comes for the container from now on. It is moved without, where it cannot be had: then its peers have to send
    /// it once more.
    pub(super) fn record(&self) -> Option<Recorder> {
        if !self.records {
            return None;
        }
        let started =
            fs::File::open(format!("/proc/{}/ns/net", self.task.pid)).and_then(|netns| Recorder::start(&netns));
        started.inspect_err(|err| tracing::warn!(id = self.container.id, %err, "record what comes meanwhile")).ok()
    }

    /// Bytes of the writable layer, and of the processes' memory: what the images will have, at the most.
    pub(super) async fn sizes(&self) -> Result<(u64, u64)> {
        let pids = self.containerd.pids(&self.container.id).await?;
        let layer = self.layer.clone();
        let size = tokio::task::spawn_blocking(move || (size_of(&layer), memory_of(&pids)));
        Ok(size.await?)
    }
}

async fn ask_shim(options: &Migrate, pid: u32, migration: &str) -> Result<(Shim, PreflightResponse)> {
    let shim = Shim::connect(&options.id, pid, migration).await?;
    let lazy_pages = options.mode == Mode::PostCopy;
    let preflight = shim.preflight(&options.state, DumpOptions { lazy_pages, ..DumpOptions::ALL }).await?;
    for warning in &preflight.warnings {
        tracing::warn!(id = options.id, "{warning}");
    }
    Ok((shim, preflight))
}

/// For the destination; the network namespace that the container has joined here.
fn adapt(container: &mut Container, options: &Migrate) -> Result<Option<PathBuf>> {
    let id = &options.id;
    let any = container.spec.take().unwrap_or_default();
    let what = format!("the specification of container {id}");
    let mut json: Value = serde_json::from_slice(&any.value).map_err(|err| Error::Json { what, err })?;
    if let Some(problem) = spec::unfit(&json, &container.labels, &container.sandbox) {
        return Err(Error::Unfit { id: id.clone(), problem });
    }
    let netns = spec::network(&json);
    spec::adapt(id, &mut json, &options.maps, options.netns.as_deref())?;
    let changed = !options.maps.is_empty() || options.netns.is_some();
    // As it came, digits and all, where nothing was to be changed.
    let value = if changed { json.to_string().into_bytes() } else { any.value };
    container.spec = Some(Any { type_url: any.type_url, value });
    Ok(netns)
}

/// `4.2.1` in numbers.
fn version(text: &str) -> Vec<u32> {
    text.split('.').map_while(|part| part.parse().ok()).collect()
}

/// What vanishes meanwhile has no size.
fn size_of(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size_of(&entry.path()),
            Ok(metadata) => std::os::unix::fs::MetadataExt::blocks(&metadata) * 512,
            Err(_) => 0,
        })
        .sum()
}

/// Resident memory, in bytes (proc_pid_statm(5)). A process that is gone has none.
fn memory_of(pids: &[u32]) -> u64 {
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    let statm = pids.iter().filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/statm")).ok());
    statm.filter_map(|statm| statm.split(' ').nth(1)?.parse::<u64>().ok()).map(|pages| pages * page).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers() {
        assert!(version("4.1.1") < version("4.2"));
        assert!(version("4.10") > version("4.9.3"));
        assert!(version("4.2") < version("4.2.1"));
    }

    #[test]
    fn what_is_written_has_a_size() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("a")).unwrap();
        fs::write(directory.path().join("a/b"), [1; 10_000]).unwrap();
        assert!(size_of(directory.path()) >= 8192);
        assert!(memory_of(&[std::process::id()]) > 100_000);
    }
}
