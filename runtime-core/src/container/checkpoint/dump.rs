//! The verb `checkpoint`.

use std::cell::{Cell, RefCell};
use std::error::Error as StdError;
use std::fs;
use std::io::Write;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use criu::images::{DESCRIPTORS, DumpStats};
use criu::{After, Answer, Common, Criu, DumpOptions, Log, MINIMUM, Notification, PreDumpOptions, Request};
use oci_spec::runtime::Spec;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::aftermath::Aftermath;
use super::error::CheckpointError;
use super::frozen::{Holds, freeze, settle, with_roll_back};
use super::guard::Guard;
use super::hold::HeldDump;
use super::host::Host;
use super::images::Images;
use super::input::Reader;
use super::manifest::{self, Manifest, Timings};
use super::options::{
    CheckpointOptions, Checkpointed, CriuOptions, External, NetworkLock, PageServer, SealOptions, Transport,
};
use super::swrk::Plain;
use super::work::{Work, open_dir};
use super::{
    annotations, check_caller, config_file, execs, input, inventory, mounts, namespaces, network, phases, plan,
    preflight, programs, seal, stdio,
};
use crate::container::{Container, Status, notify};
use crate::sealed::Capture;
use crate::{Error, Pid, Result, Signal, limited};

pub(super) const LOG: &str = "dump.log";

/// As runc: warnings are not enough to find out what went wrong, and the log is small beside the pages.
const LOG_LEVEL: i32 = 4;

/// In the work directory: the user's own configuration of CRIU and the address of lazy pages.
const LAZY_CONFIG: &str = "criu-lazy.conf";

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
    let failed = |err| Error::Checkpoint { id: container.id().clone(), operation: "checkpoint", err };
    check_caller().map_err(&failed)?;
    check(options).map_err(&failed)?;
    let annotated = annotations::read(&container.state.annotations).map_err(&failed)?;
    let criu_options = options.criu.over(&annotated.criu);
    let sealing = options.seal.over(&annotated.seal);
    seal::check(options, &criu_options, &sealing).map_err(|err| failed(err.into()))?;
    let criu = Criu::find().map_err(criu_failed(container))?;
    check_features(container, options, &criu_options, &criu)?;
    refuse(container, options)?;
    execs::check(container, pid, options, annotated.end_execs)?;
    let mut spec = crate::spec::load_file(&container.state.config())?;
    if notify::is_in(&container.directory) {
        notify::add_to(&mut spec, container.directory.path());
    }

    let images = Images::new(&options.image_dir, options.keep_images || annotated.keep_images).map_err(&failed)?;
    let work = options.work_dir.as_deref().or(annotated.work_path.as_deref());
    let work = Work::new(work, container.directory.path()).map_err(&failed)?;
    let external = [annotated.external_dump.as_slice(), &options.external].concat();
    let (guard, keep_images) = (RefCell::default(), Cell::default());
    let capture = capture(options, &sealing).map_err(&failed)?;
    let dump = Dump {
        container,
        options,
        criu: &criu,
        spec: &spec,
        work: &work,
        external,
        pid,
        paused,
        guard,
        keep_images,
        capture,
    };
    if options.pre_dump {
        dump.pre_dump(&criu_options)?;
        let frozen = dump.stats().map(|stats| stats.frozen);
        return Ok(Checkpointed { bytes: images.keep(), total: start.elapsed(), frozen });
    }
    let mut manifest = describe(container, options, criu_options, &spec, pid).map_err(&failed)?;
    manifest.programs = programs::of(pid, &container.pids()?);
    if let Some(capture) = &dump.capture {
        manifest.version = manifest::VERSION;
        manifest.sealed = Some(capture.sealing().clone());
    }
    tracing::debug!(id = %container.id(), mounts = ?manifest.external_mounts, "external mounts");
    write_descriptors(dump.images_dir(), &manifest.descriptors).map_err(&failed)?;
    let span = phases::dump(container.id());
    if let Err(err) = span.in_scope(|| dump.dump(&mut manifest)) {
        if dump.keep_images.get() {
            images.keep();
        }
        return Err(err);
    }

    let total = start.elapsed();
    let stats = dump.stats();
    phases::dumped(&span, total, stats.as_ref());
    finish(&mut manifest, options, total, stats.as_ref());
    Ok(Checkpointed { bytes: images.keep(), total, frozen: stats.map(|stats| stats.frozen) })
}

