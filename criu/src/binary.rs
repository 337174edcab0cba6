//! The criu executable: where it is, how old it is, what it can do.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::{Access, access};

use crate::error::{Error, Result};
use crate::options::{FeatureCheck, Features, VersionQuery};
use crate::request::Request;
use crate::spawn::Spawn;
use crate::worker::Worker;

/// The oldest CRIU that is used: the first with a pre-dump that ends by itself, with external pid namespaces, and with
/// another LSM profile at restore.
pub const MINIMUM: Version = Version { major: 3, minor: 16, sublevel: 0 };

/// Questions about versions and features are answered in milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// CRIU's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    pub major: u16,
    pub minor: u16,
    pub sublevel: u16,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        if self.sublevel > 0 {
            write!(f, ".{}", self.sublevel)?;
        }
        Ok(())
    }
}

/// What `criu check --feature` can answer and the RPC cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    NetworkLockNftables,
    IptablesLegacy,
    TcpHalfClosed,
    TimeNamespace,
    Nftables,
    CompatRestore,
    PagemapScan,
}

impl Feature {
    /// CRIU's name for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NetworkLockNftables => "network_lock_nftables",
            Self::IptablesLegacy => "has_ipt_legacy",
            Self::TcpHalfClosed => "tcp_half_closed",
            Self::TimeNamespace => "timens",
            Self::Nftables => "nftables",
            Self::CompatRestore => "compat_cr",
            Self::PagemapScan => "pagemap_scan",
        }
    }
}

/// A criu executable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Criu {
    path: PathBuf,
}

impl Criu {
    /// The first executable `criu` in PATH.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn find() -> Result<Self> {
        let path = env::var_os("PATH").unwrap_or_else(|| "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin".into());
        env::split_paths(&path)
            .map(|directory| directory.join("criu"))
            .find(|criu| criu.is_file() && access(criu, Access::EXEC_OK).is_ok())
            .map(|path| Self { path })
            .ok_or_else(|| Error::NotFound { path: path.to_string_lossy().into_owned() })
    }

    /// This executable, which is not looked at yet.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Starts a CRIU process for this request, which it gets with [`Worker::run`].
    ///
    /// # Errors
    /// [`Error::Spawn`], or [`Error::Io`] for the socket pair.
    pub fn start<R: Request>(&self, request: R, spawn: &dyn Spawn) -> Result<Worker<R>> {
        Worker::start(self, request, spawn)
    }

    /// # Errors
    /// [`Error::Spawn`], or what is wrong with CRIU's answer. A version that is too old is no error here.
    pub fn version(&self, spawn: &dyn Spawn) -> Result<Version> {
        self.start(VersionQuery, spawn)?.run(&mut (), Some(PATIENCE))
    }

    /// # Errors
    /// [`Error::TooOld`], and those of [`Criu::version`].
    pub fn require(&self, needed: Version, spawn: &dyn Spawn) -> Result<Version> {
        let found = self.version(spawn)?;
        if found < needed {
            return Err(Error::TooOld { path: self.path.clone(), found, needed });
        }
        Ok(found)
    }

    /// Whether an error comes from a CRIU that is too old, which then is the error. For callers that save themselves the
    /// question, some milliseconds, until something has failed.
    pub fn blame(&self, err: Error, needed: Version, spawn: &dyn Spawn) -> Error {
        match self.require(needed, spawn) {
            Err(too_old @ Error::TooOld { .. }) => too_old,
            Ok(_) | Err(_) => err,
        }
    }

    /// # Errors
    /// Those of [`Criu::version`].
    pub fn features(&self, spawn: &dyn Spawn) -> Result<Features> {
        self.start(FeatureCheck, spawn)?.run(&mut (), Some(PATIENCE))
    }

    /// Runs `criu check --feature`; a feature that this CRIU does not know is not there. Blocks for some milliseconds.
    ///
    /// # Errors
    /// [`Error::Spawn`].
    pub fn has(&self, feature: Feature, spawn: &dyn Spawn) -> Result<bool> {
        let mut command = Command::new(&self.path);
        command.args(["check", "--feature", feature.as_str()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let failed = |err| Error::Spawn { path: self.path.clone(), err };
        let mut process = spawn.spawn(command).map_err(failed)?;
        Ok(process.wait().map_err(failed)? == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_and_written_as_criu_writes_them() {
        let v = |major, minor, sublevel| Version { major, minor, sublevel };
        assert!(v(3, 9, 0) < MINIMUM && v(3, 16, 1) > MINIMUM && v(4, 0, 0) > v(3, 19, 9));
        assert_eq!(v(4, 2, 1).to_string(), "4.2.1");
        assert_eq!(v(4, 1, 0).to_string(), "4.1");
    }
}
