//! The exit of a container's init, written into the bundle before it is published: `delete` answers with it after a
//! shim that was killed in between.
//!
//! One line, `pid code seconds nanoseconds`, renamed into place, so that a reader sees all or nothing.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use runtime_core::Pid;
use runtime_core::children::Exit;

const FILE: &str = "rtc-exit";
const TEMPORARY: &str = "rtc-exit.new";

#[derive(Debug, thiserror::Error)]
#[error("write the exit of {pid} to {}", path.display())]
pub(crate) struct Error {
    pid: Pid,
    path: PathBuf,
    #[source]
    err: std::io::Error,
}

/// # Errors
/// The path and what writing it failed with.
pub(crate) fn write(bundle: &Path, pid: Pid, exit: Exit) -> Result<(), Error> {
    let path = bundle.join(FILE);
    let temporary = bundle.join(TEMPORARY);
    let since = exit.at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let line = format!("{pid} {} {} {}\n", exit.code, since.as_secs(), since.subsec_nanos());
    std::fs::write(&temporary, line).and_then(|()| std::fs::rename(&temporary, &path)).map_err(|err| Error {
        pid,
        path,
        err,
    })
}

/// The pid and exit that are in a bundle; `None` where the init has not exited, or not under a shim that could tell.
pub(crate) fn read(bundle: &Path) -> Option<(Pid, Exit)> {
    parse(&std::fs::read_to_string(bundle.join(FILE)).ok()?)
}

pub(crate) fn parse(line: &str) -> Option<(Pid, Exit)> {
    let mut words = line.split_ascii_whitespace();
    let pid = Pid::new(words.next()?.parse().ok()?)?;
    let code = words.next()?.parse().ok()?;
    let seconds = Duration::from_secs(words.next()?.parse().ok()?);
    let since = seconds.checked_add(Duration::from_nanos(words.next()?.parse().ok()?))?;
    let at: SystemTime = UNIX_EPOCH.checked_add(since)?;
    words.next().is_none().then_some((pid, Exit { code, at }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_is_none_is_no_exit() {
        for line in ["7 0 18446744073709551615 4294967295", "7 0 18446744073709551615 0", "7 0 1 -1"] {
            assert!(parse(line).is_none(), "{line}");
        }
    }

    #[test]
    fn an_exit_survives_the_shim() {
        let bundle = tempfile::tempdir().unwrap();
        assert!(read(bundle.path()).is_none());
        let exit = Exit { code: 143, at: UNIX_EPOCH + Duration::new(1_793_000_000, 5) };
        write(bundle.path(), Pid::new(42).unwrap(), exit).unwrap();
        assert_eq!(read(bundle.path()), Some((Pid::new(42).unwrap(), exit)));
    }

    #[test]
    fn a_damaged_journal_is_none() {
        for line in ["", "1", "1 2 3", "0 0 0 0", "1 0 0 0 0", "x 0 0 0", "1 0 -1 0"] {
            assert!(parse(line).is_none(), "{line:?}");
        }
    }
}
