//! The container and its options, as the checkpoint's description has them.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use criu::images::DESCRIPTORS;
use oci_spec::runtime::Spec;

use super::super::error::CheckpointError;
use super::super::host::Host;
use super::super::manifest::{self, Manifest};
use super::super::options::{CheckpointOptions, CriuOptions, NetworkLock};
use super::super::{mounts, namespaces, network, plan, stdio};
use crate::container::Container;
use crate::{Pid, limited};

pub(super) fn describe(
    container: &Container,
    options: &CheckpointOptions,
    told: CriuOptions,
    spec: &Spec,
    pid: Pid,
) -> Result<Manifest, CheckpointError> {
    let plan = plan(&container.state.bundle, spec, &container.state.cgroup)?;
    let config = container.state.config();
    let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let descriptors = container
        .state
        .descriptors(pid)
        .map_err(CheckpointError::file("read descriptors of", format!("/proc/{pid}")))?;
    Ok(Manifest {
        version: manifest::PLAIN_VERSION,
        id: container.id().to_string(),
        created: u64::try_from(created.as_nanos()).unwrap_or(u64::MAX),
        spec_digest: manifest::digest(
            &limited::read(&config, limited::DOCUMENT).map_err(CheckpointError::file("read", &config))?,
        ),
        options: CriuOptions {
            network_lock: told.network_lock.or_else(network_lock),
            empty_net_ns: told.empty_net_ns || network::leave_empty(spec, pid),
            ..told
        },
        left_running: options.leave_running,
        lazy_pages: options.lazy_pages,
        parent: options.parent.as_ref().map(|path| path.to_string_lossy().into_owned()),
        terminal: container.state.terminal,
        stdio_files: stdio::files(&container.state.stdio_files),
        descriptors,
        unread: None,
        namespaces: namespaces::describe(spec),
        external_mounts: mounts::find(pid, &plan)?,
        programs: Vec::new(),
        criu: String::new(),
        host: Host::of_this_machine(),
        sealed: None,
        timings: None,
        files: None,
    })
}

/// CRIU's own choice is iptables, which many hosts have no more; nftables it needs no program for. `None` leaves it to CRIU
/// and its configuration.
fn network_lock() -> Option<NetworkLock> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let has_iptables = std::env::split_paths(&path).any(|directory| directory.join("iptables-restore").exists());
    (!has_iptables).then_some(NetworkLock::Nftables)
}

pub(super) fn write_descriptors(dir: &Path, descriptors: &[String]) -> Result<(), CheckpointError> {
    let path = dir.join(DESCRIPTORS);
    let json = serde_json::to_vec(descriptors).map_err(CheckpointError::Encode)?;
    fs::write(&path, json).map_err(CheckpointError::file("write", path))
}
