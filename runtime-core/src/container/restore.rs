//! The verb `restore`: a container from an image directory.
//!
//! ```text
//!   us                                            criu swrk, in a mount namespace of its own and in the container's cgroups
//!   images read, state directory, mount points
//!   made, cgroup made
//!   start CRIU; it binds the rootfs on
//!   ROOT/ID/criu-root, and is asked ------------> forks the root process as our child
//!   registers it, prestart hooks     <----------- setup-namespaces(pid)
//!   keeps the pty's master           <----------- orphan-pts-master(fd)
//!   state.json                       <----------- post-restore(pid): everything is restored, nothing runs yet
//!                                    <----------- reply; CRIU ends, and its mount namespace with it
//! ```
//! CRIU wants a root that is a mount point and whose parent is not mounted over, hence criu-root (as with runc). What fails
//! is undone whole: processes through the cgroup, then cgroup and state directory.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::fs;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use criu::images::Images;
use criu::{Answer, CgroupRoot, Common, Criu, Log, MINIMUM, Notification};
use oci_spec::runtime::{Hook, Linux, Spec};

use super::arriving::ArrivingMemory;
use super::checkpoint::annotations::{self, Annotated};
use super::checkpoint::images::refuse_failed;
use super::checkpoint::input::{self, Carried};
use super::checkpoint::inventory;
use super::checkpoint::manifest::Manifest;
use super::checkpoint::network::{self, is_in_images};
use super::checkpoint::seal::Source;
use super::checkpoint::swrk::{InCgroups, Plain, with_root};
use super::checkpoint::work::{Work, open_dir};
use super::checkpoint::{
    self, CheckpointError, CriuOptions, External, RestoreHolder, RestoreOptions, aftermath, mounts, namespaces, phases,
    stdio, typed,
};
use super::class::NewClass;
use super::create::{NewCgroup, ROLL_BACK, hooks_of, new_state};
use super::namespaces::Namespaces;
use super::net_devices::{self, Moved};
use super::state::{self, Directory, InitId, State};
use super::{Container, Started, Stdio, launch, notify};
use crate::cgroup::Cgroup;
use crate::children::{self, Child};
use crate::error::RootfsError;
use crate::rootfs::Plan;
use crate::sealed::SealError;
use crate::sys::process::pidfd_signal;
use crate::{ContainerId, Error, Pid, Result, spec};

const LOG: &str = "restore.log";
const LOG_LEVEL: i32 = 4;

/// Below the state directory.
const ROOT: &str = "criu-root";

