//! What the kernel's schedulers and its allocator of memory are told of the process, and its personality.

use oci_spec::runtime::{
    IOPriorityClass, LinuxIOPriority, LinuxMemoryPolicy, LinuxPersonalityDomain, LinuxSchedulerFlag as Flag,
    LinuxSchedulerPolicy as Policy, MemoryPolicyFlagType as MemoryFlag, MemoryPolicyModeType as MemoryMode, Scheduler,
};
use rustix::io::Errno;
use rustix::thread::CpuSet;
use serde::{Deserialize, Serialize};

use crate::ErrorKind;
use crate::sys::schedule::{Attributes, set_attributes, set_io_priority, set_memory_policy, set_personality};

/// linux/personality.h
const PER_LINUX: u32 = 0;
const PER_LINUX32: u32 = 8;

/// As the spec has it; a further process takes from the container what its own does not say.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Schedule {
    pub(crate) scheduler: Option<Scheduler>,
    pub(crate) io_priority: Option<LinuxIOPriority>,
    pub(crate) personality: Option<LinuxPersonalityDomain>,
    /// "0-3,7". The final list of the spec's two.
    pub(crate) cpus: Option<String>,
    /// The initial one, with which the process comes into being ([`with_affinity`]); it stays where there is no final one.
    #[serde(default)]
    pub(crate) initial_cpus: Option<String>,
    #[serde(default)]
    pub(crate) memory: Option<LinuxMemoryPolicy>,
    /// The container has CPUs of its own, with which the kernel refuses SCHED_DEADLINE.
    #[serde(default)]
    pub(crate) cpuset: bool,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum Error {
    #[error("set process.scheduler {policy}")]
    Scheduler {
        policy: Policy,
        #[source]
        err: Errno,
    },
    /// In runc's words.
    #[error("process scheduler can't be used together with AllowedCPUs (linux.resources.cpu.cpus): {policy}")]
    Cpuset {
        policy: Policy,
        #[source]
        err: Errno,
    },
    #[error("set process.ioPriority {class} {priority}")]
    IoPriority {
        class: IOPriorityClass,
        priority: i64,
        #[source]
        err: Errno,
    },
    #[error("set linux.personality {domain}")]
    Personality {
        domain: LinuxPersonalityDomain,
        #[source]
        err: Errno,
    },
    #[error("process.execCPUAffinity {0:?} is no list of CPUs")]
    Cpus(String),
    #[error("linux.memoryPolicy nodes {0:?} are no list of nodes")]
    Nodes(String),
    #[error("set linux.memoryPolicy {mode} of nodes {nodes:?}")]
    MemoryPolicy {
        mode: MemoryMode,
        nodes: String,
        #[source]
        err: Errno,
    },
    #[error("set process.execCPUAffinity {cpus:?}")]
    Affinity {
        cpus: String,
        #[source]
        err: Errno,
    },
}

impl Error {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Cpus(_) | Self::Nodes(_) => ErrorKind::InvalidArgument,
            Self::MemoryPolicy { err: Errno::NOSYS, .. } => ErrorKind::Unimplemented,
            Self::Scheduler { err, .. }
            | Self::Cpuset { err, .. }
            | Self::IoPriority { err, .. }
            | Self::Personality { err, .. }
            | Self::MemoryPolicy { err, .. }
            | Self::Affinity { err, .. } => match *err {
                Errno::INVAL => ErrorKind::InvalidArgument,
                // Realtime classes need CAP_SYS_NICE or CAP_SYS_ADMIN of the host.
                Errno::PERM => ErrorKind::FailedPrecondition,
                _ => ErrorKind::Internal,
            },
        }
    }
}

