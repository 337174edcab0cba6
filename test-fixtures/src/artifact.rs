//! Where the binaries under test are: in `$RTC_BIN_DIR`, else where `cargo xtask build` puts the static release build.
//!
//! To try a debug build: `RTC_BIN_DIR=$PWD/target/debug cargo nextest run …`.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

pub const SHIM: &str = "containerd-shim-rtc-v2";
pub const CLI: &str = "rtc";
pub const WORKLOAD: &str = "workload";
pub const VM_AGENT: &str = "vm-agent";

/// The target that static binaries are built for: this machine's, with glibc.
pub fn triple() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

/// The root of the source tree.
pub fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// The directory that holds the binaries under test; it need not exist.
pub fn directory() -> PathBuf {
    if let Some(directory) = std::env::var_os("RTC_BIN_DIR") {
        return directory.into();
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    target.join(triple()).join("release")
}

/// The path of a built binary.
///
/// # Errors
/// `NotBuilt` when it is not there.
pub fn find(name: &str) -> Result<PathBuf> {
    let path = directory().join(name);
    if path.is_file() { Ok(path) } else { Err(Error::NotBuilt { path }) }
}
