//! `rtc update`.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxIntelRdt, LinuxMemory, LinuxPids, LinuxResources};
use runtime_core::container::Status;

use crate::context::Context;
use crate::error::Error;

/// Update the resource limits of a container
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Update {
    /// The container's id
    #[arg(value_name = "container-id")]
    id: String,

    /// Read the limits from FILE, or with "-" from standard input; all other options are ignored then
    ///
    /// The format is that of `linux.resources` in the runtime specification: {"memory": {"limit": 0, "reservation": 0,
    /// "swap": 0, "checkBeforeUpdate": true}, "cpu": {"shares": 0, "quota": 0, "burst": 0, "period": 0,
    /// "realtimeRuntime": 0, "realtimePeriod": 0, "cpus": "", "mems": "", "idle": 0}, "blockIO": {"weight": 0}}. What is
    /// left out stays as it is.
    #[arg(short, long, value_name = "FILE")]
    resources: Option<PathBuf>,

    /// Weight of block I/O, from 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    blkio_weight: Option<u16>,

    /// Period of the CPU quota in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<String>,

    /// CPU time allowed in a period, in microseconds; -1 for no limit
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    cpu_quota: Option<String>,

    /// CPU time that may be saved up for a burst, in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_burst: Option<String>,

    /// Weight of CPU time relative to other containers
    #[arg(long, value_name = "SHARES")]
    cpu_share: Option<String>,

    /// Period of the real-time CPU quota in microseconds
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_rt_period: Option<String>,

    /// Real-time CPU time allowed in a period, in microseconds
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    cpu_rt_runtime: Option<String>,

    /// CPUs to use, for instance 0-2,7
    #[arg(long, value_name = "CPUS")]
    cpuset_cpus: Option<String>,

    /// Memory nodes to use
    #[arg(long, value_name = "NODES")]
    cpuset_mems: Option<String>,

    #[arg(long, hide = true)]
    kernel_memory: Option<String>,

    #[arg(long, hide = true)]
    kernel_memory_tcp: Option<String>,

    /// Memory limit in bytes, or with a unit: 512m, 2GiB; -1 for no limit
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory: Option<String>,

    /// 1 to run only when nothing else wants the CPU (SCHED_IDLE), 0 for the default
    #[arg(long, value_name = "0|1", allow_hyphen_values = true)]
    cpu_idle: Option<String>,

    /// Memory that is reclaimed last
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory_reservation: Option<String>,

    /// Limit of memory and swap together; -1 for unlimited swap
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    memory_swap: Option<String>,

    /// Number of processes allowed; -1 for no limit
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    pids_limit: Option<i64>,

    /// L3 cache schema of Intel RDT, for a container whose spec has an intelRdt
    #[arg(long, value_name = "SCHEMA")]
    l3_cache_schema: Option<String>,

    /// Memory bandwidth schema of Intel RDT, for a container whose spec has an intelRdt
    #[arg(long, value_name = "SCHEMA")]
    mem_bw_schema: Option<String>,
}

impl Update {
    pub(crate) fn run(self, context: &Context) -> Result<ExitCode, Error> {
        let container = context.load(&self.id)?;
        let mut resources = match self.resources.as_deref().filter(|path| !path.as_os_str().is_empty()) {
            Some(path) => read(path)?,
            None => self.given()?,
        };
        complete(&mut resources);
        let (cache, bandwidth) = (given(&self.l3_cache_schema), given(&self.mem_bw_schema));
        if !container.has_class() {
            cache.map_or(Ok(()), |_| Err(Error::L3CacheSchema))?;
            bandwidth.map_or(Ok(()), |_| Err(Error::MemBwSchema))?;
        }
        if container.status()? == Status::Stopped {
            return Err(Error::NotRunning);
        }
        container.update(&resources)?;
        let mut schemata = LinuxIntelRdt::default();
        schemata.set_l3_cache_schema(cache.map(str::to_owned));
        schemata.set_mem_bw_schema(bandwidth.map(str::to_owned));
        container.update_class(&schemata)?;
        Ok(ExitCode::SUCCESS)
    }

    /// What the options say.
    fn given(&self) -> Result<LinuxResources, Error> {
        let mut cpu = LinuxCpu::default();
        cpu.set_cpus(given(&self.cpuset_cpus).map(str::to_owned));
        cpu.set_mems(given(&self.cpuset_mems).map(str::to_owned));
        cpu.set_idle(number("cpu-idle", &self.cpu_idle)?);
        cpu.set_burst(number("cpu-burst", &self.cpu_burst)?);
        cpu.set_period(number("cpu-period", &self.cpu_period)?);
        cpu.set_realtime_period(number("cpu-rt-period", &self.cpu_rt_period)?);
        cpu.set_shares(number("cpu-share", &self.cpu_share)?);
        cpu.set_quota(number("cpu-quota", &self.cpu_quota)?);
        cpu.set_realtime_runtime(number("cpu-rt-runtime", &self.cpu_rt_runtime)?);

        let mut memory = LinuxMemory::default();
        memory.set_limit(bytes("memory", &self.memory)?);
        memory.set_swap(bytes("memory-swap", &self.memory_swap)?);
        memory.set_reservation(bytes("memory-reservation", &self.memory_reservation)?);
        let kernel = bytes("kernel-memory", &self.kernel_memory)?;
        if kernel.or(bytes("kernel-memory-tcp", &self.kernel_memory_tcp)?).is_some() {
            tracing::warn!("Kernel memory settings are ignored and will be removed");
        }

        let mut resources = LinuxResources::default();
        resources.set_devices(None);
        resources.set_cpu(Some(cpu));
        resources.set_memory(Some(memory));
        if let Some(weight) = self.blkio_weight.filter(|weight| *weight != 0) {
            let mut block_io = LinuxBlockIo::default();
            block_io.set_weight(Some(weight));
            resources.set_block_io(Some(block_io));
        }
        if let Some(limit) = self.pids_limit.filter(|limit| *limit != 0) {
            let mut pids = LinuxPids::default();
            pids.set_limit(limit);
            resources.set_pids(Some(pids));
        }
        Ok(resources)
    }
}

