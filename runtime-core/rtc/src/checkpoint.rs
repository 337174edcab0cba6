//! `rtc checkpoint`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use runtime_core::container::{CgroupMode, CheckpointOptions, Container, CriuOptions, Status};

use crate::context::Context;
use crate::error::Error;

/// Checkpoint a running container
///
/// Its processes end and the container is deleted, unless it is left running. `rtc restore` makes it again from the
/// images, which say everything that was said here.
#[derive(Debug, clap::Args)]
pub(crate) struct Checkpoint {
    /// The container's id
    #[arg(value_name = "container-id")]
    id: String,

    /// Where CRIU's images go [default: checkpoint, in the current directory]
    #[arg(long, value_name = "DIR")]
    image_path: Option<PathBuf>,

    /// Where CRIU's log and statistics go
    #[arg(long, value_name = "DIR")]
    work_path: Option<PathBuf>,

    /// Images of an earlier pre-dump, relative to the image path
    #[arg(long, value_name = "DIR")]
    parent_path: Option<PathBuf>,

    /// Leave the container running
    #[arg(long)]
    leave_running: bool,

    /// Allow established TCP connections
    #[arg(long)]
    tcp_established: bool,

    /// Leave out TCP connections that are not accepted yet
    #[arg(long)]
    tcp_skip_in_flight: bool,

    /// Give deleted files that are open a name again
    #[arg(long)]
    link_remap: bool,

    /// Allow unix sockets whose other end is outside the container
    #[arg(long)]
    ext_unix_sk: bool,

    /// Allow a terminal that is not the container's own
    #[arg(long)]
    shell_job: bool,

    /// Carry file locks
    #[arg(long)]
    file_locks: bool,

    /// What to do with cgroups: soft, full, strict or ignore [default: soft]
    #[arg(long, value_name = "MODE", value_parser = cgroup_mode)]
    manage_cgroups_mode: Option<CgroupMode>,

    /// Create a namespace at restore, but leave what is in it to somebody else: network
    #[arg(long, value_name = "NAMESPACE")]
    empty_ns: Vec<String>,

    /// Free the parent's pages that this dump replaces
    #[arg(long)]
    auto_dedup: bool,
}

impl Checkpoint {
    pub(crate) fn run(self, context: &Context) -> Result<ExitCode, Error> {
        let container = context.load(&self.id)?;
        match container.status()? {
            status @ (Status::Created | Status::Stopped) => return Err(Error::CannotCheckpoint { status }),
            Status::Running | Status::Paused => {}
        }
        let options = self.options()?;
        container.checkpoint(&options)?;
        if !options.leave_running {
            delete(&container);
        }
        Ok(ExitCode::SUCCESS)
    }

    fn options(&self) -> Result<CheckpointOptions, Error> {
        if let Some(other) = self.empty_ns.iter().find(|namespace| *namespace != "network") {
            return Err(Error::EmptyNamespace(other.clone()));
        }
        let image_dir = absolute(self.image_path.as_deref().unwrap_or(Path::new("checkpoint")))?;
        if let Some(parent) = &self.parent_path {
            check_parent(&image_dir, parent)?;
        }
        let mut options = CheckpointOptions::new(image_dir);
        options.work_dir = self.work_path.as_deref().map(absolute).transpose()?;
        options.parent = self.parent_path.clone();
        options.leave_running = self.leave_running;
        options.criu = CriuOptions {
            tcp_established: self.tcp_established,
            tcp_skip_in_flight: self.tcp_skip_in_flight,
            ext_unix_sk: self.ext_unix_sk,
            shell_job: self.shell_job,
            file_locks: self.file_locks,
            link_remap: self.link_remap,
            empty_net_ns: !self.empty_ns.is_empty(),
            auto_dedup: self.auto_dedup,
            manage_cgroups: self.manage_cgroups_mode,
            ..CriuOptions::default()
        };
        Ok(options)
    }
}

/// The images are complete; what is left behind by a failure here `rtc delete` removes.
fn delete(container: &Container) {
    if let Err(err) = container.delete(true) {
        tracing::warn!("{}", runtime_core::error::chain(&err));
    }
}

fn check_parent(image_dir: &Path, parent: &Path) -> Result<(), Error> {
    if parent.is_absolute() {
        return Err(Error::AbsoluteParent);
    }
    let path = image_dir.join(parent);
    match std::fs::metadata(&path) {
        Ok(metadata) if metadata.is_dir() => Ok(()),
        Ok(_) => Err(Error::Parent { path, err: std::io::ErrorKind::NotADirectory.into() }),
        Err(err) => Err(Error::Parent { path, err }),
    }
}

pub(crate) fn absolute(path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path).map_err(|err| Error::File { operation: "resolve", path: path.to_owned(), err })
}

pub(crate) fn cgroup_mode(text: &str) -> Result<CgroupMode, &'static str> {
    match text {
        "" | "soft" => Ok(CgroupMode::Soft),
        "full" => Ok(CgroupMode::Full),
        "strict" => Ok(CgroupMode::Strict),
        "ignore" => Ok(CgroupMode::Ignore),
        _ => Err("Invalid manage cgroups mode"),
    }
}