pub(super) fn restore(options: &RestoreOptions) -> Result<(Container, Started)> {
    let create = &options.create;
    let id = &create.id;
    let criu_failed = |err| Error::Criu { id: id.clone(), operation: "restore", err: Box::new(err) };
    spec::check(&create.spec)?;
    checkpoint::check_caller().map_err(failed(id))?;
    // Damaged images are found before anything is made.
    refuse_failed(&options.image_dir).map_err(failed(id))?;
    let manifest = Manifest::read(&options.image_dir).map_err(failed(id))?;
    let annotated =
        annotations::read(create.spec.annotations().as_ref().unwrap_or(&HashMap::new())).map_err(failed(id))?;
    let key = options.decrypt_key.as_deref().or(annotated.decrypt_key.as_deref());
    let source = Source::open(&options.image_dir, manifest.as_ref(), key).map_err(failed(id))?;
    if source.is_sealed() && options.lazy_pages {
        let (what, why) = ("lazy pages", "criu lazy-pages reads the images as they are");
        return Err(failed(id)(SealError::Unsupported { what, why }.into()));
    }
    let images = Images::read(source.dir()).map_err(criu_failed)?;
    if let Some(manifest) = &manifest {
        inventory::check_all(&options.image_dir, manifest).map_err(failed(id))?;
        if manifest.lazy_pages && !options.lazy_pages && !options.fetch_pages {
            return Err(failed(id)(CheckpointError::NoMemory));
        }
    }
    check_stdio(&images, &create.stdio).map_err(failed(id))?;
    let unread = manifest.as_ref().and_then(|manifest| manifest.unread);
    let unread = unread.map(|unread| input::load(source.dir(), unread)).transpose().map_err(failed(id))?;
    let unread = unread.unwrap_or_default();
    let criu = Criu::find().map_err(criu_failed)?;

    let process = create.spec.process().as_ref().ok_or(spec::Error::Missing { field: "process" })?;
    let namespaces = Namespaces::new(id, &create.spec)?;
    let cgroup =
        Cgroup::of_spec(id, &create.spec, create.cgroup_driver).map_err(|err| Error::Cgroup { id: id.clone(), err })?;
    let files = manifest.as_ref().map(|manifest| manifest.stdio_files.as_slice()).unwrap_or_default();
    let descriptors = images.descriptors.as_deref().unwrap_or_default();
    let stdio = stdio::settle(descriptors, files, &create.stdio);
    let stdio = stdio.and_then(|stdio| input::make_room(&unread, stdio)).map_err(failed(id))?;
    let mut state = new_state(create, &stdio, process, &namespaces, &cgroup)?;
    let directory = Directory::new(&create.root, id);
    let external = [annotated.external_restore.as_slice(), &options.external].concat();
    let mut spec = create.spec.clone();
    remap(&mut spec, &external);
    let notify = manifest.as_ref().is_some_and(|manifest| manifest.has_mount(notify::inside()));
    if notify {
        notify::add_to(&mut spec, directory.path());
    }
    let plan = checkpoint::plan(&create.bundle, &spec, &cgroup).map_err(failed(id))?;
    let linux = create.spec.linux().as_ref();
    let class = NewClass::new(id, linux)?;
    state.class = class.get().cloned();
    net_devices::check(id, linux)?;
    let criu_options = criu_options(options, &annotated, manifest.as_ref());
    network::check_devices(&create.spec, criu_options.empty_net_ns).map_err(failed(id))?;

    let _making = directory.make()?;
    let cgroup = NewCgroup::new(id, &cgroup);
    let cgroup = &cgroup;
    let directory = &directory;
    let restore = Restore {
        options,
        id,
        source,
        images,
        manifest,
        unread,
        annotated,
        external,
        stdio,
        criu,
        criu_options,
        namespaces: &namespaces,
        cgroup,
        class: &class,
        plan,
        notify,
        directory,
    };
    restore.run(state).map_err(|err| {
        let undone = cgroup.undo(|cgroup| cgroup.kill(ROLL_BACK).and_then(|()| cgroup.remove(ROLL_BACK)));
        match undone.and(class.undo()).and(directory.remove()) {
            Ok(()) => err,
            Err(roll_back) => Error::RollBack { err: Box::new(err), roll_back: Box::new(roll_back) },
        }
    })
}

fn failed(id: &ContainerId) -> impl Fn(CheckpointError) -> Error {
    let id = id.clone();
    move |err| Error::Checkpoint { id: id.clone(), operation: "restore", err }
}

/// `None` if nobody wrote it down.
pub(super) fn was_terminal(images: &Images) -> Option<bool> {
    let is_terminal = |target: &String| target.starts_with("/dev/pts/") || target == "/dev/console";
    Some(images.descriptors.as_ref()?.iter().any(is_terminal))
}

/// A session that had a terminal needs one again, and pipes cannot become one.
fn check_stdio(images: &Images, stdio: &Stdio) -> Result<(), CheckpointError> {
    let Some(was_terminal) = was_terminal(images) else { return Ok(()) };
    match (was_terminal, stdio) {
        (true, Stdio::Fds { .. }) => Err(CheckpointError::Stdio { was: "a terminal", is: "none" }),
        (false, Stdio::Terminal) => Err(CheckpointError::Stdio { was: "no terminal", is: "one" }),
        _ => Ok(()),
    }
}

