//! The processes: who traces them, in which namespaces they are, how much memory they have.

use std::collections::HashMap;
use std::fs;

use rustix::process::{getgid, getuid};
use rustix::thread::{CapabilitySet, capabilities};

use super::report::{Kind, Report};
use super::{Subject, mappings};
use crate::Pid;

/// Namespaces of which CRIU carries one for the whole tree. Mount and network namespaces may be several.
const SINGLE: [&str; 6] = ["pid", "user", "uts", "ipc", "cgroup", "time"];

/// What the later searches need of a process.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pub(super) pid: i32,
    pub(super) threads: u64,
    /// Bytes that are in no file, and so go into the images.
    pub(super) anonymous: u64,
    /// Its network namespace, as /proc/PID/ns names it.
    pub(super) network: String,
}

pub(super) fn read(subject: &Subject, pids: &[Pid], report: &mut Report) -> Vec<Process> {
    let own = namespaces("self");
    let root = namespaces(&subject.init.to_string());
    let user = (getuid().as_raw().into(), getgid().as_raw().into());
    let reads_limits = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_RESOURCE));
    let mut processes = Vec::with_capacity(pids.len());
    for pid in pids.iter().map(|pid| pid.as_raw()) {
        // Gone, or a zombie, which has none.
        let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { continue };
        let status = Status::parse(&status);
        if let Some(tracer) = status.tracer {
            let what = format!("it is traced by process {tracer}");
            let remedy = "end the debugger, or whatever traces it";
            report.refuse(Kind::Traced, Some(pid), what, "a process has one tracer, and CRIU has to be it", remedy);
        }
        let theirs = namespaces(&pid.to_string());
        // In a user namespace below its own CRIU has every capability.
        if !reads_limits && theirs.get("user") == own.get("user") && !status.is_of(user) {
            let why = "CRIU reads its limits, which takes CAP_SYS_RESOURCE, and that is missing here";
            let remedy = "give the container a user namespace, or rtc the capability";
            let what = "it is of another user".to_owned();
            report.refuse(Kind::Kernel, Some(pid), what, why, remedy);
        }
        check_namespaces(pid, &theirs, [&own, &root], report);
        let shares_ipc = theirs.contains_key("ipc") && theirs.get("ipc") == own.get("ipc");
        mappings::check(subject, pid, shares_ipc, report);
        processes.push(Process {
            pid,
            threads: status.threads,
            anonymous: status.anonymous,
            network: theirs.get("net").cloned().unwrap_or_default(),
        });
    }
    processes
}

fn namespaces(process: &str) -> HashMap<&'static str, String> {
    let link = |kind: &'static str| {
        let link = fs::read_link(format!("/proc/{process}/ns/{kind}")).ok()?;
        Some((kind, link.to_string_lossy().into_owned()))
    };
    SINGLE.into_iter().chain(["net"]).filter_map(link).collect()
}

/// A process may be in the root's namespaces, and in CRIU's own, which it does not carry.
fn check_namespaces(
    pid: i32,
    theirs: &HashMap<&'static str, String>,
    [own, root]: [&HashMap<&'static str, String>; 2],
    report: &mut Report,
) {
    for kind in SINGLE {
        let Some(link) = theirs.get(kind) else { continue };
        let Some(of_root) = root.get(kind) else { continue };
        if link != of_root && Some(link) != own.get(kind) {
            let what = format!("it is in a {kind} namespace of its own");
            let why = "CRIU carries one such namespace for the whole container";
            let remedy = "end what runs in a container or sandbox inside the container";
            report.refuse(Kind::Namespace, Some(pid), what, why, remedy);
        }
    }
}

/// Of proc_pid_status(5).
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) tracer: Option<i32>,
    pub(super) threads: u64,
    /// Bytes.
    pub(super) anonymous: u64,
    /// Real, effective, saved.
    pub(super) users: [u64; 3],
    pub(super) groups: [u64; 3],
}

impl Status {
    /// All of it is a user's, by whom the kernel lets prlimit(2) look at it.
    pub(super) fn is_of(&self, (user, group): (u64, u64)) -> bool {
        self.users == [user; 3] && self.groups == [group; 3]
    }

    pub(super) fn parse(text: &str) -> Self {
        let mut status = Self::default();
        let number = |value: &str| value.split_ascii_whitespace().next().and_then(|number| number.parse::<u64>().ok());
        let ids = |value: &str| {
            let mut ids = value.split_ascii_whitespace().map(|id| id.parse().unwrap_or(u64::MAX));
            [(); 3].map(|()| ids.next().unwrap_or(u64::MAX))
        };
        for (name, value) in text.lines().filter_map(|line| line.split_once(':')) {
            match name {
                // 0 for none, and also for one that is outside of our pid namespace.
                "TracerPid" => status.tracer = value.trim().parse().ok().filter(|&pid| pid != 0),
                "Threads" => status.threads = number(value).unwrap_or_default(),
                "Uid" => status.users = ids(value),
                "Gid" => status.groups = ids(value),
                "RssAnon" => status.anonymous = number(value).unwrap_or_default() * 1024,
                _ => {}
            }
        }
        status
    }
}
