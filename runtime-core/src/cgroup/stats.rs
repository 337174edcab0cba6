//! What a cgroup has used, in the shape of containerd's metrics messages (`io.containerd.cgroups.v1.Metrics` and
//! `io.containerd.cgroups.v2.Metrics`): fields have the same names and units, so that a shim only copies them.
//!
//! A part is `None` (or empty) when its controller or its file is absent; a file that is there and cannot be read or
//! understood is an error, never a zero. "No limit" is `u64::MAX`. Fields that containerd's own reader never fills
//! (network, task states) are left out.

/// What the container's cgroup has used; the two versions count different things.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Stats {
    V1(Box<V1>),
    V2(Box<V2>),
}

/// Usage as cgroup v1 counts it, hybrid hosts included.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct V1 {
    pub hugetlb: Vec<HugetlbV1>,
    pub pids: Option<Pids>,
    pub cpu: Option<CpuV1>,
    pub memory: Option<MemoryV1>,
    pub blkio: Option<Blkio>,
    pub rdma: Option<Rdma>,
    pub memory_oom_control: Option<OomControl>,
}

/// Usage as cgroup v2 counts it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct V2 {
    pub pids: Option<Pids>,
    pub cpu: Option<CpuV2>,
    pub memory: Option<MemoryV2>,
    pub rdma: Option<Rdma>,
    pub io: Option<Io>,
    pub hugetlb: Vec<HugetlbV2>,
    pub memory_events: Option<MemoryEvents>,
}

/// Number of tasks. No limit is 0 on v1 and `u64::MAX` on v2, as containerd reports it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pids {
    pub current: u64,
    pub limit: u64,
}

/// Bytes of huge pages of one size; `pagesize` is the kernel's spelling ("2MB").
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HugetlbV1 {
    pub usage: u64,
    pub max: u64,
    pub failcnt: u64,
    pub pagesize: String,
}

/// `failcnt` counts the `max` events of `hugetlb.SIZE.events`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HugetlbV2 {
    pub current: u64,
    pub max: u64,
    pub pagesize: String,
    pub failcnt: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct CpuV1 {
    pub usage: CpuUsage,
    pub throttling: Throttle,
}

/// Nanoseconds; `kernel` and `user` are only as fine as the kernel's clock tick (10 ms).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CpuUsage {
    pub total: u64,
    pub kernel: u64,
    pub user: u64,
    pub per_cpu: Vec<u64>,
}

/// `throttled_time` is in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Throttle {
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled_time: u64,
}

/// Times in microseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CpuV2 {
    pub usage_usec: u64,
    pub user_usec: u64,
    pub system_usec: u64,
    pub nr_periods: u64,
    pub nr_throttled: u64,
    pub throttled_usec: u64,
    pub psi: Option<Psi>,
    pub nr_bursts: u64,
    pub burst_usec: u64,
}

/// `memory.stat` and the limit files of v1; bytes, except for the page and fault counters.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemoryV1 {
    pub cache: u64,
    pub rss: u64,
    pub rss_huge: u64,
    pub mapped_file: u64,
    pub dirty: u64,
    pub writeback: u64,
    pub pg_pg_in: u64,
    pub pg_pg_out: u64,
    pub pg_fault: u64,
    pub pg_maj_fault: u64,
    pub inactive_anon: u64,
    pub active_anon: u64,
    pub inactive_file: u64,
    pub active_file: u64,
    pub unevictable: u64,
    pub hierarchical_memory_limit: u64,
    pub hierarchical_swap_limit: u64,
    pub total_cache: u64,
    pub total_rss: u64,
    pub total_rss_huge: u64,
    pub total_mapped_file: u64,
    pub total_dirty: u64,
    pub total_writeback: u64,
    pub total_pg_pg_in: u64,
    pub total_pg_pg_out: u64,
    pub total_pg_fault: u64,
    pub total_pg_maj_fault: u64,
    pub total_inactive_anon: u64,
    pub total_active_anon: u64,
    pub total_inactive_file: u64,
    pub total_active_file: u64,
    pub total_unevictable: u64,
    pub usage: Option<MemoryEntry>,
    /// Memory and swap together (`memory.memsw`); absent without swap accounting.
    pub swap: Option<MemoryEntry>,
    pub kernel: Option<MemoryEntry>,
    pub kernel_tcp: Option<MemoryEntry>,
}

