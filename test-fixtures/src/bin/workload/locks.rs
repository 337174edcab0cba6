//! File locks, held and tried.

use std::fs::{self, File, OpenOptions};
use std::process::ExitCode;

use rustix::fs::{FlockOperation, fcntl_lock, flock};

use crate::args::Args;
use crate::{Outcome, say, sleep_forever};

/// Holds a flock on the file and a POSIX lock on `FILE.posix`, forever.
pub(crate) fn lock(args: &Args) -> Outcome {
    let (one, two) = open(args)?;
    flock(&one, FlockOperation::NonBlockingLockExclusive)?;
    fcntl_lock(&two, FlockOperation::NonBlockingLockExclusive)?;
    if let Some(path) = args.get("ready") {
        fs::write(path, "ready\n")?;
    }
    say("locked\n")?;
    sleep_forever()
}

/// Says `flock free|held` and `posix free|held`; ends with 0 when both are free, 1 when both are held, else 2.
pub(crate) fn try_lock(args: &Args) -> Outcome {
    let (one, two) = open(args)?;
    let free = [
        flock(&one, FlockOperation::NonBlockingLockExclusive).is_ok(),
        fcntl_lock(&two, FlockOperation::NonBlockingLockExclusive).is_ok(),
    ];
    let word = |free| if free { "free" } else { "held" };
    say(&format!("flock {}\nposix {}\n", word(free[0]), word(free[1])))?;
    Ok(ExitCode::from(match free {
        [true, true] => 0,
        [false, false] => 1,
        _ => 2,
    }))
}

fn open(args: &Args) -> Result<(File, File), crate::Error> {
    let path = args.text("file")?;
    let open = |path: &str| OpenOptions::new().create(true).truncate(false).write(true).open(path);
    Ok((open(path)?, open(&format!("{path}.posix"))?))
}