/// A bind mount is looked up by its source in the spec.
fn remap(spec: &mut Spec, external: &[External]) {
    let mounts: HashMap<&str, &str> = external.iter().filter_map(External::mount).collect();
    let Some(mut all) = spec.mounts().clone() else { return };
    for mount in &mut all {
        if let Some(source) = mount.destination().to_str().and_then(|path| mounts.get(path)) {
            mount.set_source(Some(source.into()));
        }
    }
    spec.set_mounts(Some(all));
}

struct Restore<'a> {
    options: &'a RestoreOptions,
    id: &'a ContainerId,
    source: Source,
    images: Images,
    manifest: Option<Manifest>,
    unread: Carried,
    annotated: Annotated,
    external: Vec<External>,
    stdio: Stdio,
    criu: Criu,
    criu_options: CriuOptions,
    namespaces: &'a Namespaces,
    cgroup: &'a NewCgroup<'a>,
    class: &'a NewClass<'a>,
    plan: Plan,
    /// The container has a socket for sd_notify(3).
    notify: bool,
    directory: &'a Directory,
}

/// What the notifications bring.
struct Arriving<'a> {
    id: &'a ContainerId,
    directory: &'a Directory,
    class: &'a NewClass<'a>,
    namespaces: &'a Namespaces,
    linux: Option<&'a Linux>,
    /// Go back when the process has been ended.
    devices: Option<Moved>,
    state: State,
    unread: &'a Carried,
    stdio: &'a Stdio,
    /// What the standard input was, if the container is to have a terminal.
    terminal: Option<&'a str>,
    /// The network namespace is new, and its loopback device is down.
    loopback: bool,
    prestart: Vec<Hook>,
    create_runtime: Vec<Hook>,
    child: Option<Child>,
    console: Option<OwnedFd>,
    holder: Option<&'a dyn RestoreHolder>,
}

