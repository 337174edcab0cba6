//! `rtc.json` in the image directory: what the checkpoint is, so that restore needs to be told nothing twice.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::error::CheckpointError;
use super::host::Host;
use super::input::Unread;
use super::inventory::{self, ImageFile};
use super::mounts::{External, From};
use super::options::CriuOptions;
use super::programs::Program;
use crate::limited;
use crate::sealed::Sealing;

pub(crate) const FILE: &str = "rtc.json";

/// Raised when an older rtc would restore something else than what was checkpointed.
pub(crate) const VERSION: u32 = 2;

/// Of a checkpoint whose images are as CRIU wrote them.
pub(crate) const PLAIN_VERSION: u32 = 1;

/// Bytes; a file of the inventory has about a hundred.
const LONGEST: usize = 64 << 20;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) version: u32,
    /// Of the container that was checkpointed.
    pub(crate) id: String,
    /// Nanoseconds since 1970.
    pub(crate) created: u64,
    /// `sha256:` and the digest of the bundle's config.json.
    pub(crate) spec_digest: String,
    pub(crate) options: CriuOptions,
    /// The processes ran on after the checkpoint.
    pub(crate) left_running: bool,
    /// The memory is not all in the images: a restore has to fetch it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) lazy_pages: bool,
    /// Directory of the parent's images, relative to this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) parent: Option<String>,
    /// What 0, 1 and 2 of the init were, as in descriptors.json.
    pub(crate) descriptors: Vec<String>,
    pub(crate) terminal: bool,
    /// Those of the descriptors that are files of the host's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) stdio_files: Vec<StdioFile>,
    /// Standard input that the processes have not read yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) unread: Option<Unread>,
    pub(crate) namespaces: Vec<Namespace>,
    pub(crate) external_mounts: Vec<External>,
    /// What ran, of the root filesystem.
    #[serde(default)]
    pub(crate) programs: Vec<Program>,
    pub(crate) criu: String,
    pub(crate) host: Host,
    /// How the images are kept, if not as CRIU wrote them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sealed: Option<Sealing>,
    /// Not there when the checkpoint was cut off between its last image and its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) timings: Option<Timings>,
    /// The files of the checkpoint; not there when the timings are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) files: Option<Vec<ImageFile>>,
}

/// A namespace of the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Namespace {
    /// As /proc/PID/ns names it.
    pub(crate) kind: String,
    /// It was somebody else's, joined by its path, and is not in the images.
    pub(crate) external: bool,
}

/// A standard stream that is a file outside of the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StdioFile {
    /// 0, 1 or 2.
    pub(crate) fd: usize,
    /// CRIU's name for it.
    pub(crate) name: String,
    /// Where the init was in it, in bytes.
    pub(crate) position: u64,
}

/// Microseconds, and pages of 4 KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Timings {
    /// From the request to the end of CRIU.
    pub total: u64,
    /// Until all processes were stopped.
    pub freezing: u64,
    /// How long they were stopped.
    pub frozen: u64,
    pub memory_dump: u64,
    pub memory_write: u64,
    pub pages_written: u64,
    pub pages_in_parent: u64,
}

impl Timings {
    pub(crate) fn new(total: Duration, stats: &criu::images::DumpStats) -> Self {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Self {
            total: micros(total),
            freezing: micros(stats.freezing),
            frozen: micros(stats.frozen),
            memory_dump: micros(stats.memory_dump),
            memory_write: micros(stats.memory_write),
            pages_written: stats.pages_written,
            pages_in_parent: stats.pages_in_parent,
        }
    }
}

impl Manifest {
    /// Whether the spec had a bind mount there that is to be made again.
    pub(crate) fn has_mount(&self, on: &Path) -> bool {
        let is_there = |from: &From| matches!(from, From::Bind { destination, .. } if destination == on);
        self.external_mounts.iter().any(|mount| is_there(&mount.from))
    }

    /// What it said when the images were complete.
    pub(crate) fn as_statement(&self) -> Self {
        Self { timings: None, files: None, ..self.clone() }
    }

    /// The one that is with sealed images.
    pub(crate) fn from_statement(statement: &serde_json::Value, dir: &Path) -> Result<Self, CheckpointError> {
        Self::deserialize(statement).map_err(|err| CheckpointError::Manifest { path: dir.join(FILE), err })
    }

