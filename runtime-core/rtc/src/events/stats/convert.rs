//! From the cgroup's statistics to runc's structure.

use runtime_core::cgroup::{self, Details, stats};

use super::{Blkio, BlkioEntry, CpuUsage, Cpuset, Hugetlb, MemoryEntry, Pids, Psi, PsiLine, Stats, Throttling};

impl Stats {
    pub(crate) fn new(stats: &cgroup::Stats, details: Details) -> Self {
        let mut converted = match stats {
            cgroup::Stats::V1(stats) => Self::v1(stats),
            cgroup::Stats::V2(stats) => Self::v2(stats),
            _ => Self::default(),
        };
        converted.memory.raw = details.memory;
        converted.cpu.usage.percpu_kernel = details.per_cpu_kernel;
        converted.cpu.usage.percpu_user = details.per_cpu_user;
        if let Some(cpuset) = details.cpuset {
            converted.cpuset = cpuset.into();
        }
        converted
    }

    fn v1(stats: &stats::V1) -> Self {
        let mut converted = Self::default();
        if let Some(pids) = &stats.pids {
            converted.pids = Pids { current: pids.current, limit: pids.limit };
        }
        if let Some(cpu) = &stats.cpu {
            let (usage, throttling) = (&cpu.usage, &cpu.throttling);
            converted.cpu.usage = CpuUsage {
                total: usage.total,
                percpu: usage.per_cpu.clone(),
                kernel: usage.kernel,
                user: usage.user,
                ..CpuUsage::default()
            };
            converted.cpu.throttling = Throttling {
                periods: throttling.periods,
                throttled_periods: throttling.throttled_periods,
                throttled_time: throttling.throttled_time,
            };
        }
        if let Some(memory) = &stats.memory {
            let entry = |entry: &Option<stats::MemoryEntry>| entry.as_ref().map(Into::into).unwrap_or_default();
            converted.memory.cache = memory.cache;
            converted.memory.usage = entry(&memory.usage);
            converted.memory.swap = entry(&memory.swap);
            converted.memory.kernel = entry(&memory.kernel);
            converted.memory.kernel_tcp = entry(&memory.kernel_tcp);
        }
        if let Some(blkio) = &stats.blkio {
            converted.blkio = blkio.into();
        }
        let pages = stats.hugetlb.iter().map(|page| {
            let (usage, max, failcnt) = (page.usage, page.max, page.failcnt);
            (page.pagesize.clone(), Hugetlb { usage, max, failcnt })
        });
        converted.hugetlb = pages.collect();
        converted
    }

    fn v2(stats: &stats::V2) -> Self {
        const NANOSECONDS: u64 = 1000;
        let mut converted = Self::default();
        if let Some(pids) = &stats.pids {
            let limit = if pids.limit == u64::MAX { 0 } else { pids.limit };
            converted.pids = Pids { current: pids.current, limit };
        }
        if let Some(cpu) = &stats.cpu {
            converted.cpu.usage = CpuUsage {
                total: cpu.usage_usec.saturating_mul(NANOSECONDS),
                kernel: cpu.system_usec.saturating_mul(NANOSECONDS),
                user: cpu.user_usec.saturating_mul(NANOSECONDS),
                ..CpuUsage::default()
            };
            converted.cpu.throttling = Throttling {
                periods: cpu.nr_periods,
                throttled_periods: cpu.nr_throttled,
                throttled_time: cpu.throttled_usec.saturating_mul(NANOSECONDS),
            };
            converted.cpu.psi = psi(cpu.psi.as_ref());
        }
        if let Some(memory) = &stats.memory {
            let (limit, usage, max) = (memory.usage_limit, memory.usage, memory.max_usage);
            converted.memory.cache = memory.file;
            converted.memory.usage = MemoryEntry { limit, usage, max, failcnt: 0 };
            // v2 counts swap apart.
            let (limit, usage) = (limit.saturating_add(memory.swap_limit), usage.saturating_add(memory.swap_usage));
            converted.memory.swap = MemoryEntry { limit, usage, max: 0, failcnt: 0 };
            converted.memory.psi = psi(memory.psi.as_ref());
        }
        if let Some(io) = &stats.io {
            converted.blkio = io.into();
        }
        let pages = stats
            .hugetlb
            .iter()
            .map(|page| (page.pagesize.clone(), Hugetlb { usage: page.current, max: 0, failcnt: page.failcnt }));
        converted.hugetlb = pages.collect();
        converted
    }
}

impl From<&stats::MemoryEntry> for MemoryEntry {
    fn from(entry: &stats::MemoryEntry) -> Self {
        Self { limit: entry.limit, usage: entry.usage, max: entry.max, failcnt: entry.failcnt }
    }
}

