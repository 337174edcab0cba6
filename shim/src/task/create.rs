//! Create: mounts, stdio, and the container with an init that waits for Start.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use containerd_shim_protos::types::mount::Mount;
use oci_spec::runtime::{LinuxNamespaceType, Spec};
use runtime_core::ContainerId;
use runtime_core::container::{Bus, CgroupDriver, Container, CreateOptions, Started, Stdio};
use tokio::sync::watch;

use super::{Context, Running, Task, blocking, streams};
use crate::error::{Error, Result};
use crate::events::Event;
use crate::io::Io;
use crate::mount;
use crate::options::Options;
use crate::process::state::State;
use crate::process::{PipeOwner, Process, StdioPaths};

/// In the bundle: the state root, where it is not the default one. For `delete`.
pub(crate) const STATE_ROOT_FILE: &str = "rtc-root";

/// A decoded Create request.
#[derive(Debug)]
pub(crate) struct Create {
    pub(crate) id: ContainerId,
    pub(crate) bundle: PathBuf,
    pub(crate) rootfs: Vec<Mount>,
    pub(crate) stdio: StdioPaths,
    /// A directory of CRIU images to restore from, or empty.
    pub(crate) checkpoint: String,
    pub(crate) options: Options,
}

/// Makes the container and publishes that. The answer is the init's pid: 0 when it is to be restored by Start.
///
/// # Errors
/// Nothing is left of it then: no process, mount, cgroup or file.
pub(crate) async fn create(request: Create, context: Context) -> Result<Arc<Task>> {
    let Create { id, bundle, rootfs, stdio, checkpoint, options } = request;
    warn_of_ignored(&options);
    streams::note(&bundle, &stdio).map_err(|err| Error::Streams {
        id: id.to_string(),
        directory: bundle.clone(),
        err,
    })?;
    let spec = prepare(&id, &bundle, &rootfs, &options, &context).await?;
    let parts = Parts { id, bundle, stdio, checkpoint, options, context };

    let rootfs_path = parts.bundle.join("rootfs");
    let made = match parts.checkpoint.is_empty() {
        true => parts.make(spec).await,
        false => Ok(parts.task(&spec, State::CreatedFromCheckpoint)),
    };
    match made {
        Ok(task) => {
            let bundle = task.bundle.to_string_lossy();
            let (stdio, checkpoint) = (&task.init.stdio, &task.checkpoint);
            let created = Event::create(task.id.as_str(), &bundle, &rootfs, stdio, checkpoint, task.init.pid());
            task.publisher().publish(created);
            Ok(task)
        }
        Err(err) => {
            let unmounted = tokio::task::spawn_blocking(move || mount::unmount_all(&rootfs_path)).await?;
            if let Err(err) = unmounted {
                tracing::error!(err = crate::error::chain(&err), "roll back after a failed create");
            }
            Err(err)
        }
    }
}

fn warn_of_ignored(options: &Options) {
    if !options.binary_name.is_empty() {
        tracing::warn!(binary = options.binary_name, "rtc executes no runtime binary, the option is ignored");
    }
}

/// Reads the spec and mounts the rootfs.
async fn prepare(
    id: &ContainerId,
    bundle: &Path,
    rootfs: &[Mount],
    options: &Options,
    context: &Context,
) -> Result<Spec> {
    let default_root = options.root.is_empty();
    let root = options.state_root(&context.namespace);
    let (id, bundle, rootfs) = (id.to_string(), bundle.to_owned(), rootfs.to_vec());
    tokio::task::spawn_blocking(move || {
        let spec = runtime_core::spec::load(&bundle)
            .map_err(|err| Error::Runtime { operation: "create", err: Box::new(err) })?;
        if !default_root {
            // Before there is anything that `delete` would have to find.
            std::fs::write(bundle.join(STATE_ROOT_FILE), root.as_os_str().as_encoded_bytes())
                .map_err(|err| Error::StateRoot { id, err })?;
        }
        mount::mount_all(&rootfs, &bundle.join("rootfs"))?;
        Ok(spec)
    })
    .await?
}

/// A request, less what was done already.
struct Parts {
    id: ContainerId,
    bundle: PathBuf,
    stdio: StdioPaths,
    checkpoint: String,
    options: Options,
    context: Context,
}

