//! The namespaces of a spec: which are made, which are joined, and who does either.

use std::fmt::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use libc::{
    CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWTIME, CLONE_NEWUSER, CLONE_NEWUTS,
    c_int,
};
use oci_spec::runtime::{Linux, LinuxNamespaceType, Spec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::spec::given_path;
use crate::{ContainerId, Error, Pid, Result};

#[derive(Debug, Default)]
pub(super) struct Namespaces {
    /// CLONE_NEW* to make at clone3.
    pub(super) new: u64,
    /// To join before exec, all but the mount namespace.
    joins: Vec<(OwnedFd, c_int)>,
    /// Joined by the init itself: a dynamically linked binary must still find its libraries at its exec.
    pub(super) mount: Option<OwnedFd>,
    pub(super) new_cgroup: bool,
    /// `timens_offsets` of a new time namespace.
    pub(super) time_offsets: Option<Vec<u8>>,
    /// The caller's pid namespace or another's: processes are not ended with the init.
    pub(super) shared_pid: bool,
}

impl Namespaces {
    /// Opens the namespaces to join, and checks that they are what the spec says.
    pub(super) fn new(id: &ContainerId, spec: &Spec) -> Result<Self> {
        let mut this = Self { shared_pid: true, ..Self::default() };
        let Some(linux) = spec.linux() else { return Ok(this) };
        for namespace in linux.namespaces().iter().flatten() {
            let flag = flag(namespace.typ());
            let Some(path) = given_path(namespace.path()) else {
                this.make(flag, linux);
                continue;
            };
            let kind = name(flag);
            let fd =
                open(path, flag).map_err(|err| Error::Namespace { id: id.clone(), kind, path: path.into(), err })?;
            match flag {
                CLONE_NEWNS => this.mount = Some(fd),
                // The kernel refuses to join the user namespace that one is in.
                CLONE_NEWUSER if same(fd.as_fd(), "/proc/self/ns/user") => {}
                _ => this.joins.push((fd, flag)),
            }
        }
        Ok(this)
    }

    fn make(&mut self, flag: c_int, linux: &Linux) {
        match flag {
            CLONE_NEWCGROUP => self.new_cgroup = true,
            CLONE_NEWTIME => self.time_offsets = Some(offsets(linux)),
            _ => self.new |= flag as u64,
        }
        if flag == CLONE_NEWPID {
            self.shared_pid = false;
        }
    }

    /// Of a running process, those that are not the caller's own. The pidfd joins them all without a race for the pid.
    pub(super) fn of(pid: Pid, pidfd: BorrowedFd<'_>) -> Result<Self, Errno> {
        let mut kinds = 0;
        for flag in [
            CLONE_NEWUSER,
            CLONE_NEWIPC,
            CLONE_NEWUTS,
            CLONE_NEWNET,
            CLONE_NEWPID,
            CLONE_NEWCGROUP,
            CLONE_NEWTIME,
            CLONE_NEWNS,
        ] {
            let file = file(flag);
            let theirs = rustix::fs::stat(format!("/proc/{pid}/ns/{file}"))?;
            let ours = rustix::fs::stat(format!("/proc/self/ns/{file}"))?;
            if (theirs.st_dev, theirs.st_ino) != (ours.st_dev, ours.st_ino) {
                kinds |= flag;
            }
        }
        let mut this = Self::default();
        for flag in
            [CLONE_NEWIPC, CLONE_NEWUTS, CLONE_NEWNET, CLONE_NEWCGROUP, CLONE_NEWTIME, CLONE_NEWPID, CLONE_NEWUSER]
        {
            if kinds & flag != 0 {
                this.joins.push((pidfd.try_clone_to_owned().map_err(|_| Errno::MFILE)?, flag));
            }
        }
        if kinds & CLONE_NEWNS != 0 {
            this.mount = Some(pidfd.try_clone_to_owned().map_err(|_| Errno::MFILE)?);
        }
        Ok(this)
    }

    pub(super) fn joins(&self) -> Vec<(BorrowedFd<'_>, c_int)> {
        self.joins.iter().map(|(fd, flag)| (fd.as_fd(), *flag)).collect()
    }

    fn joins_kind(&self, flag: c_int) -> bool {
        self.joined(flag).is_some()
    }

    /// The namespace of this kind that is joined by a path of the spec.
    pub(super) fn joined(&self, flag: c_int) -> Option<BorrowedFd<'_>> {
        self.joins.iter().find(|(_, joined)| *joined == flag).map(|(fd, _)| fd.as_fd())
    }

    pub(super) fn makes(&self, flag: c_int) -> bool {
        self.new & flag as u64 != 0
    }

    /// The container's network is not the caller's: made for it, or a pod's, which it joins by a path.
    pub(super) fn network(&self) -> bool {
        let host = |fd: &OwnedFd| same(fd.as_fd(), "/proc/self/ns/net");
        let joined = |(fd, flag): &(OwnedFd, c_int)| *flag == CLONE_NEWNET && !host(fd);
        self.makes(CLONE_NEWNET) || self.joins.iter().any(joined)
    }

    /// The container's processes are in a user namespace that is not the caller's.
    pub(super) fn user(&self) -> bool {
        self.makes(CLONE_NEWUSER) || self.joins_user()
    }

    pub(super) fn joins_user(&self) -> bool {
        self.joins_kind(CLONE_NEWUSER)
    }

    /// See [`crate::sys::clone`].
    pub(super) fn need_middle(&self) -> bool {
        self.joins_kind(CLONE_NEWPID)
            || self.joins_kind(CLONE_NEWUSER)
            || self.time_offsets.is_some()
            || self.makes(CLONE_NEWUSER) && !self.joins.is_empty()
    }
}