impl Restore<'_> {
    fn run(&self, mut state: State) -> Result<(Container, Started)> {
        let create = &self.options.create;
        // Before there is anything to find: after a crash, delete needs to know the cgroup, and whether it is ours.
        self.directory.write(&state)?;
        if self.notify {
            notify::make_directory(self.directory)?;
        }
        self.plan.make_mount_points().map_err(|err| Error::Rootfs { id: self.id.clone(), err: RootfsError(err) })?;
        self.cgroup.create(&create.spec)?;
        state.set_cgroup(self.cgroup);
        self.directory.write(&state)?;
        self.class.create()?;

        let [prestart, create_runtime, ..] = hooks_of(&create.spec);
        let mut arriving = Arriving {
            id: self.id,
            directory: self.directory,
            class: self.class,
            namespaces: self.namespaces,
            linux: create.spec.linux().as_ref(),
            devices: None,
            state,
            unread: &self.unread,
            stdio: &self.stdio,
            terminal: match &create.stdio {
                Stdio::Terminal => self.images.descriptors.iter().flatten().map(String::as_str).next().or(Some("")),
                Stdio::Fds { .. } => None,
            },
            loopback: self.criu_options.empty_net_ns && network::is_own(&create.spec),
            prestart,
            create_runtime,
            child: None,
            console: None,
            holder: self.options.holder.as_deref(),
        };
        let mut memory = None;
        let restored = self.run_criu(&mut arriving, &mut memory);
        let result = restored.and_then(|pid| arriving.finish(pid)).and_then(|()| self.cgroup.occupied());
        let (state, child, console, devices) = match result {
            Ok(()) => arriving.into_parts(self.id)?,
            Err(err) => {
                arriving.end();
                return Err(err);
            }
        };
        let (container, started) = self.container(state, child, console)?;
        if let Some(devices) = devices {
            devices.keep();
        }
        Ok((container, Started { arriving: memory, ..started }))
    }

    fn container(&self, state: State, child: Child, console: Option<OwnedFd>) -> Result<(Container, Started)> {
        let create = &self.options.create;
        let pidfd = child.pidfd().try_clone_to_owned().map_err(|err| {
            end(&child);
            Error::System { id: self.id.clone(), operation: "duplicate a pidfd", err }
        })?;
        if let Some(path) = &create.pid_file {
            launch::write_pid_file(self.id, path, child.pid).inspect_err(|_| end(&child))?;
        }
        let directory = Directory::new(&create.root, self.id);
        let container = Container { directory, state, pidfd: Some(pidfd), channel: Mutex::new(None) };
        let input = match &console {
            // What could not be put where it was is typed again, with its echo.
            Some(_) if !typed::possible() => [self.unread.taken.as_slice(), &self.unread.waiting].concat(),
            Some(_) => self.unread.waiting.clone(),
            None => Vec::new(),
        };
        Ok((container, Started { child, console, input, arriving: None }))
    }

    /// Fills `memory` if the memory is to be fetched, before anything could go wrong with the processes that wait for it.
    fn run_criu(&self, arriving: &mut Arriving<'_>, memory: &mut Option<ArrivingMemory>) -> Result<Pid> {
        let criu_failed = |err| Error::Criu { id: self.id.clone(), operation: "restore", err: Box::new(err) };
        // The socket of `criu lazy-pages` is there, unless something else is said.
        let lazy = self.options.lazy_pages.then_some(self.options.image_dir.as_path());
        let work = self.options.work_dir.as_deref().or(self.annotated.work_path.as_deref()).or(lazy);
        let work = Arc::new(Work::new(work, self.directory.path()).map_err(failed(self.id))?);
        if self.fetches() {
            let (image_dir, bundle) = (&self.options.image_dir, &self.options.create.bundle);
            let started = ArrivingMemory::start(self.id, &self.criu, image_dir, work.clone(), bundle);
            *memory = Some(started.map_err(failed(self.id))?);
        }
        let root = self.directory.path().join(ROOT);
        fs::create_dir(&root).map_err(CheckpointError::file("mkdir", &root)).map_err(failed(self.id))?;
        let join = self.cgroup.all_join_files().map_err(|err| Error::Cgroup { id: self.id.clone(), err })?;
        let spawn = InCgroups::new(join);
        let start = || {
            let request = self.request(&root, &work, &arriving.state).map_err(failed(self.id))?;
            self.criu.start(request, &spawn).map_err(criu_failed)
        };
        let mut worker = with_root(self.plan.root(), &root, start).map_err(|err| Error::System {
            id: self.id.clone(),
            operation: "bind the rootfs for CRIU",
            err,
        })??;
        worker.request_mut().common.cgroup_roots = cgroup_roots(worker.pid());
        let mut notify = |notification: Notification, _: BorrowedFd<'_>| {
            if let (Notification::PostRestore { .. }, Some(memory)) = (&notification, memory.as_mut()) {
                memory.take_hold();
            }
            arriving.notified(notification)
        };
        worker.end_when_stalled(self.options.stall);
        let span = phases::restore(self.id);
        let restored = span.in_scope(|| worker.run(&mut notify, self.options.limit));
        if restored.is_err() {
            aftermath::remove_mount_dir(&work.path().join(LOG));
        }
        let blamed = |err| self.criu.blame(work.keep_log(err, LOG, &self.options.create.bundle), MINIMUM, &Plain);
        let restored = restored.map_err(|err| match self.source.failure() {
            Some(err) => failed(self.id)(err),
            None => criu_failed(blamed(err)),
        })?;
        phases::restored(&span, work.path(), &self.options.image_dir);
        fs::remove_dir(&root).map_err(CheckpointError::file("rmdir", &root)).map_err(failed(self.id))?;
        Pid::new(restored.pid).ok_or_else(|| Error::NotRunning { id: self.id.clone() })
    }

    fn request(
        &self,
        root: &std::path::Path,
        work: &Work,
        state: &State,
    ) -> Result<criu::RestoreOptions, CheckpointError> {
        let create = &self.options.create;
        let mut common = Common::new(open_dir(self.source.dir())?);
        common.work_dir = Some(work.open()?);
        common.log = Log { file: LOG.to_owned(), level: LOG_LEVEL };
        common.root = Some(root.to_owned());
        common.config_file = checkpoint::config_file(state);
        common.lazy_pages = self.options.lazy_pages || self.fetches();
        // A device may have another inode here (runc sets it too).
        common.evasive_devices = true;
        common.ext_mounts = match &self.manifest {
            Some(manifest) => manifest
                .external_mounts
                .iter()
                .map(|mount| mount.at_restore(&self.plan, self.cgroup))
                .collect::<Result<_, _>>()?,
            None => mounts::as_runc_names(&self.plan, self.cgroup),
        };
        mounts::add(&self.external, &mut common);
        self.criu_options.apply(&mut common);

        let namespaces = self.manifest.as_ref().map(|manifest| manifest.namespaces.as_slice()).unwrap_or_default();
        let joined = namespaces::to_join(&create.spec, namespaces)?;
        let mut request = criu::RestoreOptions::new(common);
        request.rst_sibling = true;
        let Annotated { lsm_profile, lsm_mount_context, .. } = &self.annotated;
        request.lsm_profile = self.options.lsm_profile.clone().or_else(|| lsm_profile.clone());
        request.lsm_mount_context = self.options.lsm_mount_context.clone().or_else(|| lsm_mount_context.clone());
        request.join_namespaces = joined.join;
        request.inherit_fds = joined.inherit;
        let files = self.manifest.as_ref().map(|manifest| manifest.stdio_files.as_slice()).unwrap_or_default();
        let descriptors = self.images.descriptors.as_deref().unwrap_or_default();
        request.inherit_fds.extend(stdio::inherit(descriptors, files, &self.stdio)?);
        Ok(request)
    }

    /// Whether the memory is elsewhere, and no daemon of somebody else's brings it.
    fn fetches(&self) -> bool {
        let lazy = self.manifest.as_ref().is_some_and(|manifest| manifest.lazy_pages);
        lazy && self.options.fetch_pages && !self.options.lazy_pages
    }
}

