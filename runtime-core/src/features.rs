//! What this runtime can do, in the runtime specification's "features" structure.
//!
//! The lists are of words that the runtime knows; the tests hold each to the code that takes or refuses it, so that a
//! feature that is added and not told of here fails them.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cgroup::ANNOTATION_PREFIX;
use crate::container::CHECKPOINT_ANNOTATIONS;
use crate::{init, rootfs, seccomp, spec};

/// The whole structure (runtime specification, "Features Structure"). It says nothing of the host.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Features {
    pub oci_version_min: &'static str,
    pub oci_version_max: &'static str,
    pub hooks: &'static [&'static str],
    pub mount_options: &'static [&'static str],
    pub linux: Linux,
    pub annotations: BTreeMap<&'static str, String>,
    /// Of a spec, those that can harm the host when its author is not trusted.
    pub potentially_unsafe_config_annotations: &'static [&'static str],
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Linux {
    pub namespaces: &'static [&'static str],
    pub capabilities: &'static [&'static str],
    pub cgroup: Cgroup,
    pub seccomp: Seccomp,
    pub apparmor: Enabled,
    pub selinux: Enabled,
    pub intel_rdt: IntelRdt,
    pub memory_policy: MemoryPolicy,
    pub mount_extensions: MountExtensions,
    pub net_devices: Enabled,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Cgroup {
    pub v1: bool,
    pub v2: bool,
    pub systemd: bool,
    pub systemd_user: bool,
    pub rdma: bool,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Seccomp {
    pub enabled: bool,
    pub actions: &'static [&'static str],
    pub operators: &'static [&'static str],
    pub archs: &'static [&'static str],
    pub known_flags: &'static [&'static str],
    pub supported_flags: &'static [&'static str],
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct IntelRdt {
    pub enabled: bool,
    pub schemata: bool,
    pub monitoring: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct MemoryPolicy {
    pub modes: &'static [&'static str],
    pub flags: &'static [&'static str],
}

