//! What each side has on disk of a migration, so that somebody can bring it to its end when this program, the other side, or
//! the link between them dies.
//!
//! ```text
//!   STATE/NAMESPACE/ID.source/        journal.json  lock  images/  rounds/1/ …
//!   STATE/NAMESPACE/ID.destination/   journal.json  lock  images/  rounds/1/ …
//!
//!   source       Copying ──> Dumping ──> Restoring ──> [Leaving ──>] Committed ──> (removed)
//!   destination  Receiving ──> Starting ──> [Arriving ──>] Started ──> (removed, when the source has said Finish)
//!                    │                          └────────> Lost ─────> (removed, when the source has said Finish)
//!                    └───────> Denied                          the source has asked, and was told that it never starts
//! ```
//! Leaving, Arriving and Lost are of a move whose memory follows (post-copy). The decision is the destination's step to Started,
//! or to Arriving. Rounds of pre-copy are within Copying and Receiving, with their number in the journal. Before Restoring the
//! source has not allowed it to start, and just goes on when it fails; from there on it has to know, or to ask, whether the
//! destination has. A destination that is not past Receiving cleans up when the source is gone.
//!
//! `lock` is held by the process that works on the migration, as long as it lives. The journal's steps are made under a lock
//! of the directory, so that a question of the source and the destination's step to Starting come one after the other.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::network::{Hook, Moment};
use crate::tls::TlsFiles;

const JOURNAL: &str = "journal.json";
/// The journal that is to be the next one.
const SPARE: &str = ".journal.json.spare";
/// Of the file systems that are in use.
const BLOCK: usize = 4096;
const LOCK: &str = "lock";
const IMAGES: &str = "images";
const ROUNDS: &str = "rounds";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Source,
    Destination,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The container runs at the source; its files are copied.
    Copying,
    /// It is dumped, or stands still.
    Dumping,
    /// The destination was allowed to start it.
    Restoring,
    /// The destination has started it, and its memory is still here, in processes that stand still.
    Leaving,
    /// The destination has started it; the source's processes end.
    Committed,
    Receiving,
    Starting,
    /// It runs, and its memory is still on its way.
    Arriving,
    Started,
    /// It ran, and its memory did not all come.
    Lost,
    Denied,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    pub(crate) role: Role,
    pub(crate) stage: Stage,
    pub(crate) migration: String,
    pub(crate) id: String,
    pub(crate) namespace: String,
    /// containerd's socket.
    pub(crate) containerd: PathBuf,
    pub(crate) snapshotter: String,
    pub(crate) snapshot_key: String,
    /// At the source: where to ask.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) target: String,
    /// Of the init, at the side where it runs.
    #[serde(default)]
    pub(crate) pid: u32,
    #[serde(default)]
    pub(crate) keep_source: bool,
    /// The memory follows.
    #[serde(default)]
    pub(crate) lazy_pages: bool,
    /// Of pre-copy: that have begun.
    #[serde(default)]
    pub(crate) rounds: u32,
    /// At the destination: what was made there, and has to go if it comes to nothing.
    #[serde(default)]
    pub(crate) made_snapshot: bool,
    #[serde(default)]
    pub(crate) made_container: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) network_hook: Option<Hook>,
    /// To ask a destination of `tls://`.
    #[serde(default)]
    pub(crate) tls: TlsFiles,
}

impl Record {
    /// Calls the network hook, if there is one.
    pub(crate) async fn at(&self, moment: Moment) -> Result<()> {
        match &self.network_hook {
            Some(hook) => hook.call(self, moment).await.map(drop),
            None => Ok(()),
        }
    }
}

/// A migration on disk that this process works on.
#[derive(Debug)]
pub(crate) struct Journal {
    directory: PathBuf,
    record: Record,
    _lock: File,
}

/// What a question to a destination finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Started {
        pid: u32,
    },
    Starting,
    Arriving,
    Lost,
    /// And never will be.
    NotStarted,
}

impl Journal {
    /// Begins.
    ///
    /// # Errors
    /// There is one for this container already.
    pub(crate) fn create(state: &Path, record: Record) -> Result<Self> {
        let directory = directory(state, &record.namespace, &record.id, record.role)?;
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        made.map_err(Error::file("make directory", &directory))?;
        let lock = lock(&directory)?.ok_or_else(|| Error::Busy { id: record.id.clone() })?;
        if let Some(found) = read(&directory)? {
            return Err(Error::Unrecovered { id: found.id });
        }
        let journal = Self { directory, record, _lock: lock };
        let _step = journal.step()?;
        write(&journal.directory, &journal.record)?;
        Ok(journal)
    }

    /// One that was left behind. `None` if somebody works on it, or it is gone.
    pub(crate) fn open(directory: &Path) -> Result<Option<Self>> {
        let Some(lock) = lock(directory)? else { return Ok(None) };
        let record = read(directory)?;
        Ok(record.map(|record| Self { directory: directory.to_owned(), record, _lock: lock }))
    }

    pub(crate) fn record(&self) -> &Record {
        &self.record
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.directory.join(IMAGES)
    }

