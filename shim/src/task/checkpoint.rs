//! Checkpoint of a running container, and Start of one that was created from a checkpoint.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use containerd_shim_protos::shim::oci;
use runtime_core::Pid;
use runtime_core::container::{
    CgroupMode, CheckpointOptions, Checkpointed, Container, CriuOptions, Input, RestoreOptions,
};

use super::{Task, blocking};
use crate::error::{Error, Result};
use crate::events::Event;
use crate::process::exec::Exec;
use crate::process::state::{State, Verb};

impl Task {
    /// Writes the container into `path`. Without `leave_running` its exit follows as any other.
    ///
    /// # Errors
    /// The container does not run, or CRIU could not dump it; it runs on then.
    pub(crate) async fn checkpoint(self: Arc<Self>, mut options: CheckpointOptions) -> Result<Checkpointed> {
        let _queue = self.queue.lock().await;
        self.init.check(Verb::Checkpoint)?;
        self.check_memory()?;
        let container = self.container()?;
        options.exec_ids = self.exec_ids();
        options.input = self.init.input().map(|feed| feed as Arc<dyn Input>);
        let path = options.image_dir.to_string_lossy().into_owned();
        let made = blocking("checkpoint", move || container.checkpoint(&options)).await?;
        let milliseconds = made.total.as_millis();
        tracing::info!(path, bytes = made.bytes, milliseconds, frozen = ?made.frozen, "checkpointed");
        self.publisher().publish(Event::checkpointed(self.id.as_str(), &path, &made));
        Ok(made)
    }

    fn exec_ids(&self) -> HashMap<Pid, String> {
        let execs = self.execs();
        let of = |exec: &Arc<Exec>| Some((Pid::new(i32::try_from(exec.process.pid()).ok()?)?, exec.id.clone()));
        execs.values().filter_map(of).collect()
    }

    /// Makes the container that Create was asked to restore.
    ///
    /// # Errors
    /// CRIU could not restore it; nothing is left of it then, and Start may be called again.
    pub(super) async fn restore(self: &Arc<Self>) -> Result<()> {
        let bundle = self.bundle.clone();
        let spec = blocking("restore", move || runtime_core::spec::load(&bundle)).await?;
        let (io, stdio) = self.open_init_stdio().await?;
        let create = self.create_options(spec, stdio);
        let mut options = RestoreOptions::new(create, PathBuf::from(&self.checkpoint));
        options.work_dir = given(&self.options.criu_work_path);
        options.fetch_pages = true;
        let restores = self.context.restores.clone();
        let restore = move || {
            let pod = restores.of(&options.image_dir);
            match pod.map_err(|err| runtime_core::Error::Pod { id: options.create.id.clone(), err })? {
                Some((pod, member)) => pod.restore(&member, options),
                None => Container::restore(options),
            }
        };
        let (container, mut started) = blocking("restore", restore).await?;
        let arriving = started.arriving.take();
        self.adopt((container, started), io, State::Running).await?;
        arriving.map(|memory| self.await_memory(memory)).transpose()?;
        tracing::info!(path = self.checkpoint, pid = self.init.pid(), "restored");
        Ok(())
    }
}

/// What a Checkpoint request asks for. containerd names the directory in the request; `image_path` is for who calls the
/// shim directly.
///
/// # Errors
/// There is no directory, or an option has a value that CRIU does not know.
pub(crate) fn checkpoint_options(id: &str, path: &str, options: &oci::CheckpointOptions) -> Result<CheckpointOptions> {
    let refuse = |option: &'static str, value: &str| Error::CheckpointOption {
        id: id.to_owned(),
        option,
        value: value.to_owned(),
    };
    let image_dir = given(path).or_else(|| given(&options.image_path)).ok_or_else(|| refuse("path", ""))?;
    if let Some(other) = options.empty_namespaces.iter().find(|namespace| *namespace != "network") {
        return Err(refuse("empty namespace", other));
    }
    let criu = CriuOptions {
        tcp_established: options.open_tcp,
        ext_unix_sk: options.external_unix_sockets,
        shell_job: options.terminal,
        file_locks: options.file_locks,
        empty_net_ns: !options.empty_namespaces.is_empty(),
        manage_cgroups: match options.cgroups_mode.as_str() {
            "" => None,
            "ignore" => Some(CgroupMode::Ignore),
            "soft" => Some(CgroupMode::Soft),
            "full" => Some(CgroupMode::Full),
            "strict" => Some(CgroupMode::Strict),
            other => return Err(refuse("cgroups mode", other)),
        },
        ..CriuOptions::default()
    };
    let mut checkpoint = CheckpointOptions::new(image_dir);
    checkpoint.work_dir = given(&options.work_path);
    checkpoint.leave_running = !options.exit;
    checkpoint.criu = criu;
    Ok(checkpoint)
}

fn given(path: &str) -> Option<PathBuf> {
    (!path.is_empty()).then(|| PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_requests_directory_wins() {
        let options = oci::CheckpointOptions { image_path: "/options".into(), ..Default::default() };
        assert_eq!(checkpoint_options("web", "/request", &options).unwrap().image_dir, Path::new("/request"));
        assert_eq!(checkpoint_options("web", "", &options).unwrap().image_dir, Path::new("/options"));
        let nowhere = checkpoint_options("web", "", &oci::CheckpointOptions::default());
        assert!(matches!(nowhere, Err(Error::CheckpointOption { option: "path", .. })));
    }

    #[test]
    fn options_are_handed_on() {
        let options = oci::CheckpointOptions {
            exit: true,
            open_tcp: true,
            terminal: true,
            work_path: "/w".into(),
            cgroups_mode: "full".into(),
            empty_namespaces: vec!["network".into()],
            ..Default::default()
        };
        let options = checkpoint_options("web", "/i", &options).unwrap();
        assert!(!options.leave_running && options.criu.tcp_established && options.criu.shell_job);
        assert!(options.criu.empty_net_ns && !options.criu.file_locks);
        assert_eq!(options.criu.manage_cgroups, Some(CgroupMode::Full));
        assert_eq!(options.work_dir.as_deref(), Some(Path::new("/w")));
    }

    #[test]
    fn what_criu_does_not_know_is_refused_by_name() {
        let options = oci::CheckpointOptions { cgroups_mode: "sometimes".into(), ..Default::default() };
        let refused = checkpoint_options("web", "/i", &options).unwrap_err();
        assert_eq!(refused.to_string(), "checkpoint of container web: cgroups mode \"sometimes\" is not supported");
        let options = oci::CheckpointOptions { empty_namespaces: vec!["pid".into()], ..Default::default() };
        assert!(checkpoint_options("web", "/i", &options).is_err());
    }
}
