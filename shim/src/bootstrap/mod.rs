//! The `start` action: containerd asks for a shim for a bundle, and gets the address of one.
//!
//! ```text
//! containerd                 start                                 serve
//!   | -- exec, cwd = bundle -> |
//!   |                          | read stdin, flags, environment
//!   |                          | group -> address -> bind
//!   |                          | -- spawn, socket = stdin ---------> |
//!   |                          | shim_cgroup                         | oom_score_adj, log, ttrpc
//!   | <- answer on stdout ---- |                                     |
//!   | ------------------------ ttrpc on the address ---------------> |
//! ```
//! The socket listens before the answer is given, so containerd can connect at once. A shim of the same pod that runs
//! already is found by its socket, and its address is the answer.

mod cgroup;
mod group;
mod params;

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use containerd_shim::Flags;

use crate::socket::{self, Bound};
use params::{Answer, Params};

/// Where the serving process finds containerd's events service.
pub(crate) const TTRPC_ADDRESS: &str = "TTRPC_ADDRESS";

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("read bootstrap parameters")]
    Params(#[from] params::Error),
    #[error("current directory, the bundle")]
    WorkingDirectory(#[source] std::io::Error),
    #[error("group of the container")]
    Group(#[from] group::Error),
    #[error("listen")]
    Socket(#[from] socket::Error),
    #[error("path of this program")]
    Executable(#[source] std::io::Error),
    #[error("spawn {}", program.display())]
    Spawn {
        program: PathBuf,
        #[source]
        err: std::io::Error,
    },
    #[error("end the serving process after a failure")]
    Abandon(#[source] std::io::Error),
    #[error("join shim_cgroup")]
    Cgroup(#[from] cgroup::Error),
    #[error("write the answer")]
    Answer(#[source] std::io::Error),
}

/// Runs the action. Prints the answer on stdout and nothing else: containerd reads stdout and stderr as one.
///
/// # Errors
/// Nothing is left running or listening after one.
pub(crate) fn start(flags: &Flags) -> Result<(), Error> {
    let params = Params::read(flags)?;
    let bundle = std::env::current_dir().map_err(Error::WorkingDirectory)?;
    let group = group::of_bundle(&bundle)?.unwrap_or_else(|| params.id.clone());
    let address = params.socket_address(&group);

    if let Bound::New(listener) = socket::bind(&address)? {
        let started = spawn(&params, listener).and_then(|mut server| {
            let ready = join_cgroup(&params, &server).and_then(|()| publish(&bundle, &address, &params.answer));
            if ready.is_err() {
                server.kill().and_then(|()| server.wait()).map_err(Error::Abandon)?;
            }
            ready
        });
        if started.is_err() {
            socket::remove_file(socket::path_of(&address))?;
        }
        return started;
    }
    publish(&bundle, &address, &params.answer)
}

fn publish(bundle: &Path, address: &str, answer: &Answer) -> Result<(), Error> {
    socket::write_address(bundle, address)?;
    let mut stdout = std::io::stdout();
    stdout.write_all(&answer.encode(address)).and_then(|()| stdout.flush()).map_err(Error::Answer)
}

/// Starts the serving process with the socket as its stdin (the one descriptor that needs no number agreed on and no
/// code between fork and exec).
fn spawn(params: &Params, listener: UnixListener) -> Result<std::process::Child, Error> {
    let program = std::env::current_exe().map_err(Error::Executable)?;
    let mut command = Command::new(&program);
    command
        .args(["-namespace", &params.namespace, "-id", &params.id, "-address", &params.address])
        .env(TTRPC_ADDRESS, &params.ttrpc_address)
        .stdin(OwnedFd::from(listener))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // A signal to containerd's process group must not reach the shim.
        .process_group(0);
    if params.debug {
        command.arg("-debug");
    }
    command.spawn().map_err(|err| Error::Spawn { program, err })
}

fn join_cgroup(params: &Params, server: &std::process::Child) -> Result<(), Error> {
    match &params.shim_cgroup {
        Some(path) => Ok(cgroup::join(path, server.id())?),
        None => Ok(()),
    }
}
