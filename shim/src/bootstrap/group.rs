//! Which containers share a shim: those whose annotations name the same group.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// In this order, as containerd's own shim looks for them.
const GROUP_ANNOTATIONS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        err: std::io::Error,
    },
    #[error("parse {}", path.display())]
    Parse {
        path: PathBuf,
        #[source]
        err: serde_json::Error,
    },
}

/// All that `start` needs of `config.json`; serde skips the rest without building it.
#[derive(Deserialize)]
struct Annotated {
    #[serde(default)]
    annotations: Option<HashMap<String, String>>,
}

/// The group that the bundle's annotations name, if any.
///
/// # Errors
/// `config.json` is missing or no JSON.
pub(crate) fn of_bundle(bundle: &Path) -> Result<Option<String>, Error> {
    let path = bundle.join("config.json");
    let json = match std::fs::read(&path) {
        Ok(json) => json,
        Err(err) => return Err(Error::Read { path, err }),
    };
    of_config(&json).map_err(|err| Error::Parse { path, err })
}

pub(crate) fn of_config(json: &[u8]) -> Result<Option<String>, serde_json::Error> {
    let annotated: Annotated = serde_json::from_slice(json)?;
    let mut annotations = annotated.annotations.unwrap_or_default();
    Ok(GROUP_ANNOTATIONS.iter().find_map(|name| annotations.remove(*name)))
}

/// The same, of annotations that are read already.
pub(crate) fn of_annotations(annotations: &HashMap<String, String>) -> Option<&str> {
    GROUP_ANNOTATIONS.iter().find_map(|name| annotations.get(*name)).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(json: &str) -> Option<String> {
        of_config(json.as_bytes()).unwrap()
    }

    #[test]
    fn a_pods_containers_are_grouped_by_its_sandbox() {
        let json =
            r#"{"ociVersion":"1.2.0","process":{"args":["sh"]},"annotations":{"io.kubernetes.cri.sandbox-id":"pod"}}"#;
        assert_eq!(group(json).as_deref(), Some("pod"));
    }

    #[test]
    fn the_shims_own_annotation_wins() {
        let json = r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod","io.containerd.runc.v2.group":"mine"}}"#;
        assert_eq!(group(json).as_deref(), Some("mine"));
    }

    #[test]
    fn a_container_without_annotations_is_alone() {
        assert_eq!(group("{}"), None);
        assert_eq!(group(r#"{"annotations":null}"#), None);
        assert_eq!(group(r#"{"annotations":{"other":"x"}}"#), None);
    }

    #[test]
    fn a_broken_config_is_refused() {
        assert!(of_config(b"{").is_err());
    }
}
