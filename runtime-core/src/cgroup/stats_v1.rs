//! Reading [`V1`] from the files of the v1 controllers, the same ones that containerd's library reads.

use std::collections::HashMap;
use std::path::Path;

use super::file::{self, parse_error, parse_u64, read_pairs, read_u64};
use super::stats::{
    Blkio, BlkioEntry, CpuUsage, CpuV1, HugetlbV1, MemoryEntry, MemoryV1, OomControl, Pids, Rdma, Throttle, V1,
};
use super::stats_v2::{hugepage_sizes, read_rdma};
use super::{Dir, Error};

pub(super) fn read(dirs: &[Dir]) -> Result<V1, Error> {
    let find = |name: &str| dirs.iter().find(|dir| dir.has(name)).map(|dir| dir.path.as_path());
    let mut stats = V1::default();
    if let Some(dir) = find("hugetlb") {
        stats.hugetlb = read_hugetlb(dir)?;
    }
    if let Some(dir) = find("pids") {
        stats.pids = read_pids(dir)?;
    }
    stats.cpu = read_cpu(find("cpu"), find("cpuacct"))?;
    if let Some(dir) = find("memory") {
        stats.memory = read_memory(dir)?;
        stats.memory_oom_control = read_pairs(&dir.join("memory.oom_control"))?.map(|pairs| OomControl {
            oom_kill_disable: pairs.get("oom_kill_disable"),
            under_oom: pairs.get("under_oom"),
            oom_kill: pairs.get("oom_kill"),
        });
    }
    if let Some(dir) = find("blkio") {
        stats.blkio = Some(read_blkio(dir, Path::new("/proc/partitions"))?);
    }
    if let Some(dir) = find("rdma") {
        stats.rdma =
            Some(Rdma { current: read_rdma(&dir.join("rdma.current"))?, limit: read_rdma(&dir.join("rdma.max"))? });
    }
    Ok(stats)
}

fn read_pids(dir: &Path) -> Result<Option<Pids>, Error> {
    let Some(current) = read_u64(&dir.join("pids.current"))? else { return Ok(None) };
    // containerd's v1 reader says 0 for "max".
    let limit = read_u64(&dir.join("pids.max"))?.filter(|limit| *limit != u64::MAX).unwrap_or(0);
    Ok(Some(Pids { current, limit }))
}

fn read_cpu(cpu: Option<&Path>, cpuacct: Option<&Path>) -> Result<Option<CpuV1>, Error> {
    if cpu.is_none() && cpuacct.is_none() {
        return Ok(None);
    }
    let mut stats = CpuV1::default();
    if let Some(pairs) = cpu.map(|dir| read_pairs(&dir.join("cpu.stat"))).transpose()?.flatten() {
        stats.throttling = Throttle {
            periods: pairs.get("nr_periods"),
            throttled_periods: pairs.get("nr_throttled"),
            throttled_time: pairs.get("throttled_time"),
        };
    }
    if let Some(dir) = cpuacct {
        stats.usage = read_cpuacct(dir)?;
    }
    Ok(Some(stats))
}

fn read_cpuacct(dir: &Path) -> Result<CpuUsage, Error> {
    // The kernel counts them in USER_HZ, which is 100 on every architecture that Linux exports to user space today.
    const NANOSECONDS_A_TICK: u64 = 10_000_000;
    let mut usage = CpuUsage { total: read_u64(&dir.join("cpuacct.usage"))?.unwrap_or(0), ..CpuUsage::default() };
    if let Some(pairs) = read_pairs(&dir.join("cpuacct.stat"))? {
        usage.user = pairs.get("user").saturating_mul(NANOSECONDS_A_TICK);
        usage.kernel = pairs.get("system").saturating_mul(NANOSECONDS_A_TICK);
    }
    let path = dir.join("cpuacct.usage_percpu");
    if let Some(text) = file::read(&path)? {
        usage.per_cpu = text.split_whitespace().map(|number| parse_u64(&path, number)).collect::<Result<_, _>>()?;
    }
    Ok(usage)
}

