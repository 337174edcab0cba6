//! sysctl: checked in the caller, written through a procfs that no image can have touched.

use std::os::fd::OwnedFd;
use std::path::Path;

use oci_spec::runtime::{Linux, LinuxNamespaceType};
use rustix::fs::{self, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use serde::{Deserialize, Serialize};

use super::error::{Error, step};
use super::mount::is_procfs;
use super::tree::{DIRECTORY, resolve};
use super::{Plan, filesystem};

/// Below /proc/sys, with slashes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Setting {
    path: String,
    value: String,
}

const IPC: [&str; 8] = [
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
    "kernel/shm_rmid_forced",
];

/// Refuses every sysctl that is not the container's own, in name order so that the first error is always the same.
pub(super) fn plan(
    linux: &Linux,
    own_network: bool,
    has_namespace: &dyn Fn(LinuxNamespaceType) -> bool,
) -> Result<Vec<Setting>, Error> {
    let mut settings = Vec::new();
    for (key, value) in linux.sysctl().iter().flatten() {
        let path = to_path(key);
        if let Some(reason) = refusal(&path, own_network, has_namespace) {
            return Err(Error::InvalidSysctl { key: key.clone(), reason });
        }
        settings.push(Setting { path, value: value.clone() });
    }
    settings.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(settings)
}

/// As sysctl(8): the first separator decides, and the other one is then part of a name ("net.ipv4.conf.eth0/1.mtu").
fn to_path(key: &str) -> String {
    match key.find(['.', '/']) {
        Some(at) if key.as_bytes()[at] == b'.' => key
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect(),
        _ => key.to_owned(),
    }
}

fn refusal(path: &str, own_network: bool, has_namespace: &dyn Fn(LinuxNamespaceType) -> bool) -> Option<&'static str> {
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Some("it is no name below /proc/sys");
    }
    let need = |kind, reason| if has_namespace(kind) { None } else { Some(reason) };
    match path {
        "kernel/domainname" => need(LinuxNamespaceType::Uts, "it needs a uts namespace of the container's own"),
        // As runc and crun: one thing has one name in a spec.
        "kernel/hostname" => Some("it conflicts with the spec's hostname, which sets the same"),
        _ if IPC.contains(&path) || path.starts_with("fs/mqueue/") => {
            need(LinuxNamespaceType::Ipc, "it needs an ipc namespace of the container's own")
        }
        _ if path.starts_with("net/") => {
            (!own_network).then_some("it needs a network namespace of the container's own")
        }
        _ if path.starts_with("user/") => {
            need(LinuxNamespaceType::User, "it needs a user namespace of the container's own")
        }
        _ => Some("it is not in a namespace: it would change the host"),
    }
}

impl Plan {
    /// sysctl through a /proc of our own that no image can have mounted over (CVE-2025-52881). After `pivot`.
    pub(crate) fn sysctl(&self) -> Result<(), Error> {
        if self.sysctl.is_empty() {
            return Ok(());
        }
        let proc = private_proc()?;
        for Setting { path, value } in &self.sysctl {
            let shown = Path::new("/proc/sys").join(path);
            let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
            let flags = OFlags::WRONLY | OFlags::CLOEXEC;
            let file = resolve(&proc, &Path::new("sys").join(path), flags, how).map_err(step("open", &shown))?;
            // One write: the kernel takes each as a whole value.
            match rustix::io::write(&file, value.as_bytes()).map_err(step("write", &shown))? {
                written if written == value.len() => {}
                _ => return Err(step("write the whole of", &shown)(Errno::IO)),
            }
        }
        Ok(())
    }
}

fn private_proc() -> Result<OwnedFd, Error> {
    match filesystem::new_mount("proc", "proc", &[], MountAttrFlags::MOUNT_ATTR_NOSUID, Path::new("/proc")) {
        // A user namespace may not mount procfs where it cannot see a whole one: the container's own must do, if it is
        // one. RESOLVE_NO_XDEV then refuses what is mounted over parts of it.
        Err(Error::Mount { err: Errno::PERM, .. }) => {
            let proc = fs::open("/proc", DIRECTORY | OFlags::NOFOLLOW, Mode::empty()).map_err(step("open", "/proc"))?;
            match is_procfs(&proc).map_err(step("look at", "/proc"))? {
                true => Ok(proc),
                false => Err(Error::HostileTarget { target: "/proc".into(), what: "something that is no procfs" }),
            }
        }
        proc => proc,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_separator_decides() {
        assert_eq!(to_path("net.ipv4.conf.eth0/100.mtu"), "net/ipv4/conf/eth0.100/mtu");
        assert_eq!(to_path("net/ipv4/conf/eth0.100/mtu"), "net/ipv4/conf/eth0.100/mtu");
    }

    #[test]
    fn a_sysctl_of_the_host_is_refused() {
        let all = |_| true;
        let none = |_| false;
        for path in ["kernel/core_pattern", "vm/swappiness", "fs/file-max", "net/../kernel/core_pattern", "net//x", ""]
        {
            assert!(refusal(path, true, &all).is_some(), "{path}");
        }
        for path in ["net/ipv4/ip_forward", "kernel/shmmax", "fs/mqueue/msg_max", "kernel/domainname"] {
            assert_eq!(refusal(path, true, &all), None, "{path}");
            assert!(refusal(path, false, &none).is_some(), "{path}");
        }
        assert!(refusal("kernel/hostname", true, &all).is_some());
    }
}