/// With the runtime's rights, and before a seccomp filter that allows none of these calls.
pub(super) fn apply(schedule: &Schedule) -> Result<(), Error> {
    match &schedule.cpus {
        Some(cpus) => {
            let set = cpu_set(cpus).ok_or_else(|| Error::Cpus(cpus.clone()))?;
            rustix::thread::sched_setaffinity(None, &set).map_err(|err| Error::Affinity { cpus: cpus.clone(), err })?;
        }
        None if schedule.initial_cpus.is_some() => {}
        // The caller's must not stay: the container has all CPUs of its cpuset, which the kernel cuts this down to. One that
        // may not even do that keeps what it has.
        None => drop(rustix::thread::sched_setaffinity(None, &every_cpu())),
    }
    if let Some(scheduler) = &schedule.scheduler {
        let failed = |err| match err {
            Errno::PERM if schedule.cpuset => Error::Cpuset { policy: *scheduler.policy(), err },
            err => Error::Scheduler { policy: *scheduler.policy(), err },
        };
        attributes(scheduler).and_then(set_attributes).map_err(failed)?;
    }
    if let Some(io) = &schedule.io_priority {
        let (class, priority) = (io.class(), io.priority());
        let failed = |err| Error::IoPriority { class, priority, err };
        let number = u32::try_from(priority).map_err(|_| failed(Errno::INVAL))?;
        set_io_priority(io_class(class), number).map_err(failed)?;
    }
    if let Some(domain) = schedule.personality {
        set_personality(personality(domain)).map_err(|err| Error::Personality { domain, err })?;
    }
    if let Some(policy) = &schedule.memory {
        apply_memory_policy(policy)?;
    }
    Ok(())
}

/// Makes a process with the spec's initial CPUs, which it inherits from this thread: it has them before it joins cgroups of
/// v1, as with runc. With v2 it is born in its cgroup, and the kernel cuts them down to the cgroup's.
pub(crate) fn with_affinity<T>(schedule: &Schedule, make: impl FnOnce() -> T) -> Result<T, Error> {
    let Some(cpus) = &schedule.initial_cpus else { return Ok(make()) };
    let failed = |err| Error::Affinity { cpus: cpus.clone(), err };
    let set = cpu_set(cpus).ok_or_else(|| Error::Cpus(cpus.clone()))?;
    let ours = rustix::thread::sched_getaffinity(None).map_err(failed)?;
    rustix::thread::sched_setaffinity(None, &set).map_err(failed)?;
    let made = make();
    rustix::thread::sched_setaffinity(None, &ours).map_err(failed)?;
    Ok(made)
}

fn every_cpu() -> CpuSet {
    let mut set = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|cpu| set.set(cpu));
    set
}

fn apply_memory_policy(policy: &LinuxMemoryPolicy) -> Result<(), Error> {
    let nodes = policy.nodes().clone().unwrap_or_default();
    let mask = node_mask(&nodes).ok_or_else(|| Error::Nodes(nodes.clone()))?;
    let mode = policy.flags().iter().flatten().fold(memory_mode(policy.mode()), |mode, flag| mode | memory_flag(*flag));
    let failed = |err| Error::MemoryPolicy { mode: policy.mode(), nodes, err };
    set_memory_policy(mode, &mask).map_err(failed)
}

/// linux/mempolicy.h
fn memory_mode(mode: MemoryMode) -> i32 {
    match mode {
        MemoryMode::MpolDefault => 0,
        MemoryMode::MpolPreferred => 1,
        MemoryMode::MpolBind => 2,
        MemoryMode::MpolInterleave => 3,
        MemoryMode::MpolLocal => 4,
        MemoryMode::MpolPreferredMany => 5,
        MemoryMode::MpolWeightedInterleave => 6,
    }
}

/// linux/mempolicy.h
fn memory_flag(flag: MemoryFlag) -> i32 {
    match flag {
        MemoryFlag::MpolFStaticNodes => 1 << 15,
        MemoryFlag::MpolFRelativeNodes => 1 << 14,
        MemoryFlag::MpolFNumaBalancing => 1 << 13,
    }
}

/// More than any kernel has (CONFIG_NODES_SHIFT is at most 10).
const MAX_NODE: usize = 1023;