/// What is told now, over what was told at the checkpoint.
fn criu_options(options: &RestoreOptions, annotated: &Annotated, manifest: Option<&Manifest>) -> CriuOptions {
    let recorded = match manifest {
        Some(manifest) => manifest.options.clone(),
        None => CriuOptions { empty_net_ns: !is_in_images(&options.image_dir), ..CriuOptions::default() },
    };
    options.criu.over(&annotated.criu).over(&recorded)
}

impl Arriving<'_> {
    fn notified(&mut self, notification: Notification) -> Result<Answer, Box<dyn StdError + Send + Sync>> {
        tracing::debug!(id = %self.id, ?notification, "restore");
        match notification {
            Notification::SetupNamespaces { pid } => self.arrived(pid)?,
            Notification::PostSetupNamespaces => {
                if self.loopback {
                    self.bring_loopback_up()?;
                }
                if let (Some(holder), Some(child)) = (self.holder, &self.child) {
                    holder.namespaces_made(child.pid);
                }
            }
            Notification::PostRestore { .. } => {
                self.directory.write(&self.state)?;
                self.type_again()?;
                input::give(self.unread, self.stdio).map_err(failed(self.id))?;
                self.holder.map_or(Ok(()), RestoreHolder::restored)?;
            }
            Notification::OrphanPtsMaster(master) if self.is_console(&master) => self.console = Some(master),
            _ => {}
        }
        Ok(Answer::Acknowledge)
    }

    /// The root process exists, and is our child. It waits for the answer to this notification, so that its pid is its own.
    fn arrived(&mut self, pid: i32) -> Result<()> {
        let id = self.id;
        let system = |operation| move |err| Error::System { id: id.clone(), operation, err };
        let pid = Pid::new(pid).ok_or_else(|| Error::NotRunning { id: self.id.clone() })?;
        let child = children::hold().register(pid).map_err(system("register the restored process"))?;
        self.child = Some(child);
        let start_time = state::start_time(pid).map_err(system("read the restored process's start time"))?;
        self.state.init = Some(InitId { pid, start_time });
        // Its children come into the class with it.
        self.class.join(pid)?;
        self.devices = net_devices::move_in(self.id, self.linux, self.namespaces, pid)?;
        let hook_state = self.state.hook_state("creating");
        crate::hooks::run("prestart", &self.prestart, &hook_state)
            .and_then(|()| crate::hooks::run("createRuntime", &self.create_runtime, &hook_state))
            .map_err(|err| Error::Hook { id: self.id.clone(), err })
    }

    /// A process may have another terminal open, which exec gave it: without a master that one is hung up.
    fn is_console(&self, master: &OwnedFd) -> bool {
        let Some(was) = self.terminal else { return false };
        let name = rustix::pty::ptsname(master, Vec::new());
        !was.starts_with("/dev/pts/") || name.is_ok_and(|name| name.to_bytes() == was.as_bytes())
    }

    /// The terminal has its modes by now.
    fn type_again(&self) -> Result<()> {
        let Some(console) = self.console.as_ref().filter(|_| typed::possible()) else { return Ok(()) };
        let refused = CheckpointError::file("put the unread input into", "the new terminal");
        typed::give(console, &self.unread.taken).map_err(refused).map_err(failed(self.id))
    }

    fn bring_loopback_up(&self) -> Result<()> {
        let Some(child) = &self.child else { return Ok(()) };
        let failed = |err| Error::System { id: self.id.clone(), operation: "bring up the loopback device", err };
        network::loopback_up(child.pid).map_err(failed)
    }

    /// The process of CRIU's reply is the one that is registered.
    fn finish(&mut self, pid: Pid) -> Result<()> {
        match &self.child {
            Some(child) if child.pid == pid => Ok(()),
            _ => Err(Error::NotRunning { id: self.id.clone() }),
        }
    }

    fn into_parts(self, id: &ContainerId) -> Result<(State, Child, Option<OwnedFd>, Option<Moved>)> {
        let child = self.child.ok_or_else(|| Error::NotRunning { id: id.clone() })?;
        Ok((self.state, child, self.console, self.devices))
    }

    /// Ends and reaps the root process; the cgroup's other processes are the caller's.
    fn end(&mut self) {
        if let Some(child) = self.child.take() {
            end(&child);
        }
        drop(self.devices.take());
    }
}

