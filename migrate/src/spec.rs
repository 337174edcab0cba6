//! What of a container's specification differs at the destination.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};

/// The source of a bind mount is `from` here, and `to` at the destination; with what is below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapMount {
    pub from: PathBuf,
    pub to: PathBuf,
}

impl std::str::FromStr for MapMount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (from, to) = text.split_once(':').ok_or("it has the form FROM:TO")?;
        let mapped = Self { from: from.into(), to: to.into() };
        if !mapped.from.is_absolute() || !mapped.to.is_absolute() {
            return Err("both paths have to be absolute".to_owned());
        }
        Ok(mapped)
    }
}

/// Why the container does not go to another host, if so.
pub(crate) fn unfit(spec: &Value, labels: &std::collections::HashMap<String, String>, sandbox: &str) -> Option<String> {
    let annotation = |name: &str| spec.pointer("/annotations").and_then(|all| all.get(name)).is_some();
    let in_pod = labels.contains_key("io.cri-containerd.kind") || annotation("io.kubernetes.cri.sandbox-id");
    if in_pod || !sandbox.is_empty() {
        return Some("it belongs to a pod, whose containers share namespaces: a single one is not moved".to_owned());
    }
    let namespaces = spec.pointer("/linux/namespaces").and_then(Value::as_array);
    let foreign = namespaces.into_iter().flatten().find(|namespace| {
        let path = namespace.get("path").and_then(Value::as_str).unwrap_or_default();
        !path.is_empty() && namespace.get("type").and_then(Value::as_str) != Some("network")
    });
    foreign.map(|namespace| {
        let kind = namespace.get("type").and_then(Value::as_str).unwrap_or_default();
        format!("it has joined a {kind} namespace of this host")
    })
}

/// The specification for the destination. `netns` is the path of its network namespace there.
///
/// # Errors
/// A mapping is for no mount, or a network namespace was given for a container without one.
pub(crate) fn adapt(id: &str, spec: &mut Value, maps: &[MapMount], netns: Option<&Path>) -> Result<()> {
    let unfit = |problem: String| Error::Unfit { id: id.to_owned(), problem };
    for map in maps {
        let mounts = spec.pointer_mut("/mounts").and_then(Value::as_array_mut);
        let mut used = false;
        for source in mounts.into_iter().flatten().filter_map(|mount| mount.get_mut("source")) {
            let Some(rest) = source.as_str().and_then(|text| Path::new(text).strip_prefix(&map.from).ok()) else {
                continue;
            };
            let mapped = if rest.as_os_str().is_empty() { map.to.clone() } else { map.to.join(rest) };
            *source = Value::String(mapped.to_string_lossy().into_owned());
            used = true;
        }
        if !used {
            return Err(unfit(format!("--map-mount: no mount has a source in {}", map.from.display())));
        }
    }
    let Some(netns) = netns else { return Ok(()) };
    let namespaces = spec.pointer_mut("/linux/namespaces").and_then(Value::as_array_mut);
    let is_network = |namespace: &&mut Value| namespace.get("type").and_then(Value::as_str) == Some("network");
    let network = namespaces.into_iter().flatten().find(is_network);
    let network = network.and_then(Value::as_object_mut);
    let network = network.ok_or_else(|| unfit("--netns: it has no network namespace but the host's".to_owned()))?;
    if network.get("path").and_then(Value::as_str).unwrap_or_default().is_empty() {
        return Err(unfit("--netns: its network namespace is its own, and goes with it".to_owned()));
    }
    network.insert("path".to_owned(), Value::String(netns.to_string_lossy().into_owned()));
    Ok(())
}

/// The network namespace that the container joins, if it joins one.
pub(crate) fn network(spec: &Value) -> Option<PathBuf> {
    let namespaces = spec.pointer("/linux/namespaces").and_then(Value::as_array);
    let mut all = namespaces.into_iter().flatten();
    let network = all.find(|namespace| namespace.get("type").and_then(Value::as_str) == Some("network"))?;
    network.get("path").and_then(Value::as_str).filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Paths of this host that the specification names, and that are not there.
pub(crate) fn missing(spec: &Value) -> Vec<String> {
    let mounts = spec.pointer("/mounts").and_then(Value::as_array);
    let is_bind = |mount: &&Value| {
        let options = mount.get("options").and_then(Value::as_array);
        let by_option = options.into_iter().flatten().any(|option| matches!(option.as_str(), Some("bind" | "rbind")));
        by_option || mount.get("type").and_then(Value::as_str) == Some("bind")
    };
    let sources = mounts.into_iter().flatten().filter(is_bind).filter_map(|mount| mount.get("source"));
    let namespaces = spec.pointer("/linux/namespaces").and_then(Value::as_array);
    let joined = namespaces.into_iter().flatten().filter_map(|namespace| namespace.get("path"));
    let paths = sources.chain(joined).filter_map(Value::as_str).filter(|path| !path.is_empty());
    paths.filter(|path| !Path::new(path).exists()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde_json::json;

    use super::*;

    fn spec() -> Value {
        json!({
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/data", "type": "bind", "source": "/srv/data/web", "options": ["rbind"] },
            ],
            "linux": { "namespaces": [{ "type": "pid" }, { "type": "network", "path": "/run/netns/a" }] },
        })
    }

    #[test]
    fn mounts_and_the_network_are_the_destinations() {
        let mut spec = spec();
        let map: MapMount = "/srv/data:/mnt/volumes".parse().unwrap();
        adapt("web", &mut spec, &[map], Some(Path::new("/run/netns/b"))).unwrap();
        assert_eq!(spec.pointer("/mounts/1/source").unwrap(), "/mnt/volumes/web");
        assert_eq!(spec.pointer("/mounts/0/source").unwrap(), "proc");
        assert_eq!(spec.pointer("/linux/namespaces/1/path").unwrap(), "/run/netns/b");
        assert_eq!(missing(&spec), ["/mnt/volumes/web", "/run/netns/b"]);
        assert_eq!(network(&spec), Some("/run/netns/b".into()));
    }

    #[test]
    fn what_would_change_nothing_is_refused() {
        let map: MapMount = "/srv/dat:/mnt".parse().unwrap();
        assert!(adapt("web", &mut spec(), &[map], None).unwrap_err().to_string().contains("/srv/dat"));
        let mut own = spec();
        *own.pointer_mut("/linux/namespaces/1").unwrap() = json!({ "type": "network" });
        assert!(adapt("web", &mut own, &[], Some(Path::new("/n"))).is_err());
        let mut none = json!({});
        assert!(adapt("web", &mut none, &[], Some(Path::new("/n"))).is_err());
        assert!("/a".parse::<MapMount>().is_err() && "a:/b".parse::<MapMount>().is_err());
    }

    #[test]
    fn what_is_tied_to_its_host_does_not_go() {
        let none = HashMap::new();
        assert_eq!(unfit(&spec(), &none, ""), None);
        assert!(unfit(&spec(), &none, "sandbox").unwrap().contains("pod"));
        let labels = HashMap::from([("io.cri-containerd.kind".to_owned(), "container".to_owned())]);
        assert!(unfit(&spec(), &labels, "").unwrap().contains("pod"));
        let joined = json!({ "linux": { "namespaces": [{ "type": "ipc", "path": "/proc/7/ns/ipc" }] } });
        assert!(unfit(&joined, &none, "").unwrap().contains("ipc"));
    }
}
