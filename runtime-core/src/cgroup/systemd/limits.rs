//! The spec's resources as properties of a unit, so that systemd does not write its own values over them (it writes all
//! files of a unit again when one property changes, and when it is reloaded). What there is no property for is in the
//! files alone.
//!
//! | resource | cgroup v1 | cgroup v2 | since systemd |
//! | --- | --- | --- | --- |
//! | memory.limit | MemoryLimit | MemoryMax | |
//! | memory.reservation, memory.swap | | MemoryLow, MemorySwapMax | |
//! | cpu.shares | CPUShares | CPUWeight | |
//! | cpu.idle | | CPUWeight=0 | 252 |
//! | cpu.quota, cpu.period | CPUQuotaPerSecUSec, CPUQuotaPeriodUSec | the same | 242 for the period |
//! | cpu.cpus, cpu.mems | AllowedCPUs, AllowedMemoryNodes | the same | 244 |
//! | pids.limit | TasksMax | TasksMax | |
//! | blockIO.weight | BlockIOWeight | IOWeight | |
//! | unified | | the same, and MemoryHigh, MemoryMin, OOMPolicy | 253 for the last |

use std::path::Path;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};
use zvariant::Value;

use super::Error;
use super::manager::Property;
use crate::cgroup::file;
use crate::cgroup::limits_v2::{io_weight, weight_of_shares};

/// systemd's word for no limit.
const INFINITY: u64 = u64::MAX;

/// Microseconds: the kernel's, for a quota without one.
pub(super) const DEFAULT_PERIOD: u64 = 100_000;

/// What is set at the moment, for an update that names a half only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::cgroup) struct Current {
    /// Bytes; `None` is no limit. Of v2 alone: v1's properties have nothing that is computed from it.
    memory: Option<u64>,
    /// Microseconds; `None` is no limit.
    quota: Option<u64>,
    period: Option<u64>,
}

impl Current {
    /// What the files of a v2 cgroup have.
    pub(in crate::cgroup) fn v2(path: &Path) -> Result<Self, crate::cgroup::Error> {
        let cpu = file::read(&path.join("cpu.max"))?.unwrap_or_default();
        let mut cpu = cpu.split_whitespace().map(|word| word.parse().ok());
        let (quota, period) = (cpu.next().flatten(), cpu.next().flatten());
        let memory = file::read_u64(&path.join("memory.max"))?.filter(|bytes| *bytes != INFINITY);
        Ok(Self { memory, quota, period })
    }

    /// What the files of a cgroup of v1's cpu controller have.
    pub(in crate::cgroup) fn v1(cpu: &Path) -> Result<Self, crate::cgroup::Error> {
        // -1 is no limit.
        let quota = file::read(&cpu.join("cpu.cfs_quota_us"))?.and_then(|text| text.trim().parse().ok());
        let period = file::read_u64(&cpu.join("cpu.cfs_period_us"))?;
        Ok(Self { memory: None, quota, period })
    }
}

/// Properties for one version of systemd.
#[derive(Debug)]
pub(super) struct Limits {
    version: u32,
    current: Current,
    properties: Vec<Property>,
}

impl Limits {
    pub(super) fn v1(resources: &LinuxResources, version: u32, current: Current) -> Result<Vec<Property>, Error> {
        let mut limits = Self { version, current, properties: Vec::new() };
        if let Some(bytes) = resources.memory().as_ref().and_then(LinuxMemory::limit) {
            limits.limit("MemoryLimit", bytes);
        }
        if let Some(cpu) = resources.cpu() {
            limits.number("CPUShares", cpu.shares().unwrap_or(0));
            limits.cpu(cpu)?;
        }
        limits.limit("TasksMax", resources.pids().as_ref().map_or(0, |pids| pids.limit()));
        if let Some(weight) = resources.block_io().as_ref().and_then(LinuxBlockIo::weight) {
            limits.number("BlockIOWeight", weight.into());
        }
        Ok(limits.properties)
    }

