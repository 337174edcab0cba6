//! What a cgroup tells beyond containerd's metrics messages, and runc's `events` prints.

use std::collections::BTreeMap;
use std::path::Path;

use super::file::{self, parse_error, parse_u64, read_pairs, read_u64};
use super::{Dir, Error};

/// Empty where a file is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// `memory.stat`, whatever this kernel has in it.
    pub memory: BTreeMap<String, u64>,
    /// v1 alone.
    pub cpuset: Option<Cpuset>,
    /// Nanoseconds in the kernel, one for each cpu; v1 alone.
    pub per_cpu_kernel: Vec<u64>,
    /// Nanoseconds in user space, one for each cpu; v1 alone.
    pub per_cpu_user: Vec<u64>,
}

/// The files of v1's cpuset; the fields have their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpuset {
    pub cpus: Vec<u16>,
    pub cpu_exclusive: u64,
    pub mems: Vec<u16>,
    pub mem_hardwall: u64,
    pub mem_exclusive: u64,
    pub memory_migrate: u64,
    pub memory_spread_page: u64,
    pub memory_spread_slab: u64,
    pub memory_pressure: u64,
    pub sched_load_balance: u64,
    /// -1 is the kernel's default.
    pub sched_relax_domain_level: i64,
}

impl Details {
    pub(super) fn v1(dirs: &[Dir]) -> Result<Self, Error> {
        let find = |name: &str| dirs.iter().find(|dir| dir.has(name)).map(|dir| dir.path.as_path());
        let mut details = Self::default();
        if let Some(dir) = find("memory") {
            details.memory = read_memory(dir)?;
        }
        if let Some(dir) = find("cpuset") {
            details.cpuset = Some(Cpuset::read(dir)?);
        }
        if let Some(dir) = find("cpuacct") {
            details.read_cpus(&dir.join("cpuacct.usage_all"))?;
        }
        Ok(details)
    }

    pub(super) fn v2(dir: &Path) -> Result<Self, Error> {
        Ok(Self { memory: read_memory(dir)?, ..Self::default() })
    }

    /// "cpu user system", and a line of three numbers for each.
    fn read_cpus(&mut self, path: &Path) -> Result<(), Error> {
        let text = file::read(path)?.unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [_, user, system] = fields[..] else { return Err(parse_error(path, line)) };
            self.per_cpu_user.push(parse_u64(path, user)?);
            self.per_cpu_kernel.push(parse_u64(path, system)?);
        }
        Ok(())
    }
}

fn read_memory(dir: &Path) -> Result<BTreeMap<String, u64>, Error> {
    Ok(read_pairs(&dir.join("memory.stat"))?.into_iter().flatten().collect())
}

impl Cpuset {
    fn read(dir: &Path) -> Result<Self, Error> {
        let path = |name: &str| dir.join(format!("cpuset.{name}"));
        let number = |name: &str| Ok::<_, Error>(read_u64(&path(name))?.unwrap_or(0));
        let level = path("sched_relax_domain_level");
        let relax = file::read(&level)?.unwrap_or_default();
        Ok(Self {
            cpus: read_list(&path("cpus"))?,
            cpu_exclusive: number("cpu_exclusive")?,
            mems: read_list(&path("mems"))?,
            mem_hardwall: number("mem_hardwall")?,
            mem_exclusive: number("mem_exclusive")?,
            memory_migrate: number("memory_migrate")?,
            memory_spread_page: number("memory_spread_page")?,
            memory_spread_slab: number("memory_spread_slab")?,
            memory_pressure: number("memory_pressure")?,
            sched_load_balance: number("sched_load_balance")?,
            sched_relax_domain_level: match relax.trim() {
                "" => 0,
                text => text.parse().map_err(|_| parse_error(&level, text))?,
            },
        })
    }
}

fn read_list(path: &Path) -> Result<Vec<u16>, Error> {
    let text = file::read(path)?.unwrap_or_default();
    parse_list(text.trim()).ok_or_else(|| parse_error(path, &text))
}

/// "0-2,7", as in cpuset(7).
pub(super) fn parse_list(text: &str) -> Option<Vec<u16>> {
    let mut numbers = Vec::new();
    for range in text.split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        numbers.extend(first.parse::<u16>().ok()?..=last.parse().ok()?);
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists() {
        assert_eq!(parse_list("0-2,7"), Some(vec![0, 1, 2, 7]));
        assert_eq!(parse_list(""), Some(Vec::new()));
        assert_eq!(parse_list("a"), None);
        assert_eq!(parse_list("1-70000"), None);
    }

    #[test]
    fn a_directory_of_v1() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write("memory.stat", "cache 4096\ntotal_rss 7\n");
        write("cpuset.cpus", "0-1\n");
        write("cpuset.sched_relax_domain_level", "-1\n");
        write("cpuacct.usage_all", "cpu user system\n0 5 6\n1 7 8\n");
        let controllers = ["memory", "cpuset", "cpuacct"].map(str::to_owned).to_vec();
        let all = [Dir { controllers, mount: dir.path().to_owned(), path: dir.path().to_owned() }];
        let details = Details::v1(&all).unwrap();
        assert_eq!(details.memory["total_rss"], 7);
        let cpuset = details.cpuset.unwrap();
        assert_eq!((cpuset.cpus, cpuset.sched_relax_domain_level), (vec![0, 1], -1));
        assert_eq!((details.per_cpu_user, details.per_cpu_kernel), (vec![5, 7], vec![6, 8]));
    }
}
