//! The spec's resources, which are v1's, as v2 files.

use std::cell::OnceCell;
use std::fmt::Display;

use nix::errno::Errno;
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

use super::limits_v1::{rdma_line, write_hugetlb};
use super::{Dir, Error, file, v2};

pub(super) fn apply(dir: &Dir, resources: &LinuxResources) -> Result<(), Error> {
    let group = Group { dir, controllers: OnceCell::new() };
    if let Some(memory) = resources.memory() {
        apply_memory(&group, memory)?;
    }
    if let Some(cpu) = resources.cpu() {
        apply_cpu(&group, cpu)?;
    }
    if let Some(limit) = resources.pids().as_ref().map(|pids| pids.limit()).filter(|limit| *limit != 0) {
        group.set("pids", "pids limit", limit, "pids.max", &max(limit), limit < 0)?;
    }
    if let Some(block_io) = resources.block_io() {
        apply_io(&group, block_io)?;
    }
    for page in resources.hugepage_limits().iter().flatten() {
        group.need("hugetlb", "hugepage limit", page.limit())?;
        write_hugetlb(dir, page.page_size(), "max", page.limit())?;
    }
    for (device, rdma) in resources.rdma().iter().flatten() {
        let line = rdma_line(device, rdma);
        group.set("rdma", "rdma limit", &line, "rdma.max", &line, false)?;
    }
    if resources.network().is_some() {
        tracing::warn!("network classes and priorities have no place in cgroup v2 and are ignored");
    }
    // Last: it is the newer and more exact way to say the same.
    for (key, value) in resources.unified().iter().flatten() {
        apply_unified(&group, key, value)?;
    }
    Ok(())
}

struct Group<'a> {
    dir: &'a Dir,
    /// Read when the first limit asks for it: the usual spec has none but defaults.
    controllers: OnceCell<Vec<String>>,
}

impl Group<'_> {
    fn has(&self, controller: &str) -> Result<bool, Error> {
        let found = match self.controllers.get() {
            Some(found) => found,
            None => {
                let text = file::read(&self.dir.path.join("cgroup.controllers"))?.unwrap_or_default();
                self.controllers.get_or_init(|| text.split_whitespace().map(str::to_owned).collect())
            }
        };
        Ok(found.iter().any(|name| name == controller))
    }

    fn need(&self, controller: &str, limit: &'static str, value: impl Display) -> Result<(), Error> {
        if self.has(controller)? {
            return Ok(());
        }
        if let Some(err) = v2::internal_processes(self.dir, controller)? {
            return Err(err);
        }
        Err(Error::MissingController {
            limit,
            value: value.to_string(),
            controller: controller.to_owned(),
            version: "v2",
            path: self.dir.path.clone(),
        })
    }

    fn write(&self, name: &str, value: &str) -> Result<(), Error> {
        file::write(&self.dir.path.join(name), value)
    }

    /// `default`: the value is what a new cgroup has, so that a missing controller does no harm.
    fn set(
        &self,
        controller: &str,
        limit: &'static str,
        wanted: impl Display,
        name: &str,
        value: &str,
        default: bool,
    ) -> Result<(), Error> {
        if default && !self.has(controller)? {
            return Ok(());
        }
        self.need(controller, limit, wanted)?;
        self.write(name, value)
    }
}

