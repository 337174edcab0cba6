//! What the kernel's schedulers are told of the process, and its personality.

use oci_spec::runtime::{
    IOPriorityClass, LinuxIOPriority, LinuxPersonalityDomain, LinuxSchedulerFlag as Flag,
    LinuxSchedulerPolicy as Policy, Scheduler,
};
use rustix::io::Errno;
use rustix::thread::CpuSet;
use serde::{Deserialize, Serialize};

use crate::ErrorKind;
use crate::sys::schedule::{Attributes, set_attributes, set_io_priority, set_personality};

/// linux/personality.h
const PER_LINUX: u32 = 0;
const PER_LINUX32: u32 = 8;

/// As the spec has it; a further process takes from the container what its own does not say.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Schedule {
    pub(crate) scheduler: Option<Scheduler>,
    pub(crate) io_priority: Option<LinuxIOPriority>,
    pub(crate) personality: Option<LinuxPersonalityDomain>,
    /// "0-3,7". Of the spec's two lists the final one: the process is born in its cgroup, so that there is no time before
    /// for the initial one.
    pub(crate) cpus: Option<String>,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum Error {
    #[error("set process.scheduler {policy}")]
    Scheduler {
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
    #[error("set process.execCPUAffinity {cpus:?}")]
    Affinity {
        cpus: String,
        #[source]
        err: Errno,
    },
}

impl Error {
    pub(super) fn kind(&self) -> ErrorKind {
        match self {
            Self::Cpus(_) => ErrorKind::InvalidArgument,
            Self::Scheduler { err, .. }
            | Self::IoPriority { err, .. }
            | Self::Personality { err, .. }
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
    if let Some(cpus) = &schedule.cpus {
        let set = cpu_set(cpus).ok_or_else(|| Error::Cpus(cpus.clone()))?;
        rustix::thread::sched_setaffinity(None, &set).map_err(|err| Error::Affinity { cpus: cpus.clone(), err })?;
    }
    if let Some(scheduler) = &schedule.scheduler {
        let failed = |err| Error::Scheduler { policy: *scheduler.policy(), err };
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
    Ok(())
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
fn cpu_set(list: &str) -> Option<CpuSet> {
    let mut set = CpuSet::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.trim().parse::<usize>().ok()?, last.trim().parse::<usize>().ok()?);
        if first > last || last >= CpuSet::MAX_CPU {
            return None;
        }
        (first..=last).for_each(|cpu| set.set(cpu));
    }
    Some(set)
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
    fn a_scheduler_in_the_kernels_numbers() {
        let scheduler: Scheduler = serde_json::from_str(
            r#"{"policy": "SCHED_BATCH", "nice": 5, "flags": ["SCHED_RESET_ON_FORK", "SCHED_FLAG_KEEP_PARAMS"]}"#,
        )
        .unwrap();
        let expected = Attributes { policy: 3, nice: 5, flags: 0x11, ..Attributes::default() };
        assert_eq!(attributes(&scheduler), Ok(expected));
    }
}