impl Parts {
    async fn make(self, spec: Spec) -> Result<Arc<Task>> {
        let task = self.task(&spec, State::Created);
        let (io, stdio) = task.open_init_stdio().await?;
        let options = task.create_options(spec, stdio);
        let made = blocking("create", move || Container::create(options)).await?;
        task.adopt(made, io, State::Created).await?;
        Ok(task)
    }

    fn task(self, spec: &Spec, state: State) -> Arc<Task> {
        let pipe_owner = PipeOwner { uid: self.options.io_uid, gid: self.options.io_gid };
        Arc::new(Task {
            id: self.id,
            bundle: self.bundle,
            init: Process::new(self.stdio, state),
            container: OnceLock::new(),
            execs: Mutex::new(HashMap::new()),
            running: watch::Sender::new(Running::default()),
            queue: tokio::sync::Mutex::new(()),
            starting: tokio::sync::Mutex::new(()),
            shares_pids: shares_pids(spec),
            pipe_owner,
            checkpoint: self.checkpoint,
            migration: Mutex::default(),
            pre_dumping: Mutex::default(),
            memory: watch::Sender::default(),
            options: self.options,
            context: self.context,
        })
    }
}

impl Task {
    pub(super) async fn open_init_stdio(&self) -> Result<(Io, Stdio)> {
        let config = self.init.stdio.config(self.pipe_owner);
        Io::open(&config, self.id.as_str(), &self.context.namespace).await.map_err(|err| self.stdio_failed(err))
    }

    pub(super) fn create_options(&self, spec: Spec, stdio: Stdio) -> CreateOptions {
        CreateOptions {
            no_pivot_root: self.options.no_pivot_root,
            no_new_keyring: self.options.no_new_keyring,
            cgroup_driver: match self.options.systemd_cgroup {
                true => CgroupDriver::Systemd(Bus::System),
                false => CgroupDriver::Cgroupfs,
            },
            ..CreateOptions::new(
                self.id.clone(),
                self.options.state_root(&self.context.namespace),
                self.bundle.clone(),
                spec,
                stdio,
            )
        }
    }

    /// Takes over a container that was just made or restored, and its init's stdio.
    ///
    /// # Errors
    /// The shim could not watch or serve it; it is gone then.
    pub(super) async fn adopt(
        self: &Arc<Self>,
        (container, started): (Container, Started),
        mut io: Io,
        state: State,
    ) -> Result<()> {
        let container = Arc::new(container);
        let child = Arc::new(started.child);
        let adopted = io.start(started.console, started.input).map_err(|err| self.stdio_failed(err));
        if let Err(err) = adopted.and_then(|()| self.watch_init(&child)) {
            if let Err(err) = blocking("delete", move || container.delete(true)).await {
                tracing::error!(err = crate::error::chain(&err), "roll back after a failed create");
            }
            return Err(err);
        }
        self.init.attach(io);
        self.init.born(&child, state);
        if self.container.set(container).is_err() {
            tracing::error!("a task was given two containers");
        }
        Ok(())
    }

    fn stdio_failed(&self, err: crate::io::Error) -> Error {
        Error::Stdio { process: "init".to_owned(), id: self.id.to_string(), err }
    }
}

/// Whether the container has no pid namespace of its own, so that its processes outlive its init.
fn shares_pids(spec: &Spec) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let own = |namespaces: &Vec<_>| {
        namespaces.iter().any(|namespace: &oci_spec::runtime::LinuxNamespace| {
            namespace.typ() == LinuxNamespaceType::Pid && namespace.path().is_none()
        })
    };
    !namespaces.is_some_and(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(namespaces: &str) -> bool {
        let spec = format!(r#"{{"ociVersion":"1.0.2","linux":{{"namespaces":{namespaces}}}}}"#);
        shares_pids(&serde_json::from_str(&spec).unwrap())
    }

    #[test]
    fn a_pid_namespace_of_its_own_ends_with_its_init() {
        assert!(!shares(r#"[{"type":"mount"},{"type":"pid"}]"#));
        assert!(shares(r#"[{"type":"mount"}]"#));
        assert!(shares(r#"[{"type":"pid","path":"/proc/1/ns/pid"}]"#));
    }
}
