//! What can go wrong with a cgroup.

use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;

use super::SystemdError;
use crate::{ErrorKind, Pid};

/// An operation on a container's cgroup failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Says enough by itself.
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    #[error("no cgroup filesystem is mounted (read {path})")]
    NotMounted { path: PathBuf },
    #[error("read {path}")]
    Read {
        path: PathBuf,
        #[source]
        err: Errno,
    },
    #[error("write {value:?} to {path}")]
    Write {
        path: PathBuf,
        value: String,
        #[source]
        err: Errno,
    },
    #[error("{path} has an unexpected line {line:?}")]
    Parse { path: PathBuf, line: String },
    #[error("make cgroup directory {path}")]
    Mkdir {
        path: PathBuf,
        #[source]
        err: Errno,
    },
    #[error("open cgroup directory {path}")]
    Open {
        path: PathBuf,
        #[source]
        err: Errno,
    },
    /// Words of runc's, here and in the next two.
    #[error("adding pid of a new process to cgroups: {path}")]
    Join {
        path: PathBuf,
        #[source]
        err: Errno,
    },
    #[error("unable to apply cgroup configuration: mkdir {path}")]
    NotPermitted {
        path: PathBuf,
        #[source]
        err: Errno,
    },
    #[error(
        "cannot set {limit}: container could not join or create cgroup: {value} is asked for, and rootless needs no \
         limits + no cgrouppath when no permission is granted for cgroups"
    )]
    NoLimit {
        limit: &'static str,
        value: String,
        #[source]
        err: Box<Error>,
    },
    #[error("the container has no cgroup, and {operation} needs one: its creator was not allowed to make any")]
    None { operation: &'static str },
    #[error(
        "unable to apply cgroup configuration: move a process from our own cgroup into {path}, which takes the right to \
         write the cgroup.procs above both"
    )]
    Move {
        path: PathBuf,
        #[source]
        err: Errno,
    },
    #[error("give {path} to user {uid}")]
    Own {
        path: PathBuf,
        uid: u32,
        #[source]
        err: Errno,
    },
    /// Begins as runc words it, as does the next.
    #[error("container's cgroup is not empty: {processes} process(es) found in {path}, use another cgroup path")]
    InUse { path: PathBuf, processes: usize },
    #[error("container's cgroup unexpectedly frozen: {path}")]
    Frozen { path: PathBuf },
    #[error("{limit} {value}: controller {controller} is not available in cgroup {version} at {path}")]
    MissingController { limit: &'static str, value: String, controller: String, version: &'static str, path: PathBuf },
    #[error(
        "enable controllers {controllers:?} below cgroup {path}: it has processes of its own, and cgroup v2 allows them \
         only in leaves; move them into a child cgroup first"
    )]
    InternalProcesses { path: PathBuf, controllers: String },
    /// As runc words it.
    #[error("bad sub cgroup path: {path} is not a sub cgroup path")]
    NotBelow { path: PathBuf },
    #[error("unknown controller {controller}")]
    UnknownController { controller: String },
    #[error("invalid configuration: the unified map has {key:?}, but this host has cgroup v1: unified needs cgroup v2")]
    UnifiedOnV1 { key: String },
    #[error("unified key {key:?} is not the name of a file in a cgroup")]
    UnifiedKey { key: String },
    #[error("{limit} {value}: {reason}")]
    Invalid { limit: &'static str, value: String, reason: &'static str },
    #[error("{limit} {value} of cgroup {path}")]
    Limit {
        limit: &'static str,
        value: String,
        path: PathBuf,
        #[source]
        err: Box<cgroups_rs::fs::error::Error>,
    },
    /// As runc words it.
    #[error("rejecting memory limit {limit} <= usage {usage} of cgroup {path}")]
    MemoryBelowUsage { limit: i64, usage: u64, path: PathBuf },
    #[error("device rule {rule:?}: {reason}")]
    DeviceRule { rule: String, reason: &'static str },
    #[error("{operation} the device program of cgroup {path}")]
    DeviceProgram {
        operation: &'static str,
        path: PathBuf,
        #[source]
        err: Errno,
    },
    #[error("wait for {path}")]
    Wait {
        path: PathBuf,
        #[source]
        err: Errno,
    },
    #[error("cgroup {path} is not {wanted} after {deadline:?}{}", rollback.as_ref().map(|_| ", and thawing it failed").unwrap_or_default())]
    FreezeTimeout {
        path: PathBuf,
        wanted: &'static str,
        deadline: Duration,
        /// Why the way back failed too.
        rollback: Option<Box<Error>>,
    },
    #[error("cgroup {path} still has {processes} processes after {deadline:?}")]
    KillTimeout { path: PathBuf, processes: usize, deadline: Duration },
    #[error("send signal {signal} to process {pid} of cgroup {path}")]
    Signal {
        pid: Pid,
        signal: i32,
        path: PathBuf,
        #[source]
        err: Errno,
    },
    #[error("watch {path} for OOM kills")]
    OomWatch {
        path: PathBuf,
        #[source]
        err: Errno,
    },
    #[error("remove cgroup directory {path}, {processes} processes are in it")]
    Remove {
        path: PathBuf,
        processes: usize,
        #[source]
        err: Errno,
    },
}

