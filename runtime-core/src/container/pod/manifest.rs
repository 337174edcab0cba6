//! `pod.json`: what the checkpoint of a pod has.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::PodError;
use crate::limited;

pub(super) const FILE: &str = "pod.json";

/// Raised when an older rtc would restore something else than what was checkpointed.
pub(super) const VERSION: u32 = 1;

/// Bytes; a member has some hundred.
const LONGEST: usize = 4 << 20;

/// A pod that was checkpointed. Its JSON is an interface: fields are added to it, and none is renamed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodManifest {
    pub version: u32,
    /// Nanoseconds since 1970.
    pub created: u64,
    /// The container whose namespaces the others have joined, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
    pub left_running: bool,
    /// In the order in which they are restored.
    pub members: Vec<PodMember>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared_memory: Vec<SharedMemory>,
    /// Microseconds from the first request to the end of the last CRIU; not there when the checkpoint was cut off between its
    /// last image and its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodMember {
    /// The container's, and the name of the directory with its own checkpoint.
    pub id: String,
    /// Namespaces of other members that it is in.
    pub joined: Vec<Joined>,
    /// Bytes of its checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Microseconds; how long its processes were stopped, by CRIU's count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frozen: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Joined {
    /// As /proc/PID/ns names it.
    pub kind: String,
    /// Whose it is.
    pub of: String,
}

/// A filesystem of the host's that members have as /dev/shm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SharedMemory {
    /// Where its files are, relative to pod.json.
    pub directory: String,
    pub members: Vec<String>,
    /// What its files occupy.
    pub bytes: u64,
}

impl PodManifest {
    /// `None` if the directory is no pod's checkpoint.
    ///
    /// # Errors
    /// It is one, and cannot be read.
    pub fn read(dir: &Path) -> Result<Option<Self>, PodError> {
        let path = dir.join(FILE);
        let json = match limited::read(&path, LONGEST) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(PodError::file("read", &path))?,
        };
        Self::parse(&json, &path).map(Some)
    }

    fn parse(json: &[u8], path: &Path) -> Result<Self, PodError> {
        let wrong = |err| PodError::Manifest { path: path.to_owned(), err };
        let Version { version } = serde_json::from_slice(json).map_err(wrong)?;
        if version > VERSION {
            return Err(PodError::ManifestVersion { path: path.to_owned(), found: version });
        }
        serde_json::from_slice(json).map_err(wrong)
    }

    /// Replaces the file whole or not at all.
    pub(super) fn write(&self, dir: &Path) -> Result<(), PodError> {
        let (path, new) = (dir.join(FILE), dir.join(".pod.json.new"));
        let mut json = serde_json::to_vec_pretty(self).map_err(PodError::Encode)?;
        json.push(b'\n');
        fs::write(&new, json).map_err(PodError::file("write", &new))?;
        fs::rename(&new, &path).map_err(PodError::file("rename to", &path))
    }

    /// The pod's checkpoint that a container's is part of: its directory, and what the container is called there.
    ///
    /// # Errors
    /// There is a pod.json above, and it cannot be read.
    pub(super) fn around(image_dir: &Path) -> Result<Option<(PathBuf, String)>, PodError> {
        // Other names of the same directory are the same pod.
        let Ok(image_dir) = image_dir.canonicalize() else { return Ok(None) };
        let (Some(dir), Some(name)) = (image_dir.parent(), image_dir.file_name().and_then(|name| name.to_str())) else {
            return Ok(None);
        };
        let manifest = Self::read(dir)?;
        let has = manifest.is_some_and(|manifest| manifest.members.iter().any(|member| member.id == name));
        Ok(has.then(|| (dir.to_owned(), name.to_owned())))
    }
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> PodManifest {
        let joined = vec![Joined { kind: "ipc".into(), of: "pause".into() }];
        let member = |id: &str, joined| PodMember { id: id.into(), joined, bytes: Some(1), frozen: None };
        PodManifest {
            version: VERSION,
            created: 7,
            sandbox: Some("pause".into()),
            left_running: true,
            members: vec![member("pause", Vec::new()), member("web", joined)],
            shared_memory: vec![SharedMemory { directory: "shm".into(), members: vec!["web".into()], bytes: 9 }],
            total: None,
        }
    }

    #[test]
    fn a_manifest_survives_the_disk_and_names_its_members() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(PodManifest::read(dir.path()).unwrap(), None);
        manifest().write(dir.path()).unwrap();
        assert_eq!(PodManifest::read(dir.path()).unwrap(), Some(manifest()));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        for name in ["web", "other"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let found = PodManifest::around(&dir.path().join("web/")).unwrap().unwrap();
        assert_eq!(found, (dir.path().canonicalize().unwrap(), "web".to_owned()));
        assert_eq!(PodManifest::around(&dir.path().join("other")).unwrap(), None);
        assert_eq!(PodManifest::around(&dir.path().join("missing")).unwrap(), None);
    }

    #[test]
    fn a_newer_manifest_is_refused_by_its_version() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), r#"{"version":2,"members":{}}"#).unwrap();
        assert!(matches!(PodManifest::read(dir.path()), Err(PodError::ManifestVersion { found: 2, .. })));
    }
}
