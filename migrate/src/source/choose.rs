//! Which way the memory goes, where that is left to us.
//!
//! Stop-copy is the safe one: whatever fails, the container runs on here. Its pause is foreseen from the size of the memory and
//! the speed of the connection, which is measured with some data; when that pause is too long, the memory follows.

use std::time::Duration;

use serde::Serialize;

use super::look::Source;
use super::{Migrate, Mode};
use crate::error::Result;
use crate::link::Link;
use crate::probe;
use crate::report::{Report, micros};

/// Bytes a second that CRIU writes into images, and reads from them: what usual hosts do.
const IMAGES: u64 = 1 << 30;

/// What a dump and a restore take without any memory.
const WITHOUT_MEMORY: Duration = Duration::from_millis(100);

/// How the memory goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    #[default]
    StopCopy,
    #[serde(rename = "postcopy")]
    PostCopy,
}

pub(super) async fn choose(link: &mut Link, source: &Source, options: &Migrate, report: &mut Report) -> Result<Way> {
    match options.mode {
        Mode::StopCopy => return Ok(Way::StopCopy),
        Mode::PostCopy => return Ok(Way::PostCopy),
        Mode::Auto => {}
    }
    if !source.preflight.tracks_memory {
        tracing::info!(id = options.id, "this kernel does not track which memory changes: none is sent beforehand");
    }
    if let Some(why) = &source.no_postcopy {
        tracing::warn!(id = options.id, why, "its memory cannot follow: it goes while the container stands still");
        return Ok(Way::StopCopy);
    }
    let (_, memory) = source.sizes().await?;
    let rate = probe::measure(link).await?;
    (report.bytes_per_second, report.predicted_us) = (rate, micros(predict(memory, rate)));
    let short = predict(memory, rate) <= options.downtime_target;
    Ok(if short { Way::StopCopy } else { Way::PostCopy })
}

/// The pause of a stop-copy. Images are written, sent, and read, one after the other.
fn predict(memory: u64, bytes_per_second: u64) -> Duration {
    let seconds = |rate: u64| Duration::from_micros(memory.saturating_mul(1_000_000) / rate.max(1));
    WITHOUT_MEMORY + seconds(bytes_per_second) + 2 * seconds(IMAGES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_grows_with_the_memory_and_not_without_end() {
        let (slow, fast) = (100 << 20, 10 << 30);
        assert!(predict(0, slow) == WITHOUT_MEMORY);
        assert!(predict(64 << 20, fast) < Duration::from_millis(300));
        assert!(predict(64 << 20, slow) > Duration::from_millis(640));
        assert!(predict(1 << 30, fast) > Duration::from_secs(2));
        assert!(predict(u64::MAX, 0) >= predict(1 << 40, 1));
    }
}
