//! One run of CRIU: the container is frozen before it and settled behind it, whatever becomes of it.

use std::cell::{Cell, RefCell};
use std::error::Error as StdError;
use std::fs;
use std::io::Write;
use std::os::fd::BorrowedFd;
use std::path::Path;

use criu::images::DumpStats;
use criu::{Answer, Criu, MINIMUM, Notification, PreDumpOptions, Request};
use oci_spec::runtime::Spec;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::super::aftermath::Aftermath;
use super::super::error::CheckpointError;
use super::super::frozen::{Holds, freeze, settle, with_roll_back};
use super::super::guard::Guard;
use super::super::hold::HeldDump;
use super::super::images::Images;
use super::super::input::{self, Reader};
use super::super::manifest::Manifest;
use super::super::options::{CheckpointOptions, CriuOptions, External, NetworkLock};
use super::super::swrk::Plain;
use super::super::work::Work;
use super::super::{config_file, lock, network, stdio};
use super::{LOG, criu_failed};
use crate::container::Container;
use crate::sealed::Capture;
use crate::{Error, Pid, Result, Signal};

/// One run of CRIU.
pub(super) struct Dump<'a> {
    pub(super) container: &'a Container,
    pub(super) options: &'a CheckpointOptions,
    pub(super) criu: &'a Criu,
    pub(super) spec: &'a Spec,
    pub(super) work: &'a Work,
    pub(super) images: &'a Images<'a>,
    pub(super) external: Vec<External>,
    pub(super) pid: Pid,
    pub(super) paused: bool,
    /// While CRIU is at work.
    pub(super) guard: RefCell<Option<Guard>>,
    /// Somebody has decided that the images stay.
    pub(super) keep_images: Cell<bool>,
    /// What is between CRIU and the image directory, if anything is.
    pub(super) capture: Option<Capture>,
}

impl Dump<'_> {
    pub(super) fn dump(&self, manifest: &mut Manifest) -> Result<()> {
        let request = self.request(manifest).map_err(self.failed())?;
        let lock = manifest.options.network_lock;
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
                    manifest.write(self.images.path())?;
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
        self.run(request, |request| request.freeze_cgroup = None, &mut notify, lock, !self.options.leave_running)
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

    /// CRIU lets the processes go when it has what they have written to, and only then writes that; but a freezer it leaves as
    /// it finds it. So the container is not frozen for it, but held by CRIU alone: it runs while its memory is written.
    pub(super) fn pre_dump(&self, told: &CriuOptions) -> Result<()> {
        let mut request = PreDumpOptions::new(self.common(told).map_err(self.failed())?, self.pid.as_raw());
        request.parent_img = self.options.parent.as_ref().map(|path| self.images.parent(&path.to_string_lossy()));
        request.freeze_cgroup = self.freezer();
        self.run(request, |request| request.freeze_cgroup = None, &mut (), told.network_lock, false)
    }

    /// `without_freezer` alters the request for when the freezer does not hold the processes.
    fn run<R: Request<Reply = ()>>(
        &self,
        request: R,
        without_freezer: impl FnOnce(&mut R),
        notify: &mut dyn criu::Notify,
        lock: Option<NetworkLock>,
        ends: bool,
    ) -> Result<()> {
        let lock = lock::find(lock, config_file(&self.container.state).as_deref());
        lock::leave(lock, self.work.path()).map_err(self.failed())?;
        let mut worker = self.criu.start(request, &Plain).map_err(criu_failed(self.container))?;
        if !self.options.lazy_pages || self.options.page_server.is_none() {
            worker.end_when_stalled(self.options.stall);
        }
        self.guard.replace(Guard::new(self.container, worker.pidfd(), self.paused)?);
        // Who decides over the dump relies on the freezer, whatever becomes of CRIU.
        let only_frozen = self.paused || self.options.holder.is_some();
        let holds = match self.options.pre_dump && !self.paused {
            true => Holds::Criu,
            false => freeze(self.container, self.paused, only_frozen)?,
        };
        if holds == Holds::Criu {
            without_freezer(worker.request_mut());
        }
        let frozen = self.options.holder.as_ref().map_or(Ok(()), |holder| holder.frozen());
        if let Err(err) = frozen {
            let settled = settle(self.container, self.paused);
            drop(self.guard.take());
            return Err(with_roll_back(self.failed()(CheckpointError::TakenBack(err)), settled));
        }
        let aftermath = Aftermath::new(self.container, lock);
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
    pub(super) fn images_dir(&self) -> &Path {
        self.capture.as_ref().map_or(self.images.path(), Capture::path)
    }

    fn failed(&self) -> impl Fn(CheckpointError) -> Error {
        let id = self.container.id().clone();
        move |err| Error::Checkpoint { id: id.clone(), operation: "checkpoint", err }
    }

    /// runc's protocol for who waits to fetch lazy pages.
    fn tell_ready(&self) -> std::io::Result<()> {
        match &self.options.status_fd {
            Some(fd) => fs::File::from(fd.try_clone()?).write_all(&[0]),
            None => Ok(()),
        }
    }

    /// The checkpoint is good without them.
    pub(super) fn stats(&self) -> Option<DumpStats> {
        DumpStats::read(self.work.path())
            .inspect_err(|err| tracing::warn!(err = err as &dyn std::error::Error, "statistics of a checkpoint"))
            .ok()
    }
}
