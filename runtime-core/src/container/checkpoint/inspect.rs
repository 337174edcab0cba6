//! What is in a checkpoint: CRIU's images, and what `rtc.json` has to say of them.
//!
//! Checkpoints of runc and of CRIU itself have no `rtc.json`; there is then less to say. A manifest that cannot be read is a
//! problem of the checkpoint's, and everything else is told all the same.

use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use criu::images::{Contents, DESCRIPTORS, DumpStats, Problem, RestoreStats, STATS_DUMP, STATS_RESTORE};
use serde::Serialize;
use serde_json::{Map, Value};

use super::error::CheckpointError;
use super::inventory::{self, Depth};
use super::manifest::{self, Manifest, Timings};
use super::phases::RestoreTimings;
use super::seal::Source;
use crate::error::chain;
use crate::sealed::{SUFFIX, SealError, Sealing};
use crate::time::Rfc3339;

/// Where CRIU and runc write CRIU's log of a dump, if nothing else is said.
const LOG: &str = "dump.log";

/// Who made a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Maker {
    Rtc,
    /// runc, or another runtime that writes `descriptors.json` as it does.
    Runc,
    Criu,
}

/// How much of a checkpoint is compared with its inventory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// The sizes of all files.
    Sizes,
    /// And their checksums: everything that has one is read.
    Contents,
}

/// A checkpoint. Its JSON is an interface: fields are added to it, and none is renamed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Inspection {
    pub directory: PathBuf,
    pub maker: Maker,
    /// CRIU's version.
    pub criu: Option<String>,
    /// What rtc wrote down.
    pub record: Option<Record>,
    /// Of the dump.
    pub timings: Option<Timings>,
    /// Of the last restore from here that could write it down.
    pub restore: Option<RestoreTimings>,
    #[serde(flatten)]
    pub contents: Contents,
}

/// What `rtc.json` says of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Of the container that was checkpointed.
    pub id: String,
    /// RFC 3339.
    pub created: String,
    pub spec_digest: String,
    pub left_running: bool,
    /// The container had a terminal.
    pub terminal: bool,
    /// What 0, 1 and 2 of the init were.
    pub descriptors: Vec<String>,
    /// CRIU's, by their names in `rtc.json`.
    pub options: Map<String, Value>,
    /// Kinds of namespaces that were somebody else's, and have to be given at the restore.
    pub external_namespaces: Vec<String>,
    /// `uname -r` and `uname -m` of the host.
    pub kernel: String,
    pub architecture: String,
    /// Files that have a checksum, of those that the checkpoint has; `None` for one that was cut off.
    pub checksums: Option<Checksums>,
    /// `None` for images that are as CRIU wrote them.
    pub sealed: Option<SealRecord>,
}

/// How images are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SealRecord {
    /// The algorithm.
    pub compression: Option<String>,
    pub level: Option<i32>,
    /// The cipher.
    pub encryption: Option<String>,
    /// Bytes of all files, as they are on the disk.
    pub bytes: u64,
    /// What is in them was looked at.
    pub opened: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Checksums {
    pub files: u64,
    pub with_checksum: u64,
}

