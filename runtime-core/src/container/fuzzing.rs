//! What a container leaves on disk, and what the kernel tells of its processes, for [`crate::fuzzing`].

use super::state::State;
use super::{checkpoint, process, restore};

pub(crate) use checkpoint::fuzzing::{manifest, mountinfo, tables};

pub(crate) fn state(bytes: &[u8]) {
    let Ok(state) = serde_json::from_slice::<State>(bytes) else { return };
    let json = serde_json::to_vec(&state);
    assert!(json.is_ok_and(|json| serde_json::from_slice::<State>(&json).is_ok()), "it is not what was written");
    state.hook_state("created");
}

pub(crate) fn schedule(spec: &oci_spec::runtime::Process) {
    process::exec_schedule(spec, &process::schedule(spec, None));
}

pub(crate) fn stat(text: &str) {
    crate::stat::start_time(text);
    checkpoint::fuzzing::stat(text);
}

/// `/proc/PID/cgroup`, for CRIU.
pub(crate) fn cgroup_roots(text: &str) {
    let found = restore::cgroup_roots::parse_cgroup_roots(text);
    assert!(found.iter().all(|root| root.controller.as_ref().is_some_and(|name| !name.contains(','))), "{found:?}");
}
