//! `pagemap-*.img`: which pages of a process, or of a piece of shared memory, are where.

use std::collections::BTreeMap;
use std::path::Path;

use proto::criu::images::{PagemapEntry, PagemapHead};

use super::image::{Image, open};
use super::{Error, Task};

const PAGEMAP: u32 = 0x5608_4025;

/// `flags` of an entry (`pagemap.h` in CRIU): in the parent's images, to be fetched when it is used, in the pages file.
const PARENT: u32 = 1;
const LAZY: u32 = 1 << 1;
const PRESENT: u32 = 1 << 2;

/// Where the content of pages is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the pages file.
    Here,
    /// In the parent's images.
    Parent,
    /// With the process that was dumped, until somebody fetches it.
    Lazy,
    /// Nowhere: pages of zeros.
    Zero,
}

/// Pages one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// An address, or an offset in shared memory; bytes.
    pub(super) start: u64,
    pub(super) pages: u64,
    pub(super) place: Place,
}

pub(super) struct Pagemap {
    image: Image,
    pages_id: u32,
}

impl Pagemap {
    pub(super) fn open(dir: &Path, name: &str, common: &[u32]) -> Result<Self, Error> {
        let mut image = Image::open(dir, name, &[common, &[PAGEMAP]].concat())?;
        let Some(head) = image.next::<PagemapHead>()? else { return Err(image.damaged("it is empty")) };
        Ok(Self { image, pages_id: head.pages_id })
    }

    /// Of the pages file.
    pub(super) fn pages_file(&self) -> String {
        format!("pages-{}.img", self.pages_id)
    }

    /// As it is read next.
    pub(super) fn damaged(&self, reason: &'static str) -> Error {
        self.image.damaged(reason)
    }

    pub(super) fn next(&mut self) -> Result<Option<Run>, Error> {
        let Some(entry) = self.image.next::<PagemapEntry>()? else { return Ok(None) };
        // Older images have neither flags nor the wide count.
        let place = match entry.flags {
            Some(flags) if flags & PRESENT != 0 => Place::Here,
            Some(flags) if flags & PARENT != 0 => Place::Parent,
            Some(flags) if flags & LAZY != 0 => Place::Lazy,
            Some(_) => Place::Zero,
            None if entry.in_parent() => Place::Parent,
            None => Place::Here,
        };
        let pages = entry.nr_pages.unwrap_or_else(|| entry.compat_nr_pages().into());
        Ok(Some(Run { start: entry.vaddr, pages, place }))
    }
}

/// Every pages file has what its map says. Maps of processes that are not in the tree are left over from an earlier dump into
/// the same directory (Podman keeps one), and their pages may have been overwritten. Of shared memory no tree tells which
/// maps count, but one whose pages are a process's does not.
pub(super) fn check_all(dir: &Path, names: &[String], common: &[u32], tasks: &[Task]) -> Result<(), Error> {
    let mut processes = BTreeMap::new();
    let mut shared = BTreeMap::new();
    for name in names {
        let of = name.trim_start_matches("pagemap-").trim_end_matches(".img");
        let found = match of.parse::<u32>() {
            Ok(pid) if tasks.iter().any(|task| task.pid == pid) => &mut processes,
            Ok(_) => continue,
            Err(_) => &mut shared,
        };
        let (file, pages) = needed(dir, name, common)?;
        let smallest = found.entry(file).or_insert(pages);
        *smallest = pages.min(*smallest);
    }
    shared.retain(|file, _| !processes.contains_key(file));
    processes.into_iter().chain(shared).try_for_each(|(file, pages)| check_size(dir, file, pages))
}

/// The pages file of a map, and how many pages are to be in it.
fn needed(dir: &Path, name: &str, common: &[u32]) -> Result<(String, u64), Error> {
    let mut map = Pagemap::open(dir, name, common)?;
    let mut pages: u64 = 0;
    while let Some(run) = map.next()? {
        pages = pages.saturating_add(if run.place == Place::Here { run.pages } else { 0 });
    }
    Ok((map.pages_file(), pages))
}

/// The pages file has as many pages; there need be none for none.
pub(super) fn check_size(dir: &Path, file: String, pages: u64) -> Result<(), Error> {
    if pages == 0 {
        return Ok(());
    }
    let expected = pages.saturating_mul(page_size());
    let metadata = open(dir, &file)?.metadata();
    let length = metadata.map_err(|err| Error::Io { action: "look at", file: file.clone(), err })?.len();
    if length >= expected {
        return Ok(());
    }
    Err(Error::Damaged { file, offset: length, reason: "it is shorter than the memory that it is to hold" })
}

pub(super) fn page_size() -> u64 {
    rustix::param::page_size() as u64
}
