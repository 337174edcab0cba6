//! The `start` action: containerd asks for a shim for a bundle, and gets the address of one.
//!
//! ```text
//! containerd                 start                                 serve
//!   | -- exec, cwd = bundle -> |
//!   |                          | read stdin, flags, environment
//!   |                          | group -> address
//!   |                          | -- spawn, handover = stdin -------> |
//!   |                          | bind, shim_cgroup                   | oom_score_adj, log, runtime
//!   |                          | -- listening socket --------------> |
//!   | <- answer on stdout ---- |                                     | ttrpc
//!   |                          | -- commit ------------------------> |
//!   | ------------------------ ttrpc on the address ---------------> |
//! ```
//! The socket listens before the answer is given, so containerd can connect at once. A shim of the same pod that runs
//! already is found by its socket, and its address is the answer. A `start` that fails or is killed takes the serving
//! process with it (see [`crate::handover`]).

mod cgroup;
pub(crate) mod group;
mod params;

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use containerd_shim::Flags;

use crate::handover::Giver;
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
    #[error("hand the socket over to the serving process")]
    Handover(#[source] std::io::Error),
    #[error("join shim_cgroup")]
    Cgroup(#[from] cgroup::Error),
    #[error("write the answer")]
    Answer(#[source] std::io::Error),
}

/// Runs the action. Prints the answer on stdout and nothing else: containerd reads stdout and stderr as one.
///
/// # Errors
/// The serving process, if there was one already, ends by itself then, and the socket goes with it.
pub(crate) fn start(flags: &Flags) -> Result<(), Error> {
    let params = Params::read(flags)?;
    let bundle = std::env::current_dir().map_err(Error::WorkingDirectory)?;
    let group = group::of_bundle(&bundle)?.unwrap_or_else(|| params.id.clone());
    let address = params.socket_address(&group);

    if socket::is_served(socket::path_of(&address)) {
        return publish(&bundle, &address, &params.answer);
    }
    let (giver, end) = Giver::pair().map_err(Error::Handover)?;
    let server = spawn(&params, &address, end)?;
    match socket::bind(&address)? {
        Bound::New(listener) => giver.give(&listener).map_err(Error::Handover)?,
        // Another start of the group was faster; its shim serves us too, and ours ends.
        Bound::Served => return publish(&bundle, &address, &params.answer),
    }
    join_cgroup(&params, &server)?;
    publish(&bundle, &address, &params.answer)?;
    giver.commit().map_err(Error::Handover)
}

fn publish(bundle: &Path, address: &str, answer: &Answer) -> Result<(), Error> {
    socket::write_address(bundle, address)?;
    let mut stdout = std::io::stdout();
    stdout.write_all(&answer.encode(address)).and_then(|()| stdout.flush()).map_err(Error::Answer)
}

/// Starts the serving process with the handover as its stdin (the one descriptor that needs no number agreed on and no
/// code between fork and exec).
fn spawn(params: &Params, address: &str, handover: OwnedFd) -> Result<std::process::Child, Error> {
    let program = std::env::current_exe().map_err(Error::Executable)?;
    let mut command = Command::new(&program);
    command
        .args(["-namespace", &params.namespace, "-id", &params.id, "-address", &params.address, "-socket", address])
        .env(TTRPC_ADDRESS, &params.ttrpc_address)
        .stdin(handover)
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

/// What `start` reads: its standard input, and the annotations of the bundle.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(bytes: &[u8]) {
    params::fuzz(bytes);
    // What is no JSON is an error, and no more.
    group::of_config(bytes).ok();
}