/// v1's -1.
fn max(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

fn apply_memory(group: &Group<'_>, memory: &LinuxMemory) -> Result<(), Error> {
    let bytes = memory.limit().filter(|value| *value != 0);
    refuse_usage(group.dir, "memory.current", memory)?;
    // Before the limit, as runc: with it first, a lowered limit would push pages into the swap that is about to be shut.
    apply_swap(group, memory.swap().filter(|value| *value != 0), bytes)?;
    if let Some(value) = bytes {
        group.set("memory", "memory limit", value, "memory.max", &max(value), value < 0)?;
    }
    if let Some(value) = memory.reservation().filter(|value| *value != 0) {
        group.set("memory", "memory reservation", value, "memory.low", &max(value), value < 0)?;
    }
    if memory.kernel().is_some() || memory.kernel_tcp().is_some() {
        tracing::warn!("kernel memory limits are ignored");
    }
    if memory.swappiness().is_some() || memory.disable_oom_killer() == Some(true) {
        tracing::warn!("swappiness and disableOOMKiller have no place in cgroup v2 and are ignored");
    }
    Ok(())
}

/// A limit below what `file` says is used, where the spec wants that refused.
pub(super) fn refuse_usage(dir: &Dir, file: &str, memory: &LinuxMemory) -> Result<(), Error> {
    let limit = memory.limit().filter(|limit| *limit > 0 && memory.check_before_update() == Some(true));
    let Some(limit) = limit else { return Ok(()) };
    let usage = file::read_u64(&dir.path.join(file))?.unwrap_or(0);
    if limit.cast_unsigned() > usage {
        return Ok(());
    }
    Err(Error::MemoryBelowUsage { limit, usage, path: dir.path.clone() })
}

/// v1 limits memory and swap together, v2 swap alone.
fn apply_swap(group: &Group<'_>, swap: Option<i64>, bytes: Option<i64>) -> Result<(), Error> {
    let Some(swap) = swap.or(bytes.filter(|bytes| *bytes < 0)) else { return Ok(()) };
    let value = if swap < 0 {
        -1
    } else {
        let refuse = |reason| Error::Invalid { limit: "memory swap", value: swap.to_string(), reason };
        let bytes = match bytes {
            Some(bytes) => Some(bytes).filter(|bytes| *bytes > 0),
            // An update of the swap alone goes with the limit that is set.
            None => file::read_u64(&group.dir.path.join("memory.max"))?.and_then(|bytes| i64::try_from(bytes).ok()),
        };
        let bytes = match bytes {
            Some(bytes) => bytes,
            None if !group.has("memory")? => return group.need("memory", "memory swap", swap),
            None => return Err(refuse("it needs a memory limit")),
        };
        swap.checked_sub(bytes).filter(|rest| *rest >= 0).ok_or_else(|| refuse("it is less than the memory limit"))?
    };
    match group.set("memory", "memory swap", swap, "memory.swap.max", &max(value), value < 0) {
        // The kernel has no swap: neither "all of it" nor "none" needs the file.
        Err(Error::Write { err: Errno::ENOENT, .. }) if value <= 0 => Ok(()),
        other => other,
    }
}

fn apply_cpu(group: &Group<'_>, cpu: &LinuxCpu) -> Result<(), Error> {
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        let weight = weight_of_shares(shares);
        // An idle cgroup has no weight, and the kernel refuses one.
        if cpu.idle() != Some(1) {
            group.set("cpu", "cpu shares", shares, "cpu.weight", &weight.to_string(), weight == DEFAULT_WEIGHT)?;
        }
    }
    if let Some(idle) = cpu.idle() {
        group.set("cpu", "cpu idle", idle, "cpu.idle", &idle.to_string(), idle == 0)?;
    }
    for (limit, value) in [
        ("cpu realtime runtime", cpu.realtime_runtime().unwrap_or(0)),
        ("cpu realtime period", cpu.realtime_period().unwrap_or(0).cast_signed()),
    ] {
        if value != 0 {
            return Err(Error::Invalid { limit, value: value.to_string(), reason: "cgroup v2 has no realtime limits" });
        }
    }
    apply_cpu_max(group, cpu)?;
    for (limit, name, value) in [("cpus", "cpuset.cpus", cpu.cpus()), ("mems", "cpuset.mems", cpu.mems())] {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            group.set("cpuset", limit, value, name, value, false)?;
        }
    }
    Ok(())
}

fn apply_cpu_max(group: &Group<'_>, cpu: &LinuxCpu) -> Result<(), Error> {
    let quota = cpu.quota().filter(|quota| *quota != 0);
    let period = cpu.period().filter(|period| *period != 0);
    let burst = cpu.burst();
    let set_burst = || match burst {
        Some(burst) => group.set("cpu", "cpu burst", burst, "cpu.max.burst", &burst.to_string(), burst == 0),
        None => Ok(()),
    };
    if quota.is_some() || period.is_some() {
        let default = quota.is_none_or(|quota| quota < 0);
        let value = match (quota, period) {
            (Some(quota), Some(period)) => format!("{} {period}", max(quota)),
            (Some(quota), None) => max(quota),
            (None, period) => {
                let now = file::read(&group.dir.path.join("cpu.max"))?.unwrap_or_default();
                let quota = now.split_whitespace().next().unwrap_or("max");
                format!("{quota} {}", period.unwrap_or(100_000))
            }
        };
        match group.set("cpu", "cpu quota", quota.unwrap_or(-1), "cpu.max", &value, default) {
            // A quota below the burst that is set now: the new burst must come first.
            Err(Error::Write { err: Errno::EINVAL, .. }) if burst.is_some() => {
                set_burst()?;
                group.write("cpu.max", &value)?;
            }
            other => other?,
        }
    }
    set_burst()
}

const DEFAULT_WEIGHT: u64 = 100;

/// runc's conversion since 1.4, and crun's: 2 to 1, 1024 (the default) to 100 (the default), 262144 to 10000, between them
/// a parabola on the logarithms. The older one is linear and makes 39 of 1024, so that a container with the default
/// shares gets less than half of what anything else on the host has.
pub(super) fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            #[expect(clippy::cast_precision_loss, reason = "at most 18 bits here")]
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 1 to 10000")]
            let weight = 10_f64.powf(exponent).ceil() as u64;
            weight
        }
    }
}

/// The spec's range is 10 to 1000, as that of v1 and of BFQ; `io.weight` has 1 to 10000.
pub(super) fn io_weight(weight: u16) -> u32 {
    1 + (u32::from(weight).saturating_sub(10)) * 9999 / 990
}

