//! What CRIU measured: `stats-dump` and `stats-restore` in its work directory.

use std::path::Path;
use std::time::Duration;

use proto::criu::images::StatsEntry;

use super::Error;
use super::image::{Image, SERVICE};
use crate::error;

pub(super) const STATS: u32 = 0x5709_3306;

/// CRIU's names of the files.
pub const STATS_DUMP: &str = "stats-dump";
pub const STATS_RESTORE: &str = "stats-restore";

/// What CRIU measured while it dumped.
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

/// What CRIU measured while it restored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RestoreStats {
    /// Until all processes existed.
    pub forking: Duration,
    pub total: Duration,
    /// Pages of 4 KiB.
    pub pages_restored: u64,
}

impl DumpStats {
    /// Reads them from CRIU's work directory.
    ///
    /// # Errors
    /// As [`super::Images::read`].
    pub fn read(work_dir: &Path) -> error::Result<Self> {
        let stats = read(work_dir, STATS_DUMP, |entry| entry.dump, "it has no statistics of a dump")?;
        Ok(Self {
            freezing: micros(stats.freezing_time),
            frozen: micros(stats.frozen_time),
            memory_dump: micros(stats.memdump_time),
            memory_write: micros(stats.memwrite_time),
            pages_written: stats.pages_written,
            pages_in_parent: stats.pages_skipped_parent,
        })
    }
}

impl RestoreStats {
    /// Reads them from CRIU's work directory.
    ///
    /// # Errors
    /// As [`super::Images::read`].
    pub fn read(work_dir: &Path) -> error::Result<Self> {
        let stats = read(work_dir, STATS_RESTORE, |entry| entry.restore, "it has no statistics of a restore")?;
        Ok(Self {
            forking: micros(stats.forking_time),
            total: micros(stats.restore_time),
            pages_restored: stats.pages_restored(),
        })
    }
}

fn read<T>(
    dir: &Path,
    name: &str,
    part: impl FnOnce(StatsEntry) -> Option<T>,
    missing: &'static str,
) -> error::Result<T> {
    let read = || -> Result<T, Error> {
        let mut image = Image::open(dir, name, &[SERVICE, STATS])?;
        let start = image.damaged(missing);
        image.next::<StatsEntry>()?.and_then(part).ok_or(start)
    };
    read().map_err(|err| error::Error::Images { dir: dir.to_owned(), err })
}

fn micros(time: u32) -> Duration {
    Duration::from_micros(time.into())
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use proto::criu::images::{DumpStatsEntry, RestoreStatsEntry};

    use super::super::tests::image;
    use super::*;

    #[test]
    fn the_statistics_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let dump = DumpStatsEntry { frozen_time: 1500, pages_written: 7, ..Default::default() };
        let entry = StatsEntry { dump: Some(dump), restore: None }.encode_to_vec();
        std::fs::write(dir.path().join(STATS_DUMP), image(&[SERVICE, STATS], &[entry])).unwrap();
        let stats = DumpStats::read(dir.path()).unwrap();
        assert_eq!((stats.frozen, stats.pages_written), (Duration::from_micros(1500), 7));

        let restore = RestoreStatsEntry { forking_time: 2, restore_time: 30, pages_restored: Some(4) };
        let entry = StatsEntry { dump: None, restore: Some(restore) }.encode_to_vec();
        std::fs::write(dir.path().join(STATS_RESTORE), image(&[SERVICE, STATS], &[entry])).unwrap();
        let stats = RestoreStats::read(dir.path()).unwrap();
        assert_eq!((stats.total, stats.pages_restored), (Duration::from_micros(30), 4));
    }
}
