//! Reading [`V2`] from the files of the unified tree, the same ones that containerd's library reads.

use std::fs;
use std::path::Path;

use nix::errno::Errno;

use super::Error;
use super::file::{self, parse_error, parse_u64, read_pairs, read_u64};
use super::stats::{CpuV2, HugetlbV2, Io, IoEntry, MemoryEvents, MemoryV2, Pids, Psi, PsiLine, Rdma, RdmaEntry, V2};

pub(super) fn read(dir: &Path) -> Result<V2, Error> {
    let pids = match read_u64(&dir.join("pids.current"))? {
        Some(current) => Some(Pids { current, limit: read_u64(&dir.join("pids.max"))?.unwrap_or(0) }),
        None => None,
    };
    let events = read_pairs(&dir.join("memory.events"))?.map(|pairs| MemoryEvents {
        low: pairs.get("low"),
        high: pairs.get("high"),
        max: pairs.get("max"),
        oom: pairs.get("oom"),
        oom_kill: pairs.get("oom_kill"),
        oom_group_kill: pairs.get("oom_group_kill"),
    });
    let rdma = match dir.join("rdma.current").exists() {
        true => Some(Rdma { current: read_rdma(&dir.join("rdma.current"))?, limit: read_rdma(&dir.join("rdma.max"))? }),
        false => None,
    };
    Ok(V2 {
        pids,
        cpu: read_cpu(dir)?,
        memory: read_memory(dir)?,
        rdma,
        io: read_io(dir)?,
        hugetlb: read_hugetlb(dir)?,
        memory_events: events,
    })
}

/// The kernel counts cpu time in every cgroup; the periods are there with the controller.
fn read_cpu(dir: &Path) -> Result<Option<CpuV2>, Error> {
    let Some(pairs) = read_pairs(&dir.join("cpu.stat"))? else { return Ok(None) };
    Ok(Some(CpuV2 {
        usage_usec: pairs.get("usage_usec"),
        user_usec: pairs.get("user_usec"),
        system_usec: pairs.get("system_usec"),
        nr_periods: pairs.get("nr_periods"),
        nr_throttled: pairs.get("nr_throttled"),
        throttled_usec: pairs.get("throttled_usec"),
        psi: read_psi(&dir.join("cpu.pressure"))?,
        nr_bursts: pairs.get("nr_bursts"),
        burst_usec: pairs.get("burst_usec"),
    }))
}

fn read_memory(dir: &Path) -> Result<Option<MemoryV2>, Error> {
    let Some(pairs) = read_pairs(&dir.join("memory.stat"))? else { return Ok(None) };
    // A file that this kernel lacks (memory.peak before 5.19, swap without swap) counts as 0, as containerd has it.
    let number = |name: &str| Ok::<_, Error>(read_u64(&dir.join(name))?.unwrap_or(0));
    Ok(Some(MemoryV2 {
        anon: pairs.get("anon"),
        file: pairs.get("file"),
        kernel_stack: pairs.get("kernel_stack"),
        slab: pairs.get("slab"),
        sock: pairs.get("sock"),
        shmem: pairs.get("shmem"),
        file_mapped: pairs.get("file_mapped"),
        file_dirty: pairs.get("file_dirty"),
        file_writeback: pairs.get("file_writeback"),
        anon_thp: pairs.get("anon_thp"),
        inactive_anon: pairs.get("inactive_anon"),
        active_anon: pairs.get("active_anon"),
        inactive_file: pairs.get("inactive_file"),
        active_file: pairs.get("active_file"),
        unevictable: pairs.get("unevictable"),
        slab_reclaimable: pairs.get("slab_reclaimable"),
        slab_unreclaimable: pairs.get("slab_unreclaimable"),
        pgfault: pairs.get("pgfault"),
        pgmajfault: pairs.get("pgmajfault"),
        workingset_refault: pairs.get("workingset_refault"),
        workingset_activate: pairs.get("workingset_activate"),
        workingset_nodereclaim: pairs.get("workingset_nodereclaim"),
        pgrefill: pairs.get("pgrefill"),
        pgscan: pairs.get("pgscan"),
        pgsteal: pairs.get("pgsteal"),
        pgactivate: pairs.get("pgactivate"),
        pgdeactivate: pairs.get("pgdeactivate"),
        pglazyfree: pairs.get("pglazyfree"),
        pglazyfreed: pairs.get("pglazyfreed"),
        thp_fault_alloc: pairs.get("thp_fault_alloc"),
        thp_collapse_alloc: pairs.get("thp_collapse_alloc"),
        usage: number("memory.current")?,
        usage_limit: number("memory.max")?,
        swap_usage: number("memory.swap.current")?,
        swap_limit: number("memory.swap.max")?,
        max_usage: number("memory.peak")?,
        swap_max_usage: number("memory.swap.peak")?,
        psi: read_psi(&dir.join("memory.pressure"))?,
    }))
}

/// "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6".
fn read_io(dir: &Path) -> Result<Option<Io>, Error> {
    let Some(usage) = read_io_usage(&dir.join("io.stat"))? else { return Ok(None) };
    Ok(Some(Io { usage, psi: read_psi(&dir.join("io.pressure"))? }))
}

