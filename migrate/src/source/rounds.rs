//! Pre-copy: memory goes in rounds while the container runs, each with what was written to since the one before.

use std::collections::HashSet;
use std::fs::{self, OpenOptions};
use std::path::Path;
use std::time::{Duration, Instant};

use proto::stream::{Tree, TreeBegin};
use rustix::fs::{FallocateFlags, fallocate};
use tokio::task::block_in_place;

use super::converge::{Convergence, Measured, Stopped};
use super::copy::Copy;
use crate::error::{Error, Result};
use crate::progress::{Event, Phase};
use crate::shim::DumpOptions;

impl Copy<'_> {
    /// Rounds for as long as they pay.
    pub(super) async fn rounds(&mut self) -> Result<Stopped> {
        let mut convergence = Convergence::new(self.options.downtime_target, self.options.max_rounds);
        let mut before: Option<Instant> = None;
        loop {
            let begun = Instant::now();
            let since = before.replace(begun).map_or(Duration::ZERO, |before| begun - before);
            let (bytes, frozen) = self.round().await?;
            let dump = begun.elapsed();
            let images = self.journal.round();
            let begin = TreeBegin { tree: Tree::Round.into(), round: self.journal.record().rounds };
            self.tree(begin, &images, None, &HashSet::new()).await?;
            let transfer = begun.elapsed() - dump;
            block_in_place(|| free_pages(&images))?;
            let (round, stopped) = convergence.add(Measured { bytes, frozen, dump, transfer, since });
            tracing::info!(id = self.options.id, ?round, "memory of a running container is at the destination");
            self.options.progress.tell(&Event::Round(&round));
            self.report.rounds.push(round);
            self.report.predicted_us = round.predicted_us;
            if let Some(stopped) = stopped {
                self.report.stopped = Some(stopped);
                return Ok(stopped);
            }
        }
    }

    /// Writes the memory of one round; its bytes, and for how long the container stood still.
    async fn round(&mut self) -> Result<(u64, Duration)> {
        let images = self.journal.begin_round()?;
        let number = self.journal.record().rounds;
        self.options.progress.tell(&Event::Phase(Phase::Round(number)));
        let parent = match number {
            1 => String::new(),
            _ => format!("../{}", number - 1),
        };
        let made = self.source.shim.pre_dump(&images, DumpOptions::ALL, &parent).await?;
        Ok((made.bytes, Duration::from_micros(made.frozen_us)))
    }
}

/// What is at the destination takes no more room here. Which pages there are CRIU reads in the maps beside them, for the next
/// round; the pages themselves only to free them.
fn free_pages(images: &Path) -> Result<()> {
    for entry in fs::read_dir(images).map_err(Error::file("read directory", images))? {
        let path = entry.map_err(Error::file("read directory", images))?.path();
        let is_pages = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"pages-"));
        if !is_pages {
            continue;
        }
        let file = OpenOptions::new().write(true).open(&path).map_err(Error::file("open", &path))?;
        let bytes = file.metadata().map_err(Error::file("look at", &path))?.len();
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match if bytes == 0 { Ok(()) } else { fallocate(&file, flags, 0, bytes) } {
            // A file system without holes.
            Err(rustix::io::Errno::OPNOTSUPP) => return Ok(()),
            freed => freed.map_err(Error::system("free the room of", &path))?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn pages_are_freed_and_nothing_else() {
        let images = tempfile::tempdir().unwrap();
        let files = ["pages-1.img", "pages-2.img", "pagemap-1.img"].map(|name| images.path().join(name));
        fs::write(&files[0], vec![7; 1 << 20]).unwrap();
        fs::write(&files[1], "").unwrap();
        fs::write(&files[2], vec![7; 8192]).unwrap();
        free_pages(images.path()).unwrap();
        let sizes = files.each_ref().map(|file| fs::metadata(file).unwrap().len());
        assert_eq!(sizes, [1 << 20, 0, 8192]);
        // Of a disk without holes it takes its room still.
        let blocks = fs::metadata(&files[0]).unwrap().blocks();
        assert!(blocks == 0 || fs::read(&files[0]).unwrap()[0] == 7, "{blocks}");
        assert_eq!(fs::read(&files[2]).unwrap(), vec![7; 8192]);
    }
}
