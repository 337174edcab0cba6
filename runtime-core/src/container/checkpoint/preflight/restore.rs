//! The preflight of a restore: the images, and whether this host and the new container suit them.

use std::collections::HashMap;
use std::path::Path;

use criu::images::Images;
use oci_spec::runtime::Spec;

use super::host::{self, HostDescription};
use super::report::{Kind, Report};
use crate::cgroup::{Cgroup, CgroupDriver};
use crate::container::checkpoint::images::refuse_failed;
use crate::container::checkpoint::manifest::{Manifest, digest};
use crate::container::checkpoint::mounts::From;
use crate::container::checkpoint::seal::Source;
use crate::container::checkpoint::{self, CheckpointError, annotations, inventory, namespaces, network};
use crate::container::class::NewClass;
use crate::container::{net_devices, notify};
use crate::error::chain;
use crate::spec::CONFIG;
use crate::{ContainerId, Error, Result, limited};

/// What is asked about.
#[derive(Clone, Copy, Debug)]
pub struct RestoreCheck<'a> {
    pub id: &'a ContainerId,
    pub image_dir: &'a Path,
    pub bundle: &'a Path,
    pub spec: &'a Spec,
    /// Absolute; where the spec is from, if not from the bundle's config.json.
    pub config: Option<&'a Path>,
    pub cgroup_driver: CgroupDriver,
    /// As [`RestoreOptions::decrypt_key`](crate::container::RestoreOptions::decrypt_key).
    pub decrypt_key: Option<&'a Path>,
}

/// Whether the images could be restored as this container, here and now. Nothing is made.
pub(in crate::container) fn check(asked: &RestoreCheck<'_>) -> Result<Report> {
    let mut report = Report::default();
    host::check_criu(&mut report);
    if let Err(err) = refuse_failed(asked.image_dir) {
        images_refused(asked.image_dir, &chain(&err), &mut report);
    }
    let (manifest, images) = match look(asked) {
        Ok(found) => found,
        Err(why) => {
            images_refused(asked.image_dir, &why, &mut report);
            return Ok(report);
        }
    };
    check_stdio(&images, asked.spec, &mut report);
    let Some(manifest) = manifest else {
        let what = format!("the images in {}", asked.image_dir.display());
        let why = "another runtime made them, and there is nothing to compare this host with";
        report.warn(Kind::Images, None, what, why, "restore on a host like the one of the checkpoint");
        return Ok(report);
    };
    if let Err(err) = inventory::check_all(asked.image_dir, &manifest) {
        images_refused(asked.image_dir, &chain(&err), &mut report);
    }
    check_spec(asked, &manifest, &mut report);
    check_rootfs(asked, &manifest, &mut report);
    check_mounts(asked, &manifest, &mut report)?;
    check_host_devices(asked, &manifest, &mut report);
    let from = HostDescription::recorded(&manifest.host, &manifest.criu);
    host::compare(&from, &HostDescription::of_this_machine(), &mut report);
    if let Err(err) = namespaces::to_join(asked.spec, &manifest.namespaces) {
        let remedy = "name a namespace that exists in the spec, as the checkpointed container did";
        report.refuse(Kind::Namespace, None, "the namespaces of the spec".to_owned(), &chain(&err), remedy);
    }
    Ok(report)
}

/// What is said of the images, and what they say themselves; or what is wrong with them.
fn look(asked: &RestoreCheck<'_>) -> std::result::Result<(Option<Manifest>, Images), String> {
    let look = || -> std::result::Result<_, CheckpointError> {
        let manifest = Manifest::read(asked.image_dir)?;
        let annotated = annotations::read(asked.spec.annotations().as_ref().unwrap_or(&HashMap::new()))?;
        let key = asked.decrypt_key.or(annotated.decrypt_key.as_deref());
        let source = Source::open(asked.image_dir, manifest.as_ref(), key)?;
        Ok((manifest, source))
    };
    let (manifest, source) = look().map_err(|err| chain(&err))?;
    let images = Images::read(source.dir()).map_err(|err| chain(&err))?;
    Ok((manifest, images))
}

fn images_refused(dir: &Path, why: &str, report: &mut Report) {
    let what = format!("the images in {}", dir.display());
    report.refuse(Kind::Images, None, what, why, "use another checkpoint, or a whole copy of this one");
}

