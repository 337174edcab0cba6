//! Where the binaries under test are: in `$RTC_BIN_DIR`, else where `cargo xtask build` puts the static release build.
//!
//! To try a debug build: `RTC_BIN_DIR=$PWD/target/debug cargo nextest run …`.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

pub const SHIM: &str = "containerd-shim-rtc-v2";
pub const CLI: &str = "rtc";
pub const MIGRATE: &str = "rtc-migrate";
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

/// The same for a binary that runs where there are no libraries. `cargo test -p test-fixtures` leaves a dynamic one in the
/// debug directory.
///
/// # Errors
/// `Dynamic` as well.
pub fn find_static(name: &str) -> Result<PathBuf> {
    let path = find(name)?;
    let contents = std::fs::read(&path).map_err(Error::path("read", &path))?;
    if has_interpreter(&contents) { Err(Error::Dynamic { path }) } else { Ok(path) }
}

/// Whether a 64-bit ELF file has a program header of the type PT_INTERP (elf(5)).
fn has_interpreter(elf: &[u8]) -> bool {
    const PT_INTERP: usize = 3;
    let number = |at: usize, size: usize| {
        let bytes = elf.get(at..at.checked_add(size)?)?;
        bytes.iter().rev().try_fold(0, |number: usize, byte| Some(number.checked_mul(256)? + usize::from(*byte)))
    };
    let (Some(start), Some(size), Some(count)) = (number(32, 8), number(54, 2), number(56, 2)) else { return false };
    (0..count).any(|at| number(start + at * size, 4) == Some(PT_INTERP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_binary_is_told_from_a_static_one() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        assert_eq!(has_interpreter(&own), !cfg!(target_feature = "crt-static"));
        // Without its program headers, or what they say.
        assert!(!has_interpreter(own.get(..64).unwrap()));
        assert!(!has_interpreter(b"#!/bin/sh\n"));
    }
}
