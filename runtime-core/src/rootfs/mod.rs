//! The container's root filesystem: mounts, devices, pivot_root, masked and read-only paths.
//!
//! [`Plan::new`] runs in the caller and finds everything that is wrong with the spec; the plan travels to the container's
//! init, which carries it out in the new mount namespace. Every path inside the rootfs is resolved by openat2 with
//! RESOLVE_IN_ROOT and used by descriptor, so that a hostile image cannot redirect a mount (CVE-2023-27561,
//! CVE-2023-28642, CVE-2025-31133, CVE-2025-52565, CVE-2025-52881).
//!
//! The rootfs is opened by the init. With a user namespace it must therefore be reachable by the mapped root: every
//! directory above it needs search permission for it. Sources of bind mounts are then opened by the caller ([`source`]).

mod bind;
mod cgroups;
mod console;
mod copy_up;
mod devices;
mod error;
mod filesystem;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod legacy;
mod mount;
mod options;
mod pivot;
mod plan;
mod restore;
mod seal;
mod source;
mod sysctl;
#[cfg(test)]
mod tests;
mod tree;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use serde::{Deserialize, Serialize};

use crate::cgroup::View;

pub(crate) use console::{Console, open_console};
pub(crate) use error::Error;
pub(crate) use options::NAMES as MOUNT_OPTIONS;
use options::Options;
pub(crate) use source::id_lines;
use tree::Tree;

/// What the init has to do, in an order that the fields do not show: see the methods.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    root: PathBuf,
    read_only: bool,
    no_pivot_root: bool,
    /// MS_SHARED and its kin, with MS_REC or not, for the root mount.
    propagation: Option<(u64, bool)>,
    user_namespace: bool,
    mounts: Vec<Entry>,
    /// Only if one of the mounts is of type cgroup.
    cgroup: Option<View>,
    /// `false` if the host's /dev is bound into the container: then it is the host's to fill.
    fill_dev: bool,
    devices: Vec<devices::Device>,
    masked: Vec<PathBuf>,
    readonly: Vec<PathBuf>,
    sysctl: Vec<sysctl::Setting>,
    #[serde(skip)]
    live: OnceLock<Live>,
}

/// Descriptors that later steps need and that cannot be had again once the image's own tree is the root.
#[derive(Debug)]
struct Live {
    tree: Tree,
    /// A detached, read-only bind of the host's /dev/null.
    null: Mutex<Option<OwnedFd>>,
}

impl Live {
    fn take_null(&self) -> Result<OwnedFd, Error> {
        self.null.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or(Error::OutOfOrder("seal"))
    }
}

/// One mount of the spec.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    target: PathBuf,
    kind: Kind,
    #[serde(flatten)]
    options: Options,
    ids: Option<source::IdMap>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Kind {
    Bind {
        source: PathBuf,
    },
    /// Other flags for what is mounted there already.
    Remount,
    Cgroup,
    Filesystem {
        name: String,
        source: String,
    },
}

#[derive(Debug)]
pub(crate) struct PlanOptions<'a> {
    pub(crate) bundle: &'a Path,
    pub(crate) cgroup: &'a View,
    pub(crate) no_pivot_root: bool,
    /// Device nodes cannot be made in a user namespace: bind them.
    pub(crate) user_namespace: bool,
    /// Not the caller's: sysctls of the network are the container's, or its pod's.
    pub(crate) network_namespace: bool,
}

impl Plan {
    fn live(&self, step: &'static str) -> Result<&Live, Error> {
        self.live.get().ok_or(Error::OutOfOrder(step))
    }
}