    /// Replaces the file whole or not at all.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), CheckpointError> {
        let (path, new) = (dir.join(FILE), dir.join(".rtc.json.new"));
        let mut json = serde_json::to_vec_pretty(self).map_err(CheckpointError::Encode)?;
        json.push(b'\n');
        fs::write(&new, json).map_err(CheckpointError::file("write", &new))?;
        fs::rename(&new, &path).map_err(CheckpointError::file("rename to", &path))
    }

    /// `None` for images that another runtime made.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>, CheckpointError> {
        let path = dir.join(FILE);
        let file = match inventory::open(&path) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(CheckpointError::file("open", &path))?,
        };
        let json = limited::read_open(file, LONGEST).map_err(CheckpointError::file("read", &path))?;
        Self::parse(&json, &path).map(Some)
    }

    pub(super) fn parse(json: &[u8], path: &Path) -> Result<Self, CheckpointError> {
        let wrong = |err| CheckpointError::Manifest { path: path.to_owned(), err };
        // The version alone first: a newer manifest may have other fields.
        let version: Version = serde_json::from_slice(json).map_err(wrong)?;
        if version.version > VERSION {
            return Err(CheckpointError::ManifestVersion { path: path.to_owned(), found: version.version });
        }
        serde_json::from_slice(json).map_err(wrong)
    }
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// `sha256:` and 64 hexadecimal digits.
pub(crate) fn digest(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(bytes) {
        // To a string it cannot fail.
        write!(text, "{byte:02x}").ok();
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn scratch(name: &str) -> std::path::PathBuf {
        let dir = std::env::temp_dir().join(format!("rtc-manifest-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    /// One with something in every field that has no others of its kind.
    pub(in super::super) fn plain() -> Manifest {
        Manifest {
            version: PLAIN_VERSION,
            id: "web".into(),
            created: 7,
            spec_digest: digest(b"{}"),
            options: CriuOptions { tcp_established: true, ..CriuOptions::default() },
            left_running: false,
            lazy_pages: false,
            parent: None,
            descriptors: vec!["/dev/null".into(), "pipe:[1]".into()],
            terminal: false,
            stdio_files: vec![StdioFile { fd: 1, name: "file[1f:2a]".into(), position: 7 }],
            unread: Some(Unread { taken: 1, waiting: 2 }),
            namespaces: vec![Namespace { kind: "net".into(), external: true }],
            external_mounts: Vec::new(),
            programs: vec![Program { path: "/bin/a".into(), size: 4 }],
            criu: "4.2.1".into(),
            host: Host::default(),
            sealed: None,
            timings: Some(Timings { total: 3, ..Timings::default() }),
            files: Some(vec![ImageFile { name: "core-1.img".into(), bytes: 9, xxh3: None }]),
        }
    }

    #[test]
    fn a_manifest_survives_the_disk() {
        let dir = scratch("disk");
        assert_eq!(Manifest::read(&dir).unwrap(), None);
        let manifest = plain();
        manifest.write(&dir).unwrap();
        assert_eq!(Manifest::read(&dir).unwrap(), Some(manifest));
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_newer_manifest_is_refused_by_its_version_and_not_by_its_fields() {
        let dir = scratch("newer");
        fs::write(dir.join(FILE), r#"{"version":99,"whatever":[]}"#).unwrap();
        assert!(matches!(Manifest::read(&dir), Err(CheckpointError::ManifestVersion { found: 99, .. })));
        fs::write(dir.join(FILE), "{").unwrap();
        assert!(matches!(Manifest::read(&dir), Err(CheckpointError::Manifest { .. })));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_manifest_without_an_end_is_refused_as_too_long() {
        let dir = scratch("endless");
        std::os::unix::fs::symlink("/dev/zero", dir.join(FILE)).unwrap();
        let refused = Manifest::read(&dir).unwrap_err();
        let source = std::error::Error::source(&refused).map(ToString::to_string);
        assert_eq!(source.as_deref(), Some("it is longer than 67108864 bytes"), "{refused}");
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_digest_is_sha256() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest(b""), empty);
    }
}