    pub(super) fn v2(resources: &LinuxResources, version: u32, current: Current) -> Result<Vec<Property>, Error> {
        let mut limits = Self { version, current, properties: Vec::new() };
        if let Some(memory) = resources.memory() {
            limits.memory(memory);
        }
        if let Some(cpu) = resources.cpu() {
            if cpu.idle() == Some(1) && version >= 252 {
                limits.push("CPUWeight", Value::U64(0));
            } else if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
                limits.number("CPUWeight", weight_of_shares(shares));
            }
            limits.cpu(cpu)?;
        }
        limits.limit("TasksMax", resources.pids().as_ref().map_or(0, |pids| pids.limit()));
        if let Some(weight) = resources.block_io().as_ref().and_then(LinuxBlockIo::weight).filter(|weight| *weight != 0)
        {
            limits.number("IOWeight", io_weight(weight).into());
        }
        let mut unified: Vec<_> = resources.unified().iter().flatten().collect();
        unified.sort_unstable();
        for (key, value) in unified {
            limits.unified(key, value.trim())?;
        }
        Ok(limits.properties)
    }

    fn push(&mut self, name: &str, value: Value<'static>) {
        self.properties.push((name.to_owned(), value));
    }

    /// 0 is none.
    fn number(&mut self, name: &str, value: u64) {
        if value != 0 {
            self.push(name, Value::U64(value));
        }
    }

    /// 0 is none, below that it is no limit.
    fn limit(&mut self, name: &str, value: i64) {
        self.number(name, u64::try_from(value).unwrap_or(INFINITY));
    }

    fn memory(&mut self, memory: &LinuxMemory) {
        let bytes = memory.limit().filter(|bytes| *bytes != 0);
        self.limit("MemoryMax", bytes.unwrap_or(0));
        self.limit("MemoryLow", memory.reservation().unwrap_or(0));
        // The spec's is memory and swap together, systemd's swap alone. What does not fit together is refused where the
        // files are written.
        let all = match bytes {
            Some(bytes) => u64::try_from(bytes).ok(),
            None => self.current.memory,
        };
        match (memory.swap().filter(|swap| *swap != 0), all) {
            (Some(swap), Some(bytes)) if swap > 0 => {
                if let Some(swap) = swap.cast_unsigned().checked_sub(bytes) {
                    self.push("MemorySwapMax", Value::U64(swap));
                }
            }
            (Some(swap), _) if swap < 0 => self.push("MemorySwapMax", Value::U64(INFINITY)),
            (None, _) if bytes.is_some_and(|bytes| bytes < 0) => self.push("MemorySwapMax", Value::U64(INFINITY)),
            _ => {}
        }
    }

    fn cpu(&mut self, cpu: &LinuxCpu) -> Result<(), Error> {
        let quota = cpu.quota().filter(|quota| *quota != 0);
        let period = cpu.period().filter(|period| *period != 0);
        if quota.is_some() || period.is_some() {
            let quota = quota.map_or(self.current.quota, |quota| u64::try_from(quota).ok());
            self.quota(quota, period);
        }
        for (resource, property, list) in
            [("cpu.cpus", "AllowedCPUs", cpu.cpus()), ("cpu.mems", "AllowedMemoryNodes", cpu.mems())]
        {
            self.set_of(resource, property, list.as_deref().unwrap_or_default())?;
        }
        Ok(())
    }

    /// Microseconds in each period; `None` is no limit.
    fn quota(&mut self, quota: Option<u64>, period: Option<u64>) {
        if let Some(period) = period.filter(|_| self.version >= 242) {
            self.push("CPUQuotaPeriodUSec", Value::U64(period));
        }
        let period = period.or(self.current.period).unwrap_or(DEFAULT_PERIOD).max(1);
        // systemd makes whole percents of it and rounds down: up here, for less would be less than was asked for.
        const PERCENT: u128 = 10_000;
        let per_second = quota.map_or(INFINITY, |quota| {
            let exact = u128::from(quota) * 1_000_000 / u128::from(period);
            u64::try_from(exact.div_ceil(PERCENT) * PERCENT).unwrap_or(INFINITY)
        });
        self.push("CPUQuotaPerSecUSec", Value::U64(per_second));
    }

    fn set_of(&mut self, resource: &str, property: &str, list: &str) -> Result<(), Error> {
        if list.is_empty() || self.version < 244 {
            return Ok(());
        }
        let bits = bits(list).map_err(|reason| refuse(resource, list, reason))?;
        self.push(property, Value::from(bits));
        Ok(())
    }

    fn unified(&mut self, key: &str, value: &str) -> Result<(), Error> {
        let resource = format!("unified.{key}");
        let refuse = |reason| refuse(&resource, value, reason);
        let number = |text: &str| match text {
            "max" => Ok(INFINITY),
            text => text.parse::<u64>().map_err(|_| refuse("it is no number")),
        };
        let property = match key {
            "memory.max" => "MemoryMax",
            "memory.high" => "MemoryHigh",
            "memory.low" => "MemoryLow",
            "memory.min" => "MemoryMin",
            "memory.swap.max" => "MemorySwapMax",
            "pids.max" => "TasksMax",
            "cpu.weight" => "CPUWeight",
            "io.weight" => {
                // Those of single devices are in the file alone.
                let default = value.lines().find_map(|line| match line.strip_prefix("default ") {
                    Some(weight) => Some(weight),
                    None => Some(line).filter(|line| !line.contains(' ')),
                });
                return default.map_or(Ok(()), |weight| {
                    self.push("IOWeight", Value::U64(number(weight.trim())?));
                    Ok(())
                });
            }
            "cpuset.cpus" => return self.set_of(&resource, "AllowedCPUs", value),
            "cpuset.mems" => return self.set_of(&resource, "AllowedMemoryNodes", value),
            "cpu.idle" => {
                if value == "1" && self.version >= 252 {
                    self.push("CPUWeight", Value::U64(0));
                }
                return Ok(());
            }
            "cpu.max" => {
                let mut words = value.split_whitespace();
                let quota = number(words.next().unwrap_or_default())?;
                let period = words.next().map(number).transpose()?;
                self.quota(Some(quota).filter(|quota| *quota != INFINITY), period);
                return Ok(());
            }
            // In the file alone.
            _ => return Ok(()),
        };
        self.push(property, Value::U64(number(value)?));
        Ok(())
    }
}