fn criu_failed(container: &Container) -> impl Fn(criu::Error) -> Error {
    let id = container.id().clone();
    move |err| Error::Criu { id: id.clone(), operation: "checkpoint", err: Box::new(err) }
}

/// What can be refused before anything is touched.
fn check(options: &CheckpointOptions) -> Result<(), CheckpointError> {
    if let Some(parent) = &options.parent {
        let refuse = |problem| Err(CheckpointError::Parent { path: parent.clone(), problem });
        if parent.is_absolute() {
            return refuse("the path must be relative to the image directory");
        }
        if !options.image_dir.join(parent).is_dir() {
            return refuse("there is no such directory in the image directory");
        }
    }
    if options.pre_dump && options.lazy_pages {
        return Err(CheckpointError::PreDump { problem: "has no lazy pages: it writes the memory, and nothing else" });
    }
    let serves = match &options.page_server {
        Some(server) => matches!(server.transport, Transport::Address { .. }),
        None => options.holder.is_some(),
    };
    if options.lazy_pages && !serves {
        return Err(CheckpointError::LazyPagesNowhere);
    }
    Ok(())
}

/// CRIU fails at it too, with the container frozen and in other words.
fn refuse(container: &Container, options: &CheckpointOptions) -> Result<()> {
    if options.skip_preflight {
        return Ok(());
    }
    let refusals = preflight::refusals(container, options)?;
    if !refusals.refuses() {
        return Ok(());
    }
    let err = CheckpointError::Refused(refusals);
    Err(Error::Checkpoint { id: container.id().clone(), operation: "checkpoint", err })
}

/// CRIU would find out too, with the container frozen and in words that help nobody.
fn check_features(container: &Container, options: &CheckpointOptions, told: &CriuOptions, criu: &Criu) -> Result<()> {
    if !options.pre_dump && !options.lazy_pages && !told.track_mem {
        return Ok(());
    }
    let features = criu.features(&Plain).map_err(criu_failed(container))?;
    let (feature, needs) = match options.pre_dump {
        true if !features.mem_track => ("pre-dump", "a kernel that tracks memory (CONFIG_MEM_SOFT_DIRTY)"),
        false if told.track_mem && !features.mem_track => {
            ("tracking of memory", "a kernel that does (CONFIG_MEM_SOFT_DIRTY)")
        }
        false if options.lazy_pages && !features.lazy_pages => ("lazy pages", "a kernel with userfaultfd(2)"),
        _ => return Ok(()),
    };
    let err = CheckpointError::Feature { feature, needs };
    Err(Error::Checkpoint { id: container.id().clone(), operation: "checkpoint", err })
}

/// One run of CRIU.
struct Dump<'a> {
    container: &'a Container,
    options: &'a CheckpointOptions,
    criu: &'a Criu,
    spec: &'a Spec,
    work: &'a Work,
    external: Vec<External>,
    pid: Pid,
    paused: bool,
    /// While CRIU is at work.
    guard: RefCell<Option<Guard>>,
    /// Somebody has decided that the images stay.
    keep_images: Cell<bool>,
    /// What is between CRIU and the image directory, if anything is.
    capture: Option<Capture>,
}

fn capture(options: &CheckpointOptions, seal: &SealOptions) -> Result<Option<Capture>, CheckpointError> {
    Ok(seal.is_on().then(|| Capture::start(&options.image_dir, seal)).transpose()?)
}

