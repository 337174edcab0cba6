//! The spec's resources as v1 files.

use std::fmt::Display;

use cgroups_rs::fs::MaxValue;
use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use nix::errno::Errno;
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

use super::limits_v2::refuse_usage;
use super::{Dir, Error, file};

pub(super) fn apply(dirs: &[Dir], resources: &LinuxResources) -> Result<(), Error> {
    let dirs = Dirs(dirs);
    if let Some(key) = resources.unified().iter().flat_map(|map| map.keys()).next() {
        return Err(Error::UnifiedOnV1 { key: key.clone() });
    }
    if let Some(memory) = resources.memory() {
        apply_memory(dirs, memory)?;
    }
    if let Some(cpu) = resources.cpu() {
        apply_cpu(dirs, cpu)?;
        apply_cpuset(dirs, cpu)?;
    }
    if let Some(limit) = resources.pids().as_ref().map(|pids| pids.limit()).filter(|limit| *limit != 0) {
        apply_pids(dirs, limit)?;
    }
    if let Some(block_io) = resources.block_io() {
        apply_blkio(dirs, block_io)?;
    }
    apply_others(dirs, resources)
}

#[derive(Clone, Copy)]
struct Dirs<'a>(&'a [Dir]);

impl<'a> Dirs<'a> {
    fn find(self, controller: &str) -> Option<&'a Dir> {
        self.0.iter().find(|dir| dir.has(controller))
    }

    fn need(self, controller: &str, limit: &'static str, value: impl Display) -> Result<&'a Dir, Error> {
        self.find(controller).ok_or_else(|| Error::MissingController {
            limit,
            value: value.to_string(),
            controller: controller.to_owned(),
            version: "v1",
            path: self.0.first().map(|dir| dir.path.clone()).unwrap_or_default(),
        })
    }

    fn write(self, controller: &str, name: &'static str, value: impl Display) -> Result<(), Error> {
        let dir = self.need(controller, name, &value)?;
        file::write(&dir.path.join(name), &value.to_string())
    }
}

/// The error of a write by cgroups-rs, which already names the file.
fn limit<'a>(
    dir: &'a Dir,
    limit: &'static str,
    value: impl Display,
) -> impl FnOnce(cgroups_rs::fs::error::Error) -> Error + 'a {
    let value = value.to_string();
    move |err| Error::Limit { limit, value, path: dir.path.clone(), err: Box::new(err) }
}

fn apply_memory(dirs: Dirs<'_>, memory: &LinuxMemory) -> Result<(), Error> {
    apply_memory_and_swap(dirs, memory)?;
    let matters = |value: &i64| *value > 0 || (*value != 0 && dirs.find("memory").is_some());
    if let Some(value) = memory.reservation().filter(matters) {
        let dir = dirs.need("memory", "memory reservation", value)?;
        memory_controller(dir).set_soft_limit(value).map_err(limit(dir, "memory reservation", value))?;
    }
    if memory.kernel().is_some() || memory.kernel_tcp().is_some() {
        // Linux 6.1 dropped kmem limits, and they deadlocked before: runc ignores them too.
        tracing::warn!("kernel memory limits are ignored");
    }
    if memory.disable_oom_killer() == Some(true) {
        let dir = dirs.need("memory", "disableOOMKiller", true)?;
        memory_controller(dir).disable_oom_killer().map_err(limit(dir, "disableOOMKiller", true))?;
    }
    if let Some(value) = memory.swappiness() {
        if value > 100 {
            let reason = "it must be from 0 to 100";
            return Err(Error::Invalid { limit: "memory swappiness", value: value.to_string(), reason });
        }
        let dir = dirs.need("memory", "memory swappiness", value)?;
        memory_controller(dir).set_swappiness(value).map_err(limit(dir, "memory swappiness", value))?;
    }
    Ok(())
}

fn memory_controller(dir: &Dir) -> MemController {
    MemController::new(dir.path.clone(), dir.mount.clone(), false)
}

