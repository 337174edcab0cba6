//! Whether another round of pre-copy pays.
//!
//! A round's bytes are what the container has written to since the round before, so that rate is known from the second on. If
//! the next were the last, it had what was written to since the last one's beginning; that takes time as the first one has
//! taken for its bytes, once to write, once to send and, as is assumed, as long to read as to write.

use std::time::Duration;

use serde::Serialize;

use super::choose::WITHOUT_MEMORY;
use crate::report::micros;

/// A round of pre-copy. Sizes in bytes, times in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Round {
    pub number: u32,
    pub bytes: u64,
    /// For how long the container stood still.
    pub frozen_us: u64,
    /// Until its images were written, and until they were at the destination.
    pub dump_us: u64,
    pub transfer_us: u64,
    /// Memory that the container wrote to in a second; 0 after the first round, which has all.
    pub dirty_bytes_per_second: u64,
    /// The pause, if the container were stopped after this round.
    pub predicted_us: u64,
}

/// Why there was no further round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stopped {
    /// The pause is foreseen to be within the target, or what memory takes of it is not worth another round.
    Converged,
    /// Memory is written to as fast as it is sent.
    TooFast,
    /// The last two rounds were no smaller than one before.
    NoGain,
    MaxRounds,
}

impl Stopped {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Converged => "what is left of the memory is little",
            Self::TooFast => "the container writes to its memory as fast as that can be sent",
            Self::NoGain => "two rounds were no smaller than one before",
            Self::MaxRounds => "there were as many rounds as there may be",
        }
    }
}

/// What was measured of a round.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    pub(super) bytes: u64,
    pub(super) frozen: Duration,
    pub(super) dump: Duration,
    pub(super) transfer: Duration,
    /// From the beginning of the round before to that of this one.
    pub(super) since: Duration,
}

#[derive(Clone, Debug)]
pub(super) struct Convergence {
    target: Duration,
    most: u32,
    rounds: Vec<Round>,
}

impl Convergence {
    pub(super) fn new(target: Duration, most: u32) -> Self {
        Self { target, most, rounds: Vec::new() }
    }

    /// Takes a round in; what is known with it, and why it is the last, if it is.
    pub(super) fn add(&mut self, measured: Measured) -> (Round, Option<Stopped>) {
        let number = u32::try_from(self.rounds.len()).unwrap_or(u32::MAX).saturating_add(1);
        let dirty = match number {
            1 => 0,
            _ => per_second(measured.bytes, measured.since),
        };
        let mut round = Round {
            number,
            bytes: measured.bytes,
            frozen_us: micros(measured.frozen),
            dump_us: micros(measured.dump),
            transfer_us: micros(measured.transfer),
            dirty_bytes_per_second: dirty,
            predicted_us: 0,
        };
        self.rounds.push(round);
        let first = self.rounds.first().copied().unwrap_or(round);
        let next = match number {
            1 => first.bytes,
            _ => scale(dirty, round.dump_us + round.transfer_us, 1_000_000).min(first.bytes),
        };
        let (fixed, memory) = (self.fixed(&first), scale(next, 2 * first.dump_us + first.transfer_us, first.bytes));
        round.predicted_us = fixed.saturating_add(memory);
        if let Some(last) = self.rounds.last_mut() {
            *last = round;
        }
        let stopped = self.verdict(&first, &round, fixed, memory);
        (round, stopped)
    }

    fn verdict(&self, first: &Round, round: &Round, fixed: u64, memory: u64) -> Option<Stopped> {
        let sent = per_second(first.bytes, Duration::from_micros(first.dump_us + first.transfer_us));
        // The pages of a first round are all, and nothing is known of the next.
        let known = round.number > 1;
        if known && (round.predicted_us <= micros(self.target) || memory.saturating_mul(4) <= fixed) {
            return Some(Stopped::Converged);
        }
        if known && round.dirty_bytes_per_second >= sent {
            return Some(Stopped::TooFast);
        }
        if known && self.gains_nothing() {
            return Some(Stopped::NoGain);
        }
        (round.number >= self.most).then_some(Stopped::MaxRounds)
    }

    /// Of the pause, what no memory takes: a dump and a restore of their own.
    fn fixed(&self, first: &Round) -> u64 {
        let overhead = |round: &Round| round.dump_us.saturating_sub(scale(round.bytes, first.dump_us, first.bytes));
        let least = self.rounds.iter().skip(1).map(overhead).min().unwrap_or_default();
        micros(WITHOUT_MEMORY).max(least.saturating_mul(2))
    }

    /// A tenth is a gain.
    fn gains_nothing(&self) -> bool {
        let [before @ .., one, two] = self.rounds.as_slice() else { return false };
        let best = before.iter().map(|round| round.bytes).min();
        best.is_some_and(|best| one.bytes.min(two.bytes) >= best - best / 10)
    }
}

fn per_second(bytes: u64, time: Duration) -> u64 {
    scale(bytes, 1_000_000, micros(time))
}

