//! The verb `checkpoint`.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use criu::images::{DESCRIPTORS, DumpStats};
use criu::{After, Answer, Common, Criu, DumpOptions, Log, MINIMUM, Notification};
use oci_spec::runtime::Spec;

use super::error::CheckpointError;
use super::host::Host;
use super::manifest::{self, Manifest, Timings};
use super::options::{CheckpointOptions, Checkpointed, CriuOptions, NetworkLock};
use super::swrk::Plain;
use super::work::{Work, make_dir, open_dir};
use super::{config_file, mounts, namespaces, network, plan};
use crate::container::kill::DEADLINE;
use crate::container::{Container, Status};
use crate::{Error, Pid, Result};

const LOG: &str = "dump.log";

/// As runc: warnings are not enough to find out what went wrong, and the log is small beside the pages.
const LOG_LEVEL: i32 = 4;

pub(in crate::container) fn checkpoint(container: &Container, options: &CheckpointOptions) -> Result<Checkpointed> {
    let start = Instant::now();
    let (pid, paused) = match (container.status()?, container.pid()) {
        (Status::Running, Some(pid)) => (pid, false),
        (Status::Paused, Some(pid)) => (pid, true),
        (status, _) => {
            let problem = "cannot checkpoint a container that is not running";
            return Err(Error::WrongStatus { id: container.id().clone(), problem, status });
        }
    };
    let criu_failed = |err| Error::Criu { id: container.id().clone(), operation: "checkpoint", err: Box::new(err) };
    let failed = |err| Error::Checkpoint { id: container.id().clone(), operation: "checkpoint", err };
    let criu = Criu::find().map_err(criu_failed)?;
    let spec = crate::spec::load(&container.state.bundle)?;

    let images = Images::new(&options.image_dir).map_err(failed)?;
    let work = Work::new(options.work_dir.as_deref(), container.directory.path()).map_err(failed)?;
    let mut manifest = describe(container, options, &spec, pid).map_err(failed)?;
    tracing::debug!(id = %container.id(), mounts = ?manifest.external_mounts, "external mounts");
    let request = request(container, options, &spec, &manifest, &work).map_err(failed)?;
    write_descriptors(&options.image_dir, &manifest.descriptors).map_err(failed)?;

    let mut notify = |notification: Notification, _: BorrowedFd<'_>| {
        tracing::debug!(id = %container.id(), ?notification, "checkpoint");
        if let Notification::PostDump = notification {
            manifest.criu = criu::logged_version(&work.path().join(LOG)).unwrap_or_default();
            manifest.write(&options.image_dir)?;
        }
        Ok(Answer::Acknowledge)
    };
    let worker = criu.start(request, &Plain).map_err(criu_failed)?;
    // CRIU looks at a freezer every 100 ms; ours is frozen in less than one. It leaves it as it finds it.
    if !paused {
        container.state.cgroup.freeze(DEADLINE).map_err(container.cgroup_failed())?;
    }
    let dumped = worker.run(&mut notify, options.limit);
    settle(container, paused && (dumped.is_err() || options.leave_running));
    let blamed = |err| criu.blame(work.keep_log(err, LOG, &container.state.bundle), MINIMUM, &Plain);
    dumped.map_err(|err| criu_failed(blamed(err)))?;

    let total = start.elapsed();
    let stats = finish(&mut manifest, &work, &options.image_dir, total);
    let bytes = images.keep();
    Ok(Checkpointed { bytes, total, frozen: stats.map(|stats| stats.frozen) })
}

/// Whatever CRIU did to the freezer: the container is to be frozen afterwards if it was before and lives, and else not.
/// What is to die must be thawed too (cgroup v1).
fn settle(container: &Container, frozen: bool) {
    let cgroup = &container.state.cgroup;
    let settled = match cgroup.frozen() {
        Ok(now) if now == frozen => Ok(()),
        Ok(_) if frozen => cgroup.freeze(DEADLINE),
        Ok(_) => cgroup.thaw(DEADLINE),
        Err(err) => Err(err),
    };
    if let Err(err) = settled {
        tracing::warn!(id = %container.id(), err = &err as &dyn std::error::Error, "freezer after a checkpoint");
    }
}

fn describe(
    container: &Container,
    options: &CheckpointOptions,
    spec: &Spec,
    pid: Pid,
) -> Result<Manifest, CheckpointError> {
    let plan = plan(&container.state.bundle, spec, &container.state.cgroup)?;
    let config = container.state.bundle.join("config.json");
    let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let descriptors = container
        .state
        .descriptors(pid)
        .map_err(CheckpointError::file("read descriptors of", format!("/proc/{pid}")))?;
    Ok(Manifest {
        version: manifest::VERSION,
        id: container.id().to_string(),
        created: u64::try_from(created.as_nanos()).unwrap_or(u64::MAX),
        spec_digest: manifest::digest(&fs::read(&config).map_err(CheckpointError::file("read", &config))?),
        options: CriuOptions {
            network_lock: options.criu.network_lock.or_else(network_lock),
            empty_net_ns: options.criu.empty_net_ns || network::leave_empty(spec, pid),
            ..options.criu.clone()
        },
        left_running: options.leave_running,
        parent: options.parent.as_ref().map(|path| path.to_string_lossy().into_owned()),
        terminal: container.state.terminal,
        descriptors,
        namespaces: namespaces::describe(spec),
        external_mounts: mounts::find(pid, &plan)?,
        criu: String::new(),
        host: Host::of_this_machine(),
        timings: None,
    })
}

