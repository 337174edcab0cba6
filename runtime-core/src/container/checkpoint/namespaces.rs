//! Namespaces that the container does not own: they are not in the images, and are joined again at restore.
//!
//! CRIU has two ways for that. Network and pid namespaces are external objects with a key, as with runc: named by inode at
//! the dump, given as a descriptor at the restore. The others are simply joined (`join_ns`).

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use criu::{InheritFd, JoinNamespace};
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::error::CheckpointError;
use super::manifest::Namespace;
use crate::Pid;
use crate::spec::given_path;

/// Every namespace of the spec.
fn each(spec: &Spec) -> impl Iterator<Item = (LinuxNamespaceType, Option<&Path>)> {
    let namespaces = spec.linux().iter().flat_map(|linux| linux.namespaces().iter().flatten());
    namespaces.map(|namespace| (namespace.typ(), given_path(namespace.path())))
}

/// As /proc/PID/ns and CRIU name it.
fn name(kind: LinuxNamespaceType) -> &'static str {
    match kind {
        LinuxNamespaceType::Mount => "mnt",
        LinuxNamespaceType::Cgroup => "cgroup",
        LinuxNamespaceType::Uts => "uts",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::User => "user",
        LinuxNamespaceType::Pid => "pid",
        LinuxNamespaceType::Network => "net",
        LinuxNamespaceType::Time => "time",
    }
}

/// runc's key for an external namespace; `None` for those that are joined.
fn key(kind: LinuxNamespaceType) -> Option<&'static str> {
    match kind {
        LinuxNamespaceType::Network => Some("extRootNetNS"),
        LinuxNamespaceType::Pid => Some("extRootPidNS"),
        _ => None,
    }
}

pub(crate) fn describe(spec: &Spec) -> Vec<Namespace> {
    let describe =
        |(kind, path): (_, Option<&Path>)| Namespace { kind: name(kind).to_owned(), external: path.is_some() };
    each(spec).map(describe).collect()
}

/// For the dump: `net[INODE]:extRootNetNS`. The inode is that of the process: the path in the spec may have named a process
/// that has ended since, as that of a pod's sandbox does after the pod was restored.
pub(crate) fn external(spec: &Spec, pid: Pid) -> Result<Vec<String>, CheckpointError> {
    let mut external = Vec::new();
    for (kind, path) in each(spec) {
        if let (Some(key), Some(_)) = (key(kind), path) {
            let path = PathBuf::from(format!("/proc/{pid}/ns/{}", name(kind)));
            let inode = std::fs::metadata(&path).map_err(CheckpointError::file("look at namespace", path))?.ino();
            external.push(format!("{}[{inode}]:{key}", name(kind)));
        }
    }
    Ok(external)
}

/// What the restored processes join.
#[derive(Debug, Default)]
pub(crate) struct Joined {
    pub(crate) inherit: Vec<InheritFd>,
    pub(crate) join: Vec<JoinNamespace>,
}

pub(crate) fn to_join(spec: &Spec, recorded: &[Namespace]) -> Result<Joined, CheckpointError> {
    let mut joined = Joined::default();
    for (kind, path) in each(spec) {
        let was_external = recorded.iter().any(|namespace| namespace.kind == name(kind) && namespace.external);
        match (path, key(kind)) {
            (None, Some(_)) if was_external => return Err(CheckpointError::MissingNamespace { kind: name(kind) }),
            (None, _) => {}
            (Some(path), Some(key)) => {
                let fd = std::fs::File::open(path).map_err(CheckpointError::file("open namespace", path))?.into();
                joined.inherit.push(InheritFd { key: key.to_owned(), fd });
            }
            (Some(_), None) if matches!(kind, LinuxNamespaceType::Cgroup | LinuxNamespaceType::Mount) => {
                return Err(CheckpointError::UnsupportedNamespace { kind: name(kind) });
            }
            (Some(path), None) => {
                let path = path.to_string_lossy().into_owned();
                joined.join.push(JoinNamespace { kind: name(kind).to_owned(), path, extra: None });
            }
        }
    }
    Ok(joined)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(namespaces: &str) -> Spec {
        let json = format!(r#"{{"ociVersion":"1.2.0","linux":{{"namespaces":[{namespaces}]}}}}"#);
        serde_json::from_str(&json).unwrap()
    }

    #[test]
    fn a_network_namespace_by_path_is_external_by_inode_and_comes_back_as_a_descriptor() {
        let spec = spec(r#"{"type":"network","path":"/proc/self/ns/net"},{"type":"pid"},{"type":"ipc","path":"/i"}"#);
        let inode = std::fs::metadata("/proc/self/ns/net").unwrap().ino();
        let own = Pid::new(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert_eq!(external(&spec, own).unwrap(), [format!("net[{inode}]:extRootNetNS")]);
        let joined = to_join(&spec, &describe(&spec)).unwrap();
        assert_eq!(joined.inherit[0].key, "extRootNetNS");
        assert_eq!((joined.join[0].kind.as_str(), joined.join[0].path.as_str()), ("ipc", "/i"));
    }

    #[test]
    fn an_external_namespace_needs_a_path_again() {
        let recorded = [Namespace { kind: "net".into(), external: true }];
        let missing = to_join(&spec(r#"{"type":"network"}"#), &recorded);
        assert!(matches!(missing, Err(CheckpointError::MissingNamespace { kind: "net" })), "{missing:?}");
        let cgroup = to_join(&spec(r#"{"type":"cgroup","path":"/proc/self/ns/cgroup"}"#), &[]);
        assert!(matches!(cgroup, Err(CheckpointError::UnsupportedNamespace { kind: "cgroup" })));
    }
}