fn check_stdio(images: &Images, spec: &Spec, report: &mut Report) {
    let terminal = spec.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false);
    if let Some(was) = crate::container::restore::was_terminal(images)
        && was != terminal
    {
        let (what, remedy) = match was {
            true => ("the checkpointed container had a terminal, and the new one has none", "set process.terminal"),
            false => ("the checkpointed container had no terminal, and the new one has one", "unset process.terminal"),
        };
        let why = "pipes cannot become a terminal, nor a terminal pipes";
        report.refuse(Kind::Stdio, None, what.to_owned(), why, remedy);
    }
}

/// A new name and a new place change the spec of every container that is restored elsewhere, so that this only warns.
fn check_spec(asked: &RestoreCheck<'_>, manifest: &Manifest, report: &mut Report) {
    let config = asked.config.map_or_else(|| asked.bundle.join(CONFIG), Path::to_owned);
    let read = limited::read(&config, limited::DOCUMENT);
    if read.is_ok_and(|bytes| digest(&bytes) == manifest.spec_digest) {
        return;
    }
    let what = format!("{} is not the one of the checkpoint", config.display());
    let why = "what the processes have at their start (arguments, user, capabilities) comes from the images";
    report.warn(Kind::Spec, None, what, why, "see that mounts and namespaces are the same");
}

/// A rootfs is the right one if the programs that run are in it, of the same size: CRIU maps them again, compares the sizes
/// too, and fails when one differs. Times and inodes differ in every copy of an image.
fn check_rootfs(asked: &RestoreCheck<'_>, manifest: &Manifest, report: &mut Report) {
    let Some(root) = asked.spec.root().as_ref().map(|root| asked.bundle.join(root.path())) else { return };
    for program in &manifest.programs {
        let Some(metadata) = program.find(&root) else {
            let what = format!("{} is not in the rootfs", program.path.display());
            rootfs_refused(what, report);
            continue;
        };
        if metadata != program.size {
            let what =
                format!("{} has {metadata} bytes, and had {} at the checkpoint", program.path.display(), program.size);
            rootfs_refused(what, report);
        }
    }
}

fn rootfs_refused(what: String, report: &mut Report) {
    let why = "a process maps the program that it runs again";
    report.refuse(Kind::Rootfs, None, what, why, "restore on the same root filesystem");
}

/// What the container is to have of the host's, beside mounts.
fn check_host_devices(asked: &RestoreCheck<'_>, manifest: &Manifest, report: &mut Report) {
    let linux = asked.spec.linux().as_ref();
    let mut refuse = |what: &str, err: &Error, remedy: &str| {
        report.refuse(Kind::Spec, None, what.to_owned(), &chain(err), remedy);
    };
    let carried = network::check_devices(asked.spec, manifest.options.empty_net_ns).map_err(|err| Error::Checkpoint {
        id: asked.id.clone(),
        operation: "restore",
        err,
    });
    if let Err(err) = carried.and_then(|()| net_devices::check(asked.id, linux)) {
        refuse("linux.netDevices", &err, "give this host the devices, or restore without them in the spec");
    }
    if let Err(err) = NewClass::new(asked.id, linux) {
        refuse("linux.intelRdt", &err, "restore on a host that has it, or without it in the spec");
    }
}

fn check_mounts(asked: &RestoreCheck<'_>, manifest: &Manifest, report: &mut Report) -> Result<()> {
    let id = asked.id;
    let cgroup = Cgroup::of_spec(id, asked.spec, asked.cgroup_driver);
    let cgroup = cgroup.map_err(|err| Error::Cgroup { id: id.clone(), err })?;
    let mut refuse = |what: String, err: &str| {
        let remedy = "give the container this mount, with a source that exists";
        report.refuse(Kind::Mount, None, what, err, remedy);
    };
    let plan = match checkpoint::plan(asked.bundle, asked.spec, &cgroup) {
        Ok(plan) => plan,
        Err(err) => {
            refuse("the mounts of the spec".to_owned(), &chain(&err));
            return Ok(());
        }
    };
    for mount in &manifest.external_mounts {
        let what = format!("the mount on {}", mount.mount_point.display());
        match mount.at_restore(&plan, &cgroup) {
            // The socket for sd_notify is made with the container, and so are its cgroups.
            Err(CheckpointError::MissingMount { destination }) if destination == notify::inside() => {}
            Err(err) => refuse(what, &chain(&err)),
            Ok(source) if matches!(mount.from, From::Cgroup { .. }) => drop(source),
            Ok(source) if Path::new(&source.value).exists() => {}
            Ok(source) => refuse(what, &format!("its source {} does not exist", source.value)),
        }
    }
    Ok(())
}
