//! State that lives in memory alone: it is right after a restore, or it is lost.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::Outcome;
use crate::args::Args;

/// Counts. The file always has one line, `START COUNT`: START is when this process began, so that a restart is told
/// from a restore. The log, if any, has a line for each count: a gap or a repetition is seen there.
pub(crate) fn counter(args: &Args) -> Outcome {
    let interval = Duration::from_millis(args.number_or("interval-ms", 10)?);
    let file = File::create(args.text("file")?)?;
    let mut log = args.get("log").map(|path| OpenOptions::new().create(true).append(true).open(path)).transpose()?;
    let start = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
    let mut count = 0_u64;
    loop {
        count += 1;
        // Of one length, and in one write: a reader sees a whole line.
        file.write_all_at(format!("{start} {count:020}\n").as_bytes(), 0)?;
        if let Some(log) = &mut log {
            log.write_all(format!("{count}\n").as_bytes())?;
        }
        sleep(interval);
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