#[derive(Clone, Debug, Serialize)]
pub struct MountExtensions {
    pub idmap: Enabled,
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Enabled {
    pub enabled: bool,
}

const INTEL_RDT: bool = true;
const ID_MAPPED_MOUNTS: bool = true;
const NET_DEVICES: bool = true;

const ACTIONS: &[&str] = &[
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
];

const OPERATORS: &[&str] =
    &["SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT", "SCMP_CMP_LE", "SCMP_CMP_LT", "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"];

const ARCHS: &[&str] = &[
    "SCMP_ARCH_AARCH64",
    "SCMP_ARCH_ARM",
    "SCMP_ARCH_LOONGARCH64",
    "SCMP_ARCH_M68K",
    "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64",
    "SCMP_ARCH_MIPS64N32",
    "SCMP_ARCH_MIPSEL",
    "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32",
    "SCMP_ARCH_PARISC",
    "SCMP_ARCH_PARISC64",
    "SCMP_ARCH_PPC",
    "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE",
    "SCMP_ARCH_RISCV64",
    "SCMP_ARCH_S390",
    "SCMP_ARCH_S390X",
    "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB",
    "SCMP_ARCH_X32",
    "SCMP_ARCH_X86",
    "SCMP_ARCH_X86_64",
];

/// The last needs Linux 5.19; the others every kernel has that this runtime runs on.
const FLAGS: &[&str] = &[
    "SECCOMP_FILTER_FLAG_TSYNC",
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    "SECCOMP_FILTER_FLAG_LOG",
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
];

const MEMORY_MODES: &[&str] = &[
    "MPOL_DEFAULT",
    "MPOL_BIND",
    "MPOL_INTERLEAVE",
    "MPOL_WEIGHTED_INTERLEAVE",
    "MPOL_PREFERRED",
    "MPOL_PREFERRED_MANY",
    "MPOL_LOCAL",
];

const MEMORY_FLAGS: &[&str] = &["MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"];

/// Asks the host for nothing, and so cannot fail.
pub fn features() -> Features {
    Features {
        oci_version_min: "1.0.0",
        oci_version_max: spec::VERSION,
        hooks: &["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        mount_options: rootfs::MOUNT_OPTIONS,
        linux: Linux {
            namespaces: &["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            capabilities: &init::capabilities::NAMES,
            cgroup: Cgroup { v1: true, v2: true, systemd: true, systemd_user: false, rdma: true },
            seccomp: Seccomp {
                enabled: true,
                actions: ACTIONS,
                operators: OPERATORS,
                archs: ARCHS,
                known_flags: FLAGS,
                supported_flags: FLAGS,
            },
            apparmor: Enabled { enabled: true },
            selinux: Enabled { enabled: true },
            intel_rdt: IntelRdt { enabled: INTEL_RDT, schemata: INTEL_RDT, monitoring: INTEL_RDT },
            memory_policy: MemoryPolicy { modes: MEMORY_MODES, flags: MEMORY_FLAGS },
            mount_extensions: MountExtensions { idmap: Enabled { enabled: ID_MAPPED_MOUNTS } },
            net_devices: Enabled { enabled: NET_DEVICES },
        },
        annotations: BTreeMap::from([
            ("io.github.seccomp.libseccomp.version", seccomp::libseccomp_version()),
            ("org.opencontainers.runc.checkpoint.enabled", "true".to_owned()),
        ]),
        // Those with a point at their end are the beginning of a name.
        potentially_unsafe_config_annotations: &["org.criu.config", CHECKPOINT_ANNOTATIONS, ANNOTATION_PREFIX],
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{LinuxSeccomp, Spec};
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn it_is_the_specifications_structure() {
        let json = serde_json::to_value(features()).unwrap();
        let parsed: oci_spec::runtime::Features = serde_json::from_value(json).unwrap();
        let linux = parsed.linux().as_ref().unwrap();
        assert_eq!(linux.namespaces().as_ref().unwrap().len(), 8);
        let seccomp = linux.seccomp().as_ref().unwrap();
        assert_eq!(seccomp.archs().as_ref().unwrap().len(), ARCHS.len());
    }

    #[test]
    fn annotations_that_reach_the_host_are_told_of() {
        let unsafe_ones = features().potentially_unsafe_config_annotations;
        for name in ["org.criu.config", "org.rtc.criu.libdir", "org.systemd.property.Slice"] {
            assert!(
                unsafe_ones.iter().any(|told| *told == name || told.ends_with('.') && name.starts_with(told)),
                "{name}"
            );
        }
    }

    /// Whether a spec with one more field of `linux` is taken.
    fn takes(field: &str, value: Value) -> bool {
        let mut spec = serde_json::to_value(Spec::default()).unwrap();
        spec["linux"][field] = value;
        spec::check(&serde_json::from_value(spec).unwrap()).is_ok()
    }

    #[test]
    fn what_is_not_enabled_is_refused() {
        assert!(takes("cgroupsPath", json!("/x")));
        assert_eq!(takes("intelRdt", json!({ "closID": "x" })), INTEL_RDT);
        assert_eq!(takes("netDevices", json!({ "eth0": { "name": "eth1" } })), NET_DEVICES);
        assert!(!takes("personality", json!({ "domain": "LINUX", "flags": ["ANY"] })));
    }

    #[test]
    fn the_memory_policies_are_those_of_a_spec() {
        for mode in MEMORY_MODES {
            assert!(takes("memoryPolicy", json!({ "mode": mode, "flags": MEMORY_FLAGS })), "{mode}");
        }
    }

    fn compiles(action: &str, flag: &str) -> bool {
        let profile = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": "/run/agent",
            "flags": [flag],
            "syscalls": [{ "names": ["getcwd"], "action": action }],
        });
        let profile: LinuxSeccomp = serde_json::from_value(profile).unwrap();
        // There is no such cache, which is no error.
        seccomp::compile(&profile, std::path::Path::new("/proc/none")).is_ok()
    }

    #[test]
    fn the_seccomp_lists_are_what_compiles() {
        for action in ACTIONS {
            assert!(compiles(action, FLAGS[0]), "{action}");
        }
        assert_eq!(compiles("SCMP_ACT_NOTIFY", FLAGS[0]), ACTIONS.contains(&"SCMP_ACT_NOTIFY"));
        for flag in FLAGS {
            assert!(compiles("SCMP_ACT_ERRNO", flag), "{flag}");
        }
    }
}
