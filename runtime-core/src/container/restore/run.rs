//! What a restore makes, in order, and CRIU's run in it.

use std::fs;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use criu::images::Images;
use criu::{Criu, MINIMUM, Notification};

use super::super::arriving::ArrivingMemory;
use super::super::checkpoint::annotations::Annotated;
use super::super::checkpoint::input::Carried;
use super::super::checkpoint::manifest::Manifest;
use super::super::checkpoint::seal::Source;
use super::super::checkpoint::swrk::{InCgroups, Plain, with_root};
use super::super::checkpoint::work::Work;
use super::super::checkpoint::{
    CheckpointError, CriuOptions, External, RestoreOptions, aftermath, network, phases, typed,
};
use super::super::class::NewClass;
use super::super::create::{NewCgroup, hooks_of};
use super::super::namespaces::Namespaces;
use super::super::state::{Directory, State};
use super::super::{Container, Started, Stdio, launch, notify};
use super::arrival::{Arriving, end};
use super::cgroup_roots::cgroup_roots;
use super::failed;
use crate::children::Child;
use crate::error::RootfsError;
use crate::rootfs::Plan;
use crate::{ContainerId, Error, Pid, Result};

pub(super) const LOG: &str = "restore.log";

/// Below the state directory.
const ROOT: &str = "criu-root";

pub(super) struct Restore<'a> {
    pub(super) options: &'a RestoreOptions,
    pub(super) id: &'a ContainerId,
    pub(super) source: Source,
    pub(super) images: Images,
    pub(super) manifest: Option<Manifest>,
    pub(super) unread: Carried,
    pub(super) annotated: Annotated,
    pub(super) external: Vec<External>,
    pub(super) stdio: Stdio,
    pub(super) criu: Criu,
    pub(super) criu_options: CriuOptions,
    pub(super) namespaces: &'a Namespaces,
    pub(super) cgroup: &'a NewCgroup<'a>,
    pub(super) class: &'a NewClass<'a>,
    pub(super) plan: Plan,
    /// The container has a socket for sd_notify(3).
    pub(super) notify: bool,
    pub(super) directory: &'a Directory,
}

impl Restore<'_> {
    pub(super) fn run(&self, mut state: State) -> Result<(Container, Started)> {
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
}
