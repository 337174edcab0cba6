//! The memory of processes: what they have mapped, and where its pages are.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;

use proto::criu::images::{MmEntry, VmaEntry};
use serde::Serialize;

use super::super::Error;
use super::super::image::open;
use super::super::pagemap::{Pagemap, Place, Run, check_size, page_size};
use super::reader::{Needed, Reader, text};

const MM: u32 = 0x5749_2820;

/// `status` of an area (`image.h` in CRIU).
const FILE_PRIVATE: u32 = 1 << 6;
const FILE_SHARED: u32 = 1 << 7;
const ANONYMOUS_SHARED: u32 = 1 << 8;
const ANONYMOUS: u32 = 1 << 9;
const SYSV: u32 = 1 << 10;
const MEMFD: u32 = 1 << 14;
/// No memory, but a hole in it.
const GUARD: u32 = 1 << 16;

/// Bytes of a command line; a longer one is cut off.
const LONGEST_ARGUMENTS: u64 = 4096;

/// All in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Amount {
    /// Address space.
    pub mapped: u64,
    /// In these images.
    pub stored: u64,
    /// In the images of a parent.
    pub in_parent: u64,
    /// Left with the process, for lazy pages.
    pub lazy: u64,
}

/// By what it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// Heap, stacks, and private memory in general.
    pub anonymous: Amount,
    /// Files that are mapped; stored is what was written to private maps of them.
    pub file: Amount,
    /// Anonymous shared memory, System V's, and memfds; stored is what the shared memory has, whoever wrote it.
    pub shared: Amount,
    pub other: Amount,
}

/// A piece of shared memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SharedMemory {
    /// CRIU's.
    pub id: u64,
    /// How often it is mapped.
    pub maps: u64,
    #[serde(flatten)]
    pub amount: Amount,
}

impl Amount {
    pub(super) fn add(&mut self, other: &Self) {
        self.mapped = self.mapped.saturating_add(other.mapped);
        self.add_stored(other);
    }

    pub(super) fn add_stored(&mut self, other: &Self) {
        self.stored = self.stored.saturating_add(other.stored);
        self.in_parent = self.in_parent.saturating_add(other.in_parent);
        self.lazy = self.lazy.saturating_add(other.lazy);
    }

    fn add_run(&mut self, bytes: u64, place: Place) {
        let to = match place {
            Place::Here => &mut self.stored,
            Place::Parent => &mut self.in_parent,
            Place::Lazy => &mut self.lazy,
            Place::Zero => return,
        };
        *to = to.saturating_add(bytes);
    }
}

impl Memory {
    pub fn total(&self) -> Amount {
        let mut total = Amount::default();
        [&self.anonymous, &self.file, &self.shared, &self.other].iter().for_each(|amount| total.add(amount));
        total
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.anonymous.add(&other.anonymous);
        self.file.add(&other.file);
        self.shared.add(&other.shared);
        self.other.add(&other.other);
    }

    /// The kind of an area; `None` for one that is no memory.
    fn of_area(&mut self, status: u32) -> Option<&mut Amount> {
        Some(match status {
            _ if status & GUARD != 0 => return None,
            _ if status & (ANONYMOUS_SHARED | SYSV | MEMFD) != 0 => &mut self.shared,
            _ if status & (FILE_PRIVATE | FILE_SHARED) != 0 => &mut self.file,
            _ if status & ANONYMOUS != 0 => &mut self.anonymous,
            _ => &mut self.other,
        })
    }
}

/// The pieces of shared memory that the processes have mapped, by CRIU's id.
#[derive(Debug, Default)]
pub(super) struct Shared(BTreeMap<u64, SharedMemory>);

impl Shared {
    fn add(&mut self, area: &VmaEntry, bytes: u64) {
        let new = || SharedMemory { id: area.shmid, maps: 0, amount: Amount::default() };
        let memory = self.0.entry(area.shmid).or_insert_with(new);
        memory.maps += 1;
        memory.amount.mapped = memory.amount.mapped.max(bytes);
    }

    /// Looks what is stored of them.
    pub(super) fn finish(self, reader: &mut Reader<'_>) -> Vec<SharedMemory> {
        let stored = |mut memory: SharedMemory| {
            // One that nobody wrote to has none.
            let name = format!("pagemap-shmem-{}.img", memory.id);
            let read = runs(reader, &name, |run, bytes, _| {
                memory.amount.add_run(bytes, run.place);
                Ok(())
            });
            reader.noted(read, Needed::No);
            memory
        };
        self.0.into_values().map(stored).collect()
    }
}

/// What a process has of memory.
#[derive(Debug, Default)]
pub(super) struct Mapped {
    pub(super) memory: Memory,
    pub(super) executable: Option<u32>,
    pub(super) arguments: Option<Vec<String>>,
}

