//! A cgroup's statistics as the messages that containerd's clients read (`ctr task metrics`, CRI, Prometheus).

use containerd_shim_protos::{cgroups::metrics as v1, cgroups_v2::metrics as v2};
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};
use runtime_core::cgroup::{Stats, stats};

const V1: &str = "io.containerd.cgroups.v1.Metrics";
const V2: &str = "io.containerd.cgroups.v2.Metrics";

/// # Errors
/// None but a bug of the encoder.
pub(crate) fn encode(stats: Stats) -> Result<Any, protobuf::Error> {
    let (type_url, value) = match stats {
        Stats::V1(stats) => (V1, v1_metrics(*stats).write_to_bytes()?),
        Stats::V2(stats) => (V2, v2_metrics(*stats).write_to_bytes()?),
        _ => return Err(std::io::Error::from(std::io::ErrorKind::Unsupported).into()),
    };
    Ok(Any { type_url: type_url.to_owned(), value, ..Any::default() })
}

/// Copies the fields that have one name on both sides.
macro_rules! copy {
    ($message:ty, $from:expr, { $($field:ident),* $(,)? } $(, $name:ident: $value:expr)* $(,)?) => {{
        let mut message = <$message>::default();
        $(message.$field = $from.$field;)*
        $(message.$name = $value;)*
        message
    }};
}

fn field<T, M>(part: Option<T>, convert: impl FnOnce(T) -> M) -> MessageField<M> {
    MessageField::from_option(part.map(convert))
}

fn v1_metrics(stats: stats::V1) -> v1::Metrics {
    v1::Metrics {
        hugetlb: stats
            .hugetlb
            .into_iter()
            .map(|h| copy!(v1::HugetlbStat, h, { usage, max, failcnt, pagesize }))
            .collect(),
        pids: field(stats.pids, |p| copy!(v1::PidsStat, p, { current, limit })),
        cpu: field(stats.cpu, v1_cpu),
        memory: field(stats.memory, v1_memory),
        blkio: field(stats.blkio, v1_blkio),
        rdma: field(stats.rdma, v1_rdma),
        memory_oom_control: field(
            stats.memory_oom_control,
            |o| copy!(v1::MemoryOomControl, o, { oom_kill_disable, under_oom, oom_kill }),
        ),
        ..v1::Metrics::default()
    }
}

fn v1_cpu(cpu: stats::CpuV1) -> v1::CPUStat {
    v1::CPUStat {
        usage: Some(copy!(v1::CPUUsage, cpu.usage, { total, kernel, user, per_cpu })).into(),
        throttling: Some(copy!(v1::Throttle, cpu.throttling, { periods, throttled_periods, throttled_time })).into(),
        ..v1::CPUStat::default()
    }
}

fn v1_memory(m: stats::MemoryV1) -> v1::MemoryStat {
    let entry = |e: stats::MemoryEntry| copy!(v1::MemoryEntry, e, { limit, usage, max, failcnt });
    copy!(
        v1::MemoryStat,
        m,
        {
            cache, rss, rss_huge, mapped_file, dirty, writeback, pg_pg_in, pg_pg_out, pg_fault, pg_maj_fault,
            inactive_anon, active_anon, inactive_file, active_file, unevictable,
            hierarchical_memory_limit, hierarchical_swap_limit,
            total_cache, total_rss, total_rss_huge, total_mapped_file, total_dirty, total_writeback,
            total_pg_pg_in, total_pg_pg_out, total_pg_fault, total_pg_maj_fault,
            total_inactive_anon, total_active_anon, total_inactive_file, total_active_file, total_unevictable,
        },
        usage: field(m.usage, entry),
        swap: field(m.swap, entry),
        kernel: field(m.kernel, entry),
        kernel_tcp: field(m.kernel_tcp, entry),
    )
}

fn v1_blkio(blkio: stats::Blkio) -> v1::BlkIOStat {
    let entries = |entries: Vec<stats::BlkioEntry>| {
        entries.into_iter().map(|e| copy!(v1::BlkIOEntry, e, { op, device, major, minor, value })).collect()
    };
    v1::BlkIOStat {
        io_service_bytes_recursive: entries(blkio.io_service_bytes_recursive),
        io_serviced_recursive: entries(blkio.io_serviced_recursive),
        io_queued_recursive: entries(blkio.io_queued_recursive),
        io_service_time_recursive: entries(blkio.io_service_time_recursive),
        io_wait_time_recursive: entries(blkio.io_wait_time_recursive),
        io_merged_recursive: entries(blkio.io_merged_recursive),
        io_time_recursive: entries(blkio.io_time_recursive),
        sectors_recursive: entries(blkio.sectors_recursive),
        ..v1::BlkIOStat::default()
    }
}