/// `value * by / of`.
fn scale(value: u64, by: u64, of: u64) -> u64 {
    u64::try_from(u128::from(value) * u128::from(by) / u128::from(of.max(1))).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// Rounds of a container that writes to `dirty` bytes a second of the `hot` ones, over a connection and a disk of a speed.
    fn simulate(memory: u64, hot: u64, dirty: u64, speed: u64, most: u32) -> (Vec<Round>, Stopped) {
        let mut convergence = Convergence::new(Duration::from_millis(300), most);
        let (mut bytes, mut since, mut rounds) = (memory, Duration::ZERO, Vec::new());
        loop {
            let dump = Duration::from_millis(30) + Duration::from_micros(scale(bytes, 1_000_000, 4 * speed));
            let transfer = Duration::from_micros(scale(bytes, 1_000_000, speed));
            let frozen = Duration::from_millis(10);
            let (round, stopped) = convergence.add(Measured { bytes, frozen, dump, transfer, since });
            rounds.push(round);
            if let Some(stopped) = stopped {
                return (rounds, stopped);
            }
            since = dump + transfer;
            bytes = scale(dirty, micros(since), 1_000_000).min(hot);
        }
    }

    #[test]
    fn rounds_of_a_container_that_writes_slowly_shrink_until_the_pause_is_short() {
        let (rounds, stopped) = simulate(1024 * MIB, 1024 * MIB, 20 * MIB, 100 * MIB, 10);
        assert_eq!(stopped, Stopped::Converged);
        assert!(rounds.windows(2).all(|pair| pair[1].bytes < pair[0].bytes), "{rounds:?}");
        let last = rounds.last().unwrap();
        assert!(last.predicted_us <= 300_000 && rounds[0].predicted_us > 10_000_000, "{rounds:?}");
        assert!((19 * MIB..=21 * MIB).contains(&last.dirty_bytes_per_second), "{last:?}");
    }

    #[test]
    fn an_idle_one_needs_two() {
        let (rounds, stopped) = simulate(64 * MIB, 0, 0, 100 * MIB, 10);
        assert_eq!((rounds.len(), stopped), (2, Stopped::Converged));
        assert_eq!(rounds[1].dirty_bytes_per_second, 0);
    }

    #[test]
    fn who_writes_faster_than_is_sent_is_told_at_once() {
        let (rounds, stopped) = simulate(1024 * MIB, 1024 * MIB, 200 * MIB, 100 * MIB, 10);
        assert_eq!((rounds.len(), stopped), (2, Stopped::TooFast));
    }

    #[test]
    fn a_part_that_is_always_hot_gains_nothing_after_a_while() {
        // Slower than the connection, but all of it in each round.
        let mut convergence = Convergence::new(Duration::from_millis(300), 10);
        let second = Duration::from_secs(1);
        let measured =
            |bytes| Measured { bytes, frozen: second / 100, dump: second / 2, transfer: second * 2, since: second * 3 };
        let verdicts = [300, 100, 98, 99].map(|mib| convergence.add(measured(mib * MIB)).1);
        assert_eq!(verdicts, [None, None, None, Some(Stopped::NoGain)]);
    }

    #[test]
    fn there_are_no_more_rounds_than_there_may_be() {
        let (rounds, stopped) = simulate(1024 * MIB, 1024 * MIB, 60 * MIB, 100 * MIB, 3);
        assert!(matches!(stopped, Stopped::MaxRounds) && rounds.len() == 3, "{stopped:?} {rounds:?}");
        let (rounds, stopped) = simulate(1024 * MIB, 1024 * MIB, 0, 100 * MIB, 1);
        assert_eq!((rounds.len(), stopped), (1, Stopped::MaxRounds));
    }

    proptest! {
        #[test]
        fn it_ends_and_a_short_pause_is_never_missed(
            memory in 0..8192_u64, hot in 0..8192_u64, dirty in 0..2000_u64, speed in 1..2000_u64, most in 1..12_u32,
        ) {
            let (rounds, stopped) = simulate(memory * MIB, hot.min(memory) * MIB, dirty * MIB, speed * MIB, most);
            prop_assert!(rounds.len() <= most as usize);
            let short = |round: &Round| round.number > 1 && round.predicted_us <= 300_000;
            prop_assert!(!rounds.iter().rev().skip(1).any(short));
            if rounds.last().is_some_and(short) {
                prop_assert_eq!(stopped, Stopped::Converged);
            }
        }

        #[test]
        fn no_measure_is_too_strange(all in proptest::collection::vec((any::<u64>(), 0..u64::MAX / 8, 0..u64::MAX / 8, any::<u64>()), 1..5)) {
            let mut convergence = Convergence::new(Duration::ZERO, 3);
            for (bytes, dump, transfer, since) in all {
                let [dump, transfer, since] = [dump, transfer, since].map(Duration::from_micros);
                convergence.add(Measured { bytes, frozen: dump, dump, transfer, since });
            }
        }
    }
}
