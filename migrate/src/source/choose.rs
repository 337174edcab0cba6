//! Which way the memory goes, where that is left to us.
//!
//! Stop-copy is the simple one, and the pause is foreseen from the size of the memory and the measured speeds of the connection
//! and of the disk. When that is too long, the memory goes ahead in rounds (pre-copy), which shows how fast the container writes
//! to it; where the kernel does not track that, or the rounds do not converge, it follows (post-copy).
//!
//! Without tracking, the rate at which memory is written to is not measured: what else could tell it (write-protecting the
//! memory with userfaultfd, say) takes code in the container's processes, and no choice depends on it. A stop-copy sends all of
//! the memory, and a post-copy stands still for none of it, whatever is written to.

use std::time::Duration;

use serde::Serialize;

use super::look::Source;
use super::{Migrate, Mode};
use crate::error::Result;
use crate::link::Link;
use crate::probe;
use crate::report::micros;

/// What a dump and a restore take without any memory.
pub(super) const WITHOUT_MEMORY: Duration = Duration::from_millis(100);

/// How the memory goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    #[default]
    StopCopy,
    #[serde(rename = "precopy")]
    PreCopy,
    #[serde(rename = "postcopy")]
    PostCopy,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Choice {
    pub(super) way: Way,
    /// Of the connection, and the pause of a stop-copy; 0 where nothing was left to choose.
    pub(super) bytes_per_second: u64,
    pub(super) predicted_us: u64,
    pub(super) warnings: Vec<String>,
}

pub(super) async fn choose(link: &mut Link, source: &Source, options: &Migrate) -> Result<Choice> {
    let told = |way| Ok(Choice { way, ..Choice::default() });
    match options.mode {
        Mode::StopCopy => return told(Way::StopCopy),
        Mode::PreCopy => return told(Way::PreCopy),
        Mode::PostCopy => return told(Way::PostCopy),
        Mode::Auto => {}
    }
    let (_, memory) = source.sizes().await?;
    let bytes_per_second = probe::measure(link).await?;
    let state = options.state.clone();
    let disk = tokio::task::spawn_blocking(move || probe::measure_disk(&state)).await??;
    let predicted = predict(memory, bytes_per_second, disk);
    let short = predicted <= options.downtime_target;
    let (no_precopy, no_postcopy) = (source.no_precopy.as_deref(), source.no_postcopy.as_deref());
    let (way, warnings) = pick(short, no_precopy, no_postcopy);
    Ok(Choice { way, bytes_per_second, predicted_us: micros(predicted), warnings })
}

/// `short`: a stop-copy is quick enough. The others are why a way cannot be gone.
fn pick(short: bool, no_precopy: Option<&str>, no_postcopy: Option<&str>) -> (Way, Vec<String>) {
    let way = match (short, no_precopy, no_postcopy) {
        (true, ..) | (false, Some(_), Some(_)) => Way::StopCopy,
        (false, None, _) => Way::PreCopy,
        (false, Some(_), None) => Way::PostCopy,
    };
    let goes = match way {
        Way::PostCopy => "the memory follows when the container runs at the destination (post-copy)",
        _ => "the memory goes while the container stands still (stop-copy)",
    };
    let mut warnings = Vec::new();
    // Said in any case: it is the host's, and not this container's.
    warnings.extend(no_precopy.map(|why| format!("no memory can be sent ahead: {why}; {goes}")));
    if !short && no_precopy.is_some() {
        warnings.extend(no_postcopy.map(|why| format!("nor can it follow: {why}")));
    }
    (way, warnings)
}

/// The pause of a stop-copy. Images are written, sent, and read, one after the other; the destination's disk is taken for one
/// such as ours.
fn predict(memory: u64, bytes_per_second: u64, disk: u64) -> Duration {
    let seconds = |rate: u64| Duration::from_micros(memory.saturating_mul(1_000_000) / rate.max(1));
    WITHOUT_MEMORY + seconds(bytes_per_second) + 2 * seconds(disk)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_grows_with_the_memory_and_not_without_end() {
        let (slow, fast, disk) = (100 << 20, 10 << 30, 1 << 30);
        assert!(predict(0, slow, disk) == WITHOUT_MEMORY);
        assert!(predict(64 << 20, fast, disk) < Duration::from_millis(300));
        assert!(predict(64 << 20, slow, disk) > Duration::from_millis(640));
        assert!(predict(64 << 20, fast, slow) > Duration::from_millis(1280));
        assert!(predict(1 << 30, fast, disk) > Duration::from_secs(2));
        assert!(predict(u64::MAX, 0, 0) >= predict(1 << 40, 1, 1));
    }

    #[test]
    fn the_safest_way_that_is_short_enough_is_gone() {
        let (no, yes) = (Some("no"), None);
        let ways = [
            (true, yes, yes, Way::StopCopy, 0),
            (true, no, no, Way::StopCopy, 1),
            (false, yes, yes, Way::PreCopy, 0),
            (false, yes, no, Way::PreCopy, 0),
            (false, no, yes, Way::PostCopy, 1),
            (false, no, no, Way::StopCopy, 2),
        ];
        for (short, precopy, postcopy, way, warnings) in ways {
            let picked = pick(short, precopy, postcopy);
            assert_eq!((picked.0, picked.1.len()), (way, warnings), "{short} {precopy:?} {postcopy:?}: {picked:?}");
        }
        let (_, warnings) = pick(false, Some("the kernel"), None);
        assert!(warnings[0].contains("the kernel") && warnings[0].contains("post-copy"), "{warnings:?}");
    }
}