/// `needed` is that of the list of areas, which a pre-dump does not have.
pub(super) fn read(reader: &mut Reader<'_>, pid: u32, needed: Needed, shared: &mut Shared) -> Mapped {
    let mm: Option<MmEntry> = reader.first(&format!("mm-{pid}.img"), MM, needed);
    let mut mapped = Mapped::default();
    let mut arguments = 0..0;
    let mut areas = Vec::new();
    if let Some(mm) = mm {
        mapped.executable = Some(mm.exe_file_id);
        arguments = mm.mm_arg_start..mm.mm_arg_end;
        areas = mm.vmas;
        areas.sort_by_key(|area| area.start);
    }
    for area in &areas {
        let bytes = area.end.saturating_sub(area.start);
        if let Some(amount) = mapped.memory.of_area(area.status) {
            amount.mapped = amount.mapped.saturating_add(bytes);
        }
        if area.status & (ANONYMOUS_SHARED | SYSV) != 0 && reader.keep("mm", 64).is_ok() {
            shared.add(area, bytes);
        }
    }
    let mut place = None;
    let mut next = 0;
    let read = runs(reader, &format!("pagemap-{pid}.img"), |run, bytes, position| {
        if run.place == Place::Here && (run.start..run.start.saturating_add(bytes)).contains(&arguments.start) {
            place = Some(position.saturating_add(arguments.start - run.start));
        }
        attribute(run, bytes, &areas, &mut next, &mut mapped.memory);
        Ok(())
    });
    let pages = reader.noted(read, needed);
    if let (Some(pages), Some(place)) = (pages, place) {
        let length = arguments.end.saturating_sub(arguments.start).min(LONGEST_ARGUMENTS);
        mapped.arguments = read_arguments(reader, &pages, place, length);
    }
    mapped
}

/// Calls `take` for each run of pages with its bytes and where in the pages file it is, and returns that file's name. They are
/// in order, and no two have a page in common.
fn runs(
    reader: &mut Reader<'_>,
    name: &str,
    mut take: impl FnMut(Run, u64, u64) -> Result<(), Error>,
) -> Result<String, Error> {
    let mut map = Pagemap::open(reader.dir, name, reader.common)?;
    let (mut end, mut position) = (0, 0_u64);
    while let Some(run) = map.next()? {
        let bytes = run.pages.saturating_mul(page_size());
        if run.start < end {
            return Err(map.damaged("its pages are not in order"));
        }
        end = run.start.saturating_add(bytes);
        take(run, bytes, position)?;
        if run.place == Place::Here {
            position = position.saturating_add(bytes);
        }
    }
    check_size(reader.dir, map.pages_file(), position / page_size())?;
    Ok(map.pages_file())
}

/// Counts a run under the kinds of the areas that it is in. `next` is the first area that ends behind the run before it.
fn attribute(run: Run, bytes: u64, areas: &[VmaEntry], next: &mut usize, memory: &mut Memory) {
    let end = run.start.saturating_add(bytes);
    let mut start = run.start;
    while areas.get(*next).is_some_and(|area| area.end <= start) {
        *next += 1;
    }
    let mut at = *next;
    while start < end
        && let Some(area) = areas.get(at).filter(|area| area.start < end)
    {
        // Pages between areas are nobody's.
        memory.other.add_run(area.start.saturating_sub(start), run.place);
        let from = start.max(area.start);
        let to = end.min(area.end).max(from);
        if let Some(amount) = memory.of_area(area.status) {
            amount.add_run(to - from, run.place);
        }
        start = to;
        at += 1;
    }
    memory.other.add_run(end.saturating_sub(start), run.place);
    *next = at.saturating_sub(1).max(*next);
}

/// As in /proc/PID/cmdline. `None` where the page has no text, and where the pages are not as the map says, which those
/// tell who check them.
fn read_arguments(reader: &Reader<'_>, pages: &str, place: u64, length: u64) -> Option<Vec<String>> {
    let mut bytes = vec![0; usize::try_from(length).ok()?];
    let file = open(reader.dir, pages).ok()?;
    let read = file.read_at(&mut bytes, place).ok()?;
    bytes.truncate(read);
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    let arguments = bytes.split(|byte| *byte == 0).map(text).collect();
    (!bytes.is_empty()).then_some(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn area(start: u64, end: u64, status: u32) -> VmaEntry {
        VmaEntry { start, end, shmid: 0, status }
    }

    #[test]
    fn pages_count_where_they_are_mapped() {
        let areas = [area(0, 100, ANONYMOUS), area(100, 200, FILE_PRIVATE), area(300, 400, ANONYMOUS_SHARED)];
        let mut memory = Memory::default();
        let mut next = 0;
        for (start, bytes, place) in [
            (50, 100, Place::Here),
            (190, 20, Place::Parent),
            (250, 100, Place::Here),
            (360, 10, Place::Zero),
            (500, 7, Place::Lazy),
        ] {
            attribute(Run { start, pages: 0, place }, bytes, &areas, &mut next, &mut memory);
        }
        assert_eq!((memory.anonymous.stored, memory.file.stored, memory.shared.stored), (50, 50, 50));
        assert_eq!((memory.file.in_parent, memory.other.in_parent), (10, 10));
        assert_eq!((memory.other.stored, memory.other.lazy), (50, 7));
        assert_eq!(memory.total().stored, 200);
    }

    #[test]
    fn no_numbers_overflow() {
        let areas = [area(u64::MAX - 1, 0, ANONYMOUS), area(1, u64::MAX, ANONYMOUS)];
        let mut memory = Memory::default();
        let run = Run { start: 2, pages: u64::MAX, place: Place::Here };
        for _ in 0..2 {
            attribute(run, u64::MAX, &areas, &mut 0, &mut memory);
        }
        assert_eq!(memory.total().stored, u64::MAX);
    }
}
