//! What is in a checkpoint, for people and programs that want to look at it, not to restore it.
//!
//! It is read from CRIU's images alone, whoever had them made. What cannot be read is a [`Problem`], and the rest is there all
//! the same. The directory may be anybody's: what is kept of it is bounded, whatever its files say.
//!
//! ```text
//! pstree, core-PID        processes and threads          process
//! mm-PID, pagemap-PID     memory areas, their pages      memory
//! fdinfo-N, files, …      descriptors, what they are     open_file, socket, files
//! mountpoints-N           mounts                         mount
//! every file              sizes by kind                  size
//! ```

mod files;
mod memory;
mod mount;
mod open_file;
mod process;
mod reader;
mod size;
mod socket;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use proto::criu::images::{TaskKobjIdsEntry, UtsnsEntry};
use serde::Serialize;

pub use memory::{Amount, Memory, SharedMemory};
pub use mount::Mount;
pub use open_file::{Access, File, OpenFile};
pub use process::{Process, ProcessState, Thread};
pub use reader::Problem;
pub use size::Size;
pub use socket::{Address, Protocol, SocketState, UnixKind};

use self::files::Files;
use self::reader::{Needed, Reader};
use super::{Error, crate_error};

const UTSNS: u32 = 0x5447_3203;

/// Directories; a chain of pre-dumps is shorter, and a circle has no end.
const LONGEST_CHAIN: usize = 64;

/// What kind of image directory it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// Processes that can be restored.
    Checkpoint,
    /// Memory alone, for a later checkpoint.
    PreDump,
}

/// What is in an image directory. Its JSON is an interface: fields are added to it, and none is renamed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Contents {
    pub kind: Kind,
    /// `img_version` of the inventory; `None` if that cannot be read, and for a pre-dump.
    pub image_format: Option<u32>,
    pub hostname: Option<String>,
    /// The root is the first; a child comes after its parent.
    pub processes: Vec<Process>,
    /// The kinds of namespaces, as in /proc/PID/ns, that the images have; cgroup and time namespaces cannot be told.
    pub namespaces: Vec<&'static str>,
    pub mounts: Vec<Mount>,
    /// Memory that several processes have, or could.
    pub shared_memory: Vec<SharedMemory>,
    /// Bytes of all files.
    pub bytes: u64,
    pub sizes: Vec<Size>,
    /// The directories that the memory is in as well, the next first.
    pub parents: Vec<PathBuf>,
    /// What is missing or damaged.
    pub problems: Vec<Problem>,
}

impl Contents {
    /// Reads all images but the pages. Blocks for a few milliseconds for each hundred processes.
    ///
    /// # Errors
    /// [`crate_error::Error::Images`] for a directory that cannot be listed, or has no image in it. All else is a
    /// [`Problem`].
    pub fn read(dir: &Path) -> crate_error::Result<Self> {
        Self::open(dir).map_err(|err| crate_error::Error::Images { dir: dir.to_owned(), err })
    }

    /// Of images that cannot be read, which files there are, and no more. Their names end with `suffix`.
    ///
    /// # Errors
    /// [`crate_error::Error::Images`] for a directory that cannot be listed.
    pub fn list(dir: &Path, suffix: &str) -> crate_error::Result<Self> {
        let failed = |err| crate_error::Error::Images { dir: dir.to_owned(), err };
        let listing = size::list_without(dir, suffix).map_err(failed)?;
        Ok(Self {
            kind: Kind::Checkpoint,
            image_format: None,
            hostname: None,
            processes: Vec::new(),
            namespaces: Vec::new(),
            mounts: Vec::new(),
            shared_memory: Vec::new(),
            bytes: listing.bytes,
            sizes: listing.into_sizes(),
            parents: Vec::new(),
            problems: Vec::new(),
        })
    }

    fn open(dir: &Path) -> Result<Self, Error> {
        let listing = size::list(dir)?;
        if !listing.has_images() {
            return Err(Error::Missing { file: "inventory.img".to_owned() });
        }
        let mut reader = Reader::new(dir);
        let kind = if listing.is_pre_dump() { Kind::PreDump } else { Kind::Checkpoint };
        let image_format = reader.inventory(kind);
        let files = Files::read(&mut reader, kind);
        let mut shared = memory::Shared::default();
        let (processes, root) = process::read(&mut reader, kind, &listing, &files, &mut shared);
        let hostname = hostname(&mut reader, root.as_ref());
        let mounts = mount::read(&mut reader, &listing);
        Ok(Self {
            kind,
            image_format,
            hostname,
            namespaces: namespaces(dir, &processes, root.as_ref()),
            processes,
            mounts,
            shared_memory: shared.finish(&mut reader),
            bytes: listing.bytes,
            sizes: listing.into_sizes(),
            parents: parents(dir),
            problems: reader.into_problems(),
        })
    }

    /// Of all processes; memory that several share counts once.
    pub fn memory(&self) -> Memory {
        let mut all = Memory::default();
        self.processes.iter().for_each(|process| all.add(&process.memory));
        let shared = &mut all.shared;
        *shared = Amount { mapped: shared.mapped, ..Amount::default() };
        self.shared_memory.iter().for_each(|memory| shared.add_stored(&memory.amount));
        all
    }
}

/// A namespace of its own has an image under its id. Of cgroup and time namespaces CRIU writes the same whether they are or
/// not, and of a pid namespace nothing: its init has the number 1 there.
fn namespaces(dir: &Path, processes: &[Process], root: Option<&TaskKobjIdsEntry>) -> Vec<&'static str> {
    let Some(ids) = root else { return Vec::new() };
    let kinds = [
        ("ipc", ids.ipc_ns_id, "ipcns-var"),
        ("mnt", ids.mnt_ns_id, "mountpoints"),
        ("net", ids.net_ns_id, "netns"),
        ("user", ids.user_ns_id, "userns"),
        ("uts", ids.uts_ns_id, "utsns"),
    ];
    let has_image = |id: Option<u32>, image: &str| id.is_some_and(|id| dir.join(format!("{image}-{id}.img")).exists());
    let mut own: Vec<_> = kinds.iter().filter(|(_, id, image)| has_image(*id, image)).map(|(kind, ..)| *kind).collect();
    if processes.first().is_some_and(|root| root.pid == 1) {
        own.push("pid");
    }
    own.sort_unstable();
    own
}

fn hostname(reader: &mut Reader<'_>, root: Option<&TaskKobjIdsEntry>) -> Option<String> {
    let id = root?.uts_ns_id?;
    let mut name = None;
    reader.each(&format!("utsns-{id}.img"), UTSNS, Needed::No, |entry: UtsnsEntry| {
        name = Some(reader::text(&entry.nodename));
    });
    name
}

fn parents(dir: &Path) -> Vec<PathBuf> {
    let mut seen = BTreeSet::new();
    let mut chain = Vec::new();
    let mut next = dir.join("parent");
    while chain.len() < LONGEST_CHAIN
        && let Ok(path) = next.canonicalize()
        && seen.insert(path.clone())
    {
        next = path.join("parent");
        chain.push(path);
    }
    chain
}

#[cfg(test)]
mod tests;
