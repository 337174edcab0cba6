//! A look at an image directory: is it a checkpoint, is it whole, what is in it.
//!
//! ```text
//! inventory.img      u32 magic, entry                    img_version
//! pstree.img         u32 magic, u32 magic, entry …       one for each process
//! core-TID.img       u32 magic, u32 magic, entry         one for each thread
//! pagemap-*.img      u32 magic, u32 magic, entry …       names its pages-N.img, and what of the memory is in it
//! pages-N.img        pages                               shorter than that, CRIU reads it for ever (seen with 4.2.1)
//! descriptors.json   what 0, 1 and 2 of the init were    written by the runtime, not by CRIU
//! ```
//! An entry is a u32 length and a protobuf message; numbers are in the machine's byte order (`magic.h`, `image.c`,
//! `protobuf.c` in CRIU).

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use prost::Message;
use proto::criu::images::{InventoryEntry, PagemapEntry, PagemapHead, PstreeEntry, StatsEntry};

use crate::error;

/// Common to all images of the second format but the inventory.
const COMMON: u32 = 0x5456_4319;
const INVENTORY: u32 = 0x5831_3116;
const PSTREE: u32 = 0x5027_3030;
const CORE: u32 = 0x5505_3847;
const PAGEMAP: u32 = 0x5608_4025;
/// In place of [`COMMON`] in files that are no part of the checkpoint.
const SERVICE: u32 = 0x5510_5940;
const STATS: u32 = 0x5709_3306;

/// `img_version` of images with [`COMMON`] in front.
const VERSION_WITH_COMMON: u32 = 2;

/// `flags` of a pagemap entry: the pages are in the pages file.
const PRESENT: u32 = 1 << 2;

/// Bytes. The largest entries that are read here are a few kilobytes.
const LONGEST_ENTRY: u32 = 4 << 20;

/// Where runc, and rtc, write what the standard descriptors of the init were.
pub const DESCRIPTORS: &str = "descriptors.json";

/// Why a directory is no checkpoint, or not a whole one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("there is no {file}: it is not a checkpoint, or an unfinished one")]
    Missing { file: String },

    #[error("{action} {file}")]
    Io {
        action: &'static str,
        file: String,
        #[source]
        err: io::Error,
    },

    #[error("{file} is damaged: {reason}")]
    Damaged { file: String, reason: &'static str },

    #[error("its image format is {found}, which CRIU does not read any more or not yet")]
    Format { found: u32 },

    #[error("{DESCRIPTORS} is not a list of strings")]
    Descriptors(#[source] serde_json::Error),
}

/// One process in a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// As the process itself saw it.
    pub pid: u32,
    /// 0 for the root.
    pub parent: u32,
    pub group: u32,
    pub session: u32,
    /// With the main thread.
    pub threads: Vec<u32>,
}

/// What CRIU measured while it dumped (`stats-dump` in its work directory).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DumpStats {
    /// Until all processes were stopped.
    pub freezing: Duration,
    /// How long the processes were stopped, by CRIU's count.
    pub frozen: Duration,
    pub memory_dump: Duration,
    pub memory_write: Duration,
    /// Pages of 4 KiB.
    pub pages_written: u64,
    /// Pages that are in the parent's images.
    pub pages_in_parent: u64,
}

impl DumpStats {
    /// Reads them from CRIU's work directory.
    ///
    /// # Errors
    /// As [`Images::read`].
    pub fn read(work_dir: &Path) -> error::Result<Self> {
        let read = || -> Result<Self, Error> {
            let mut image = Image::open(work_dir, "stats-dump", &[SERVICE, STATS])?;
            let entry = image.next::<StatsEntry>()?.and_then(|entry| entry.dump);
            let stats = entry.ok_or_else(|| image.damaged("it has no statistics of a dump"))?;
            let micros = |time: u32| Duration::from_micros(time.into());
            Ok(Self {
                freezing: micros(stats.freezing_time),
                frozen: micros(stats.frozen_time),
                memory_dump: micros(stats.memdump_time),
                memory_write: micros(stats.memwrite_time),
                pages_written: stats.pages_written,
                pages_in_parent: stats.pages_skipped_parent,
            })
        };
        read().map_err(|err| error::Error::Images { dir: work_dir.to_owned(), err })
    }
}

/// What is in an image directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    pub dir: PathBuf,
    /// The root is the first.
    pub tasks: Vec<Task>,
    /// Targets of the root's descriptors 0, 1 and 2, such as `pipe:[123]` or `/dev/pts/0`, where the runtime wrote them.
    pub descriptors: Option<Vec<String>>,
    /// Sum of the sizes of all files.
    pub bytes: u64,
    /// Pages are in part in a previous checkpoint, which the link `parent` points to.
    pub has_parent: bool,
    /// The connections were closed at dump, and must be at restore.
    pub tcp_close: bool,
}