impl Dump<'_> {
    fn dump(&self, manifest: &mut Manifest) -> Result<()> {
        let request = self.request(manifest).map_err(self.failed())?;
        // Until the end, when the processes read on themselves or are gone.
        let held = self.options.input.as_ref().map(|input| input.hold()).transpose();
        let held = held.map_err(CheckpointError::file("hold back", "standard input")).map_err(self.failed())?;
        let stdin = manifest.descriptors.first().map_or("", String::as_str).to_owned();
        let reader = Reader::find(&self.container.pids()?, &stdin);
        let mut notify = |notification: Notification, criu: BorrowedFd<'_>| {
            tracing::debug!(id = %self.container.id(), ?notification, "checkpoint");
            match notification {
                Notification::PostDump => {
                    stdio::take_positions(&mut manifest.stdio_files, self.pid);
                    let dir = self.images_dir();
                    let terminal = manifest.terminal.then_some(self.pid);
                    manifest.unread = input::save(&self.container.pids()?, terminal, &reader, held.as_ref(), dir)?;
                    manifest.criu = criu::logged_version(&self.work.path().join(LOG)).unwrap_or_default();
                    if self.options.holder.is_some() && network::joined(self.spec).is_some() {
                        // It is restored elsewhere, where CRIU has locked nothing: to unlock that too takes some ten
                        // milliseconds, in which nobody runs.
                        manifest.options.network_lock = Some(NetworkLock::Skip);
                    }
                    manifest.write(&self.options.image_dir)?;
                    if let Some(capture) = &self.capture {
                        // What cannot be written fails here, where the processes still can run on.
                        capture.finish(&*manifest)?;
                    }
                    self.hold(criu)?;
                }
                Notification::StatusReady => self.tell_ready()?,
                _ => {}
            }
            Ok(Answer::Acknowledge)
        };
        self.run(request, |request| request.freeze_cgroup = None, &mut notify, !self.options.leave_running)
    }

    /// Waits for the decision, if there is somebody who takes it.
    fn hold(&self, criu: BorrowedFd<'_>) -> Result<(), Box<dyn StdError + Send + Sync>> {
        let Some(holder) = &self.options.holder else { return Ok(()) };
        holder.hold(&HeldDump { criu, guard: &self.guard, keep_images: &self.keep_images })?;
        if self.options.leave_running {
            return Ok(());
        }
        let dead = poll(&mut [PollFd::from_borrowed_fd(criu, PollFlags::IN)], Some(&Timespec::default()))? > 0;
        if dead {
            // Before they are thawed: they must not run again.
            self.container.kill(Signal::KILL, true)?;
        }
        Ok(())
    }

    fn pre_dump(&self, told: &CriuOptions) -> Result<()> {
        let mut request = PreDumpOptions::new(self.common(told).map_err(self.failed())?, self.pid.as_raw());
        request.parent_img = self.options.parent.as_ref().map(|path| path.to_string_lossy().into_owned());
        request.freeze_cgroup = self.freezer();
        self.run(request, |request| request.freeze_cgroup = None, &mut (), false)
    }

    /// `without_freezer` alters the request for when the freezer does not hold the processes.
    fn run<R: Request<Reply = ()>>(
        &self,
        request: R,
        without_freezer: impl FnOnce(&mut R),
        notify: &mut dyn criu::Notify,
        ends: bool,
    ) -> Result<()> {
        let mut worker = self.criu.start(request, &Plain).map_err(criu_failed(self.container))?;
        if !self.options.lazy_pages || self.options.page_server.is_none() {
            worker.end_when_stalled(self.options.stall);
        }
        self.guard.replace(Guard::new(self.container, worker.pidfd(), self.paused)?);
        // Who decides over the dump relies on the freezer, whatever becomes of CRIU.
        let only_frozen = self.paused || self.options.holder.is_some();
        if freeze(self.container, self.paused, only_frozen)? == Holds::Criu {
            without_freezer(worker.request_mut());
        }
        let frozen = self.options.holder.as_ref().map_or(Ok(()), |holder| holder.frozen());
        if let Err(err) = frozen {
            let settled = settle(self.container, self.paused);
            drop(self.guard.take());
            return Err(with_roll_back(self.failed()(CheckpointError::TakenBack(err)), settled));
        }
        let aftermath = Aftermath::new(self.container);
        let dumped = worker.run(&mut aftermath.around(notify), self.options.limit);
        match &dumped {
            Err(err) => aftermath.take_back(&self.work.path().join(LOG), err),
            // CRIU leaves the lock to a restore, which takes place elsewhere.
            Ok(_) if self.options.holder.as_ref().is_some_and(|holder| holder.goes_elsewhere()) => {
                aftermath.leave(&self.work.path().join(LOG))
            }
            Ok(_) => {}
        }
        let settled = settle(self.container, self.paused && (dumped.is_err() || !ends));
        // The container is as it shall be.
        drop(self.guard.take());
        let Err(err) = dumped else { return self.decided(settled) };
        Err(with_roll_back(self.blame(err), settled))
    }

    /// Where images could not be written, CRIU knows no more than that.
    fn blame(&self, err: criu::Error) -> Error {
        if let Some(err) = self.capture.as_ref().and_then(Capture::failure) {
            return self.failed()(err.into());
        }
        let err = self.work.keep_log(err, LOG, &self.container.state.bundle);
        criu_failed(self.container)(self.criu.blame(err, MINIMUM, &Plain))
    }

    /// Who has decided that the processes end goes by that, and must not hear afterwards that the dump failed.
    fn decided(&self, settled: Result<()>) -> Result<()> {
        match settled {
            Err(err) if self.options.holder.is_some() => {
                let err = &err as &dyn StdError;
                tracing::warn!(id = %self.container.id(), err, "freezer after a checkpoint");
                Ok(())
            }
            settled => settled,
        }
    }

    /// Where what becomes an image is written.
    fn images_dir(&self) -> &Path {
        self.capture.as_ref().map_or(&self.options.image_dir, Capture::path)
    }

    fn failed(&self) -> impl Fn(CheckpointError) -> Error {
        let id = self.container.id().clone();
        move |err| Error::Checkpoint { id: id.clone(), operation: "checkpoint", err }
    }

    fn common(&self, options: &CriuOptions) -> Result<Common, CheckpointError> {
        let mut common = Common::new(open_dir(self.images_dir())?);
        common.work_dir = Some(self.work.open()?);
        common.log = Log { file: LOG.to_owned(), level: LOG_LEVEL };
        common.root = self.spec.root().as_ref().map(|root| self.container.state.bundle.join(root.path()));
        common.config_file = config_file(&self.container.state);
        if let Some(server) = &self.options.page_server {
            let server = server.try_clone().map_err(CheckpointError::file("duplicate", "the page server's socket"))?;
            common.page_server = Some(server);
        }
        options.apply(&mut common);
        Ok(common)
    }

    fn request(&self, manifest: &Manifest) -> Result<DumpOptions, CheckpointError> {
        let options = self.options;
        let mut common = self.common(&manifest.options)?;
        common.external = namespaces::external(self.spec, self.pid)?;
        common.external.extend(stdio::external(&manifest.stdio_files));
        common.ext_mounts = manifest.external_mounts.iter().map(|mount| mount.at_dump()).collect();
        mounts::add(&self.external, &mut common);
        if options.lazy_pages {
            common.lazy_pages = true;
            if common.page_server.is_none() {
                let (theirs, _hung_up) = UnixStream::pair().map_err(CheckpointError::file("make", "a socket pair"))?;
                common.page_server = Some(PageServer { transport: Transport::Socket(theirs.into()) });
            }
            common.config_file = Some(self.lazy_config(&common)?);
        }
        let mut dump = DumpOptions::new(common, self.pid.as_raw());
        dump.after = if options.leave_running { After::Run } else { After::Kill };
        dump.parent_img = manifest.parent.clone();
        dump.track_mem = manifest.parent.is_some() || manifest.options.track_mem;
        dump.tcp_skip_in_flight = manifest.options.tcp_skip_in_flight;
        dump.freeze_cgroup = self.freezer();
        Ok(dump)
    }

    fn freezer(&self) -> Option<String> {
        self.container.state.cgroup.freezer_directory().map(|path| path.to_string_lossy().into_owned())
    }

    /// With lazy pages CRIU heeds the port of a request and not its address, and would show the container's memory to
    /// whoever can reach this host; it does heed an address in a configuration file, and a socket. Of a socket that nobody
    /// has the other end of, it finds the end at once when it comes to serve pages, and is done.
    fn lazy_config(&self, common: &Common) -> Result<std::path::PathBuf, CheckpointError> {
        let line = match common.page_server.as_ref().map(|server| &server.transport) {
            Some(Transport::Address { address, .. }) => format!("\naddress {address}\n"),
            Some(Transport::Socket(socket)) => format!("\nps-socket {}\n", socket.as_raw_fd()),
            None => return Err(CheckpointError::LazyPagesNowhere),
        };
        let mut config = match common.config_file.as_deref() {
            Some(path) => fs::read(path).map_err(CheckpointError::file("read", path))?,
            None => Vec::new(),
        };
        config.extend(line.bytes());
        let path = self.work.path().join(LAZY_CONFIG);
        fs::write(&path, config).map_err(CheckpointError::file("write", &path))?;
        Ok(path)
    }

    /// runc's protocol for who waits to fetch lazy pages.
    fn tell_ready(&self) -> std::io::Result<()> {
        match &self.options.status_fd {
            Some(fd) => fs::File::from(fd.try_clone()?).write_all(&[0]),
            None => Ok(()),
        }
    }

    /// The checkpoint is good without them.
    fn stats(&self) -> Option<DumpStats> {
        DumpStats::read(self.work.path())
            .inspect_err(|err| tracing::warn!(err = err as &dyn std::error::Error, "statistics of a checkpoint"))
            .ok()
    }
}