    /// The directory of the last round.
    pub(crate) fn round(&self) -> PathBuf {
        self.directory.join(ROUNDS).join(self.record.rounds.to_string())
    }

    /// The last round's directory, relative to that of the images; empty if there was none.
    pub(crate) fn parent(&self) -> String {
        match self.record.rounds {
            0 => String::new(),
            last => format!("../{ROUNDS}/{last}"),
        }
    }

    /// Begins a round; the directory for its images, which is made.
    pub(crate) fn begin_round(&mut self) -> Result<PathBuf> {
        self.change(|record| record.rounds += 1)?;
        let directory = self.round();
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
        made.map_err(Error::file("make directory", &directory))?;
        Ok(directory)
    }

    /// All images, of the rounds too. May be called again.
    pub(crate) fn remove_images(&self) -> Result<()> {
        for directory in [self.images(), self.directory.join(ROUNDS)] {
            match fs::remove_dir_all(&directory) {
                Err(err) if err.kind() != ErrorKind::NotFound => return Err(Error::file("remove", directory)(err)),
                _ => {}
            }
        }
        Ok(())
    }

    pub(crate) fn enter(&mut self, stage: Stage) -> Result<()> {
        self.change(|record| record.stage = stage)
    }

    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Record)) -> Result<()> {
        let _step = self.step()?;
        change(&mut self.record);
        write(&self.directory, &self.record)
    }

    /// The destination's step to Starting.
    ///
    /// # Errors
    /// The source was told that there will be none.
    pub(crate) fn start(&mut self, lazy_pages: bool) -> Result<()> {
        let _step = self.step()?;
        if read(&self.directory)?.is_none_or(|record| record.stage != Stage::Receiving) {
            return Err(Error::Aborted("it has asked, and was told that the container was not started".to_owned()));
        }
        (self.record.stage, self.record.lazy_pages) = (Stage::Starting, lazy_pages);
        write(&self.directory, &self.record)
    }

    /// It has come to its end.
    pub(crate) fn remove(self) -> Result<()> {
        let removed = fs::remove_dir_all(&self.directory);
        removed.map_err(Error::file("remove", &self.directory))
    }

    fn step(&self) -> Result<File> {
        step(&self.directory)
    }
}

/// What a destination answers to the source's question; whatever has not started by now never will.
pub(crate) fn ask(directory: &Path) -> Result<Asked> {
    let _step = step(directory)?;
    let Some(mut record) = read(directory)? else { return Ok(Asked::NotStarted) };
    match record.stage {
        Stage::Started => Ok(Asked::Started { pid: record.pid }),
        Stage::Starting => Ok(Asked::Starting),
        Stage::Arriving => Ok(Asked::Arriving),
        Stage::Lost => Ok(Asked::Lost),
        _ => {
            record.stage = Stage::Denied;
            write(directory, &record)?;
            Ok(Asked::NotStarted)
        }
    }
}

/// All migrations of this host with what is on disk of them, and whether somebody works on them.
pub(crate) fn list(state: &Path) -> Result<Vec<(PathBuf, Record, bool)>> {
    let mut found = Vec::new();
    for namespace in entries(state)? {
        for directory in entries(&namespace)? {
            let Some(record) = read(&directory)? else { continue };
            let busy = lock(&directory)?.is_none();
            found.push((directory, record, busy));
        }
    }
    found.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(found)
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(Error::file("read directory", directory))?,
    };
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(Error::file("read directory", directory))).collect()
}

/// Names become parts of paths, and some come from the other side.
fn directory(state: &Path, namespace: &str, id: &str, role: Role) -> Result<PathBuf> {
    for name in [namespace, id] {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !name.starts_with(|first: char| first.is_ascii_alphanumeric()) || !name.bytes().all(plain) {
            return Err(Error::Path(name.to_owned()));
        }
    }
    let role = match role {
        Role::Source => "source",
        Role::Destination => "destination",
    };
    Ok(state.join(namespace).join(format!("{id}.{role}")))
}

/// `None` if another process has it.
fn lock(directory: &Path) -> Result<Option<File>> {
    let path = directory.join(LOCK);
    let file = match File::options().create(true).write(true).truncate(false).open(&path) {
        // It was removed with all that was in it.
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(None),
        file => file.map_err(Error::file("open", &path))?,
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(err) => Err(Error::system("lock", path)(err)),
    }
}

fn step(directory: &Path) -> Result<File> {
    let file = File::open(directory).map_err(Error::file("open", directory))?;
    flock(&file, FlockOperation::LockExclusive).map_err(Error::system("lock", directory))?;
    Ok(file)
}

fn read(directory: &Path) -> Result<Option<Record>> {
    let path = directory.join(JOURNAL);
    let json = match fs::read(&path) {
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(None),
        json => json.map_err(Error::file("read", &path))?,
    };
    let invalid = |err| Error::Json { what: path.display().to_string(), err };
    serde_json::from_slice(&json).map(Some).map_err(invalid)
}

