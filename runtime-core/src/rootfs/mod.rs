//! The container's root filesystem: mounts, devices, pivot_root, masked and read-only paths.
//!
//! [`Plan::new`] runs in the caller and finds everything that is wrong with the spec; the plan travels to the container's
//! init, which carries it out in the new mount namespace. Every path inside the rootfs is resolved by openat2 with
//! RESOLVE_IN_ROOT and used by descriptor, so that a hostile image cannot redirect a mount (CVE-2023-27561,
//! CVE-2023-28642, CVE-2025-31133, CVE-2025-52565, CVE-2025-52881).

use std::path::Path;

use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use crate::cgroup::View;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Plan {}

#[derive(Debug)]
pub(crate) struct PlanOptions<'a> {
    pub(crate) bundle: &'a Path,
    pub(crate) cgroup: &'a View,
    pub(crate) no_pivot_root: bool,
    /// Device nodes cannot be made in a user namespace: bind them.
    pub(crate) user_namespace: bool,
    pub(crate) cgroup_namespace: bool,
    pub(crate) network_namespace: bool,
}

impl Plan {
    pub(crate) fn new(_spec: &Spec, _options: &PlanOptions<'_>) -> Result<Self, Error> {
        todo!()
    }

    /// Propagation, rootfs bind, mounts in order, devices, /dev links. The host's tree is still reachable after it
    /// (createContainer hooks run next).
    pub(crate) fn mount(&self) -> Result<(), Error> {
        todo!()
    }

    /// pivot_root (or MS_MOVE and chroot) into the rootfs, the old root detached.
    pub(crate) fn pivot(&self) -> Result<(), Error> {
        todo!()
    }

    /// A pty from the container's own devpts, its slave bound on /dev/console if the container has one; the master is
    /// sent to the caller by the step that calls this. Called after `pivot`.
    pub(crate) fn console(&self) -> Result<Console, Error> {
        todo!()
    }

    /// sysctl through a /proc of our own that no image can have mounted over (CVE-2025-52881). After `pivot`.
    pub(crate) fn sysctl(&self) -> Result<(), Error> {
        todo!()
    }

    /// Read-only paths, masked paths, then the root itself read-only. Last of the mount steps.
    pub(crate) fn seal(&self) -> Result<(), Error> {
        todo!()
    }
}

#[derive(Debug)]
pub(crate) struct Console {
    pub(crate) master: std::os::fd::OwnedFd,
    pub(crate) slave: std::os::fd::OwnedFd,
}
