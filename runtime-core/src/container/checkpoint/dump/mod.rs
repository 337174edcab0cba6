//! The verb `checkpoint`.
//!
//! `refuse`: what is wrong before anything is touched. `describe`: the container, as `rtc.json` has it. `run`: one run of CRIU,
//! with the container frozen around it. `request`: what CRIU is asked for.

mod describe;
mod refuse;
mod request;
mod run;

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::time::{Duration, Instant};

use criu::Criu;
use criu::images::DumpStats;

use self::run::Dump;
use super::error::CheckpointError;
use super::images::Images;
use super::manifest::{self, Manifest, Timings};
use super::options::{CheckpointOptions, Checkpointed, SealOptions};
use super::work::Work;
use super::{annotations, check_caller, execs, inventory, phases, programs, seal};
use crate::container::{Container, Status, notify};
use crate::sealed::Capture;
use crate::{Error, Result};

pub(super) const LOG: &str = "dump.log";

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
    refuse::check(options).map_err(&failed)?;
    let annotated = annotations::read(&container.state.annotations).map_err(&failed)?;
    let criu_options = options.criu.over(&annotated.criu);
    let sealing = options.seal.over(&annotated.seal);
    seal::check(options, &criu_options, &sealing).map_err(|err| failed(err.into()))?;
    let criu = Criu::find().map_err(criu_failed(container))?;
    refuse::check_features(container, options, &criu_options, &criu)?;
    refuse::refuse(container, options)?;
    execs::check(container, pid, options, annotated.end_execs)?;
    let mut spec = crate::spec::load_file(&container.state.config())?;
    if notify::is_in(&container.directory) {
        notify::add_to(&mut spec, container.directory.path());
    }

    let images = Images::new(options, options.keep_images || annotated.keep_images).map_err(&failed)?;
    let work = options.work_dir.as_deref().or(annotated.work_path.as_deref());
    let work = Work::new(work, container.directory.path()).map_err(&failed)?;
    let external = [annotated.external_dump.as_slice(), &options.external].concat();
    let (guard, keep_images) = (RefCell::default(), Cell::default());
    let capture = capture(images.path(), &sealing).map_err(&failed)?;
    let dump = Dump {
        container,
        options,
        criu: &criu,
        spec: &spec,
        work: &work,
        images: &images,
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
        drop(dump);
        let bytes = images.complete().map_err(&failed)?;
        return Ok(Checkpointed { bytes, total: start.elapsed(), frozen });
    }
    let mut manifest = describe::describe(container, options, criu_options, &spec, pid).map_err(&failed)?;
    manifest.programs = programs::of(pid, &container.pids()?);
    if let Some(capture) = &dump.capture {
        manifest.version = manifest::VERSION;
        manifest.sealed = Some(capture.sealing().clone());
    }
    tracing::debug!(id = %container.id(), mounts = ?manifest.external_mounts, "external mounts");
    describe::write_descriptors(dump.images_dir(), &manifest.descriptors).map_err(&failed)?;
    let span = phases::dump(container.id());
    if let Err(err) = span.in_scope(|| dump.dump(&mut manifest)) {
        if dump.keep_images.get() {
            drop(dump);
            images.stay();
        }
        return Err(err);
    }

    let total = start.elapsed();
    let stats = dump.stats();
    phases::dumped(&span, total, stats.as_ref());
    drop(dump);
    finish(&mut manifest, images.path(), options.checksum_pages, total, stats.as_ref());
    let bytes = images.complete().map_err(&failed)?;
    Ok(Checkpointed { bytes, total, frozen: stats.map(|stats| stats.frozen) })
}

fn criu_failed(container: &Container) -> impl Fn(criu::Error) -> Error {
    let id = container.id().clone();
    move |err| Error::Criu { id: id.clone(), operation: "checkpoint", err: Box::new(err) }
}

fn capture(dir: &Path, seal: &SealOptions) -> Result<Option<Capture>, CheckpointError> {
    Ok(seal.is_on().then(|| Capture::start(dir, seal)).transpose()?)
}

/// What is known of a checkpoint when it is made. It is good without.
fn finish(manifest: &mut Manifest, dir: &Path, checksum_pages: bool, total: Duration, stats: Option<&DumpStats>) {
    manifest.timings = stats.map(|stats| Timings::new(total, stats));
    let files = phases::inventory().in_scope(|| inventory::take(dir, checksum_pages));
    let written = files.and_then(|files| {
        manifest.files = Some(files);
        manifest.write(dir)
    });
    if let Err(err) = written {
        tracing::warn!(err = &err as &dyn std::error::Error, "timings and inventory of a checkpoint");
    }
}