fn read_memory(dir: &Path) -> Result<Option<MemoryV1>, Error> {
    let Some(pairs) = read_pairs(&dir.join("memory.stat"))? else { return Ok(None) };
    let entry = |module: &str| -> Result<Option<MemoryEntry>, Error> {
        let read = |name: &str| read_u64(&dir.join(format!("memory.{module}{name}")));
        let Some(usage) = read("usage_in_bytes")? else { return Ok(None) };
        Ok(Some(MemoryEntry {
            limit: read("limit_in_bytes")?.unwrap_or(0),
            usage,
            max: read("max_usage_in_bytes")?.unwrap_or(0),
            failcnt: read("failcnt")?.unwrap_or(0),
        }))
    };
    Ok(Some(MemoryV1 {
        cache: pairs.get("cache"),
        rss: pairs.get("rss"),
        rss_huge: pairs.get("rss_huge"),
        mapped_file: pairs.get("mapped_file"),
        dirty: pairs.get("dirty"),
        writeback: pairs.get("writeback"),
        pg_pg_in: pairs.get("pgpgin"),
        pg_pg_out: pairs.get("pgpgout"),
        pg_fault: pairs.get("pgfault"),
        pg_maj_fault: pairs.get("pgmajfault"),
        inactive_anon: pairs.get("inactive_anon"),
        active_anon: pairs.get("active_anon"),
        inactive_file: pairs.get("inactive_file"),
        active_file: pairs.get("active_file"),
        unevictable: pairs.get("unevictable"),
        hierarchical_memory_limit: pairs.get("hierarchical_memory_limit"),
        hierarchical_swap_limit: pairs.get("hierarchical_memsw_limit"),
        total_cache: pairs.get("total_cache"),
        total_rss: pairs.get("total_rss"),
        total_rss_huge: pairs.get("total_rss_huge"),
        total_mapped_file: pairs.get("total_mapped_file"),
        total_dirty: pairs.get("total_dirty"),
        total_writeback: pairs.get("total_writeback"),
        total_pg_pg_in: pairs.get("total_pgpgin"),
        total_pg_pg_out: pairs.get("total_pgpgout"),
        total_pg_fault: pairs.get("total_pgfault"),
        total_pg_maj_fault: pairs.get("total_pgmajfault"),
        total_inactive_anon: pairs.get("total_inactive_anon"),
        total_active_anon: pairs.get("total_active_anon"),
        total_inactive_file: pairs.get("total_inactive_file"),
        total_active_file: pairs.get("total_active_file"),
        total_unevictable: pairs.get("total_unevictable"),
        usage: entry("")?,
        swap: entry("memsw.")?,
        kernel: entry("kmem.")?,
        kernel_tcp: entry("kmem.tcp.")?,
    }))
}

fn read_hugetlb(dir: &Path) -> Result<Vec<HugetlbV1>, Error> {
    let mut found = Vec::new();
    for pagesize in hugepage_sizes()? {
        let read = |name: &str| read_u64(&dir.join(format!("hugetlb.{pagesize}.{name}")));
        let Some(usage) = read("usage_in_bytes")? else { continue };
        let (max, failcnt) = (read("max_usage_in_bytes")?.unwrap_or(0), read("failcnt")?.unwrap_or(0));
        found.push(HugetlbV1 { usage, max, failcnt, pagesize });
    }
    Ok(found)
}

fn read_blkio(dir: &Path, partitions: &Path) -> Result<Blkio, Error> {
    let devices = read_partitions(partitions)?;
    let read = |name: &str| read_blkio_file(&dir.join(format!("blkio.{name}")), &devices);
    // CFQ's files, which Linux 5.0 dropped; with them absent or empty, the throttling layer's.
    let mut stats = Blkio {
        io_service_bytes_recursive: read("io_service_bytes_recursive")?,
        io_serviced_recursive: read("io_serviced_recursive")?,
        io_queued_recursive: read("io_queued_recursive")?,
        io_service_time_recursive: read("io_service_time_recursive")?,
        io_wait_time_recursive: read("io_wait_time_recursive")?,
        io_merged_recursive: read("io_merged_recursive")?,
        io_time_recursive: read("time_recursive")?,
        sectors_recursive: read("sectors_recursive")?,
    };
    if stats == Blkio::default() {
        stats.io_serviced_recursive = read("throttle.io_serviced")?;
        stats.io_service_bytes_recursive = read("throttle.io_service_bytes")?;
    }
    Ok(stats)
}

type Partitions = HashMap<(u64, u64), String>;

/// "major minor  #blocks  name", after a heading and an empty line. The first of two entries counts.
fn read_partitions(path: &Path) -> Result<Partitions, Error> {
    let text = file::read(path)?.unwrap_or_default();
    let mut found = HashMap::new();
    for line in text.lines().skip(2) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [major, minor, _, name] = fields[..] else { return Err(parse_error(path, line)) };
        let key = (parse_u64(path, major)?, parse_u64(path, minor)?);
        found.entry(key).or_insert_with(|| format!("/dev/{name}"));
    }
    Ok(found)
}

/// "8:0 Read 4096", or "8:0 12"; the line "Total 4096" is no device's.
fn read_blkio_file(path: &Path, devices: &Partitions) -> Result<Vec<BlkioEntry>, Error> {
    let text = file::read(path)?.unwrap_or_default();
    let mut entries = Vec::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split([' ', ':']).filter(|field| !field.is_empty()).collect();
        let (major, minor, op, value) = match fields[..] {
            ["Total", _] => continue,
            [major, minor, value] => (major, minor, "", value),
            [major, minor, op, value] => (major, minor, op, value),
            _ => return Err(parse_error(path, line)),
        };
        let (major, minor) = (parse_u64(path, major)?, parse_u64(path, minor)?);
        let device = devices.get(&(major, minor)).cloned().unwrap_or_default();
        entries.push(BlkioEntry { op: op.to_owned(), device, major, minor, value: parse_u64(path, value)? });
    }
    Ok(entries)
}

/// A file as each kind that is no list of pairs; what it is not, is an error and no more.
#[cfg(feature = "fuzzing")]
pub(super) fn fuzz(path: &Path) {
    let devices = read_partitions(path).unwrap_or_default();
    read_blkio_file(path, &devices).ok();
}