/// The kernel demands memory <= memory and swap at every moment: the order depends on which way they go.
fn apply_memory_and_swap(dirs: Dirs<'_>, memory: &LinuxMemory) -> Result<(), Error> {
    let bytes = memory.limit().filter(|value| *value != 0);
    let mut swap = memory.swap().filter(|value| *value != 0);
    let Some(dir) = dirs.find("memory") else {
        return match bytes.filter(|value| *value > 0).or(swap.filter(|value| *value > 0)) {
            Some(value) => dirs.need("memory", "memory limit", value).map(drop),
            None => Ok(()),
        };
    };
    let accounted = dir.path.join("memory.memsw.limit_in_bytes").exists();
    if bytes == Some(-1) && swap.is_none() && accounted {
        swap = Some(-1);
    }
    if let (Some(value), false) = (swap, accounted) {
        if value > 0 && Some(value) != bytes {
            let reason = "the kernel does not account swap (swapaccount=1)";
            return Err(Error::Invalid { limit: "memory swap", value: value.to_string(), reason });
        }
        swap = None;
    }
    refuse_usage(dir, "memory.usage_in_bytes", memory)?;
    let controller = memory_controller(dir);
    let set_bytes = || match bytes {
        Some(value) => controller.set_limit(value).map_err(limit(dir, "memory limit", value)),
        None => Ok(()),
    };
    let set_swap = || match swap {
        Some(value) => controller.set_memswap_limit(value).map_err(limit(dir, "memory swap", value)),
        None => Ok(()),
    };
    let (Some(_), Some(wanted)) = (bytes, swap) else { return set_bytes().and_then(|()| set_swap()) };
    let current = file::read_u64(&dir.path.join("memory.limit_in_bytes"))?.unwrap_or(0);
    if wanted == -1 || current < wanted.cast_unsigned() {
        set_swap().and_then(|()| set_bytes())
    } else {
        set_bytes().and_then(|()| set_swap())
    }
}

fn apply_cpu(dirs: Dirs<'_>, cpu: &LinuxCpu) -> Result<(), Error> {
    let controller = |dir: &Dir| CpuController::new(dir.path.clone(), dir.mount.clone(), false);
    // 1024 is what a new cgroup has.
    let shares = cpu.shares().filter(|shares| *shares != 0);
    if let Some(shares) = shares.filter(|shares| *shares != 1024 || dirs.find("cpu").is_some()) {
        let dir = dirs.need("cpu", "cpu shares", shares)?;
        controller(dir).set_shares(shares).map_err(limit(dir, "cpu shares", shares))?;
    }
    if let Some(idle) = cpu.idle().filter(|idle| *idle != 0 || dirs.find("cpu").is_some()) {
        dirs.write("cpu", "cpu.idle", idle)?;
    }
    let quota = cpu.quota().filter(|quota| *quota > 0 || (*quota != 0 && dirs.find("cpu").is_some()));
    let period = cpu.period().filter(|period| *period != 0 && (quota.is_some() || dirs.find("cpu").is_some()));
    let mut late_period = None;
    if let Some(period) = period {
        let dir = dirs.need("cpu", "cpu period", period)?;
        if let Err(err) = controller(dir).set_cfs_period(period) {
            // A parent's limit can forbid the new period with the old quota.
            if quota.is_none() {
                return Err(limit(dir, "cpu period", period)(err));
            }
            late_period = Some((dir, period));
        }
    }
    if let Some(quota) = quota {
        let dir = dirs.need("cpu", "cpu quota", quota)?;
        controller(dir).set_cfs_quota(quota).map_err(limit(dir, "cpu quota", quota))?;
    }
    if let Some((dir, period)) = late_period {
        controller(dir).set_cfs_period(period).map_err(limit(dir, "cpu period", period))?;
    }
    if let Some(burst) = cpu.burst().filter(|burst| *burst != 0 || dirs.find("cpu").is_some()) {
        dirs.write("cpu", "cpu.cfs_burst_us", burst)?;
    }
    if let Some(period) = cpu.realtime_period().filter(|period| *period != 0) {
        dirs.write("cpu", "cpu.rt_period_us", period)?;
    }
    if let Some(runtime) = cpu.realtime_runtime().filter(|runtime| *runtime != 0) {
        dirs.write("cpu", "cpu.rt_runtime_us", runtime)?;
    }
    Ok(())
}