/// CRIU's own choice is iptables, which many hosts have no more; nftables it needs no program for. `None` leaves it to CRIU
/// and its configuration.
fn network_lock() -> Option<NetworkLock> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has_iptables = std::env::split_paths(&path).any(|directory| directory.join("iptables-restore").exists());
    (!has_iptables).then_some(NetworkLock::Nftables)
}

fn request(
    container: &Container,
    options: &CheckpointOptions,
    spec: &Spec,
    manifest: &Manifest,
    work: &Work,
) -> Result<DumpOptions, CheckpointError> {
    let mut common = Common::new(open_dir(&options.image_dir)?);
    common.work_dir = Some(work.open()?);
    common.log = Log { file: LOG.to_owned(), level: LOG_LEVEL };
    common.root = spec.root().as_ref().map(|root| container.state.bundle.join(root.path()));
    common.config_file = config_file(&container.state);
    common.external = namespaces::external(spec)?;
    common.ext_mounts = manifest.external_mounts.iter().map(|mount| mount.at_dump()).collect();
    manifest.options.apply(&mut common);

    let pid = container.pid().map_or(0, Pid::as_raw);
    let mut dump = DumpOptions::new(common, pid);
    dump.after = if options.leave_running { After::Run } else { After::Kill };
    dump.parent_img = manifest.parent.clone();
    dump.track_mem = manifest.parent.is_some();
    dump.tcp_skip_in_flight = options.criu.tcp_skip_in_flight;
    dump.freeze_cgroup = container.state.cgroup.freezer_directory().map(|path| path.to_string_lossy().into_owned());
    Ok(dump)
}

fn write_descriptors(dir: &Path, descriptors: &[String]) -> Result<(), CheckpointError> {
    let path = dir.join(DESCRIPTORS);
    let json = serde_json::to_vec(descriptors).map_err(CheckpointError::Encode)?;
    fs::write(&path, json).map_err(CheckpointError::file("write", path))
}

/// Adds the timings. The checkpoint is good without them.
fn finish(manifest: &mut Manifest, work: &Work, dir: &Path, total: Duration) -> Option<DumpStats> {
    let stats = DumpStats::read(work.path())
        .inspect_err(|err| tracing::warn!(err = err as &dyn std::error::Error, "statistics of a checkpoint"))
        .ok()?;
    manifest.timings = Some(Timings::new(total, &stats));
    if let Err(err) = manifest.write(dir) {
        tracing::warn!(err = &err as &dyn std::error::Error, "timings of a checkpoint");
    }
    Some(stats)
}

/// The image directory: what a failed dump wrote to it is removed again.
#[derive(Debug)]
struct Images<'a> {
    dir: &'a Path,
    /// What was there before; `None` if the directory was not.
    before: Option<HashSet<OsString>>,
    keep: bool,
}

impl<'a> Images<'a> {
    fn new(dir: &'a Path) -> Result<Self, CheckpointError> {
        let made = make_dir(dir)?;
        let before = if made { None } else { Some(names(dir)?) };
        Ok(Self { dir, before, keep: false })
    }

    /// The size of the whole. What cannot be read does not count: the checkpoint is made, and is no failure any more.
    fn keep(mut self) -> u64 {
        self.keep = true;
        let files = fs::read_dir(self.dir).into_iter().flatten().flatten().filter_map(|entry| entry.metadata().ok());
        files.filter(|metadata| metadata.is_file()).map(|metadata| metadata.len()).sum()
    }

    fn discard(&self) -> Result<(), CheckpointError> {
        let Some(before) = &self.before else {
            return fs::remove_dir_all(self.dir).map_err(CheckpointError::file("remove", self.dir));
        };
        for name in names(self.dir)?.difference(before) {
            let path = self.dir.join(name);
            fs::remove_file(&path).map_err(CheckpointError::file("remove", &path))?;
        }
        Ok(())
    }
}

impl Drop for Images<'_> {
    fn drop(&mut self) {
        if !self.keep
            && let Err(err) = self.discard()
        {
            tracing::warn!(err = &err as &dyn std::error::Error, "images of a failed checkpoint");
        }
    }
}

fn names(dir: &Path) -> Result<HashSet<OsString>, CheckpointError> {
    let entries = fs::read_dir(dir).map_err(CheckpointError::file("list", dir))?;
    entries.map(|entry| Ok(entry.map_err(CheckpointError::file("list", dir))?.file_name())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("rtc-images-{name}-{}", std::process::id()))
    }

    #[test]
    fn a_failed_dump_leaves_no_directory_that_it_made() {
        let dir = scratch("new");
        let images = Images::new(&dir).unwrap();
        fs::write(dir.join("core-1.img"), "x").unwrap();
        drop(images);
        assert!(!dir.exists());
    }

    #[test]
    fn a_failed_dump_leaves_what_was_there() {
        let dir = scratch("old");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("mine"), "x").unwrap();
        let images = Images::new(&dir).unwrap();
        fs::write(dir.join("core-1.img"), "x").unwrap();
        drop(images);
        assert_eq!(names(&dir).unwrap().into_iter().collect::<Vec<_>>(), ["mine"]);
        let images = Images::new(&dir).unwrap();
        fs::write(dir.join("core-1.img"), "xyz").unwrap();
        assert_eq!(images.keep(), 4);
        assert_eq!(names(&dir).unwrap().len(), 2);
        fs::remove_dir_all(dir).unwrap();
    }
}
