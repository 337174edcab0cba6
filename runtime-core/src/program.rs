//! A short program of the host's: fed, waited for, and read when it has ended.

use std::fs::File;
use std::io::{self, ErrorKind, Seek, Write};
use std::process::Command;
use std::time::Duration;

use crate::children;
use crate::{Signal, limited};

/// Bytes of what such a program may write: more than all rules of a firewall.
const LONGEST: usize = 64 << 20;

/// How a program ended.
#[derive(Debug)]
pub(crate) struct Ended {
    /// As a shell has it: 128 and the number of a signal.
    pub(crate) code: u32,
    /// On standard output and standard error.
    pub(crate) output: Vec<u8>,
}

/// Runs it with `input` as its standard input, and ends it at the deadline.
///
/// # Errors
/// It cannot be started, or [`ErrorKind::TimedOut`].
pub(crate) fn run(command: &mut Command, input: &[u8], deadline: Duration) -> io::Result<Ended> {
    let (mut stdin, mut output) = (scratch()?, scratch()?);
    stdin.write_all(input).and_then(|()| stdin.rewind())?;
    command.stdin(stdin).stdout(output.try_clone()?).stderr(output.try_clone()?);
    let child = children::spawn(command)?;
    if !child.exited(Some(deadline))? {
        let late = format!("{} ran for more than {} s and was ended", shown(command), deadline.as_secs());
        // It may have ended in this moment.
        child.signal(Signal::KILL).ok();
        child.wait()?;
        return Err(io::Error::new(ErrorKind::TimedOut, late));
    }
    let code = child.wait()?.code;
    output.rewind()?;
    Ok(Ended { code, output: limited::read_open(output, LONGEST)? })
}

pub(crate) fn shown(command: &Command) -> std::path::Display<'_> {
    std::path::Path::new(command.get_program()).display()
}

/// A file in memory: a program that writes much must not block on a pipe that nobody reads.
pub(crate) fn scratch() -> io::Result<File> {
    Ok(rustix::fs::memfd_create("rtc-program", rustix::fs::MemfdFlags::CLOEXEC)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn a_program_is_fed_and_read() {
        let ended = run(Command::new("sh").args(["-c", "cat; echo x >&2; exit 3"]), b"abc", SOON).unwrap();
        assert_eq!((ended.code, ended.output.as_slice()), (3, &b"abcx\n"[..]));
        assert_eq!(run(&mut Command::new("/does/not/exist"), b"", SOON).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_program_that_hangs_is_ended_and_its_children_hold_nobody() {
        let err = run(Command::new("sleep").arg("60"), b"", Duration::from_millis(50)).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::TimedOut);
        assert!(err.to_string().contains("sleep ran for more than"), "{err}");
        let ended = run(Command::new("sh").args(["-c", "sleep 2 & echo up"]), b"", SOON).unwrap();
        assert_eq!(ended.output, b"up\n");
    }
}
