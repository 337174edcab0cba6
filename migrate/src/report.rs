//! What a migration tells at its end.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::source::{Round, Stopped, Way};

/// Times in microseconds, sizes in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    pub id: String,
    pub migration: String,
    pub target: String,
    pub dry_run: bool,
    /// How the memory went.
    pub way: Way,
    /// Where that was left open, the connection's speed, and the pause that was foreseen: of a stop-copy, or after the last
    /// round. 0 if not.
    pub bytes_per_second: u64,
    pub predicted_us: u64,
    /// Of pre-copy, and why there was no further one.
    pub rounds: Vec<Round>,
    pub stopped: Option<Stopped>,
    /// Of the container's init at the destination.
    pub pid: u32,
    pub image_bytes: u64,
    /// Of the writable layer, while the container ran, and while it stood still.
    pub layer_bytes: u64,
    pub layer_bytes_frozen: u64,
    pub checkpoint_bytes: u64,
    /// From the first step to the last.
    pub total_us: u64,
    /// How long no copy of the container ran, as the source saw it: from the freeze to the word that it runs.
    pub pause_us: u64,
    /// The same as the destination saw it: how long it had stood still when its start was allowed, and how long that took.
    pub pause_destination_us: u64,
    /// Of the pause: until the images were written, until they were at the destination.
    pub dump_us: u64,
    pub transfer_us: u64,
    /// Of the pause, as the destination saw it: from the permission to start it until it ran.
    pub restore_us: u64,
    /// Of memory that came after the container ran at the destination (post-copy), and how long that took.
    pub memory_bytes: u64,
    pub follow_us: u64,
    /// What is not as it could be.
    pub warnings: Vec<String>,
    /// What has failed after the container ran at the destination, where it stays.
    pub problems: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, target, .. } = self;
        if self.dry_run {
            return write!(f, "{id} can be moved to {target}");
        }
        writeln!(f, "{id} runs at {target} with pid {}", self.pid)?;
        let ahead = self.rounds.iter().map(|round| round.bytes).sum::<u64>();
        let bytes = self.image_bytes + self.layer_bytes + self.layer_bytes_frozen + self.checkpoint_bytes + ahead;
        writeln!(
            f,
            "moved {} (image {}, writable layer {} and {} while it stood still, checkpoint {}) in {}",
            size(bytes),
            size(self.image_bytes),
            size(self.layer_bytes),
            size(self.layer_bytes_frozen),
            size(self.checkpoint_bytes),
            time(self.total_us),
        )?;
        if let Some(last) = self.rounds.last() {
            let rounds = self.rounds.iter().map(|round| size(round.bytes)).collect::<Vec<_>>().join(", ");
            let dirty = size(last.dirty_bytes_per_second);
            writeln!(f, "sent {} of memory ahead, in rounds of {rounds}; {dirty}/s were written to", size(ahead))?;
        }
        write!(
            f,
            "paused for {}, seen from there {} (dump {}, transfer {}, restore {})",
            time(self.pause_us),
            time(self.pause_destination_us),
            time(self.dump_us),
            time(self.transfer_us),
            time(self.restore_us),
        )?;
        if self.follow_us > 0 {
            let (bytes, time) = (size(self.memory_bytes), time(self.follow_us));
            write!(
                f,
                "\nthen {bytes} of memory followed in {time}, while it could have been lost with either node or the link"
            )?;
        }
        self.problems.iter().try_for_each(|problem| write!(f, "\nbut {problem}"))
    }
}

pub(crate) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // Tenths of the unit.
    let (mut tenths, mut unit) = (u128::from(bytes) * 10 / 1024, 0);
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS.get(unit).unwrap_or(&"TiB"))
}

fn time(micros: u64) -> String {
    match micros {
        0..10_000 => format!("{}.{:01} ms", micros / 1000, micros % 1000 / 100),
        10_000..10_000_000 => format!("{} ms", micros / 1000),
        _ => format!("{} s", micros / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_for_people() {
        assert_eq!(
            [0, 1023, 1024, 1536, 5 << 20, 3 << 40].map(size),
            ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "5.0 MiB", "3.0 TiB"]
        );
        assert_eq!([0, 1250, 12_500, 12_500_000].map(time), ["0.0 ms", "1.2 ms", "12 ms", "12 s"]);
    }

    #[test]
    fn a_verdict_is_no_move() {
        let report = Report { id: "web".into(), target: "ssh://b".into(), dry_run: true, ..Report::default() };
        assert_eq!(report.to_string(), "web can be moved to ssh://b");
    }
}
