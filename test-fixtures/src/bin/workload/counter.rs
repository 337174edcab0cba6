//! State that lives in memory alone: it is right after a restore, or it is lost.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::Duration;

use crate::Outcome;
use crate::args::Args;
use crate::rounds::Rounds;

/// Counts. The log, if any, has a line for each count: a gap or a repetition is seen there.
pub(crate) fn counter(args: &Args) -> Outcome {
    let mut log = args.get("log").map(|path| OpenOptions::new().create(true).append(true).open(path)).transpose()?;
    let mut rounds = Rounds::new(args)?;
    loop {
        if let Some(log) = &mut log {
            log.write_all(format!("{}\n", rounds.count() + 1).as_bytes())?;
        }
        rounds.done()?;
    }
}

/// Threads that each count. The file has all counts in one line, rewritten ten times a second.
pub(crate) fn threads(args: &Args) -> Outcome {
    let count: usize = args.number("count")?;
    let file = args.get("file").map(File::create).transpose()?;
    let counts: Vec<Arc<AtomicU64>> = (0..count).map(|_| Arc::default()).collect();
    for number in &counts {
        let number = Arc::clone(number);
        std::thread::Builder::new().stack_size(64 * 1024).spawn(move || {
            loop {
                number.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(5));
            }
        })?;
    }
    loop {
        let line: Vec<String> = counts.iter().map(|n| format!("{:020}", n.load(Ordering::Relaxed))).collect();
        if let Some(file) = &file {
            file.write_all_at(format!("{}\n", line.join(" ")).as_bytes(), 0)?;
        }
        sleep(Duration::from_millis(100));
    }
}