impl Images {
    /// Reads the inventory, the process tree, the head of each thread's image and the maps of the memory, and compares
    /// these with the sizes of the pages. Blocks for a few milliseconds.
    ///
    /// # Errors
    /// [`error::Error::Images`]; the source says what is missing or damaged.
    pub fn read(dir: &Path) -> error::Result<Self> {
        Self::open(dir).map_err(|err| error::Error::Images { dir: dir.to_owned(), err })
    }

    fn open(dir: &Path) -> Result<Self, Error> {
        let inventory = Image::open(dir, "inventory.img", &[INVENTORY])?.only::<InventoryEntry>()?;
        let common: &[u32] = match inventory.img_version {
            1 => &[],
            VERSION_WITH_COMMON => &[COMMON],
            found => return Err(Error::Format { found }),
        };
        let tasks = read_tasks(dir, common)?;
        for tid in tasks.iter().flat_map(|task| &task.threads) {
            Image::open(dir, &format!("core-{tid}.img"), &[common, &[CORE]].concat())?.skip()?;
        }
        check_pages(dir, common)?;
        Ok(Self {
            dir: dir.to_owned(),
            tasks,
            descriptors: read_descriptors(dir)?,
            bytes: size(dir)?,
            has_parent: dir.join("parent").is_symlink(),
            tcp_close: inventory.tcp_close(),
        })
    }
}

fn read_tasks(dir: &Path, common: &[u32]) -> Result<Vec<Task>, Error> {
    let mut image = Image::open(dir, "pstree.img", &[common, &[PSTREE]].concat())?;
    let mut tasks = Vec::new();
    while let Some(entry) = image.next::<PstreeEntry>()? {
        let mut threads = entry.threads;
        // The main thread comes first; of a zombie CRIU writes what happens to be in memory there, and reads nothing of it.
        if let Some(main) = threads.first_mut() {
            *main = entry.pid;
        }
        tasks.push(Task { pid: entry.pid, parent: entry.ppid, group: entry.pgid, session: entry.sid, threads });
    }
    if tasks.is_empty() {
        return Err(image.damaged("it has no process"));
    }
    Ok(tasks)
}

/// Every pages file has what the maps say.
fn check_pages(dir: &Path, common: &[u32]) -> Result<(), Error> {
    let failed = |err| Error::Io { action: "list", file: dir.display().to_string(), err };
    for entry in fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with("pagemap-") && name.ends_with(".img")) else {
            continue;
        };
        let mut map = Image::open(dir, name, &[common, &[PAGEMAP]].concat())?;
        let Some(head) = map.next::<PagemapHead>()? else { return Err(map.damaged("it is empty")) };
        let mut pages: u64 = 0;
        while let Some(entry) = map.next::<PagemapEntry>()? {
            // Older images have neither flags nor the wide count.
            let present = entry.flags.map_or(!entry.in_parent(), |flags| flags & PRESENT != 0);
            let count = entry.nr_pages.unwrap_or_else(|| entry.compat_nr_pages().into());
            pages = pages.saturating_add(if present { count } else { 0 });
        }
        if pages > 0 {
            check_size(dir, &format!("pages-{}.img", head.pages_id), pages)?;
        }
    }
    Ok(())
}

fn check_size(dir: &Path, file: &str, pages: u64) -> Result<(), Error> {
    let expected = pages.saturating_mul(rustix::param::page_size() as u64);
    match fs::metadata(dir.join(file)) {
        Ok(metadata) if metadata.len() >= expected => Ok(()),
        Ok(_) => {
            Err(Error::Damaged { file: file.to_owned(), reason: "it is shorter than the memory that it is to hold" })
        }
        Err(err) if err.kind() == io::ErrorKind::NotFound => Err(Error::Missing { file: file.to_owned() }),
        Err(err) => Err(Error::Io { action: "look at", file: file.to_owned(), err }),
    }
}

fn read_descriptors(dir: &Path) -> Result<Option<Vec<String>>, Error> {
    match fs::read(dir.join(DESCRIPTORS)) {
        Ok(json) => serde_json::from_slice(&json).map(Some).map_err(Error::Descriptors),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(Error::Io { action: "read", file: DESCRIPTORS.to_owned(), err }),
    }
}