fn read_io_usage(path: &Path) -> Result<Option<Vec<IoEntry>>, Error> {
    let Some(text) = file::read(path)? else { return Ok(None) };
    let mut usage = Vec::new();
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        // The kernel prints a device without numbers as an empty or unfinished line.
        let Some((major, minor)) = fields.next().and_then(|device| device.split_once(':')) else { continue };
        let (major, minor) = (parse_u64(path, major)?, parse_u64(path, minor)?);
        let mut entry = IoEntry { major, minor, ..IoEntry::default() };
        for (key, value) in fields.filter_map(|field| field.split_once('=')) {
            let place = match key {
                "rbytes" => &mut entry.rbytes,
                "wbytes" => &mut entry.wbytes,
                "rios" => &mut entry.rios,
                "wios" => &mut entry.wios,
                _ => continue,
            };
            *place = parse_u64(path, value)?;
        }
        usage.push(entry);
    }
    Ok(Some(usage))
}

fn read_hugetlb(dir: &Path) -> Result<Vec<HugetlbV2>, Error> {
    let mut found = Vec::new();
    for pagesize in hugepage_sizes()? {
        let path = |name: &str| dir.join(format!("hugetlb.{pagesize}.{name}"));
        let Some(current) = read_u64(&path("current"))? else { continue };
        let max = read_u64(&path("max"))?.unwrap_or(0);
        let failcnt = read_pairs(&path("events"))?.map_or(0, |pairs| pairs.get("max"));
        found.push(HugetlbV2 { current, max, pagesize, failcnt });
    }
    Ok(found)
}

/// As the cgroup files spell them ("2MB"); none on a kernel without huge pages.
pub(super) fn hugepage_sizes() -> Result<Vec<String>, Error> {
    let path = Path::new("/sys/kernel/mm/hugepages");
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(err) if file::errno(&err) == Errno::ENOENT => return Ok(Vec::new()),
        Err(err) => return Err(Error::Read { path: path.to_owned(), err: file::errno(&err) }),
    };
    let names = entries.filter_map(Result::ok).map(|entry| entry.file_name().to_string_lossy().into_owned());
    Ok(names.filter_map(|name| hugepage_size(&name)).collect())
}

/// "hugepages-2048kB" to "2MB".
fn hugepage_size(name: &str) -> Option<String> {
    let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    Some(match kib {
        0x10_0000.. => format!("{}GB", kib >> 20),
        0x400.. => format!("{}MB", kib >> 10),
        _ => format!("{kib}KB"),
    })
}

/// "mlx4_0 hca_handle=2 hca_object=max"; nothing when the file is absent.
pub(super) fn read_rdma(path: &Path) -> Result<Vec<RdmaEntry>, Error> {
    let text = file::read(path)?.unwrap_or_default();
    let mut entries = Vec::new();
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        let mut entry = RdmaEntry { device: fields.next().unwrap_or_default().to_owned(), ..RdmaEntry::default() };
        for (key, value) in fields.filter_map(|field| field.split_once('=')) {
            let place = match key {
                "hca_handle" => &mut entry.hca_handles,
                "hca_object" => &mut entry.hca_objects,
                _ => continue,
            };
            *place = u32::try_from(parse_u64(path, value)?).unwrap_or(u32::MAX);
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// "some avg10=0.00 avg60=0.00 avg300=0.00 total=0", then "full ...". `None` where the kernel was told not to count.
fn read_psi(path: &Path) -> Result<Option<Psi>, Error> {
    let text = match file::read(path) {
        Ok(Some(text)) => text,
        Ok(None) | Err(Error::Read { err: Errno::EOPNOTSUPP, .. }) => return Ok(None),
        Err(err) => return Err(err),
    };
    let mut psi = Psi::default();
    for line in text.lines() {
        match line.split_once(' ') {
            Some(("some", rest)) => psi.some = parse_psi(path, rest)?,
            Some(("full", rest)) => psi.full = Some(parse_psi(path, rest)?),
            _ => return Err(parse_error(path, line)),
        }
    }
    Ok(Some(psi))
}

fn parse_psi(path: &Path, line: &str) -> Result<PsiLine, Error> {
    let mut psi = PsiLine::default();
    for (key, value) in line.split_whitespace().filter_map(|field| field.split_once('=')) {
        let place = match key {
            "avg10" => &mut psi.avg10,
            "avg60" => &mut psi.avg60,
            "avg300" => &mut psi.avg300,
            "total" => {
                psi.total = parse_u64(path, value)?;
                continue;
            }
            _ => continue,
        };
        *place = value.parse().map_err(|_| parse_error(path, line))?;
    }
    Ok(psi)
}

/// A file as each kind that is no list of pairs; what it is not, is an error and no more.
#[cfg(feature = "fuzzing")]
pub(super) fn fuzz(path: &Path) {
    read_rdma(path).ok();
    read_psi(path).ok();
    read_io_usage(path).ok();
    hugepage_size(&path.to_string_lossy());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hugepage_sizes_are_spelled_as_in_the_files() {
        assert_eq!(hugepage_size("hugepages-2048kB").unwrap(), "2MB");
        assert_eq!(hugepage_size("hugepages-1048576kB").unwrap(), "1GB");
        assert_eq!(hugepage_size("hugepages-64kB").unwrap(), "64KB");
        assert!(hugepage_size("other").is_none());
    }

    #[test]
    fn pressure_lines() {
        let psi = parse_psi(Path::new("p"), "avg10=1.50 avg60=0.25 avg300=0.00 total=77").unwrap();
        assert_eq!(psi, PsiLine { avg10: 1.5, avg60: 0.25, avg300: 0.0, total: 77 });
        assert!(parse_psi(Path::new("p"), "avg10=x total=1").is_err());
    }
}
