//! `containerd-shim-rtc-v2`: one process that owns the containers of a pod (or the one container of `ctr run`), their
//! stdio and their exits, and answers containerd's Task service for them.
//!
//! ```text
//! containerd --exec--> start  --spawn--> serve <--ttrpc-- containerd
//!            --exec--> delete  (after a shim that died)
//!            --exec--> -info, -v
//! shim       --clone-> init    (this binary again, sealed; runtime_core::init)
//! ```

mod bootstrap;
mod clients;
mod delete;
mod error;
mod events;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod handover;
mod id_mapped;
mod idle;
mod info;
mod io;
mod journal;
mod log;
mod metrics;
mod migration;
mod mount;
mod oom;
mod options;
mod pod;
mod process;
mod publisher;
mod reaper;
mod sandbox;
mod serve;
mod service;
mod socket;
mod task;

use std::io::Write;
use std::process::ExitCode;

/// The name under which containerd knows this runtime.
const RUNTIME_NAME: &str = "io.containerd.rtc.v2";

#[derive(Debug, thiserror::Error)]
enum MainError {
    #[error("parse arguments")]
    Arguments(#[source] containerd_shim::Error),
    #[error("shim namespace cannot be empty")]
    NoNamespace,
    #[error("unknown action {0:?}")]
    UnknownAction(String),
    #[error("start shim {id} in namespace {namespace}")]
    Start {
        namespace: String,
        id: String,
        #[source]
        err: bootstrap::Error,
    },
    #[error("clean up after shim of {id} in namespace {namespace}")]
    Delete {
        namespace: String,
        id: String,
        #[source]
        err: Box<delete::Error>,
    },
    #[error("describe the runtime")]
    Info(#[source] std::io::Error),
    #[error("serve {id} in namespace {namespace}")]
    Serve {
        namespace: String,
        id: String,
        #[source]
        err: serve::Error,
    },
}

/// The whole program.
pub fn main() -> ExitCode {
    // Before anything else: the init of a container must stay single-threaded and opens nothing of the shim's.
    if std::env::args_os().next().is_some_and(|name| name == runtime_core::init::ARGV0) {
        runtime_core::init::main();
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            // containerd shows the stderr of `start` and `delete` to its user.
            let text = format!("{RUNTIME_NAME}: {}\n", error::chain(&err));
            if std::io::stderr().write_all(text.as_bytes()).is_err() {
                tracing::error!("{text}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), MainError> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let flags = containerd_shim::parse(&arguments).map_err(MainError::Arguments)?;
    if flags.version {
        return info::print_version().map_err(MainError::Info);
    }
    if flags.info {
        return info::print_info().map_err(MainError::Info);
    }
    if flags.namespace.is_empty() {
        return Err(MainError::NoNamespace);
    }
    let (namespace, id) = (flags.namespace.clone(), flags.id.clone());
    match flags.action.as_str() {
        "start" => bootstrap::start(&flags).map_err(|err| MainError::Start { namespace, id, err }),
        "delete" => delete::run(&flags).map_err(|err| MainError::Delete { namespace, id, err: Box::new(err) }),
        "" => serve::run(&flags).map_err(|err| MainError::Serve { namespace, id, err }),
        other => Err(MainError::UnknownAction(other.to_owned())),
    }
}