fn apply_io(group: &Group<'_>, block_io: &LinuxBlockIo) -> Result<(), Error> {
    let bfq = group.dir.path.join("io.bfq.weight").exists();
    let convert = |weight: u16| if bfq { u32::from(weight) } else { io_weight(weight) };
    let name = if bfq { "io.bfq.weight" } else { "io.weight" };
    if let Some(weight) = block_io.weight().filter(|weight| *weight != 0) {
        group.set("io", "blkio weight", weight, name, &convert(weight).to_string(), false)?;
    }
    for device in block_io.weight_device().iter().flatten() {
        if let Some(weight) = device.weight().filter(|weight| *weight != 0) {
            let line = format!("{}:{} {}", device.major(), device.minor(), convert(weight));
            group.set("io", "blkio weight of device", &line, name, &line, false)?;
        }
    }
    if block_io.leaf_weight().is_some_and(|weight| weight != 0) {
        tracing::warn!("blkio leaf weights have no place in cgroup v2 and are ignored");
    }
    for (key, devices) in [
        ("rbps", block_io.throttle_read_bps_device()),
        ("wbps", block_io.throttle_write_bps_device()),
        ("riops", block_io.throttle_read_iops_device()),
        ("wiops", block_io.throttle_write_iops_device()),
    ] {
        for device in devices.iter().flatten() {
            // v1 takes a limit away with 0, v2 with "max".
            let rate = if device.rate() == 0 { "max".to_owned() } else { device.rate().to_string() };
            let line = format!("{}:{} {key}={rate}", device.major(), device.minor());
            group.set("io", "blkio throttle", &line, "io.max", &line, device.rate() == 0)?;
        }
    }
    Ok(())
}

fn apply_unified(group: &Group<'_>, key: &str, value: &str) -> Result<(), Error> {
    let controller = key.split_once('.').map(|(controller, _)| controller);
    let Some(controller) = controller.filter(|name| !name.is_empty() && !key.contains('/')) else {
        return Err(Error::UnifiedKey { key: key.to_owned() });
    };
    if controller != "cgroup" {
        group.need(controller, "unified", format!("{key}={value}"))?;
    }
    // Several lines are several writes ("8:0 rbps=1\n8:16 rbps=1"): the kernel reads one a write.
    value.lines().try_for_each(|line| group.write(key, line))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory stands for the cgroup: each write replaces the file.
    #[test]
    fn every_limit_has_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        write("cgroup.controllers", "cpuset cpu io memory hugetlb pids rdma misc\n");
        let expected = [
            ("memory.max", "67108864"),
            ("memory.low", "33554432"),
            ("memory.swap.max", "67108864"),
            ("cpu.weight", "174"),
            ("cpu.idle", "0"),
            ("cpu.max", "50000 100000"),
            ("cpu.max.burst", "25000"),
            ("cpuset.cpus", "0-1"),
            ("cpuset.mems", "0"),
            ("pids.max", "50"),
            ("io.weight", "4950"),
            ("io.max", "8:0 wiops=40"),
            ("hugetlb.2MB.max", "4194304"),
            ("hugetlb.2MB.rsvd.max", "4194304"),
            ("rdma.max", "mlx5_1 hca_handle=3 hca_object=10000"),
            ("misc.max", "res_a 3"),
            ("memory.high", "50331648"),
        ];
        for (name, _) in expected {
            write(name, "");
        }
        let resources = serde_json::json!({
            "memory": {"limit": 67_108_864, "reservation": 33_554_432, "swap": 134_217_728},
            "cpu": {"shares": 2048, "idle": 0, "quota": 50_000, "period": 100_000, "burst": 25_000, "cpus": "0-1", "mems": "0"},
            "pids": {"limit": 50},
            "blockIO": {"weight": 500, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 10}],
                "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 40}]},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}],
            "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10_000}},
            "unified": {"misc.max": "res_a 3", "memory.high": "50331648"},
        });
        let path = directory.path().to_owned();
        let dir = Dir { controllers: Vec::new(), mount: path.clone(), path };
        apply(&dir, &serde_json::from_value(resources).unwrap()).unwrap();
        for (name, value) in expected {
            assert_eq!(std::fs::read_to_string(directory.path().join(name)).unwrap(), value, "{name}");
        }
    }

    #[test]
    fn a_unified_key_is_a_file_of_the_cgroups_own() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().to_owned();
        let dir = Dir { controllers: Vec::new(), mount: path.clone(), path };
        let unified = |key: &str| {
            let resources = serde_json::json!({"unified": {key: "1"}});
            apply(&dir, &serde_json::from_value(resources).unwrap()).unwrap_err()
        };
        assert!(matches!(unified("../other/memory.max"), Error::UnifiedKey { .. }));
        assert!(matches!(unified("x"), Error::UnifiedKey { .. }));
        assert!(matches!(unified("memory.max"), Error::MissingController { .. }));
    }

    #[test]
    fn shares_become_weights_as_runc_and_crun_convert_them() {
        for (shares, weight) in
            [(2, 1), (1024, 100), (262_144, 10_000), (1, 1), (300_000, 10_000), (512, 59), (2048, 174)]
        {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
    }
}