impl Inspection {
    /// # Errors
    /// The directory cannot be listed, or has no images in it. All else is among the problems.
    ///
    /// `key` is a file of age identities, for a checkpoint that is encrypted. Without it there is only what can be told
    /// without. Compressed and encrypted images are read through a file system, for which it takes root.
    pub fn read(dir: &Path, verify: Verify, key: Option<&Path>) -> criu::Result<Self> {
        let problem = |file: &str, reason: String| Problem { file: Some(file.to_owned()), offset: None, reason };
        let (manifest, unread) = match Manifest::read(dir) {
            Ok(manifest) => (manifest, None),
            Err(err) => (None, Some(problem(manifest::FILE, chain(&err)))),
        };
        let (mut contents, opened) = match manifest.as_ref().filter(|manifest| manifest.sealed.is_some()) {
            Some(manifest) => sealed_contents(dir, manifest, verify, key)?,
            None => (Contents::read(dir)?, true),
        };
        contents.problems.extend(unread);
        if let Some(files) = manifest.as_ref().and_then(|manifest| manifest.files.as_deref()) {
            let depth = if verify == Verify::Contents { Depth::Content } else { Depth::Size };
            for found in inventory::differences(dir, files, depth) {
                let (name, reason) = match &found {
                    Ok((name, difference)) => (*name, difference.to_string()),
                    Err(err) => (manifest::FILE, chain(err)),
                };
                let name = name.strip_suffix(SUFFIX).unwrap_or(name);
                // What cannot be read is told already.
                if !contents.problems.iter().any(|known| known.file.as_deref() == Some(name)) {
                    contents.problems.push(problem(name, reason));
                }
            }
        }
        let has_manifest = manifest.is_some() || dir.join(manifest::FILE).exists();
        let maker = match has_manifest {
            true => Maker::Rtc,
            false if dir.join(DESCRIPTORS).exists() => Maker::Runc,
            false => Maker::Criu,
        };
        let recorded = manifest.as_ref().and_then(|manifest| manifest.timings);
        let version = manifest.as_ref().map(|manifest| manifest.criu.clone()).filter(|version| !version.is_empty());
        Ok(Self {
            directory: dir.to_owned(),
            maker,
            criu: version.or_else(|| logged_version(dir)),
            timings: recorded.or_else(|| left_by_criu(dir, STATS_DUMP, &mut contents, DumpStats::read, timings)),
            restore: left_by_criu(dir, STATS_RESTORE, &mut contents, RestoreStats::read, RestoreTimings::new),
            record: manifest.map(|manifest| Record::new(manifest, dir, opened)),
            contents,
        })
    }
}

/// Whether they could be opened, too.
fn sealed_contents(
    dir: &Path,
    manifest: &Manifest,
    verify: Verify,
    key: Option<&Path>,
) -> criu::Result<(Contents, bool)> {
    let encrypted = manifest.sealed.as_ref().is_some_and(|sealing| sealing.encryption.is_some());
    if encrypted && key.is_none() {
        return Ok((Contents::list(dir, SUFFIX)?, false));
    }
    // A key may be another checkpoint's, that is compared with this one.
    let found = Source::look(dir, manifest, key.filter(|_| encrypted), verify == Verify::Contents);
    let problem = |err: &CheckpointError| {
        let (file, reason) = match err {
            CheckpointError::Sealed(SealError::Damaged { name, damage }) => (name.as_str(), damage.to_string()),
            err => (manifest::FILE, chain(err)),
        };
        Problem { file: Some(file.to_owned()), offset: None, reason }
    };
    let (mut contents, damaged, opened) = match found {
        Ok((source, damaged)) => (Contents::read(source.dir())?, damaged, true),
        Err(err) => (Contents::list(dir, SUFFIX)?, vec![err], false),
    };
    contents.problems.extend(damaged.iter().map(problem));
    Ok((contents, opened))
}

/// What is no file is not opened: somebody's FIFO would be waited at.
fn logged_version(dir: &Path) -> Option<String> {
    let log = dir.join(LOG);
    log.metadata().is_ok_and(|metadata| metadata.is_file()).then(|| criu::logged_version(&log))?
}

/// CRIU does not measure the whole.
fn timings(stats: &DumpStats) -> Timings {
    Timings::new(stats.freezing + stats.frozen, stats)
}

fn left_by_criu<S, T>(
    dir: &Path,
    file: &str,
    contents: &mut Contents,
    read: impl FnOnce(&Path) -> criu::Result<S>,
    of: impl FnOnce(&S) -> T,
) -> Option<T> {
    if !dir.join(file).exists() {
        return None;
    }
    match read(dir) {
        Ok(stats) => Some(of(&stats)),
        Err(err) => {
            let cause = std::error::Error::source(&err).map_or_else(|| err.to_string(), chain);
            contents.problems.push(Problem { file: Some(file.to_owned()), offset: None, reason: cause });
            None
        }
    }
}