fn apply_cpuset(dirs: Dirs<'_>, cpu: &LinuxCpu) -> Result<(), Error> {
    for (name, value) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            dirs.write("cpuset", name, value)?;
        }
    }
    Ok(())
}

fn apply_pids(dirs: Dirs<'_>, pids: i64) -> Result<(), Error> {
    if pids < 0 && dirs.find("pids").is_none() {
        return Ok(());
    }
    let dir = dirs.need("pids", "pids limit", pids)?;
    let max = if pids < 0 { MaxValue::Max } else { MaxValue::Value(pids) };
    PidController::new(dir.path.clone(), dir.mount.clone(), false).set_pid_max(max).map_err(limit(
        dir,
        "pids limit",
        pids,
    ))
}

fn apply_blkio(dirs: Dirs<'_>, block_io: &LinuxBlockIo) -> Result<(), Error> {
    let bfq = dirs.find("blkio").is_some_and(|dir| dir.path.join("blkio.bfq.weight").exists());
    let (weight, weight_device) =
        if bfq { ("blkio.bfq.weight", "blkio.bfq.weight_device") } else { ("blkio.weight", "blkio.weight_device") };
    if let Some(value) = block_io.weight().filter(|value| *value != 0) {
        dirs.write("blkio", weight, value)?;
    }
    if let Some(value) = block_io.leaf_weight().filter(|value| *value != 0) {
        dirs.write("blkio", "blkio.leaf_weight", value)?;
    }
    for device in block_io.weight_device().iter().flatten() {
        let line = |value: u16| format!("{}:{} {value}", device.major(), device.minor());
        if let Some(value) = device.weight().filter(|value| *value != 0) {
            dirs.write("blkio", weight_device, line(value))?;
        }
        if let Some(value) = device.leaf_weight().filter(|value| *value != 0) {
            dirs.write("blkio", "blkio.leaf_weight_device", line(value))?;
        }
    }
    for (name, devices) in [
        ("blkio.throttle.read_bps_device", block_io.throttle_read_bps_device()),
        ("blkio.throttle.write_bps_device", block_io.throttle_write_bps_device()),
        ("blkio.throttle.read_iops_device", block_io.throttle_read_iops_device()),
        ("blkio.throttle.write_iops_device", block_io.throttle_write_iops_device()),
    ] {
        for device in devices.iter().flatten() {
            dirs.write("blkio", name, format!("{}:{} {}", device.major(), device.minor(), device.rate()))?;
        }
    }
    Ok(())
}

fn apply_others(dirs: Dirs<'_>, resources: &LinuxResources) -> Result<(), Error> {
    for page in resources.hugepage_limits().iter().flatten() {
        let dir = dirs.need("hugetlb", "hugepage limit", page.limit())?;
        write_hugetlb(dir, page.page_size(), "limit_in_bytes", page.limit())?;
    }
    for (device, rdma) in resources.rdma().iter().flatten() {
        dirs.write("rdma", "rdma.max", rdma_line(device, rdma))?;
    }
    if let Some(network) = resources.network() {
        if let Some(class) = network.class_id().filter(|class| *class != 0) {
            dirs.write("net_cls", "net_cls.classid", class)?;
        }
        for priority in network.priorities().iter().flatten() {
            dirs.write("net_prio", "net_prio.ifpriomap", format!("{} {}", priority.name(), priority.priority()))?;
        }
    }
    Ok(())
}

/// Faulted pages, and reserved ones where the kernel counts them (5.7): without the second limit a process above the
/// first dies of SIGBUS instead of being refused.
pub(super) fn write_hugetlb(dir: &Dir, size: &str, suffix: &str, value: i64) -> Result<(), Error> {
    if size.is_empty() || size.contains('/') {
        let reason = "it is not a page size";
        return Err(Error::Invalid { limit: "hugepage size", value: size.to_owned(), reason });
    }
    let value = value.to_string();
    file::write(&dir.path.join(format!("hugetlb.{size}.{suffix}")), &value)?;
    match file::write(&dir.path.join(format!("hugetlb.{size}.rsvd.{suffix}")), &value) {
        Err(Error::Write { err: Errno::ENOENT, .. }) => Ok(()),
        other => other,
    }
}

