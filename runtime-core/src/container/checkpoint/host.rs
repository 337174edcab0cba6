//! What of this host a checkpoint depends on.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// A kernel and a CPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Host {
    /// `uname -r`.
    pub(crate) kernel: String,
    /// `uname -m`.
    pub(crate) architecture: String,
    /// `flags` (x86) or `Features` (arm64) of /proc/cpuinfo, those that every CPU has, sorted.
    pub(crate) cpu_features: Vec<String>,
}

impl Host {
    pub(crate) fn of_this_machine() -> Self {
        let uname = rustix::system::uname();
        // Without it the checkpoint says less; that is no reason to have none.
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Self {
            kernel: uname.release().to_string_lossy().into_owned(),
            architecture: uname.machine().to_string_lossy().into_owned(),
            cpu_features: features(&cpuinfo),
        }
    }
}

pub(super) fn features(cpuinfo: &str) -> Vec<String> {
    let lines = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    let each = lines.filter(|(name, _)| matches!(name.trim(), "flags" | "Features"));
    // Most machines have the same line for every CPU.
    let mut distinct: Vec<&str> = each.map(|(_, features)| features).collect();
    distinct.dedup();
    let sets = distinct.into_iter().map(|line| line.split_ascii_whitespace().collect::<BTreeSet<_>>());
    let common = sets.reduce(|a, b| a.intersection(&b).copied().collect()).unwrap_or_default();
    common.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_those_that_every_cpu_has() {
        let text = "processor : 0\nflags : fpu avx sse\n\nprocessor : 1\nflags : sse fpu\nbugs : x\n";
        assert_eq!(features(text), ["fpu", "sse"]);
        assert_eq!(features("processor : 0\nFeatures : asimd fp\n"), ["asimd", "fp"]);
        assert!(features("").is_empty());
    }

    #[test]
    fn this_machine_has_a_kernel() {
        let host = Host::of_this_machine();
        assert!(host.kernel.starts_with(|c: char| c.is_ascii_digit()), "{host:?}");
    }
}
