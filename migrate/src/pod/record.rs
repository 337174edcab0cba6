//! What is read and written of a pod's checkpoint here.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use proto::containerd::v1::types::Process;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

const POD: &str = "pod.json";
const STREAMS: &str = "containerd.json";

/// Of `pod.json`: its members, in the order in which they are restored.
#[derive(Debug, Deserialize)]
pub(super) struct Pod {
    pub(super) members: Vec<Member>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Member {
    pub(super) id: String,
}

/// The standard streams of a task, in containerd's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Streams {
    pub(super) stdin: String,
    pub(super) stdout: String,
    pub(super) stderr: String,
    pub(super) terminal: bool,
}

impl Streams {
    pub(super) fn of(process: &Process) -> Self {
        Self {
            stdin: process.stdin.clone(),
            stdout: process.stdout.clone(),
            stderr: process.stderr.clone(),
            terminal: process.terminal,
        }
    }
}

impl Pod {
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let pod: Self = read(&dir.join(POD))?;
        if pod.members.iter().any(|member| member.id.is_empty() || member.id.contains('/')) {
            return Err(Error::NoPod { path: dir.to_owned(), problem: "a member has no container's id".to_owned() });
        }
        Ok(pod)
    }
}

/// By the container's id; none for a checkpoint that another client has made.
pub(super) fn read_streams(dir: &Path) -> Result<BTreeMap<String, Streams>> {
    let path = dir.join(STREAMS);
    if path.exists() { read(&path) } else { Ok(BTreeMap::new()) }
}

pub(super) fn write_streams(dir: &Path, streams: &BTreeMap<String, Streams>) -> Result<()> {
    let path = dir.join(STREAMS);
    let json = serde_json::to_vec_pretty(streams);
    let json = json.map_err(|err| Error::Json { what: path.display().to_string(), err })?;
    fs::write(&path, json).map_err(Error::file("write", &path))
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let json = fs::read(path).map_err(Error::file("read", path))?;
    serde_json::from_slice(&json).map_err(|err| Error::Json { what: path.display().to_string(), err })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_survive_the_disk_and_may_be_missing() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read_streams(dir.path()).unwrap().is_empty());
        let streams = Streams { stdout: "file:///log".to_owned(), ..Streams::default() };
        let all = BTreeMap::from([("web".to_owned(), streams)]);
        write_streams(dir.path(), &all).unwrap();
        assert_eq!(read_streams(dir.path()).unwrap(), all);
    }

    #[test]
    fn a_member_is_no_path() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Pod::read(dir.path()).is_err());
        fs::write(dir.path().join(POD), r#"{"members":[{"id":"../x"}]}"#).unwrap();
        assert!(Pod::read(dir.path()).unwrap_err().to_string().contains("no container's id"));
    }
}