fn size(dir: &Path) -> Result<u64, Error> {
    let failed = |err| Error::Io { action: "list", file: dir.display().to_string(), err };
    let mut bytes = 0;
    for entry in fs::read_dir(dir).map_err(failed)? {
        let metadata = entry.and_then(|entry| entry.metadata()).map_err(failed)?;
        if metadata.is_file() {
            bytes += metadata.len();
        }
    }
    Ok(bytes)
}

/// An image file behind its magic numbers.
struct Image {
    file: File,
    name: String,
}

impl Image {
    /// `magic` are the numbers that the file begins with.
    fn open(dir: &Path, name: &str, magic: &[u32]) -> Result<Self, Error> {
        let file = File::open(dir.join(name)).map_err(|err| match err.kind() {
            io::ErrorKind::NotFound => Error::Missing { file: name.to_owned() },
            _ => Error::Io { action: "open", file: name.to_owned(), err },
        })?;
        let mut image = Self { file, name: name.to_owned() };
        for expected in magic {
            if image.number()? != Some(*expected) {
                return Err(image.damaged("it does not begin as an image of its kind"));
            }
        }
        Ok(image)
    }

    fn damaged(&self, reason: &'static str) -> Error {
        Error::Damaged { file: self.name.clone(), reason }
    }

    /// `None` at the end of the file.
    fn number(&mut self) -> Result<Option<u32>, Error> {
        let mut bytes = [0; 4];
        let mut have = 0;
        while have < bytes.len() {
            match self.file.read(&mut bytes[have..]) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => return Err(self.damaged("it ends in the middle of a number")),
                Ok(n) => have += n,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(Error::Io { action: "read", file: self.name.clone(), err }),
            }
        }
        Ok(Some(u32::from_ne_bytes(bytes)))
    }

    fn bytes(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let Some(length) = self.number()? else { return Ok(None) };
        if length > LONGEST_ENTRY {
            return Err(self.damaged("an entry is longer than any that CRIU writes"));
        }
        let mut bytes = vec![0; length as usize];
        self.file.read_exact(&mut bytes).map_err(|err| match err.kind() {
            io::ErrorKind::UnexpectedEof => self.damaged("it ends in the middle of an entry"),
            _ => Error::Io { action: "read", file: self.name.clone(), err },
        })?;
        Ok(Some(bytes))
    }

    fn next<M: Message + Default>(&mut self) -> Result<Option<M>, Error> {
        let Some(bytes) = self.bytes()? else { return Ok(None) };
        M::decode(bytes.as_slice()).map(Some).map_err(|_| self.damaged("an entry is not readable"))
    }

    fn only<M: Message + Default>(mut self) -> Result<M, Error> {
        match self.next()? {
            Some(entry) => Ok(entry),
            None => Err(self.damaged("it is empty")),
        }
    }

    fn skip(mut self) -> Result<(), Error> {
        match self.bytes()? {
            Some(_) => Ok(()),
            None => Err(self.damaged("it is empty")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(magic: &[u32], entries: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes: Vec<u8> = magic.iter().flat_map(|m| m.to_ne_bytes()).collect();
        for entry in entries {
            bytes.extend(u32::try_from(entry.len()).unwrap().to_ne_bytes());
            bytes.extend(entry);
        }
        bytes
    }

    fn checkpoint() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let inventory = InventoryEntry { img_version: 2, ..Default::default() }.encode_to_vec();
        fs::write(dir.path().join("inventory.img"), image(&[INVENTORY], &[inventory])).unwrap();
        let root = PstreeEntry { pid: 1, ppid: 0, pgid: 1, sid: 1, threads: vec![1, 4] };
        let child = PstreeEntry { pid: 7, ppid: 1, pgid: 7, sid: 1, threads: vec![7] };
        let tree = image(&[COMMON, PSTREE], &[root.encode_to_vec(), child.encode_to_vec()]);
        fs::write(dir.path().join("pstree.img"), tree).unwrap();
        for tid in [1, 4, 7] {
            fs::write(dir.path().join(format!("core-{tid}.img")), image(&[COMMON, CORE], &[vec![8, 1]])).unwrap();
        }
        fs::write(dir.path().join(DESCRIPTORS), r#"["/dev/null","pipe:[12]","pipe:[13]"]"#).unwrap();
        dir
    }

    fn reason(dir: &Path) -> String {
        let err = Images::read(dir).unwrap_err();
        std::error::Error::source(&err).unwrap().to_string()
    }

    #[test]
    fn a_checkpoint_is_read() {
        let dir = checkpoint();
        let images = Images::read(dir.path()).unwrap();
        assert_eq!(images.tasks.iter().map(|task| (task.pid, task.parent)).collect::<Vec<_>>(), [(1, 0), (7, 1)]);
        assert_eq!(images.tasks[0].threads, [1, 4]);
        assert_eq!(images.descriptors.unwrap()[1], "pipe:[12]");
        let on_disk: u64 = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert_eq!(images.bytes, on_disk);
        assert!(!images.has_parent);
    }

    #[test]
    fn pages_that_are_cut_off_are_noticed() {
        let dir = checkpoint();
        let page = rustix::param::page_size();
        let head = PagemapHead { pages_id: 3 };
        let present = PagemapEntry { vaddr: 4096, flags: Some(PRESENT), nr_pages: Some(2), ..Default::default() };
        let parents = PagemapEntry { vaddr: 65536, flags: Some(1), nr_pages: Some(9), ..Default::default() };
        let entries = [head.encode_to_vec(), present.encode_to_vec(), parents.encode_to_vec()];
        fs::write(dir.path().join("pagemap-1.img"), image(&[COMMON, PAGEMAP], &entries)).unwrap();
        assert!(reason(dir.path()).starts_with("there is no pages-3.img"));
        fs::write(dir.path().join("pages-3.img"), vec![0; 2 * page - 1]).unwrap();
        assert!(reason(dir.path()).starts_with("pages-3.img is damaged"));
        fs::write(dir.path().join("pages-3.img"), vec![0; 2 * page]).unwrap();
        Images::read(dir.path()).unwrap();
    }

    #[test]
    fn the_statistics_of_a_dump_are_read() {
        use proto::criu::images::DumpStatsEntry;
        let dir = tempfile::tempdir().unwrap();
        let dump = DumpStatsEntry { frozen_time: 1500, pages_written: 7, ..Default::default() };
        let entry = StatsEntry { dump: Some(dump), restore: None }.encode_to_vec();
        fs::write(dir.path().join("stats-dump"), image(&[SERVICE, STATS], &[entry])).unwrap();
        let stats = DumpStats::read(dir.path()).unwrap();
        assert_eq!((stats.frozen, stats.pages_written), (Duration::from_micros(1500), 7));
    }

    #[test]
    fn another_directory_is_no_checkpoint() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(reason(dir.path()), "there is no inventory.img: it is not a checkpoint, or an unfinished one");
    }

    #[test]
    fn a_missing_thread_is_named() {
        let dir = checkpoint();
        fs::remove_file(dir.path().join("core-4.img")).unwrap();
        assert!(reason(dir.path()).contains("core-4.img"));
    }

    /// As CRIU writes a zombie: its image is under its pid, and its thread is no number at all.
    #[test]
    fn a_zombie_has_one_thread_its_own() {
        let dir = checkpoint();
        let tree = [
            PstreeEntry { pid: 1, ppid: 0, pgid: 1, sid: 1, threads: vec![1, 4] },
            PstreeEntry { pid: 7, ppid: 1, pgid: 7, sid: 1, threads: vec![3_864_432_432] },
        ];
        let tree = image(&[COMMON, PSTREE], &tree.map(|entry| entry.encode_to_vec()));
        fs::write(dir.path().join("pstree.img"), tree).unwrap();
        assert_eq!(Images::read(dir.path()).unwrap().tasks[1].threads, [7]);
        fs::remove_file(dir.path().join("core-7.img")).unwrap();
        assert!(reason(dir.path()).contains("core-7.img"));
    }

    #[test]
    fn every_truncation_of_the_tree_is_noticed_or_loses_whole_entries() {
        let dir = checkpoint();
        let path = dir.path().join("pstree.img");
        let whole = fs::read(&path).unwrap();
        let first = 12 + u32::from_ne_bytes(whole[8..12].try_into().unwrap()) as usize;
        for length in (0..whole.len()).filter(|&length| length != first) {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(reason(dir.path()).starts_with("pstree.img is damaged"), "{length} bytes");
        }
    }

    #[test]
    fn a_wrong_magic_number_is_noticed() {
        for file in ["inventory.img", "pstree.img", "core-7.img"] {
            let dir = checkpoint();
            let path = dir.path().join(file);
            let mut bytes = fs::read(&path).unwrap();
            bytes[0] ^= 1;
            fs::write(&path, bytes).unwrap();
            assert!(reason(dir.path()).starts_with(&format!("{file} is damaged")));
        }
    }

    #[test]
    fn an_entry_of_absurd_length_is_not_allocated() {
        let dir = checkpoint();
        fs::write(dir.path().join("core-1.img"), image(&[COMMON, CORE, u32::MAX], &[])).unwrap();
        assert!(reason(dir.path()).contains("longer than any"));
    }
}