fn describe(
    container: &Container,
    options: &CheckpointOptions,
    told: CriuOptions,
    spec: &Spec,
    pid: Pid,
) -> Result<Manifest, CheckpointError> {
    let plan = plan(&container.state.bundle, spec, &container.state.cgroup)?;
    let config = container.state.config();
    let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let descriptors = container
        .state
        .descriptors(pid)
        .map_err(CheckpointError::file("read descriptors of", format!("/proc/{pid}")))?;
    Ok(Manifest {
        version: manifest::PLAIN_VERSION,
        id: container.id().to_string(),
        created: u64::try_from(created.as_nanos()).unwrap_or(u64::MAX),
        spec_digest: manifest::digest(
            &limited::read(&config, limited::DOCUMENT).map_err(CheckpointError::file("read", &config))?,
        ),
        options: CriuOptions {
            network_lock: told.network_lock.or_else(network_lock),
            empty_net_ns: told.empty_net_ns || network::leave_empty(spec, pid),
            ..told
        },
        left_running: options.leave_running,
        lazy_pages: options.lazy_pages,
        parent: options.parent.as_ref().map(|path| path.to_string_lossy().into_owned()),
        terminal: container.state.terminal,
        stdio_files: stdio::files(&container.state.stdio_files),
        descriptors,
        unread: None,
        namespaces: namespaces::describe(spec),
        external_mounts: mounts::find(pid, &plan)?,
        programs: Vec::new(),
        criu: String::new(),
        host: Host::of_this_machine(),
        sealed: None,
        timings: None,
        files: None,
    })
}

