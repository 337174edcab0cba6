//! What matters of a host: whether a container of one can go on at another.

use std::path::Path;

use criu::{Criu, MINIMUM};

use crate::error::{Error, Result};

/// Of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) architecture: String,
    pub(crate) kernel: String,
}

impl Host {
    pub(crate) fn this() -> Self {
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        Self { architecture: std::env::consts::ARCH.to_owned(), kernel }
    }
}

/// As this program appears to the other side.
pub(crate) fn software() -> String {
    format!("rtc {}", env!("CARGO_PKG_VERSION"))
}

/// The version of CRIU that the shim would execute here: shims have containerd's PATH, and this program usually the same.
///
/// # Errors
/// There is none, or it is too old.
pub(crate) async fn criu_version() -> Result<String> {
    let version = tokio::task::spawn_blocking(|| Criu::find()?.require(MINIMUM, &criu::Direct)).await?;
    version
        .map(|version| version.to_string())
        .map_err(|err| Error::Destination(format!("no CRIU to restore with: {err}")))
}

/// What the CRIU here can do; nothing if there is none.
pub(crate) async fn criu_features() -> criu::Features {
    let features = tokio::task::spawn_blocking(|| criu::Criu::find()?.features(&criu::Direct)).await;
    features.ok().and_then(|features: Result<_, criu::Error>| features.ok()).unwrap_or_default()
}

/// Bytes that may still be written below a directory.
pub(crate) fn free_space(directory: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(directory).map_err(Error::system("statvfs", directory))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// An identifier that no other migration has.
pub(crate) fn migration_name() -> Result<String> {
    let mut bytes = [0_u8; 16];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(Error::system("read random bytes of", "getrandom"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
