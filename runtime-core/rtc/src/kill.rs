//! `rtc kill`.

use std::process::ExitCode;

use runtime_core::Signal;
use runtime_core::container::Status;

use crate::context::Context;
use crate::error::Error;

/// Send a signal to the init process of a container
///
/// With --all, to every process of the container.
#[derive(Debug, clap::Args)]
pub(crate) struct Kill {
    /// The container's id
    #[arg(value_name = "container-id")]
    id: String,

    /// Name or number
    #[arg(default_value = "SIGTERM", allow_negative_numbers = true)]
    signal: String,

    /// Signal all processes; it is no error then if the container does not run
    #[arg(short, long)]
    all: bool,
}

impl Kill {
    pub(crate) fn run(self, context: &Context) -> Result<ExitCode, Error> {
        let container = context.load(&self.id)?;
        let sent = match number(&self.signal).ok_or_else(|| Error::UnknownSignal(self.signal.clone()))? {
            // kill(2): only looks whether there is somebody to signal.
            None if container.status()? == Status::Stopped => Err(Error::NotRunning),
            None => Ok(()),
            Some(signal) => container.kill(signal, self.all).map_err(Error::from),
        };
        match sent {
            Err(Error::NotRunning) if self.all => Ok(ExitCode::SUCCESS),
            sent => sent.map(|()| ExitCode::SUCCESS),
        }
    }
}

/// `Some(None)` for 0, the signal that is none.
pub(crate) fn number(text: &str) -> Option<Option<Signal>> {
    if let Ok(number) = text.parse() {
        return if number == 0 { Some(None) } else { Signal::new(number).map(Some) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let known = NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    known.or_else(|| real_time(name)).and_then(Signal::new).map(Some)
}

/// RTMIN+1, RTMAX-1: as kill(1) counts them, with the two that glibc keeps for itself left out.
fn real_time(name: &str) -> Option<i32> {
    const FIRST: i32 = 34;
    const LAST: i32 = 64;
    let offset = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<u8>().ok().map(i32::from) };
    let number = match (name.strip_prefix("RTMIN"), name.strip_prefix("RTMAX")) {
        (Some(rest), _) => FIRST + offset(rest.strip_prefix('+').unwrap_or(rest))?,
        (_, Some(rest)) => LAST - offset(rest.strip_prefix('-').unwrap_or(rest))?,
        _ => return None,
    };
    (FIRST..=LAST).contains(&number).then_some(number)
}

/// signal(7), with the numbers of x86 and ARM.
const NAMES: [(&str, i32); 35] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
    ("UNUSED", 31),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_named_in_every_way_that_runc_takes() {
        for text in ["9", "KILL", "SIGKILL", "sigkill", "Kill"] {
            assert_eq!(number(text), Some(Some(Signal::KILL)), "{text}");
        }
        assert_eq!(number("0"), Some(None));
        assert_eq!(number("RTMIN+3"), Some(Signal::new(37)));
        assert_eq!(number("SIGRTMAX"), Some(Signal::new(64)));
    }

    #[test]
    fn other_words_are_none() {
        for text in ["", "SIG", "FOO", "65", "-1", "RTMIN+31", "RTMAX-31", "9x"] {
            assert_eq!(number(text), None, "{text}");
        }
    }
}