/// CRIU's own choice is iptables, which many hosts have no more; nftables it needs no program for. `None` leaves it to CRIU
/// and its configuration.
fn network_lock() -> Option<NetworkLock> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has_iptables = std::env::split_paths(&path).any(|directory| directory.join("iptables-restore").exists());
    (!has_iptables).then_some(NetworkLock::Nftables)
}

fn write_descriptors(dir: &Path, descriptors: &[String]) -> Result<(), CheckpointError> {
    let path = dir.join(DESCRIPTORS);
    let json = serde_json::to_vec(descriptors).map_err(CheckpointError::Encode)?;
    fs::write(&path, json).map_err(CheckpointError::file("write", path))
}

/// What is known of a checkpoint when it is made. It is good without.
fn finish(manifest: &mut Manifest, options: &CheckpointOptions, total: Duration, stats: Option<&DumpStats>) {
    let dir = &options.image_dir;
    manifest.timings = stats.map(|stats| Timings::new(total, stats));
    let files = phases::inventory().in_scope(|| inventory::take(dir, options.checksum_pages));
    let written = files.and_then(|files| {
        manifest.files = Some(files);
        manifest.write(dir)
    });
    if let Err(err) = written {
        tracing::warn!(err = &err as &dyn std::error::Error, "timings and inventory of a checkpoint");
    }
}