fn read(path: &Path) -> Result<LinuxResources, Error> {
    let mut json = Vec::new();
    let read = match path.as_os_str() == "-" {
        true => std::io::stdin().lock().read_to_end(&mut json),
        false => std::fs::File::open(path).and_then(|mut file| file.read_to_end(&mut json)),
    };
    read.map_err(|err| Error::File { operation: "open", path: path.to_owned(), err })?;
    let mut resources: LinuxResources =
        serde_json::from_slice(&json).map_err(|err| Error::Resources { path: path.to_owned(), err })?;
    // As with runc: somebody else, a device plugin for instance, may have changed the rules since the start.
    resources.set_devices(None);
    Ok(resources)
}

/// What follows from one value for another.
fn complete(resources: &mut LinuxResources) {
    if let Some(cpu) = resources.cpu_mut()
        && cpu.idle().is_some()
        && cpu.shares().is_none()
    {
        // An idle cgroup has no weight, and what it had before comes back by itself.
        cpu.set_shares(Some(0));
    }
}

/// An empty value is none, as with runc.
fn given(text: &Option<String>) -> Option<&str> {
    text.as_deref().filter(|text| !text.is_empty())
}

fn number<T: std::str::FromStr>(option: &'static str, text: &Option<String>) -> Result<Option<T>, Error> {
    let parse = |text: &str| text.parse().map_err(|_| Error::Value { option, value: text.to_owned() });
    given(text).map(parse).transpose()
}

fn bytes(option: &'static str, text: &Option<String>) -> Result<Option<i64>, Error> {
    let parse = |text: &str| parse_bytes(text).ok_or_else(|| Error::Value { option, value: text.to_owned() });
    given(text).map(parse).transpose()
}

/// "512m", "2GiB", "1.5 g": powers of 1024, whatever the unit's spelling; -1 is no limit.
pub(crate) fn parse_bytes(text: &str) -> Option<i64> {
    if text == "-1" {
        return Some(-1);
    }
    let end = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ')? + 1;
    let (number, unit) = text.split_at(end);
    let number: f64 = number.strip_suffix(' ').unwrap_or(number).parse().ok()?;
    let unit = unit.to_ascii_lowercase();
    let exponent = match unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(&unit) {
        "" if unit != "ib" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let bytes = number * 1024_f64.powi(exponent);
    #[expect(clippy::cast_possible_truncation, reason = "a fraction of a byte is nothing, and the range is looked at")]
    (0.0..9.2e18).contains(&bytes).then_some(bytes as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_docker_s() {
        for (text, bytes) in [
            ("32", 32),
            ("32b", 32),
            ("32k", 32 << 10),
            ("32KB", 32 << 10),
            ("32KiB", 32 << 10),
            ("1.5m", 3 << 19),
            ("2 g", 2 << 30),
            ("1t", 1 << 40),
            ("-1", -1),
            ("0", 0),
        ] {
            assert_eq!(parse_bytes(text), Some(bytes), "{text}");
        }
        for text in ["", "m", "-2", "1x", "1ib", "1kbb", "one", "1 mb b", "99999999p"] {
            assert_eq!(parse_bytes(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_not_given_is_not_changed() {
        let resources = Update::default().given().unwrap();
        assert_eq!(resources.cpu(), &Some(LinuxCpu::default()));
        assert_eq!(resources.memory(), &Some(LinuxMemory::default()));
        assert!(resources.devices().is_none() && resources.pids().is_none() && resources.block_io().is_none());
    }

    #[test]
    fn what_is_given_is_there() {
        let text = |text: &str| Some(text.to_owned());
        let update = Update {
            cpu_quota: text("-1"),
            cpu_idle: text("1"),
            memory: text("1m"),
            pids_limit: Some(7),
            ..Update::default()
        };
        let mut resources = update.given().unwrap();
        complete(&mut resources);
        let cpu = resources.cpu().clone().unwrap();
        assert_eq!((cpu.quota(), cpu.idle(), cpu.shares()), (Some(-1), Some(1), Some(0)));
        assert_eq!(resources.memory().as_ref().unwrap().limit(), Some(1 << 20));
        assert_eq!(resources.pids().as_ref().unwrap().limit(), 7);
        let bad = Update { cpu_period: text("fast"), ..Update::default() };
        assert_eq!(bad.given().unwrap_err().to_string(), "invalid value for cpu-period: \"fast\"");
    }
}
