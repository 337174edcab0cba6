//! What takes how long: a span for each phase, with milliseconds and bytes, from CRIU's own statistics where it is CRIU's.
//!
//! ```text
//! dump         freezing_ms, frozen_ms, memory_dump_ms, memory_write_ms, total_ms, bytes
//! inventory
//! restore      forking_ms, total_ms, bytes
//! ```
//! What CRIU measured at a restore goes to where `criu restore` leaves it: `stats-restore` among the images.

use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use criu::images::{DumpStats, RestoreStats, STATS_RESTORE};
use serde::Serialize;
use tracing::Span;
use tracing::field::Empty;

use crate::ContainerId;

/// In CRIU's statistics.
const PAGE: u64 = 4096;

pub(super) fn dump(id: &ContainerId) -> Span {
    tracing::info_span!(
        "dump",
        %id,
        freezing_ms = Empty,
        frozen_ms = Empty,
        memory_dump_ms = Empty,
        memory_write_ms = Empty,
        total_ms = Empty,
        bytes = Empty
    )
}

pub(super) fn dumped(span: &Span, total: Duration, stats: Option<&DumpStats>) {
    span.record("total_ms", milliseconds(total));
    if let Some(stats) = stats {
        span.record("freezing_ms", milliseconds(stats.freezing));
        span.record("frozen_ms", milliseconds(stats.frozen));
        span.record("memory_dump_ms", milliseconds(stats.memory_dump));
        span.record("memory_write_ms", milliseconds(stats.memory_write));
        span.record("bytes", stats.pages_written.saturating_mul(PAGE));
    }
    span.in_scope(|| tracing::debug!(?total, ?stats, "dumped"));
}

pub(super) fn inventory() -> Span {
    tracing::info_span!("inventory")
}

pub(in crate::container) fn restore(id: &ContainerId) -> Span {
    tracing::info_span!("restore", %id, forking_ms = Empty, total_ms = Empty, bytes = Empty)
}

/// Records what CRIU left in `work_dir`. The container runs, whatever becomes of its statistics.
pub(in crate::container) fn restored(span: &Span, work_dir: &Path, image_dir: &Path) {
    let stats = match RestoreStats::read(work_dir) {
        Ok(stats) => stats,
        Err(err) => {
            tracing::warn!(err = &err as &dyn std::error::Error, "statistics of a restore");
            return;
        }
    };
    span.record("forking_ms", milliseconds(stats.forking));
    span.record("total_ms", milliseconds(stats.total));
    span.record("bytes", stats.pages_restored.saturating_mul(PAGE));
    span.in_scope(|| tracing::debug!(?stats, "restored"));
    // Images are often somewhere that may only be read.
    if work_dir != image_dir
        && let Err(err) = keep(&work_dir.join(STATS_RESTORE), image_dir)
    {
        tracing::debug!(err = &err as &dyn std::error::Error, "keep the statistics of a restore");
    }
}

/// Whole or not at all: others may restore from the same images. A link that somebody has put there is not followed.
fn keep(stats: &Path, image_dir: &Path) -> std::io::Result<()> {
    let new = image_dir.join(format!(".{STATS_RESTORE}.{}", std::process::id()));
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let copied = fs::File::open(stats).and_then(|mut stats| std::io::copy(&mut stats, &mut file));
    let kept = copied.and_then(|_| fs::rename(&new, image_dir.join(STATS_RESTORE)));
    // The first failure is the one to tell.
    kept.inspect_err(|_| fs::remove_file(&new).unwrap_or_default())
}

/// Microseconds, and pages of 4 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreTimings {
    /// Until all processes existed.
    pub forking: u64,
    pub total: u64,
    pub pages_restored: u64,
}

impl RestoreTimings {
    pub(super) fn new(stats: &RestoreStats) -> Self {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        Self { forking: micros(stats.forking), total: micros(stats.total), pages_restored: stats.pages_restored }
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_kept_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (stats, images, other) = (dir.path().join("stats"), dir.path().join("images"), dir.path().join("other"));
        fs::create_dir(&images).unwrap();
        fs::write(&stats, "new").unwrap();
        fs::write(&other, "somebody's").unwrap();
        let link = images.join(format!(".{STATS_RESTORE}.{}", std::process::id()));
        std::os::unix::fs::symlink(&other, &link).unwrap();
        assert_eq!(keep(&stats, &images).unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&other).unwrap(), "somebody's");
        fs::remove_file(&link).unwrap();
        keep(&stats, &images).unwrap();
        assert_eq!(fs::read_to_string(images.join(STATS_RESTORE)).unwrap(), "new");
        assert_eq!(fs::read_dir(&images).unwrap().count(), 1);
    }
}
