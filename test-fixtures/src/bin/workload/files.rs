//! Files that no path leads to.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};

use crate::Outcome;
use crate::args::Args;
use crate::rounds::{Rounds, expect};
use crate::stream::Random;

const MEMFD_BYTES: usize = 1 << 20;

/// A sealed memfd: its contents, a number in it that is rewritten in each round, and its seals.
pub(crate) fn memfd(args: &Args) -> Outcome {
    let mut rounds = Rounds::new(args)?;
    let file = File::from(memfd_create("workload", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    let mut random = Random::new(1);
    let contents: Vec<u8> = (0..MEMFD_BYTES / 8).flat_map(|_| random.next().to_le_bytes()).collect();
    file.write_all_at(&contents, 0)?;
    file.write_all_at(&0_u64.to_be_bytes(), 0)?;
    let seals = SealFlags::GROW | SealFlags::SHRINK;
    fcntl_add_seals(&file, seals)?;
    loop {
        expect("the seals of the memfd", seals, fcntl_get_seals(&file)?)?;
        let mut found = vec![0; MEMFD_BYTES];
        file.read_exact_at(&mut found, 0)?;
        expect("the number in the memfd", rounds.count().to_be_bytes().as_slice(), &found[..8])?;
        if found[8..] != contents[8..] {
            return Err("the memfd's contents are others".into());
        }
        file.write_all_at(&(rounds.count() + 1).to_be_bytes(), 0)?;
        rounds.done()?;
    }
}

/// Appends to a file that was removed after it was opened, by which it is the only one that knows it.
pub(crate) fn deleted(args: &Args) -> Outcome {
    let mut rounds = Rounds::new(args)?;
    let path = args.text("scratch")?;
    let mut file = OpenOptions::new().create_new(true).read(true).write(true).open(path)?;
    fs::remove_file(path)?;
    loop {
        file.write_all(&rounds.count().to_be_bytes())?;
        let bytes = (rounds.count() + 1) * 8;
        expect("the position in the deleted file", bytes, file.stream_position()?)?;
        expect("the size of the deleted file", (bytes, 0), (file.metadata()?.len(), file.metadata()?.nlink()))?;
        for number in [0, rounds.count() / 2, rounds.count()] {
            let mut found = [0; 8];
            file.read_exact_at(&mut found, number * 8)?;
            expect("the deleted file", number, u64::from_be_bytes(found))?;
        }
        rounds.done()?;
    }
}

/// Appends to a file that was removed after it was opened, and that has another name left.
pub(crate) fn unlinked(args: &Args) -> Outcome {
    let mut rounds = Rounds::new(args)?;
    let (path, other) = (args.text("scratch")?, args.text("other")?);
    let mut file = OpenOptions::new().create_new(true).read(true).write(true).open(path)?;
    fs::hard_link(path, other)?;
    fs::remove_file(path)?;
    loop {
        file.write_all(&rounds.count().to_be_bytes())?;
        // By its other name it is the same file.
        expect("the file by its other name", (rounds.count() + 1) * 8, fs::metadata(other)?.len())?;
        expect("its inode", file.metadata()?.ino(), fs::metadata(other)?.ino())?;
        rounds.done()?;
    }
}