/// Whole or not at all, and on the disk when it returns. Into blocks that are there already, but for the first time: that a
/// container has been started has to be written down on a full disk too.
fn write(directory: &Path, record: &Record) -> Result<()> {
    let (path, spare) = (directory.join(JOURNAL), directory.join(SPARE));
    let mut json =
        serde_json::to_vec_pretty(record).map_err(|err| Error::Json { what: path.display().to_string(), err })?;
    // White space after a value is none of it.
    json.resize(json.len().next_multiple_of(BLOCK), b'\n');
    write_over(&spare, &json).map_err(Error::file("write", &spare))?;
    let exchanged = match renameat_with(CWD, &spare, CWD, &path, RenameFlags::EXCHANGE) {
        // The first time, of both.
        Err(Errno::NOENT) => fs::rename(&spare, &path).and_then(|()| write_over(&spare, &json)),
        // A file system that cannot exchange two names.
        Err(Errno::INVAL) => fs::rename(&spare, &path),
        exchanged => exchanged.map_err(Into::into),
    };
    exchanged.map_err(Error::file("rename to", &path))?;
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(Error::file("sync", directory))
}

fn write_over(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let file = File::options().create(true).write(true).truncate(false).open(path)?;
    file.write_all_at(bytes, 0)?;
    file.set_len(bytes.len().try_into().unwrap_or(u64::MAX))?;
    file.sync_all()
}

/// A record for tests.
#[cfg(test)]
pub(crate) fn example(role: Role, stage: Stage) -> Record {
    Record {
        role,
        stage,
        migration: "m1".to_owned(),
        id: "web".to_owned(),
        namespace: "default".to_owned(),
        containerd: "/run/containerd/containerd.sock".into(),
        snapshotter: "overlayfs".to_owned(),
        snapshot_key: "web".to_owned(),
        target: String::new(),
        pid: 7,
        keep_source: false,
        lazy_pages: false,
        rounds: 0,
        made_snapshot: false,
        made_container: false,
        network_hook: None,
        tls: TlsFiles::default(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::example as record;
    use super::*;

    #[test]
    fn one_process_works_on_a_migration() {
        let state = tempfile::tempdir().unwrap();
        let journal = Journal::create(state.path(), record(Role::Source, Stage::Copying)).unwrap();
        let again = Journal::create(state.path(), record(Role::Source, Stage::Copying));
        assert!(matches!(again, Err(Error::Busy { .. })));
        assert!(list(state.path()).unwrap()[0].2);
        drop(journal);
        let again = Journal::create(state.path(), record(Role::Source, Stage::Copying));
        assert!(matches!(again, Err(Error::Unrecovered { .. })));

        let (directory, found, busy) = list(state.path()).unwrap().remove(0);
        assert!(!busy && found == record(Role::Source, Stage::Copying));
        let mut journal = Journal::open(&directory).unwrap().unwrap();
        journal.enter(Stage::Restoring).unwrap();
        assert!(Journal::open(&directory).unwrap().is_none());
        journal.remove().unwrap();
        assert!(list(state.path()).unwrap().is_empty());
    }

    #[test]
    fn what_was_denied_does_not_start() {
        let state = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(state.path(), record(Role::Destination, Stage::Receiving)).unwrap();
        let directory = state.path().join("default/web.destination");
        assert_eq!(ask(&directory).unwrap(), Asked::NotStarted);
        assert!(matches!(journal.start(false), Err(Error::Aborted(_))));
    }

    #[test]
    fn what_starts_is_not_denied() {
        let state = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(state.path(), record(Role::Destination, Stage::Receiving)).unwrap();
        let directory = state.path().join("default/web.destination");
        journal.start(false).unwrap();
        assert_eq!(ask(&directory).unwrap(), Asked::Starting);
        journal.enter(Stage::Started).unwrap();
        assert_eq!(ask(&directory).unwrap(), Asked::Started { pid: 7 });
    }

    #[test]
    fn a_step_takes_no_more_room() {
        let state = tempfile::tempdir().unwrap();
        let mut journal = Journal::create(state.path(), record(Role::Destination, Stage::Receiving)).unwrap();
        let directory = state.path().join("default/web.destination");
        let files = || {
            let files = [JOURNAL, SPARE].map(|name| fs::metadata(directory.join(name)).unwrap());
            let mut files = files.map(|file| (file.ino(), file.blocks()));
            files.sort_unstable();
            files
        };
        let before = files();
        for stage in [Stage::Starting, Stage::Started, Stage::Lost] {
            journal.enter(stage).unwrap();
            assert_eq!(files(), before, "there are other files, or blocks");
            assert_eq!(read(&directory).unwrap().unwrap().stage, stage);
        }
    }

    #[test]
    fn names_are_no_paths() {
        let state = Path::new("/state");
        for bad in ["", "..", "a/b", ".a", "a\0"] {
            assert!(directory(state, "default", bad, Role::Source).is_err(), "{bad:?}");
            assert!(directory(state, bad, "web", Role::Source).is_err(), "{bad:?}");
        }
        assert!(directory(state, "k8s.io", "web-1", Role::Source).is_ok());
    }
}
