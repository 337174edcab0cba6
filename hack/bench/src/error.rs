//! What can go wrong in a measurement.

use std::error::Error as _;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{action} {path}")]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        err: std::io::Error,
    },
    #[error("execute {command}")]
    Execute {
        command: String,
        #[source]
        err: std::io::Error,
    },
    #[error("{command} ended with {status}: {output}")]
    Command { command: String, status: std::process::ExitStatus, output: String },
    #[error("{method} of {id}")]
    Call {
        method: &'static str,
        id: String,
        #[source]
        err: Box<ttrpc::Error>,
    },
    #[error("encode or decode the message of {what}")]
    Message {
        what: &'static str,
        #[source]
        err: protobuf::Error,
    },
    #[error("parse the specification that ctr made")]
    Spec(#[source] serde_json::Error),
    #[error("write the results")]
    Results(#[source] serde_json::Error),
    #[error("the shim answered start with {answer:?}")]
    Bootstrap { answer: String },
    #[error("{id} ended with exit code {code}")]
    Exit { id: String, code: u32 },
    #[error("{id} wrote {bytes} bytes of {expected}")]
    Short { id: String, bytes: u64, expected: u64 },
    #[error("{found} shims of {name} run, not {expected}")]
    Shims { name: &'static str, found: usize, expected: usize },
    #[error("container {id} was not ready in time")]
    NotReady { id: String },
}

#[allow(clippy::print_stderr, reason = "a command's last word to its user")]
pub(crate) fn print_chain(err: &Error) {
    let mut line = format!("rtc-bench: {err}");
    let mut source = err.source();
    while let Some(err) = source {
        line.push_str(&format!(": {err}"));
        source = err.source();
    }
    eprintln!("{line}");
}
