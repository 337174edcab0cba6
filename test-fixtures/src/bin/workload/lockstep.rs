//! Memory that two processes share, and notice when they do not share it any more.

use std::fs::OpenOptions;
use std::thread::sleep;
use std::time::Duration;

use vmap::MapMut;

use crate::Outcome;
use crate::args::Args;

const SLOT: usize = 8;

/// Maps a file of two counts, of which one is this process's: it counts when the other has counted as far. So they are never
/// more than one apart, and stand still when the memory is not that of both.
pub(crate) fn lockstep(args: &Args) -> Outcome {
    let own: usize = args.number("slot")?;
    let interval = Duration::from_millis(args.number_or("interval-ms", 2)?);
    let path = args.text("file")?;
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?.set_len(2 * SLOT as u64)?;
    let (mut map, _file) = MapMut::with_options().open(path)?;
    loop {
        let (mine, other) = (count(&map, own)?, count(&map, 1 - own)?);
        if mine.abs_diff(other) > 1 {
            return Err(format!("it has counted to {mine}, and the other to {other}").into());
        }
        if other >= mine {
            let slot = map.get_mut(own * SLOT..).and_then(|rest| rest.first_chunk_mut::<SLOT>());
            *slot.ok_or("there are slots 0 and 1")? = (mine + 1).to_be_bytes();
        }
        sleep(interval);
    }
}

fn count(map: &[u8], slot: usize) -> Result<u64, &'static str> {
    let bytes = map.get(slot * SLOT..).and_then(|rest| rest.first_chunk::<SLOT>());
    bytes.map(|bytes| u64::from_be_bytes(*bytes)).ok_or("there are slots 0 and 1")
}
