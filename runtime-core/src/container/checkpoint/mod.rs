//! Checkpoint: the container's processes into an image directory, by CRIU.
//!
//! ```text
//!   image directory                     written by
//!   descriptors.json                    us, before the dump; runc's
//!   *.img                               CRIU
//!   rtc-input.bin                       us, at post-dump: standard input that is not read yet
//!   rtc.json                            us, at post-dump: the processes are frozen, and if it cannot be written they run on;
//!                                       with timings and the inventory once CRIU has ended
//! ```
//! - `options`: what can be told, `annotations`: and by whom nobody asks; `manifest`: rtc.json; `host`: what of this host matters to it.
//! - `mounts` (with `mountinfo`): which mounts are not in the images. `namespaces`, `network`: which namespaces.
//! - `stdio`: the standard streams, which belong to whoever asks. `input`, `typed`: what of them is unread, in pipes and
//!   terminals.
//! - `inventory`: which files it has. `phases`: what takes how long. `inspect`: what is in it, for people and programs;
//!   `compare`: and in which way another is different.
//! - `dump`: the verb. `execs`: processes that cannot be in it. `frozen`: how the container is frozen for it, and `stopped`:
//!   when it is not. `guard`: who thaws it if we are killed. `hold`: a dump that waits for somebody's decision. `images`: what
//!   a failed one leaves, `stage`: where an older one is. `swrk`: how CRIU is started. `work`: where its log is.
//! - `seal`: images that are compressed or encrypted.
//! - `aftermath`: what a CRIU that was killed has left in the container, with `lock` and `netfilter`.
//! - `preflight`: what would be in the way, before anything is touched. `programs`: which rootfs it was.
//!
//! A dump that fails leaves the container as it was and the directory without what the dump wrote, an older checkpoint in it
//! included.

pub(super) mod aftermath;
pub(super) mod annotations;
mod compare;
mod dump;
mod error;
mod execs;
mod frozen;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod guard;
mod hold;
pub(super) mod host;
pub(super) mod images;
pub(super) mod input;
mod inspect;
pub(super) mod inventory;
mod lock;
pub(super) mod manifest;
mod mountinfo;
pub(super) mod mounts;
pub(super) mod namespaces;
mod netfilter;
pub(super) mod network;
mod options;
pub(super) mod phases;
pub(super) mod preflight;
mod programs;
pub(super) mod seal;
mod stage;
pub(super) mod stdio;
mod stopped;
pub(super) mod swrk;
pub(super) mod typed;
pub(super) mod work;

pub(crate) use annotations::PREFIX as CHECKPOINT_ANNOTATIONS;
pub use annotations::{parse_ghost_limit, parse_network_lock};
pub use compare::{Change, Comparison, MemoryChange, OptionChange, OwnedFile, ProcessName, Sets, SizeChange};
pub(super) use dump::checkpoint;
pub use error::CheckpointError;
pub use execs::Stranger;
pub use hold::{HeldDump, Holder, RestoreHolder};
pub use input::{Held, Input};
pub use inspect::{Checksums, Inspection, Maker, Record, SealRecord, Verify};
pub use inventory::Difference;
pub use manifest::Timings;
pub use options::{
    CgroupMode, CheckpointOptions, Checkpointed, Compression, CriuOptions, External, InvalidCompression,
    InvalidRecipient, NetworkLock, PAGES_SOCKET, PageServer, Recipient, RestoreOptions, STALL, SealOptions, Transport,
};
pub use phases::RestoreTimings;
pub use stage::STAGE;

pub use preflight::restore::RestoreCheck;
pub use preflight::{Finding, HostDescription, Kind as FindingKind, Report, Severity};

use std::path::{Path, PathBuf};

use criu::Common;
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::state::State;
use crate::cgroup::Cgroup;
use crate::error::RootfsError;
use crate::rootfs::{Plan, PlanOptions};

/// runc's, for the annotation that names a container's own configuration of CRIU. An empty one is for none.
const CONFIG_ANNOTATION: &str = "org.criu.config";
/// Read when there is no annotation: ours first, then the one that administrators have for runc.
const CONFIG_FILES: [&str; 2] = ["/etc/criu/rtc.conf", "/etc/criu/runc.conf"];

