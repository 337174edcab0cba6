//! The command line of `rtc pod`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use migrate::{Error, PodCheckpoint, PodRestore};

use crate::args::{Containerd, json, print};

/// Checkpoint and restore the containers of a pod together
///
/// All stand still before the first is dumped, and none runs before all are restored: memory that they share, and connections
/// between them, stay whole. Containers of one pod are those that share a shim of rtc.
#[derive(Debug, Parser)]
#[command(name = "rtc pod")]
pub(crate) struct Pod {
    /// Log what is done
    #[arg(long, global = true)]
    pub(crate) debug: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Checkpoint(Checkpoint),
    Restore(Restore),
}

/// Write all containers of a pod into a directory; they end then
///
/// TCP connections and file locks are carried.
#[derive(Debug, clap::Args)]
pub(crate) struct Checkpoint {
    /// The sandbox, or another container of the pod
    container: String,

    /// Where the images go; the directory is made, or has to be empty
    #[arg(long, value_name = "DIR")]
    image_path: PathBuf,

    /// Let the containers run on
    #[arg(long)]
    leave_running: bool,

    /// Allow unix sockets whose other end is outside of their container
    #[arg(long)]
    ext_unix_sk: bool,

    /// Allow a session whose leader is outside of its container
    #[arg(long)]
    shell_job: bool,

    #[command(flatten)]
    containerd: Containerd,

    /// Print sizes and times as JSON
    #[arg(long)]
    json: bool,
}

/// Restore the containers of a pod from a directory
///
/// containerd has to know the containers, under the ids that they had; their tasks have to have ended. On another node they are
/// created there first, as they were here.
#[derive(Debug, clap::Args)]
pub(crate) struct Restore {
    /// Where the images are
    #[arg(long, value_name = "DIR")]
    image_path: PathBuf,

    #[command(flatten)]
    containerd: Containerd,
}

impl Pod {
    pub(crate) async fn run(self) -> Result<ExitCode, Error> {
        match self.command {
            Command::Checkpoint(command) => command.run().await,
            Command::Restore(command) => command.run().await,
        }
    }
}

impl Checkpoint {
    async fn run(self) -> Result<ExitCode, Error> {
        let report = migrate::checkpoint_pod(PodCheckpoint {
            id: self.container,
            containerd: self.containerd.resolve(),
            image_dir: absolute(self.image_path)?,
            leave_running: self.leave_running,
            ext_unix_sk: self.ext_unix_sk,
            shell_job: self.shell_job,
        })
        .await?;
        if self.json {
            json(&report)?
        } else {
            print(&format!("{report}\n"))?
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Restore {
    async fn run(self) -> Result<ExitCode, Error> {
        let image_dir = absolute(self.image_path)?;
        let restored = migrate::restore_pod(PodRestore { containerd: self.containerd.resolve(), image_dir }).await?;
        for (id, pid) in restored {
            print(&format!("{id} {pid}\n"))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The shim has another working directory.
fn absolute(path: PathBuf) -> Result<PathBuf, Error> {
    std::path::absolute(&path).map_err(|err| Error::File { operation: "find", path, err })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_needs_a_container_and_a_directory() {
        let parse = |words: &[&str]| Pod::try_parse_from([&["rtc pod"], words].concat());
        let line = parse(&["checkpoint", "--image-path", "cp", "--leave-running", "pause"]).unwrap();
        assert!(matches!(line.command, Command::Checkpoint(Checkpoint { leave_running: true, .. })));
        assert!(parse(&["checkpoint", "pause"]).is_err() && parse(&["checkpoint", "--image-path", "cp"]).is_err());
        assert!(parse(&["restore", "--image-path", "cp"]).is_ok() && parse(&["restore"]).is_err());
        assert!(absolute("cp".into()).unwrap().is_absolute());
    }
}
