//! `pagemap-*.img`: which pages of a process, or of a piece of shared memory, are where.

use std::path::Path;

use proto::criu::images::{PagemapEntry, PagemapHead};

use super::Error;
use super::image::{Image, open};

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

/// The pages file has what the map says.
pub(super) fn check(dir: &Path, name: &str, common: &[u32]) -> Result<(), Error> {
    let mut map = Pagemap::open(dir, name, common)?;
    let mut pages: u64 = 0;
    while let Some(run) = map.next()? {
        pages = pages.saturating_add(if run.place == Place::Here { run.pages } else { 0 });
    }
    check_size(dir, map.pages_file(), pages)
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
