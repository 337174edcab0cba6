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
//!
//! `run`: what is made, in order, and CRIU's run in it. `request`: what CRIU is asked for. `arrival`: what the notifications
//! bring. `cgroup_roots`: where the processes go.

mod arrival;
pub(super) mod cgroup_roots;
mod request;
mod run;

use std::collections::HashMap;

use criu::Criu;
use criu::images::Images;
use oci_spec::runtime::Spec;

use self::run::Restore;
use super::checkpoint::annotations::{self, Annotated};
use super::checkpoint::images::refuse_failed;
use super::checkpoint::manifest::Manifest;
use super::checkpoint::network::{self, is_in_images};
use super::checkpoint::seal::Source;
use super::checkpoint::{self, CheckpointError, CriuOptions, External, RestoreOptions, input, inventory, stdio};
use super::class::NewClass;
use super::create::{NewCgroup, ROLL_BACK, new_state};
use super::namespaces::Namespaces;
use super::net_devices;
use super::state::Directory;
use super::{Container, Started, Stdio, notify};
use crate::cgroup::Cgroup;
use crate::sealed::SealError;
use crate::{ContainerId, Error, Result, spec};

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

/// What is told now, over what was told at the checkpoint.
fn criu_options(options: &RestoreOptions, annotated: &Annotated, manifest: Option<&Manifest>) -> CriuOptions {
    let recorded = match manifest {
        Some(manifest) => manifest.options.clone(),
        None => CriuOptions { empty_net_ns: !is_in_images(&options.image_dir), ..CriuOptions::default() },
    };
    options.criu.over(&annotated.criu).over(&recorded)
}