fn v1_rdma(rdma: stats::Rdma) -> v1::RdmaStat {
    let entries = |entries: Vec<stats::RdmaEntry>| {
        entries.into_iter().map(|e| copy!(v1::RdmaEntry, e, { device, hca_handles, hca_objects })).collect()
    };
    v1::RdmaStat { current: entries(rdma.current), limit: entries(rdma.limit), ..v1::RdmaStat::default() }
}

fn v2_metrics(stats: stats::V2) -> v2::Metrics {
    v2::Metrics {
        pids: field(stats.pids, |p| copy!(v2::PidsStat, p, { current, limit })),
        cpu: field(stats.cpu, v2_cpu),
        memory: field(stats.memory, v2_memory),
        rdma: field(stats.rdma, v2_rdma),
        io: field(stats.io, v2_io),
        hugetlb: stats
            .hugetlb
            .into_iter()
            .map(|h| copy!(v2::HugeTlbStat, h, { current, max, pagesize, failcnt }))
            .collect(),
        memory_events: field(
            stats.memory_events,
            |e| copy!(v2::MemoryEvents, e, { low, high, max, oom, oom_kill, oom_group_kill }),
        ),
        ..v2::Metrics::default()
    }
}

fn v2_cpu(cpu: stats::CpuV2) -> v2::CPUStat {
    copy!(
        v2::CPUStat,
        cpu,
        { usage_usec, user_usec, system_usec, nr_periods, nr_throttled, throttled_usec, nr_bursts, burst_usec },
        psi: field(cpu.psi, psi),
    )
}

fn v2_memory(m: stats::MemoryV2) -> v2::MemoryStat {
    copy!(
        v2::MemoryStat,
        m,
        {
            anon, file, kernel_stack, slab, sock, shmem, file_mapped, file_dirty, file_writeback, anon_thp,
            inactive_anon, active_anon, inactive_file, active_file, unevictable, slab_reclaimable, slab_unreclaimable,
            pgfault, pgmajfault, workingset_refault, workingset_activate, workingset_nodereclaim, pgrefill, pgscan,
            pgsteal, pgactivate, pgdeactivate, pglazyfree, pglazyfreed, thp_fault_alloc, thp_collapse_alloc,
            usage, usage_limit, swap_usage, swap_limit, max_usage, swap_max_usage,
        },
        psi: field(m.psi, psi),
    )
}

fn v2_rdma(rdma: stats::Rdma) -> v2::RdmaStat {
    let entries = |entries: Vec<stats::RdmaEntry>| {
        entries.into_iter().map(|e| copy!(v2::RdmaEntry, e, { device, hca_handles, hca_objects })).collect()
    };
    v2::RdmaStat { current: entries(rdma.current), limit: entries(rdma.limit), ..v2::RdmaStat::default() }
}

fn v2_io(io: stats::Io) -> v2::IOStat {
    let usage = io.usage.into_iter().map(|e| copy!(v2::IOEntry, e, { major, minor, rbytes, wbytes, rios, wios }));
    v2::IOStat { usage: usage.collect(), psi: field(io.psi, psi), ..v2::IOStat::default() }
}

fn psi(psi: stats::Psi) -> v2::PSIStats {
    let line = |line: stats::PsiLine| copy!(v2::PSIData, line, { avg10, avg60, avg300, total });
    v2::PSIStats { some: Some(line(psi.some)).into(), full: field(psi.full, line), ..v2::PSIStats::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v2_numbers_arrive_under_their_names() {
        let stats = stats::V2 {
            pids: Some(stats::Pids { current: 3, limit: u64::MAX }),
            memory: Some(stats::MemoryV2 { usage: 4096, max_usage: 8192, ..Default::default() }),
            ..Default::default()
        };
        let any = encode(Stats::V2(Box::new(stats))).unwrap();
        assert_eq!(any.type_url, "io.containerd.cgroups.v2.Metrics");
        let metrics = v2::Metrics::parse_from_bytes(&any.value).unwrap();
        assert_eq!((metrics.pids.current, metrics.pids.limit), (3, u64::MAX));
        assert_eq!((metrics.memory.usage, metrics.memory.max_usage), (4096, 8192));
        assert!(metrics.cpu.is_none(), "what was not counted is absent, not zero");
    }

    #[test]
    fn v1_numbers_arrive_under_their_names() {
        let cpu = stats::CpuV1 {
            usage: stats::CpuUsage { total: 9, kernel: 1, user: 8, per_cpu: vec![4, 5] },
            throttling: stats::Throttle { periods: 2, ..Default::default() },
        };
        let any = encode(Stats::V1(Box::new(stats::V1 { cpu: Some(cpu), ..Default::default() }))).unwrap();
        assert_eq!(any.type_url, "io.containerd.cgroups.v1.Metrics");
        let metrics = v1::Metrics::parse_from_bytes(&any.value).unwrap();
        assert_eq!(metrics.cpu.usage.per_cpu, [4, 5]);
        assert_eq!(metrics.cpu.throttling.periods, 2);
    }
}