impl CriuOptions {
    pub(super) fn apply(&self, common: &mut Common) {
        common.tcp_established = self.tcp_established;
        common.tcp_close = self.tcp_close;
        common.ext_unix_sk = self.ext_unix_sk;
        common.shell_job = self.shell_job;
        common.file_locks = self.file_locks;
        common.link_remap = self.link_remap;
        common.ghost_limit = self.ghost_limit;
        common.empty_net_ns = self.empty_net_ns;
        common.auto_dedup = self.auto_dedup;
        common.libdir = self.libdir.clone();
        common.manage_cgroups = Some(self.manage_cgroups.unwrap_or(CgroupMode::Soft));
        common.network_lock = self.network_lock;
        // The pty's other end is ours; it comes back by a notification.
        common.orphan_pts_master = true;
        common.notify = true;
    }
}

/// Before anything is touched. CRIU's unprivileged mode dumps a process, and no container: mounts, cgroups and network
/// are out of its reach.
pub(super) fn check_caller() -> Result<(), CheckpointError> {
    if crate::caller::is_unprivileged() { Err(CheckpointError::Rootless) } else { Ok(()) }
}

pub(super) fn config_file(state: &State) -> Option<PathBuf> {
    match state.annotations.get(CONFIG_ANNOTATION) {
        Some(path) => Some(PathBuf::from(path)).filter(|path| !path.as_os_str().is_empty()),
        None => CONFIG_FILES.iter().map(PathBuf::from).find(|path| path.exists()),
    }
}

/// The mounts of a spec.
pub(super) fn plan(bundle: &Path, spec: &Spec, cgroup: &Cgroup) -> Result<Plan, CheckpointError> {
    let namespaces = || spec.linux().iter().flat_map(|linux| linux.namespaces().iter().flatten());
    let has = |kind: LinuxNamespaceType| namespaces().any(|namespace| namespace.typ() == kind);
    let options = PlanOptions {
        bundle,
        cgroup: &cgroup.view(),
        no_pivot_root: false,
        user_namespace: has(LinuxNamespaceType::User),
        network_namespace: has(LinuxNamespaceType::Network),
    };
    let plan = Plan::new(spec, &options).map_err(|err| CheckpointError::Rootfs(RootfsError(err)))?;
    // It would come back with the ids of its source.
    plan.id_mapped().map_or(Ok(()), |target| Err(CheckpointError::IdMapped(target.to_owned())))?;
    Ok(plan)
}

/// The version of the CRIU that a checkpoint or a restore would use.
///
/// # Errors
/// There is none, it cannot be executed, or it is too old.
pub fn criu_version() -> Result<String, criu::Error> {
    Ok(criu::Criu::find()?.require(criu::MINIMUM, &swrk::Plain)?.to_string())
}

/// What that CRIU can do on this kernel.
///
/// # Errors
/// There is none, or it cannot be executed.
pub fn criu_features() -> Result<criu::Features, criu::Error> {
    criu::Criu::find()?.features(&swrk::Plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Case = (fn(&mut CriuOptions), fn(&Common) -> bool);

    #[test]
    fn every_option_reaches_criu_and_brings_no_other() {
        let cases: &[Case] = &[
            (|told| told.tcp_established = true, |common| common.tcp_established),
            (|told| told.tcp_close = true, |common| common.tcp_close),
            (|told| told.ext_unix_sk = true, |common| common.ext_unix_sk),
            (|told| told.shell_job = true, |common| common.shell_job),
            (|told| told.file_locks = true, |common| common.file_locks),
            (|told| told.link_remap = true, |common| common.link_remap),
            (|told| told.auto_dedup = true, |common| common.auto_dedup),
            (|told| told.empty_net_ns = true, |common| common.empty_net_ns),
            (|told| told.ghost_limit = Some(7), |common| common.ghost_limit == Some(7)),
            (
                |told| told.manage_cgroups = Some(CgroupMode::Full),
                |common| common.manage_cgroups == Some(CgroupMode::Full),
            ),
            (
                |told| told.network_lock = Some(NetworkLock::Skip),
                |common| common.network_lock == Some(NetworkLock::Skip),
            ),
            (|told| told.libdir = Some("/p".into()), |common| common.libdir.is_some()),
        ];
        for (at, (tell, _)) in cases.iter().enumerate() {
            let mut told = CriuOptions::default();
            tell(&mut told);
            let mut common = Common::new(std::fs::File::open("/").unwrap().into());
            told.apply(&mut common);
            let heard: Vec<usize> = (0..cases.len()).filter(|&other| cases[other].1(&common)).collect();
            assert_eq!(heard, [at]);
        }
    }
}