/// As few words as hold the highest node; none for an empty list.
pub(super) fn node_mask(list: &str) -> Option<Vec<u64>> {
    let mut mask = Vec::new();
    if list.is_empty() {
        return Some(mask);
    }
    for node in ranges(list, MAX_NODE)?.into_iter().flatten() {
        let word = node / u64::BITS as usize;
        if mask.len() <= word {
            mask.resize(word + 1, 0);
        }
        mask[word] |= 1u64 << (node % u64::BITS as usize);
    }
    Some(mask)
}

fn attributes(scheduler: &Scheduler) -> Result<Attributes, Errno> {
    let priority = scheduler.priority().unwrap_or(0);
    Ok(Attributes {
        policy: policy(*scheduler.policy()),
        flags: scheduler.flags().iter().flatten().fold(0, |flags, one| flags | flag(*one)),
        nice: scheduler.nice().unwrap_or(0),
        priority: u32::try_from(priority).map_err(|_| Errno::INVAL)?,
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
        ..Attributes::default()
    })
}

/// linux/sched.h
fn policy(policy: Policy) -> u32 {
    match policy {
        Policy::SchedOther => 0,
        Policy::SchedFifo => 1,
        Policy::SchedRr => 2,
        Policy::SchedBatch => 3,
        Policy::SchedIso => 4,
        Policy::SchedIdle => 5,
        Policy::SchedDeadline => 6,
    }
}

/// linux/sched.h
fn flag(flag: Flag) -> u64 {
    match flag {
        Flag::SchedResetOnFork => 0x01,
        Flag::SchedFlagReclaim => 0x02,
        Flag::SchedFlagDLOverrun => 0x04,
        Flag::SchedFlagKeepPolicy => 0x08,
        Flag::SchedFlagKeepParams => 0x10,
        Flag::SchedFlagUtilClampMin => 0x20,
        Flag::SchedFlagUtilClampMax => 0x40,
    }
}

/// linux/ioprio.h
fn io_class(class: IOPriorityClass) -> u32 {
    match class {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    }
}

fn personality(domain: LinuxPersonalityDomain) -> u32 {
    match domain {
        LinuxPersonalityDomain::PerLinux => PER_LINUX,
        LinuxPersonalityDomain::PerLinux32 => PER_LINUX32,
    }
}

/// `None` if it is no list, or names a CPU that no kernel has.
pub(crate) fn cpu_set(list: &str) -> Option<CpuSet> {
    let mut set = CpuSet::new();
    ranges(list, CpuSet::MAX_CPU - 1)?.into_iter().flatten().for_each(|cpu| set.set(cpu));
    Some(set)
}

/// Of "0-3,7". `None` if it is no list, or has a number above `most`.
fn ranges(list: &str, most: usize) -> Option<Vec<std::ops::RangeInclusive<usize>>> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (first <= last && last <= most).then_some(first..=last)
    };
    list.split(',').map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus() {
        let cpus = |list| cpu_set(list).map(|set| (0..16).filter(|cpu| set.is_set(*cpu)).collect::<Vec<_>>());
        assert_eq!(cpus("0-2,7"), Some(vec![0, 1, 2, 7]));
        assert_eq!(cpus("5"), Some(vec![5]));
        for wrong in ["", "a", "3-1", "1-", "0,,2", "99999999"] {
            assert_eq!(cpus(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn lists_of_nodes_become_a_mask() {
        assert_eq!(node_mask(""), Some(vec![]));
        assert_eq!(node_mask("0,2-3"), Some(vec![0b1101]));
        assert_eq!(node_mask("64"), Some(vec![0, 1]));
        assert_eq!(node_mask("1024"), None);
        assert_eq!(node_mask("x"), None);
    }

    #[test]
    fn a_scheduler_in_the_kernels_numbers() {
        let scheduler: Scheduler = serde_json::from_str(
            r#"{"policy": "SCHED_BATCH", "nice": 5, "flags": ["SCHED_RESET_ON_FORK", "SCHED_FLAG_KEEP_PARAMS"]}"#,
        )
        .unwrap();
        let expected = Attributes { policy: 3, nice: 5, flags: 0x11, ..Attributes::default() };
        assert_eq!(attributes(&scheduler), Ok(expected));
    }
}
