//! The one error type of this crate. Tests unwrap it, so its text carries all that is needed to see what went wrong.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{operation} {}", path.display())]
    Path {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("run {command}")]
    Spawn {
        command: String,
        #[source]
        source: io::Error,
    },
    #[error("{command} failed with {status}:\n{output}")]
    Command { command: String, status: String, output: String },
    #[error("{command} did not end within {after:?}:\n{output}")]
    Timeout { command: String, after: Duration, output: String },
    #[error("node {node} did not come up:\n{log}")]
    Node { node: String, log: String },
    #[error("containerd in node {node} did not answer within {after:?}:\n{log}")]
    Containerd { node: String, after: Duration, log: String },
    #[error("virtual machine {machine} {what}; its console:\n{console}")]
    Machine { machine: String, what: String, console: String },
    #[error("{what} is not available on this host: {why}")]
    Unsupported { what: &'static str, why: String },
    #[error("{} is not built: run `cargo xtask build`, or set RTC_BIN_DIR to its directory", path.display())]
    NotBuilt { path: PathBuf },
    #[error("{} is linked dynamically, and is to run where there are no libraries: `cargo xtask build` builds it", path.display())]
    Dynamic { path: PathBuf },
    #[error("left behind in node {node}:\n{leaks}")]
    Leaks { node: String, leaks: String },
}

impl Error {
    /// For `map_err`: an I/O error of `operation` on `path`.
    pub(crate) fn path(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Path { operation, path, source }
    }
}
