//! The progress of a mode that goes round after round, in a file.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::Error;
use crate::args::Args;

/// The file always has one line, `START COUNT`: START is when this process began, so that a restart is told from a
/// restore, and COUNT the rounds that were right. A mode that finds something wrong ends, and its count stands still.
pub(crate) struct Rounds {
    file: File,
    start: u128,
    count: u64,
    interval: Duration,
}

impl Rounds {
    pub(crate) fn new(args: &Args) -> Result<Self, Error> {
        let file = File::create(args.text("file")?)?;
        let start = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        let interval = Duration::from_millis(args.number_or("interval-ms", 10)?);
        Ok(Self { file, start, count: 0, interval })
    }

    /// How many rounds were right.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// One more round was right.
    pub(crate) fn done(&mut self) -> Result<(), Error> {
        self.count += 1;
        // Of one length, and in one write: a reader sees a whole line.
        self.file.write_all_at(format!("{} {:020}\n", self.start, self.count).as_bytes(), 0)?;
        sleep(self.interval);
        Ok(())
    }
}

/// An error if what is `found` is not what is `expected`.
pub(crate) fn expect<T: PartialEq + std::fmt::Debug>(what: &str, expected: T, found: T) -> Result<(), Error> {
    if expected == found { Ok(()) } else { Err(format!("{what}: expected {expected:?}, found {found:?}").into()) }
}
