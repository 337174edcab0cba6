//! The bundle that a command was given.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Process, Spec};
use runtime_core::ErrorKind;

use crate::error::Error;

const CONFIG: &str = "config.json";

#[derive(Debug)]
pub(crate) struct Bundle {
    /// Absolute.
    pub(crate) path: PathBuf,
    pub(crate) spec: Spec,
    /// Absolute; where the spec is from, if not from config.json.
    pub(crate) config: Option<PathBuf>,
}

impl Bundle {
    /// Enters the bundle's directory, where hooks and relative paths of sockets expect to be, and reads its spec, or the one
    /// in `config`.
    ///
    /// # Errors
    /// There is none, or its process is none.
    pub(crate) fn load(path: Option<&Path>, config: Option<&Path>) -> Result<Self, Error> {
        if let Some(path) = path.filter(|path| !path.as_os_str().is_empty()) {
            std::env::set_current_dir(path).map_err(|err| Error::File {
                operation: "chdir",
                path: path.to_owned(),
                err,
            })?;
        }
        let path = std::env::current_dir().map_err(Error::CurrentDirectory)?;
        let config = config.map(|config| path.join(config));
        let spec = match &config {
            Some(config) => runtime_core::spec::load_file(config)?,
            None => load_spec(&path)?,
        };
        check(spec.process().as_ref())?;
        Ok(Self { path, spec, config })
    }

    pub(crate) fn terminal(&self) -> bool {
        self.spec.process().as_ref().and_then(Process::terminal).unwrap_or(false)
    }
}

pub(crate) fn load_spec(bundle: &Path) -> Result<Spec, Error> {
    runtime_core::spec::load(bundle).map_err(|err| match err.kind() {
        ErrorKind::NotFound => Error::NoConfig(CONFIG),
        _ => err.into(),
    })
}

/// In runc's words.
pub(crate) fn check(process: Option<&Process>) -> Result<(), Error> {
    let process = process.ok_or(Error::Process("process property must not be empty"))?;
    if process.cwd().as_os_str().is_empty() {
        return Err(Error::Process("Cwd property must not be empty"));
    }
    if !process.cwd().is_absolute() {
        return Err(Error::Process("Cwd must be an absolute path"));
    }
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        return Err(Error::Process("args must not be empty"));
    }
    Ok(())
}