/// CRIU is in the container's cgroups by now: what was the root of the checkpoint's cgroups becomes these.
fn cgroup_roots(pid: i32) -> Vec<CgroupRoot> {
    // Without them CRIU leaves the processes in its own cgroups, which are the same.
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    parse_cgroup_roots(&text)
}

/// `4:cpu,cpuacct:/a` (cgroups(7)), each controller for itself, and "" for the unified tree.
pub(super) fn parse_cgroup_roots(text: &str) -> Vec<CgroupRoot> {
    let lines = text.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    lines
        .flat_map(|(controllers, path)| {
            let root = |controller: &str| CgroupRoot { controller: Some(controller.to_owned()), path: path.to_owned() };
            controllers.split(',').map(root).collect::<Vec<_>>()
        })
        .collect()
}

fn end(child: &Child) {
    // It may be gone already.
    pidfd_signal(child.pidfd(), libc::SIGKILL).ok();
    if let Err(err) = child.wait() {
        tracing::warn!(pid = %child.pid, %err, "wait for a process that was not restored");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_controller_has_its_root() {
        let roots = parse_cgroup_roots("4:cpu,cpuacct:/a\n9:name=systemd:/b:c\n0::/d\n");
        let roots: Vec<_> =
            roots.iter().map(|root| (root.controller.as_deref().unwrap(), root.path.as_str())).collect();
        assert_eq!(roots, [("cpu", "/a"), ("cpuacct", "/a"), ("name=systemd", "/b:c"), ("", "/d")]);
    }
}
