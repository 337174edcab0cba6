//! What can go wrong in a task, told with its causes.

use std::error::Error as _;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("run {command}")]
    Spawn {
        command: String,
        #[source]
        source: io::Error,
    },
    #[error("{command} failed with {status}")]
    Command { command: String, status: ExitStatus },
    #[error("{operation} {}", path.display())]
    File {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("this needs {packages}, and only root can install them: apt-get install {packages}")]
    NotRoot { packages: String },
    #[error("this needs {packages}, and there is no apt-get here to install them")]
    NotDebian { packages: String },
    #[error("{package} has no static library (libseccomp.a)")]
    NoStaticLibrary { package: &'static str },
    #[error("this needs root: it makes namespaces, mounts and cgroups")]
    NeedsRoot,
    #[error("read the output of cargo metadata")]
    Metadata(#[source] serde_json::Error),
    #[error("the layering of the crates is broken:\n{}", .0.join("\n"))]
    Layering(Vec<String>),
    #[error("{} has no place for the table", path.display())]
    Markers { path: PathBuf },
    #[error("{}", .0.join("\n"))]
    Checks(Vec<String>),
    #[error("{what}: expected {expected}, got {found:?}")]
    Demo { what: &'static str, expected: String, found: String },
    #[error(transparent)]
    Fixture(#[from] test_fixtures::Error),
}

/// Tells an error with its causes.
pub(crate) fn exit_code(result: Result<(), Error>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    let mut text = format!("error: {error}");
    let mut cause = error.source();
    while let Some(one) = cause {
        text.push_str(&format!(": {one}"));
        cause = one.source();
    }
    // Where standard error is closed, the exit code says it.
    writeln!(io::stderr(), "{text}").ok();
    ExitCode::FAILURE
}