/// What can be said at the start of a unit only: else systemd would write its own into `memory.oom.group`.
pub(super) fn oom_policy(resources: Option<&LinuxResources>, version: u32) -> Option<Property> {
    let unified = resources.and_then(|resources| resources.unified().as_ref())?;
    let policy = match unified.get("memory.oom.group")?.trim() {
        "0" => "continue",
        "1" => "kill",
        _ => return None,
    };
    (version >= 253).then(|| ("OOMPolicy".to_owned(), Value::from(policy)))
}

fn refuse(resource: &str, value: &str, reason: &'static str) -> Error {
    Error::Resource { resource: resource.to_owned(), value: value.to_owned(), reason }
}

/// "0-2,9" as bits, the lowest first: `[7, 2]`.
fn bits(list: &str) -> Result<Vec<u8>, &'static str> {
    /// The kernel's largest NR_CPUS.
    const MOST: usize = 8192;
    let number = |text: &str| match text.trim().parse::<usize>() {
        Ok(number) if number < MOST => Ok(number),
        Ok(_) => Err("a number in it is out of range"),
        Err(_) => Err("it is no list of numbers and ranges"),
    };
    let mut bits = Vec::new();
    for part in list.split(',').filter(|part| !part.trim().is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err("a range in it ends before it begins");
        }
        if bits.len() <= last / 8 {
            bits.resize(last / 8 + 1, 0);
        }
        for bit in first..=last {
            bits[bit / 8] |= 1 << (bit % 8);
        }
    }
    if bits.is_empty() { Err("it is no list of numbers and ranges") } else { Ok(bits) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(json: serde_json::Value) -> LinuxResources {
        serde_json::from_value(json).unwrap()
    }

    fn words(properties: Result<Vec<Property>, Error>) -> Vec<String> {
        properties.unwrap().into_iter().map(|(name, value)| format!("{name}={value}").replace("uint64 ", "")).collect()
    }

    #[test]
    fn every_resource_has_its_property() {
        let common = serde_json::json!({
            "memory": {"limit": 67_108_864, "reservation": 33_554_432, "swap": 134_217_728},
            "cpu": {"shares": 2048, "quota": 50_500, "period": 100_000, "cpus": "0-1,9", "mems": "0"},
            "pids": {"limit": 50},
            "blockIO": {"weight": 500},
        });
        let common = resources(common);
        let cpu = [
            "CPUQuotaPeriodUSec=100000",
            "CPUQuotaPerSecUSec=510000",
            "AllowedCPUs=[byte 0x03, 0x02]",
            "AllowedMemoryNodes=[byte 0x01]",
            "TasksMax=50",
        ];
        let v2 = words(Limits::v2(&common, 257, Current::default()));
        let memory = ["MemoryMax=67108864", "MemoryLow=33554432", "MemorySwapMax=67108864", "CPUWeight=174"];
        assert_eq!(v2, [&memory[..], &cpu, &["IOWeight=4950"]].concat());
        let v1 = words(Limits::v1(&common, 257, Current::default()));
        assert_eq!(v1, [&["MemoryLimit=67108864", "CPUShares=2048"], &cpu[..], &["BlockIOWeight=500"]].concat());
        // What an older systemd would refuse the whole unit for.
        let old = words(Limits::v2(&common, 239, Current::default()));
        assert!(!old.iter().any(|word| word.starts_with("CPUQuotaPeriod") || word.starts_with("Allowed")), "{old:?}");
    }

    #[test]
    fn no_limit_is_infinity_and_nothing_is_nothing() {
        let none = serde_json::json!({"memory": {"limit": -1}, "cpu": {"quota": -1}, "pids": {"limit": -1}});
        let max = u64::MAX;
        let expected =
            ["MemoryMax", "MemorySwapMax", "CPUQuotaPerSecUSec", "TasksMax"].map(|name| format!("{name}={max}"));
        assert_eq!(words(Limits::v2(&resources(none), 257, Current::default())), expected);
        let zero = serde_json::json!({"memory": {"limit": 0}, "cpu": {"quota": 0, "shares": 0}, "pids": {"limit": 0}});
        assert!(words(Limits::v2(&resources(zero), 257, Current::default())).is_empty());
    }

    #[test]
    fn the_half_that_an_update_does_not_name_stays() {
        let current = Current { memory: Some(1000), quota: Some(20_000), period: Some(50_000) };
        let update = serde_json::json!({"memory": {"swap": 1500}, "cpu": {"period": 100_000}});
        let found = words(Limits::v2(&resources(update), 257, current));
        assert_eq!(found, ["MemorySwapMax=500", "CPUQuotaPeriodUSec=100000", "CPUQuotaPerSecUSec=200000"]);
        let quota = resources(serde_json::json!({"cpu": {"quota": 25_000}}));
        let period = resources(serde_json::json!({"cpu": {"period": 100_000}}));
        for limits in [Limits::v1, Limits::v2] {
            assert_eq!(words(limits(&quota, 257, current)), ["CPUQuotaPerSecUSec=500000"]);
            let found = words(limits(&period, 257, current));
            assert_eq!(found, ["CPUQuotaPeriodUSec=100000", "CPUQuotaPerSecUSec=200000"]);
        }
    }

    #[test]
    fn what_is_set_is_read_from_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        assert_eq!(Current::v2(dir.path()).unwrap(), Current::default());
        assert_eq!(Current::v1(dir.path()).unwrap(), Current::default());
        write("cpu.max", "20000 50000\n");
        write("memory.max", "1000\n");
        let current = Current { memory: Some(1000), quota: Some(20_000), period: Some(50_000) };
        assert_eq!(Current::v2(dir.path()).unwrap(), current);
        write("cpu.max", "max 50000\n");
        write("memory.max", "max\n");
        let none = Current { memory: None, quota: None, period: Some(50_000) };
        assert_eq!(Current::v2(dir.path()).unwrap(), none);
        write("cpu.cfs_quota_us", "-1\n");
        write("cpu.cfs_period_us", "50000\n");
        assert_eq!(Current::v1(dir.path()).unwrap(), none);
        write("cpu.cfs_quota_us", "20000\n");
        assert_eq!(Current::v1(dir.path()).unwrap(), Current { memory: None, ..current });
    }

    #[test]
    fn unified_keys_that_systemd_knows_are_properties_too() {
        let unified = serde_json::json!({"unified": {
            "memory.high": "1048576", "memory.min": "0", "memory.max": "max", "pids.max": "9", "cpu.max": "10000 50000",
            "cpuset.cpus": "1", "cpu.idle": "1", "io.weight": "8:0 50\ndefault 70", "misc.max": "x 1",
            "memory.oom.group": "1",
        }});
        let unified = resources(unified);
        let expected = [
            "CPUWeight=0".to_owned(),
            "CPUQuotaPeriodUSec=50000".to_owned(),
            "CPUQuotaPerSecUSec=200000".to_owned(),
            "AllowedCPUs=[byte 0x02]".to_owned(),
            "IOWeight=70".to_owned(),
            "MemoryHigh=1048576".to_owned(),
            format!("MemoryMax={}", u64::MAX),
            "MemoryMin=0".to_owned(),
            "TasksMax=9".to_owned(),
        ];
        assert_eq!(words(Limits::v2(&unified, 257, Current::default())), expected);
        assert_eq!(words(Ok(oom_policy(Some(&unified), 253).into_iter().collect())), ["OOMPolicy=\"kill\""]);
        assert!(oom_policy(Some(&unified), 252).is_none());
        for (key, value) in [("memory.max", "1G"), ("cpu.max", ""), ("cpuset.cpus", "3-1"), ("cpuset.cpus", "9999")] {
            let bad = resources(serde_json::json!({"unified": {key: value}}));
            assert!(matches!(Limits::v2(&bad, 257, Current::default()), Err(Error::Resource { .. })), "{key}={value}");
        }
    }
}