impl Record {
    fn new(manifest: Manifest, dir: &Path, opened: bool) -> Self {
        // A structure of plain fields is an object.
        let options = match serde_json::to_value(&manifest.options) {
            Ok(Value::Object(options)) => options,
            _ => Map::new(),
        };
        let external = manifest.namespaces.into_iter().filter(|namespace| namespace.external);
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        Self {
            id: manifest.id,
            created: format!("{:.0}", Rfc3339(UNIX_EPOCH + Duration::from_nanos(manifest.created))),
            spec_digest: manifest.spec_digest,
            left_running: manifest.left_running,
            terminal: manifest.terminal,
            descriptors: manifest.descriptors,
            options,
            external_namespaces: external.map(|namespace| namespace.kind).collect(),
            kernel: manifest.host.kernel,
            architecture: manifest.host.architecture,
            sealed: manifest.sealed.map(|sealing| SealRecord::new(sealing, dir, opened)),
            checksums: manifest.files.map(|files| Checksums {
                files: count(files.len()),
                with_checksum: count(files.iter().filter(|file| file.xxh3.is_some()).count()),
            }),
        }
    }
}

impl SealRecord {
    fn new(sealing: Sealing, dir: &Path, opened: bool) -> Self {
        Self {
            level: sealing.compression.as_ref().map(|compression| compression.level),
            compression: sealing.compression.map(|compression| compression.algorithm),
            encryption: sealing.encryption.map(|encryption| encryption.cipher),
            bytes: Contents::list(dir, SUFFIX).map_or(0, |contents| contents.bytes),
            opened,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An inventory of the second format, and a tree with one process; its other images are not there.
    fn checkpoint() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let image = |magic: &[u32], entry: &[u8]| {
            let length = u32::try_from(entry.len()).unwrap();
            let numbers = magic.iter().copied().chain([length]).flat_map(u32::to_ne_bytes);
            numbers.chain(entry.iter().copied()).collect::<Vec<u8>>()
        };
        std::fs::write(dir.path().join("inventory.img"), image(&[0x5831_3116], &[8, 2])).unwrap();
        let tree = image(&[0x5456_4319, 0x5027_3030], &[8, 1, 16, 0, 24, 1, 32, 1, 40, 1]);
        std::fs::write(dir.path().join("pstree.img"), tree).unwrap();
        dir
    }

    fn files_with_problems(inspection: &Inspection) -> Vec<&str> {
        inspection.contents.problems.iter().filter_map(|problem| problem.file.as_deref()).collect()
    }

    #[test]
    fn a_manifest_that_cannot_be_read_is_a_problem_and_the_rest_is_told() {
        let dir = checkpoint();
        let inspection = Inspection::read(dir.path(), Verify::Sizes, None).unwrap();
        assert_eq!((inspection.maker, inspection.contents.processes.len()), (Maker::Criu, 1));
        std::fs::write(dir.path().join(DESCRIPTORS), "[]").unwrap();
        assert_eq!(Inspection::read(dir.path(), Verify::Sizes, None).unwrap().maker, Maker::Runc);
        for json in ["{", r#"{"version":99}"#, "[]"] {
            std::fs::write(dir.path().join(manifest::FILE), json).unwrap();
            let inspection = Inspection::read(dir.path(), Verify::Sizes, None).unwrap();
            assert_eq!(inspection.maker, Maker::Rtc);
            assert!(files_with_problems(&inspection).contains(&manifest::FILE), "{:?}", inspection.contents.problems);
        }
    }

    #[test]
    fn statistics_that_cannot_be_read_are_a_problem_and_a_fifo_is_not_waited_at() {
        let dir = checkpoint();
        std::fs::write(dir.path().join(STATS_DUMP), "none").unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join(LOG), 0o600.into()).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join(STATS_RESTORE), 0o600.into()).unwrap();
        let inspection = Inspection::read(dir.path(), Verify::Contents, None).unwrap();
        let files = files_with_problems(&inspection);
        assert!(files.contains(&STATS_DUMP) && files.contains(&STATS_RESTORE), "{files:?}");
        assert_eq!((inspection.criu, inspection.timings, inspection.restore), (None, None, None));
    }
}