impl Error {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Systemd(err) => err.kind(),
            Self::NotMounted { .. }
            | Self::NotPermitted { .. }
            | Self::NoLimit { .. }
            | Self::None { .. }
            | Self::Move { .. }
            | Self::Join { .. }
            | Self::InUse { .. }
            | Self::Frozen { .. }
            | Self::InternalProcesses { .. }
            | Self::MemoryBelowUsage { .. } => ErrorKind::FailedPrecondition,
            Self::MissingController { .. } => ErrorKind::Unimplemented,
            Self::UnifiedOnV1 { .. }
            | Self::UnifiedKey { .. }
            | Self::NotBelow { .. }
            | Self::UnknownController { .. }
            | Self::Invalid { .. }
            | Self::DeviceRule { .. } => ErrorKind::InvalidArgument,
            // The kernel's word on a value of the spec.
            Self::Write { err: Errno::EINVAL | Errno::ERANGE, .. } => ErrorKind::InvalidArgument,
            Self::Limit { err, .. } if refused_value(err.as_ref()) => ErrorKind::InvalidArgument,
            Self::Read { .. }
            | Self::Write { .. }
            | Self::Parse { .. }
            | Self::Mkdir { .. }
            | Self::Own { .. }
            | Self::Open { .. }
            | Self::Limit { .. }
            | Self::DeviceProgram { .. }
            | Self::Wait { .. }
            | Self::FreezeTimeout { .. }
            | Self::KillTimeout { .. }
            | Self::Signal { .. }
            | Self::OomWatch { .. }
            | Self::Remove { .. } => ErrorKind::Internal,
        }
    }
}

fn refused_value(err: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(err), |err| err.source())
        .filter_map(|err| err.downcast_ref::<std::io::Error>()?.raw_os_error())
        .any(|errno| matches!(Errno::from_raw(errno), Errno::EINVAL | Errno::ERANGE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_learns_what_to_change() {
        let path = PathBuf::from("/sys/fs/cgroup/c");
        let write = |err| Error::Write { path: path.clone(), value: "x".into(), err };
        for (err, kind) in [
            (Error::InUse { path: path.clone(), processes: 1 }, ErrorKind::FailedPrecondition),
            (Error::InternalProcesses { path: path.clone(), controllers: "cpu".into() }, ErrorKind::FailedPrecondition),
            (Error::UnifiedKey { key: "../x".into() }, ErrorKind::InvalidArgument),
            (Error::DeviceRule { rule: "p".into(), reason: "no" }, ErrorKind::InvalidArgument),
            (write(Errno::EINVAL), ErrorKind::InvalidArgument),
            (write(Errno::EIO), ErrorKind::Internal),
        ] {
            assert_eq!(err.kind(), kind, "{err}");
        }
    }
}