fn open(path: &Path, flag: c_int) -> Result<OwnedFd, Errno> {
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    match crate::sys::namespace::kind(fd.as_fd()) {
        Ok(kind) if kind == flag => Ok(fd),
        Ok(_) | Err(Errno::NOTTY) => Err(Errno::INVAL),
        Err(err) => Err(err),
    }
}

fn same(fd: BorrowedFd<'_>, path: &str) -> bool {
    match (rustix::fs::fstat(fd), rustix::fs::stat(path)) {
        (Ok(a), Ok(b)) => (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino),
        _ => false,
    }
}

/// `CLOCK SECONDS NANOSECONDS` a line (time_namespaces(7)).
fn offsets(linux: &Linux) -> Vec<u8> {
    let mut text = String::new();
    for (clock, offset) in linux.time_offsets().iter().flatten() {
        // To a string it cannot fail.
        writeln!(text, "{clock} {} {}", offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0)).ok();
    }
    text.into_bytes()
}

fn flag(kind: LinuxNamespaceType) -> c_int {
    match kind {
        LinuxNamespaceType::Mount => CLONE_NEWNS,
        LinuxNamespaceType::Cgroup => CLONE_NEWCGROUP,
        LinuxNamespaceType::Uts => CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => CLONE_NEWIPC,
        LinuxNamespaceType::User => CLONE_NEWUSER,
        LinuxNamespaceType::Pid => CLONE_NEWPID,
        LinuxNamespaceType::Network => CLONE_NEWNET,
        LinuxNamespaceType::Time => CLONE_NEWTIME,
    }
}

/// The file below /proc/PID/ns.
fn file(flag: c_int) -> &'static str {
    match flag {
        CLONE_NEWNS => "mnt",
        CLONE_NEWNET => "net",
        other => name(other),
    }
}

/// As the runtime specification has it.
fn name(flag: c_int) -> &'static str {
    match flag {
        CLONE_NEWNS => "mount",
        CLONE_NEWCGROUP => "cgroup",
        CLONE_NEWUTS => "uts",
        CLONE_NEWIPC => "ipc",
        CLONE_NEWUSER => "user",
        CLONE_NEWPID => "pid",
        CLONE_NEWNET => "network",
        _ => "time",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_of_another_kind_is_refused() {
        open(Path::new("/proc/self/ns/net"), CLONE_NEWNET).unwrap();
        assert_eq!(open(Path::new("/proc/self/ns/net"), CLONE_NEWUTS).unwrap_err(), Errno::INVAL);
        assert_eq!(open(Path::new("/dev/null"), CLONE_NEWNET).unwrap_err(), Errno::INVAL);
    }

    #[test]
    fn the_hosts_network_by_its_path_is_the_hosts() {
        let own = open(Path::new("/proc/self/ns/net"), CLONE_NEWNET).unwrap();
        let joined = Namespaces { joins: vec![(own, CLONE_NEWNET)], ..Namespaces::default() };
        assert!(!joined.network());
        assert!(Namespaces { new: CLONE_NEWNET as u64, ..Namespaces::default() }.network());
    }

    #[test]
    fn our_own_namespaces_are_not_joined() {
        let pid = Pid::new(std::process::id() as i32).unwrap();
        let raw = rustix::process::Pid::from_raw(pid.as_raw()).unwrap();
        let pidfd = rustix::process::pidfd_open(raw, rustix::process::PidfdFlags::empty()).unwrap();
        let none = Namespaces::of(pid, pidfd.as_fd()).unwrap();
        assert!(none.joins.is_empty() && none.mount.is_none() && !none.need_middle());
    }
}