/// Bytes, and how often the limit was hit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemoryEntry {
    pub limit: u64,
    pub usage: u64,
    pub max: u64,
    pub failcnt: u64,
}

/// `memory.oom_control`; `oom_kill` is 0 before Linux 4.13, which does not count.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OomControl {
    pub oom_kill_disable: u64,
    pub under_oom: u64,
    pub oom_kill: u64,
}

/// `memory.stat` and the limit files of v2; bytes, except for the page and fault counters.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemoryV2 {
    pub anon: u64,
    pub file: u64,
    pub kernel_stack: u64,
    pub slab: u64,
    pub sock: u64,
    pub shmem: u64,
    pub file_mapped: u64,
    pub file_dirty: u64,
    pub file_writeback: u64,
    pub anon_thp: u64,
    pub inactive_anon: u64,
    pub active_anon: u64,
    pub inactive_file: u64,
    pub active_file: u64,
    pub unevictable: u64,
    pub slab_reclaimable: u64,
    pub slab_unreclaimable: u64,
    pub pgfault: u64,
    pub pgmajfault: u64,
    pub workingset_refault: u64,
    pub workingset_activate: u64,
    pub workingset_nodereclaim: u64,
    pub pgrefill: u64,
    pub pgscan: u64,
    pub pgsteal: u64,
    pub pgactivate: u64,
    pub pgdeactivate: u64,
    pub pglazyfree: u64,
    pub pglazyfreed: u64,
    pub thp_fault_alloc: u64,
    pub thp_collapse_alloc: u64,
    pub usage: u64,
    pub usage_limit: u64,
    pub swap_usage: u64,
    pub swap_limit: u64,
    pub max_usage: u64,
    pub swap_max_usage: u64,
    pub psi: Option<Psi>,
}

/// `memory.events`, counted since the cgroup was made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemoryEvents {
    pub low: u64,
    pub high: u64,
    pub max: u64,
    pub oom: u64,
    pub oom_kill: u64,
    pub oom_group_kill: u64,
}

/// Pressure stall information; `full` is absent for cpu before Linux 5.13.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Psi {
    pub some: PsiLine,
    pub full: Option<PsiLine>,
}

/// Share of time in percent over 10, 60 and 300 seconds, and the total in microseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PsiLine {
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
    pub total: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Blkio {
    pub io_service_bytes_recursive: Vec<BlkioEntry>,
    pub io_serviced_recursive: Vec<BlkioEntry>,
    pub io_queued_recursive: Vec<BlkioEntry>,
    pub io_service_time_recursive: Vec<BlkioEntry>,
    pub io_wait_time_recursive: Vec<BlkioEntry>,
    pub io_merged_recursive: Vec<BlkioEntry>,
    pub io_time_recursive: Vec<BlkioEntry>,
    pub sectors_recursive: Vec<BlkioEntry>,
}

/// One line of a `blkio.*` file; `device` is the node below /dev ("/dev/sda"), `op` may be empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BlkioEntry {
    pub op: String,
    pub device: String,
    pub major: u64,
    pub minor: u64,
    pub value: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Io {
    pub usage: Vec<IoEntry>,
    pub psi: Option<Psi>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct IoEntry {
    pub major: u64,
    pub minor: u64,
    pub rbytes: u64,
    pub wbytes: u64,
    pub rios: u64,
    pub wios: u64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rdma {
    pub current: Vec<RdmaEntry>,
    pub limit: Vec<RdmaEntry>,
}

/// `u32::MAX` is no limit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RdmaEntry {
    pub device: String,
    pub hca_handles: u32,
    pub hca_objects: u32,
}
