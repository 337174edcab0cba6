//! The kernel's control files and tables, for [`crate::fuzzing`].

use std::path::Path;

use oci_spec::runtime::LinuxDeviceCgroup;

use super::{details, devices, devices_v2, file, hierarchy, stats_v1, stats_v2, systemd};
use crate::ContainerId;

/// The mount table, an empty line, and `/proc/PID/cgroup`: wherever a container's cgroup lies, it lies below a mount.
pub(crate) fn hierarchies(text: &str) {
    let (mounts, groups) = text.split_once("\n\n").unwrap_or((text, text));
    let found = hierarchy::Hierarchies::parse(mounts, groups);
    let Ok(id) = ContainerId::parse("fuzz") else { return };
    for path in [None, Some("a/../../../b"), Some("/../x"), groups.lines().last()] {
        let (v1, unified) = found.resolve(&id, path.map(Path::new));
        for dir in v1.iter().chain(&unified) {
            assert!(dir.path.starts_with(&dir.mount), "{} is not below {}", dir.path.display(), dir.mount.display());
        }
    }
}

/// Every kind of control file that is read. `path` has `text` in it.
pub(crate) fn files(path: &Path, text: &str) {
    file::read_u64(path).ok();
    file::read_pids(path).ok();
    if let Ok(Some(pairs)) = file::read_pairs(path) {
        assert!(pairs.into_iter().count() <= text.lines().count());
    }
    stats_v1::fuzz(path);
    stats_v2::fuzz(path);
    crate::stat::state(text);
    list(text);
}

/// cpuset(7)'s: no number is in a list that is not in its text's ranges.
pub(crate) fn list(text: &str) -> Option<Vec<u16>> {
    details::parse_list(text)
}

/// The value of an annotation that is a property of a unit's.
pub(crate) fn property(text: &str) {
    systemd::fuzzing::property(text);
}

/// What comes over a D-Bus socket.
pub(crate) fn message(bytes: &[u8]) {
    systemd::fuzzing::message(bytes);
}

/// The rules of a spec become a program of the kernel's, whose jumps stay in it.
pub(crate) fn devices(rules: &[LinuxDeviceCgroup]) {
    let Ok(rules) = devices::rules(rules) else { return };
    let program = devices_v2::assemble(&rules);
    // The two jumps that it has: if equal, and if not.
    for (at, jump) in program.iter().enumerate().filter(|(_, insn)| matches!(insn.code, 0x16 | 0x56)) {
        let target = usize::try_from(jump.off).map(|off| at + 1 + off);
        assert!(target.is_ok_and(|target| target < program.len()), "a jump out of the program at {at}");
    }
}
