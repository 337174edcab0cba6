//! Resource limits (getrlimit(2)).

use oci_spec::runtime::{PosixRlimit, PosixRlimitType};
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde::{Deserialize, Serialize};

/// One limit; `u64::MAX` is unlimited.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Limit {
    kind: PosixRlimitType,
    soft: u64,
    hard: u64,
}

#[derive(Debug, thiserror::Error)]
#[error("set {kind} to soft {soft}, hard {hard}")]
pub(crate) struct Error {
    kind: PosixRlimitType,
    soft: u64,
    hard: u64,
    #[source]
    err: Errno,
}

impl From<&PosixRlimit> for Limit {
    fn from(spec: &PosixRlimit) -> Self {
        Self { kind: spec.typ(), soft: spec.soft(), hard: spec.hard() }
    }
}

/// Sets the limits of a process, or of the caller. A hard limit that only CAP_SYS_RESOURCE may raise stays where it is, and
/// a warning says so.
pub(crate) fn apply(pid: Option<Pid>, limits: &[Limit], warnings: &mut Vec<String>) -> Result<(), Error> {
    for limit in limits {
        let fail = |err| Error { kind: limit.kind, soft: limit.soft, hard: limit.hard, err };
        match set(pid, limit.kind, limit.soft, limit.hard) {
            Ok(()) => {}
            Err(Errno::PERM) => {
                // Inherited, so the caller's is the process's own.
                let hard = getrlimit(resource(limit.kind)).maximum.unwrap_or(u64::MAX).min(limit.hard);
                let soft = limit.soft.min(hard);
                set(pid, limit.kind, soft, hard).map_err(fail)?;
                warnings.push(format!(
                    "{} is {soft}, not {}, and its hard limit {hard}, not {}: raising it needs CAP_SYS_RESOURCE",
                    limit.kind, limit.soft, limit.hard
                ));
            }
            Err(err) => return Err(fail(err)),
        }
    }
    Ok(())
}

fn set(pid: Option<Pid>, kind: PosixRlimitType, soft: u64, hard: u64) -> Result<(), Errno> {
    let number = |value: u64| (value != u64::MAX).then_some(value);
    prlimit(pid, resource(kind), Rlimit { current: number(soft), maximum: number(hard) }).map(drop)
}

fn resource(kind: PosixRlimitType) -> Resource {
    match kind {
        PosixRlimitType::RlimitCpu => Resource::Cpu,
        PosixRlimitType::RlimitFsize => Resource::Fsize,
        PosixRlimitType::RlimitData => Resource::Data,
        PosixRlimitType::RlimitStack => Resource::Stack,
        PosixRlimitType::RlimitCore => Resource::Core,
        PosixRlimitType::RlimitRss => Resource::Rss,
        PosixRlimitType::RlimitNproc => Resource::Nproc,
        PosixRlimitType::RlimitNofile => Resource::Nofile,
        PosixRlimitType::RlimitMemlock => Resource::Memlock,
        PosixRlimitType::RlimitAs => Resource::As,
        PosixRlimitType::RlimitLocks => Resource::Locks,
        PosixRlimitType::RlimitSigpending => Resource::Sigpending,
        PosixRlimitType::RlimitMsgqueue => Resource::Msgqueue,
        PosixRlimitType::RlimitNice => Resource::Nice,
        PosixRlimitType::RlimitRtprio => Resource::Rtprio,
        PosixRlimitType::RlimitRttime => Resource::Rttime,
    }
}
