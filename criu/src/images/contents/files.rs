//! What descriptors of all processes refer to: `files.img`, and what further images tell of it.

use std::collections::{HashMap, HashSet};

use proto::criu::images::{FileEntry, MemfdInodeEntry, PipeDataEntry, RemapFilePathEntry};

use super::Kind;
use super::reader::{Needed, Reader, text};

const FILES: u32 = 0x5630_3138;
const PIPES_DATA: u32 = 0x5645_3709;
const FIFO_DATA: u32 = 0x5933_3054;
const REMAP: u32 = 0x5913_3954;
const MEMFD: u32 = 0x4845_3499;

/// `remap_type`: the content of a deleted file is in the images.
const GHOST: u32 = 1;

#[derive(Debug, Default)]
pub(super) struct Files {
    by_id: HashMap<u32, FileEntry>,
    /// Bytes that nobody has read yet, by pipe.
    in_pipes: HashMap<u32, u64>,
    in_fifos: HashMap<u32, u64>,
    deleted: HashSet<u32>,
    memfds: HashMap<u64, MemfdInodeEntry>,
}

impl Files {
    pub(super) fn read(reader: &mut Reader<'_>, kind: Kind) -> Self {
        let mut files = Self::default();
        if kind == Kind::PreDump {
            return files;
        }
        reader.each("files.img", FILES, Needed::Yes, |entry: FileEntry| drop(files.by_id.insert(entry.id, entry)));
        files.in_pipes = read_data(reader, "pipes-data.img", PIPES_DATA);
        files.in_fifos = read_data(reader, "fifo-data.img", FIFO_DATA);
        reader.each("remap-fpath.img", REMAP, Needed::No, |entry: RemapFilePathEntry| {
            // Before there were types there were ghosts alone.
            if entry.remap_type.unwrap_or(GHOST) == GHOST {
                files.deleted.insert(entry.orig_id);
            }
        });
        reader.each("memfd.img", MEMFD, Needed::No, |entry: MemfdInodeEntry| {
            files.memfds.insert(entry.inode_id, entry);
        });
        files
    }

    pub(super) fn get(&self, id: u32) -> Option<&FileEntry> {
        self.by_id.get(&id)
    }

    /// Of a file that has one.
    pub(super) fn path(&self, id: u32) -> Option<String> {
        Some(text(&self.get(id)?.reg.as_ref()?.name))
    }

    pub(super) fn is_deleted(&self, id: u32) -> bool {
        self.deleted.contains(&id)
    }

    pub(super) fn in_pipe(&self, pipe: u32) -> u64 {
        self.in_pipes.get(&pipe).copied().unwrap_or(0)
    }

    pub(super) fn in_fifo(&self, fifo: u32) -> u64 {
        self.in_fifos.get(&fifo).copied().unwrap_or(0)
    }

    pub(super) fn memfd(&self, inode: u32) -> Option<&MemfdInodeEntry> {
        self.memfds.get(&inode.into())
    }
}

/// Behind each entry are the bytes themselves.
fn read_data(reader: &mut Reader<'_>, name: &str, magic: u32) -> HashMap<u32, u64> {
    let mut data = HashMap::new();
    let read = reader.read(name, magic, |reader, image| {
        while let Some((entry, length)) = image.next_with_length::<PipeDataEntry>()? {
            reader.keep(name, length)?;
            image.skip_raw(entry.bytes)?;
            *data.entry(entry.pipe_id).or_default() += u64::from(entry.bytes);
        }
        Ok(())
    });
    reader.noted(read, Needed::No);
    data
}
