//! The container's own network namespace: whether CRIU is to carry it.
//!
//! To carry one, CRIU runs ip and iptables a dozen times while the container is frozen, and again at restore: 30 ms each.
//! runc never carries one; a restored container then has not even a loopback device that is up. Here an empty one is made
//! anew and its loopback device brought up, and one that holds something is carried.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, setns};
use oci_spec::runtime::{Capability, LinuxNamespaceType, Spec};

use super::CheckpointError;
use crate::Pid;
use crate::spec::given_path;

/// Tables of /proc/PID/net with a line for each socket, and one above them.
const SOCKETS: [&str; 11] =
    ["tcp", "tcp6", "udp", "udp6", "udplite", "udplite6", "raw", "raw6", "icmp", "icmp6", "packet"];

/// Whether the namespace need not be in the images: there is nothing in it that is not in every new one, or the hooks that
/// filled it fill it again.
pub(crate) fn leave_empty(spec: &Spec, pid: Pid) -> bool {
    if !is_own(spec) {
        return false;
    }
    let net = format!("/proc/{pid}/net");
    let net = Path::new(&net);
    match only_loopback(net) {
        // A device of another kind than CRIU knows, or one end of a veth pair: what put it there is to do so again.
        Some(false) => has_hooks(spec) || has_devices(spec),
        Some(true) => !may_configure(spec) && SOCKETS.iter().all(|table| is_empty(&net.join(table))),
        None => false,
    }
}

/// The container has a network namespace, and nobody else gave it.
pub(crate) fn is_own(spec: &Spec) -> bool {
    let namespaces = spec.linux().iter().flat_map(|linux| linux.namespaces().iter().flatten());
    namespaces
        .filter(|namespace| namespace.typ() == LinuxNamespaceType::Network)
        .any(|namespace| given_path(namespace.path()).is_none())
}

/// The path of the network namespace that the container has joined, if it has joined one.
pub(super) fn joined(spec: &Spec) -> Option<PathBuf> {
    let namespaces = spec.linux().iter().flat_map(|linux| linux.namespaces().iter().flatten());
    let mut network = namespaces.filter(|namespace| namespace.typ() == LinuxNamespaceType::Network);
    network.find_map(|namespace| given_path(namespace.path()).map(Into::into))
}

/// Images of another runtime say it by what is missing in them.
pub(crate) fn is_in_images(dir: &Path) -> bool {
    let names = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
    names.into_iter().any(|name| name.to_string_lossy().starts_with("netdev-"))
}

/// `None` if it cannot be read.
fn only_loopback(net: &Path) -> Option<bool> {
    let table = fs::read_to_string(net.join("dev")).ok()?;
    Some(devices(&table).all(|device| device == "lo"))
}

/// Two lines of heading, then `NAME: COUNTERS`.
pub(super) fn devices(table: &str) -> impl Iterator<Item = &str> {
    table.lines().skip(2).filter_map(|line| Some(line.split_once(':')?.0.trim()))
}

fn is_empty(table: &Path) -> bool {
    match fs::read_to_string(table) {
        Ok(text) => text.lines().count() <= 1,
        Err(err) => err.kind() == io::ErrorKind::NotFound,
    }
}

/// The spec or the processes can have set what no table above shows: addresses, routes, rules, sysctls.
fn may_configure(spec: &Spec) -> bool {
    let capabilities = spec.process().as_ref().and_then(|process| process.capabilities().as_ref());
    let bounding = capabilities.and_then(|capabilities| capabilities.bounding().as_ref());
    let sysctl = spec.linux().iter().flat_map(|linux| linux.sysctl().iter().flatten());
    bounding.is_some_and(|bounding| bounding.contains(&Capability::NetAdmin))
        || sysctl.into_iter().any(|(name, _)| name.starts_with("net.") || name.starts_with("net/"))
}

/// The spec names devices of the host's for the container.
fn has_devices(spec: &Spec) -> bool {
    let devices = spec.linux().as_ref().and_then(|linux| linux.net_devices().as_ref());
    devices.is_some_and(|devices| !devices.is_empty())
}

/// CRIU would make the devices that are in the images anew, beside the host's of the spec.
pub(in crate::container) fn check_devices(spec: &Spec, empty: bool) -> Result<(), CheckpointError> {
    match has_devices(spec) && is_own(spec) && !empty {
        true => Err(CheckpointError::NetDevices),
        false => Ok(()),
    }
}

#[allow(deprecated, reason = "prestart hooks are deprecated and in wide use")]
fn has_hooks(spec: &Spec) -> bool {
    let some = |hooks: &Option<Vec<_>>| hooks.as_ref().is_some_and(|hooks| !hooks.is_empty());
    spec.hooks().as_ref().is_some_and(|hooks| some(hooks.prestart()) || some(hooks.create_runtime()))
}

/// Brings the loopback device of a process's network namespace up, as a create does.
pub(crate) fn loopback_up(pid: Pid) -> io::Result<()> {
    let namespace = fs::File::open(format!("/proc/{pid}/ns/net"))?;
    // A thread for it alone, which joins the namespace and ends in it.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("criu-loopback".to_owned()).spawn_scoped(scope, || {
            setns(&namespace, CloneFlags::CLONE_NEWNET)?;
            Ok(crate::sys::net::loopback_up()?)
        })?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(namespace: &str, process: &str, linux: &str) -> Spec {
        let json = format!(
            r#"{{"ociVersion":"1.2.0","process":{{"user":{{"uid":0,"gid":0}},"cwd":"/"{process}}},
                "linux":{{"namespaces":[{namespace}]{linux}}}}}"#
        );
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn devices_are_named_at_the_beginning_of_a_line() {
        let table = "Inter-|   Receive\n face |bytes\n    lo:   0 0\n  eth0: 7 0\n";
        assert_eq!(devices(table).collect::<Vec<_>>(), ["lo", "eth0"]);
    }

    #[test]
    fn a_namespace_by_path_is_not_the_containers_own() {
        assert!(is_own(&spec(r#"{"type":"network"}"#, "", "")));
        let by_path = spec(r#"{"type":"network","path":"/run/netns/a"}"#, "", "");
        assert!(!is_own(&by_path));
        assert_eq!(joined(&by_path), Some(PathBuf::from("/run/netns/a")));
        assert_eq!(joined(&spec(r#"{"type":"network"}"#, "", "")), None);
        assert!(!is_own(&spec(r#"{"type":"pid"}"#, "", "")));
    }

    #[test]
    fn who_may_have_set_rules_or_sysctls_is_carried() {
        let network = r#"{"type":"network"}"#;
        assert!(!may_configure(&spec(network, "", "")));
        assert!(may_configure(&spec(network, r#","capabilities":{"bounding":["CAP_NET_ADMIN"]}"#, "")));
        assert!(may_configure(&spec(network, "", r#","sysctl":{"net.ipv4.ip_forward":"1"}"#)));
        assert!(!may_configure(&spec(network, "", r#","sysctl":{"kernel.shmmax":"1"}"#)));
    }

    #[test]
    fn a_table_with_a_socket_is_not_empty() {
        let dir = std::env::temp_dir().join(format!("rtc-net-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("tcp"), "  sl  local_address\n").unwrap();
        assert!(is_empty(&dir.join("tcp")) && is_empty(&dir.join("missing")));
        fs::write(dir.join("tcp"), "  sl  local_address\n   0: 0100007F:1F90\n").unwrap();
        assert!(!is_empty(&dir.join("tcp")));
        fs::remove_dir_all(dir).unwrap();
    }
}
