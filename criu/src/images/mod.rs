//! A look at an image directory: is it a checkpoint, is it whole, what is in it.
//!
//! ```text
//! inventory.img      u32 magic, entry                    img_version
//! pstree.img         u32 magic, u32 magic, entry …       one for each process
//! core-TID.img       u32 magic, u32 magic, entry         one for each thread
//! pagemap-*.img      u32 magic, u32 magic, entry …       names its pages-N.img, and what of the memory is in it
//! pages-N.img        pages                               shorter than that, CRIU reads it for ever (seen with 4.2.1)
//! stats-*            u32 magic, u32 magic, entry         what CRIU measured
//! descriptors.json   what 0, 1 and 2 of the init were    written by the runtime, not by CRIU
//! ```
//! - [`Images`]: what a restore wants to know, and whether it can be; the first thing that is wrong is its error.
//! - [`Contents`]: all that a person wants to know, of whatever can still be read.
//! - `image`: the form of the files. `pagemap`, `stats`: two kinds of them.

mod contents;
mod error;
mod image;
mod pagemap;
mod stats;

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use proto::criu::images::{InventoryEntry, PstreeEntry};

use crate::error as crate_error;
pub use contents::*;
pub use error::Error;
use image::{COMMON, Image};
pub use stats::{DumpStats, RestoreStats, STATS_DUMP, STATS_RESTORE};

const INVENTORY: u32 = 0x5831_3116;
const PSTREE: u32 = 0x5027_3030;
const CORE: u32 = 0x5505_3847;

/// `img_version` of images with [`COMMON`] in front.
const VERSION_WITH_COMMON: u32 = 2;

/// Where runc, and rtc, write what the standard descriptors of the init were.
pub const DESCRIPTORS: &str = "descriptors.json";

/// Bytes; three paths are shorter.
const LONGEST_DESCRIPTORS: u64 = 64 << 10;

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
    /// [`crate_error::Error::Images`]; the source says what is missing or damaged.
    pub fn read(dir: &Path) -> crate_error::Result<Self> {
        Self::open(dir).map_err(|err| crate_error::Error::Images { dir: dir.to_owned(), err })
    }

    fn open(dir: &Path) -> Result<Self, Error> {
        let (inventory, common) = read_inventory(dir)?;
        let tasks = read_tasks(dir, common)?;
        for tid in tasks.iter().flat_map(|task| &task.threads) {
            Image::open(dir, &format!("core-{tid}.img"), &[common, &[CORE]].concat())?.skip()?;
        }
        pagemap::check_all(dir, &pagemaps(dir)?, common, &tasks)?;
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

/// With the magic number in front of all other images.
fn read_inventory(dir: &Path) -> Result<(InventoryEntry, &'static [u32]), Error> {
    let inventory = Image::open(dir, "inventory.img", &[INVENTORY])?.only::<InventoryEntry>()?;
    match inventory.img_version {
        1 => Ok((inventory, &[])),
        VERSION_WITH_COMMON => Ok((inventory, &[COMMON])),
        found => Err(Error::Format { found }),
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

/// Names of the maps of memory; those that have none are no images of CRIU's.
fn pagemaps(dir: &Path) -> Result<Vec<String>, Error> {
    let failed = |err| Error::Io { action: "list", file: dir.display().to_string(), err };
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        names.extend(
            name.to_str().filter(|name| name.starts_with("pagemap-") && name.ends_with(".img")).map(str::to_owned),
        );
    }
    Ok(names)
}

fn read_descriptors(dir: &Path) -> Result<Option<Vec<String>>, Error> {
    let file = match image::open(dir, DESCRIPTORS) {
        Err(Error::Missing { .. }) => return Ok(None),
        opened => opened?,
    };
    let mut json = Vec::new();
    let read = file.take(LONGEST_DESCRIPTORS).read_to_end(&mut json);
    read.map_err(|err| Error::Io { action: "read", file: DESCRIPTORS.to_owned(), err })?;
    serde_json::from_slice(&json).map(Some).map_err(Error::Descriptors)
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

/// A file as each kind of image whose entries are read; what it is not, is an error and no more.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(dir: &Path, name: &str) {
    Image::open(dir, name, &[INVENTORY]).and_then(Image::only::<InventoryEntry>).ok();
    if let Ok(mut tree) = Image::open(dir, name, &[COMMON, PSTREE]) {
        while let Ok(Some(_)) = tree.next::<PstreeEntry>() {}
    }
    if let Ok(mut map) = pagemap::Pagemap::open(dir, name, &[COMMON]) {
        while let Ok(Some(_)) = map.next() {}
    }
}

#[cfg(test)]
mod tests {
    use proto::criu::images::{PagemapEntry, PagemapHead};

    use prost::Message;

    use super::*;

    const PRESENT: u32 = 1 << 2;
    const PAGEMAP: u32 = 0x5608_4025;

    pub(super) fn image(magic: &[u32], entries: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes: Vec<u8> = magic.iter().flat_map(|m| m.to_ne_bytes()).collect();
        for entry in entries {
            bytes.extend(u32::try_from(entry.len()).unwrap().to_ne_bytes());
            bytes.extend(entry);
        }
        bytes
    }

    /// Two processes, one with two threads.
    pub(super) fn checkpoint() -> tempfile::TempDir {
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

    /// Of a process and of shared memory that an earlier dump had, the pages of both overwritten by this one's.
    #[test]
    fn what_an_earlier_dump_left_is_not_looked_at() {
        let dir = checkpoint();
        let map = |pages_id, pages| {
            let present = PagemapEntry { flags: Some(PRESENT), nr_pages: Some(pages), ..Default::default() };
            image(&[COMMON, PAGEMAP], &[PagemapHead { pages_id }.encode_to_vec(), present.encode_to_vec()])
        };
        fs::write(dir.path().join("pagemap-1.img"), map(1, 1)).unwrap();
        fs::write(dir.path().join("pages-1.img"), vec![0; rustix::param::page_size()]).unwrap();
        for left_over in ["pagemap-12.img", "pagemap-shmem-9.img"] {
            fs::write(dir.path().join(left_over), map(1, 9)).unwrap();
        }
        Images::read(dir.path()).unwrap();
        fs::write(dir.path().join("pagemap-shmem-8.img"), map(2, 1)).unwrap();
        assert!(reason(dir.path()).starts_with("there is no pages-2.img"));
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