pub(super) fn rdma_line(device: &str, rdma: &oci_spec::runtime::LinuxRdma) -> String {
    let mut line = device.to_owned();
    for (name, value) in [("hca_handle", rdma.hca_handles()), ("hca_object", rdma.hca_objects())] {
        if let Some(value) = value {
            line.push_str(&format!(" {name}={value}"));
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory stands for every hierarchy: each write replaces the file.
    #[test]
    fn every_limit_has_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let expected = [
            ("memory.limit_in_bytes", "67108864"),
            ("memory.soft_limit_in_bytes", "33554432"),
            ("memory.memsw.limit_in_bytes", "134217728"),
            ("memory.swappiness", "10"),
            ("cpu.shares", "2048"),
            ("cpu.idle", "1"),
            ("cpu.cfs_quota_us", "50000"),
            ("cpu.cfs_period_us", "100000"),
            ("cpu.cfs_burst_us", "25000"),
            ("cpu.rt_runtime_us", "1000"),
            ("cpu.rt_period_us", "2000"),
            ("cpuset.cpus", "0-1"),
            ("cpuset.mems", "0"),
            ("pids.max", "50"),
            ("blkio.weight", "500"),
            ("blkio.leaf_weight", "300"),
            ("blkio.weight_device", "8:0 200"),
            ("blkio.leaf_weight_device", "8:0 100"),
            ("blkio.throttle.read_bps_device", "8:0 10"),
            ("blkio.throttle.write_bps_device", "8:0 20"),
            ("blkio.throttle.read_iops_device", "8:0 30"),
            ("blkio.throttle.write_iops_device", "8:0 40"),
            ("hugetlb.2MB.limit_in_bytes", "4194304"),
            ("rdma.max", "mlx5_1 hca_handle=3"),
            ("net_cls.classid", "1048577"),
            ("net_prio.ifpriomap", "eth0 500"),
        ];
        for (name, _) in expected {
            std::fs::write(directory.path().join(name), "0").unwrap();
        }
        let device = |rate| serde_json::json!([{"major": 8, "minor": 0, "rate": rate}]);
        let resources = serde_json::json!({
            "memory": {"limit": 67_108_864, "reservation": 33_554_432, "swap": 134_217_728, "swappiness": 10},
            "cpu": {"shares": 2048, "idle": 1, "quota": 50_000, "period": 100_000, "burst": 25_000, "cpus": "0-1", "mems": "0",
                "realtimeRuntime": 1000, "realtimePeriod": 2000},
            "pids": {"limit": 50},
            "blockIO": {"weight": 500, "leafWeight": 300,
                "weightDevice": [{"major": 8, "minor": 0, "weight": 200, "leafWeight": 100}],
                "throttleReadBpsDevice": device(10), "throttleWriteBpsDevice": device(20),
                "throttleReadIOPSDevice": device(30), "throttleWriteIOPSDevice": device(40)},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}],
            "rdma": {"mlx5_1": {"hcaHandles": 3}},
            "network": {"classID": 1_048_577, "priorities": [{"name": "eth0", "priority": 500}]},
        });
        let controllers = ["memory", "cpu", "cpuset", "pids", "blkio", "hugetlb", "rdma", "net_cls", "net_prio"];
        let path = directory.path().to_owned();
        let dir = Dir { controllers: controllers.map(str::to_owned).into(), mount: path.clone(), path };
        apply(std::slice::from_ref(&dir), &serde_json::from_value(resources).unwrap()).unwrap();
        for (name, value) in expected {
            assert_eq!(std::fs::read_to_string(directory.path().join(name)).unwrap(), value, "{name}");
        }
        let unified = serde_json::from_value(serde_json::json!({"unified": {"memory.high": "1"}})).unwrap();
        assert!(matches!(apply(&[dir], &unified), Err(Error::UnifiedOnV1 { .. })));
    }
}