impl From<&stats::Blkio> for Blkio {
    fn from(blkio: &stats::Blkio) -> Self {
        let entries = |entries: &[stats::BlkioEntry]| {
            let entry = |entry: &stats::BlkioEntry| BlkioEntry {
                major: entry.major,
                minor: entry.minor,
                op: entry.op.clone(),
                value: entry.value,
            };
            entries.iter().map(entry).collect()
        };
        Self {
            io_service_bytes_recursive: entries(&blkio.io_service_bytes_recursive),
            io_serviced_recursive: entries(&blkio.io_serviced_recursive),
            io_queued_recursive: entries(&blkio.io_queued_recursive),
            io_service_time_recursive: entries(&blkio.io_service_time_recursive),
            io_wait_time_recursive: entries(&blkio.io_wait_time_recursive),
            io_merged_recursive: entries(&blkio.io_merged_recursive),
            io_time_recursive: entries(&blkio.io_time_recursive),
            sectors_recursive: entries(&blkio.sectors_recursive),
            psi: None,
        }
    }
}

impl From<&stats::Io> for Blkio {
    fn from(io: &stats::Io) -> Self {
        let table = |read: fn(&stats::IoEntry) -> u64, written: fn(&stats::IoEntry) -> u64| {
            let entries = io.usage.iter().flat_map(|entry| {
                [("Read", read(entry)), ("Write", written(entry))].map(|(op, value)| BlkioEntry {
                    major: entry.major,
                    minor: entry.minor,
                    op: op.to_owned(),
                    value,
                })
            });
            entries.collect()
        };
        Self {
            io_service_bytes_recursive: table(|entry| entry.rbytes, |entry| entry.wbytes),
            io_serviced_recursive: table(|entry| entry.rios, |entry| entry.wios),
            psi: psi(io.psi.as_ref()),
            ..Self::default()
        }
    }
}

impl From<cgroup::Cpuset> for Cpuset {
    fn from(cpuset: cgroup::Cpuset) -> Self {
        Self {
            cpus: cpuset.cpus,
            cpu_exclusive: cpuset.cpu_exclusive,
            mems: cpuset.mems,
            mem_hardwall: cpuset.mem_hardwall,
            mem_exclusive: cpuset.mem_exclusive,
            memory_migrate: cpuset.memory_migrate,
            memory_spread_page: cpuset.memory_spread_page,
            memory_spread_slab: cpuset.memory_spread_slab,
            memory_pressure: cpuset.memory_pressure,
            sched_load_balance: cpuset.sched_load_balance,
            sched_relax_domain_level: cpuset.sched_relax_domain_level,
        }
    }
}

fn psi(psi: Option<&stats::Psi>) -> Option<Psi> {
    let line = |line: &stats::PsiLine| PsiLine {
        avg10: line.avg10,
        avg60: line.avg60,
        avg300: line.avg300,
        total: line.total,
    };
    psi.map(|psi| Psi { some: line(&psi.some), full: psi.full.as_ref().map(line).unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn printed(stats: cgroup::Stats) -> Value {
        serde_json::to_value(Stats::new(&stats, Details::default())).unwrap()
    }

    #[test]
    fn a_cgroup_of_v2_is_told_in_the_words_of_v1() {
        let io = stats::IoEntry { major: 8, rbytes: 7, wios: 9, ..stats::IoEntry::default() };
        let stats = stats::V2 {
            pids: Some(stats::Pids { current: 2, limit: u64::MAX }),
            cpu: Some(stats::CpuV2 { usage_usec: 5, ..stats::CpuV2::default() }),
            memory: Some(stats::MemoryV2 {
                file: 3,
                usage: 10,
                usage_limit: 100,
                swap_usage: 1,
                swap_limit: u64::MAX,
                ..stats::MemoryV2::default()
            }),
            io: Some(stats::Io { usage: vec![io], psi: None }),
            ..stats::V2::default()
        };
        let json = printed(cgroup::Stats::V2(Box::new(stats)));
        assert_eq!(json["pids"], json!({ "current": 2 }));
        assert_eq!(json["cpu"], json!({ "usage": { "total": 5000, "kernel": 0, "user": 0 }, "throttling": {} }));
        assert_eq!(json["memory"]["cache"], 3);
        assert_eq!(json["memory"]["usage"], json!({ "limit": 100, "usage": 10, "failcnt": 0 }));
        assert_eq!(json["memory"]["swap"], json!({ "limit": u64::MAX, "usage": 11, "failcnt": 0 }));
        let bytes = json!([{ "major": 8, "op": "Read", "value": 7 }, { "major": 8, "op": "Write" }]);
        assert_eq!(json["blkio"]["ioServiceBytesRecursive"], bytes);
        assert_eq!(json["network_interfaces"], Value::Null);
    }

    #[test]
    fn a_cgroup_without_controllers_has_every_part() {
        let json = printed(cgroup::Stats::V1(Box::default()));
        let parts: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        let mut expected = ["cpu", "cpuset", "memory", "pids", "blkio", "hugetlb", "intel_rdt", "network_interfaces"];
        expected.sort_unstable();
        assert_eq!(parts, expected);
    }
}
