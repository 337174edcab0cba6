//! How far a move is: for people, a line at a terminal, and for programs, a line of JSON for each event.

use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use migrate::{Event, Observer, Phase, Progress, Report, Round};
use serde::Serialize;

use crate::args::print;

const INTERVAL: Duration = Duration::from_millis(100);
const TEMPLATE: &str = "{spinner} {msg} ({sent} sent in {elapsed})";

/// The line that is at the terminal, if one is: what is logged goes above it.
static LINE: OnceLock<ProgressBar> = OnceLock::new();

/// Nothing where standard error is no terminal.
pub(crate) fn at_terminal(id: &str) -> Progress {
    let target = ProgressDrawTarget::stderr();
    if target.is_hidden() {
        return Progress::default();
    }
    let sent = Arc::<AtomicU64>::default();
    let bar = ProgressBar::with_draw_target(None, target).with_style(style(sent.clone()));
    bar.enable_steady_tick(INTERVAL);
    let bar = LINE.get_or_init(|| bar).clone();
    Progress::new(Arc::new(Terminal { bar, id: id.to_owned(), shown: Mutex::default() }), sent)
}

/// Takes the line away, if there is one.
pub(crate) fn end() {
    if let Some(bar) = LINE.get() {
        bar.finish_and_clear();
    }
}

fn style(sent: Arc<AtomicU64>) -> ProgressStyle {
    let bytes = move |_: &ProgressState, line: &mut dyn fmt::Write| {
        // To a line that cannot be written to nothing is lost.
        write!(line, "{}", HumanBytes(sent.load(Ordering::Relaxed))).ok();
    };
    // A test holds that it is one.
    ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_spinner()).with_key("sent", bytes)
}

/// Standard error, for the log.
#[derive(Debug)]
pub(crate) struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match LINE.get() {
            Some(bar) => bar.suspend(|| io::stderr().write(bytes)),
            None => io::stderr().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[derive(Debug)]
struct Terminal {
    bar: ProgressBar,
    id: String,
    shown: Mutex<Shown>,
}

#[derive(Debug, Default)]
struct Shown {
    phase: Option<Phase>,
    round: Option<Round>,
}

impl Observer for Terminal {
    fn tell(&self, event: &Event<'_>) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Phase(phase) => shown.phase = Some(*phase),
            Event::Round(round) => shown.round = Some(**round),
            // The log has warnings, and the phases to come show which way it is.
            Event::Way(_) | Event::Warning(_) => {}
        }
        self.bar.set_message(format!("{}: {shown}", self.id));
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.phase {
            None | Some(Phase::Check) => f.write_str("looking whether it can be moved")?,
            Some(Phase::Image) => f.write_str("sending its image")?,
            Some(Phase::Layer) => f.write_str("sending what it has written")?,
            Some(Phase::Round(number)) => write!(f, "round {number}, sending memory while it runs")?,
            Some(Phase::Dump) => f.write_str("it stands still, dumping")?,
            Some(Phase::Transfer) => f.write_str("it stands still, sending the rest")?,
            Some(Phase::Restore) => f.write_str("it stands still, starting it there")?,
            Some(Phase::Follow) => f.write_str("it runs there, its memory follows")?,
            Some(Phase::Commit) => f.write_str("it runs there, ending it here")?,
        }
        let (Some(round), Some(Phase::Round(_) | Phase::Dump)) = (self.round, self.phase) else { return Ok(()) };
        let milliseconds = round.predicted_us / 1000;
        write!(f, "; the last round had {}", HumanBytes(round.bytes))?;
        if round.number > 1 {
            write!(f, ", {}/s are written to", HumanBytes(round.dirty_bytes_per_second))?;
        }
        write!(f, ", foreseen pause {milliseconds} ms")
    }
}

/// Events on standard output, one a line.
#[derive(Debug)]
struct Json {
    begun: Instant,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    /// Since the beginning, in microseconds.
    at_us: u64,
    #[serde(flatten)]
    what: What<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum What<'a> {
    Event(&'a Event<'a>),
    Report { report: &'a Report },
}

pub(crate) fn as_json() -> Progress {
    Progress::new(Arc::new(Json { begun: Instant::now() }), Arc::default())
}

/// The last line.
pub(crate) fn report_as_json(report: &Report) -> Result<(), migrate::Error> {
    line(&Line { at_us: report.total_us, what: What::Report { report } })
}

fn line(line: &Line<'_>) -> Result<(), migrate::Error> {
    let what = "the output".to_owned();
    let text = serde_json::to_string(line).map_err(|err| migrate::Error::Json { what, err })?;
    print(&format!("{text}\n"))
}

impl Observer for Json {
    fn tell(&self, event: &Event<'_>) {
        let at_us = u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        // Who does not read it any more is not to stop a move.
        if let Err(err) = line(&Line { at_us, what: What::Event(event) }) {
            tracing::debug!(err = err.chain(), "tell an event");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_one() {
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
    }

    #[test]
    fn a_line_says_where_it_is_and_what_the_last_round_was() {
        let round = Round {
            number: 2,
            bytes: 3 << 20,
            dirty_bytes_per_second: 2 << 20,
            predicted_us: 250_999,
            ..Round::default()
        };
        let shown = |phase, round| Shown { phase: Some(phase), round }.to_string();
        assert_eq!(
            shown(Phase::Round(3), Some(round)),
            "round 3, sending memory while it runs; the last round had 3.00 MiB, 2.00 MiB/s are written to, foreseen pause \
             250 ms"
        );
        assert!(!shown(Phase::Round(2), Some(Round { number: 1, ..round })).contains("written to"));
        assert_eq!(shown(Phase::Commit, Some(round)), "it runs there, ending it here");
        assert_eq!(shown(Phase::Image, None), "sending its image");
    }

    #[test]
    fn an_event_is_a_line_of_json() {
        let text = |event: &Event<'_>| serde_json::to_string(&Line { at_us: 7, what: What::Event(event) }).unwrap();
        assert_eq!(text(&Event::Phase(Phase::Round(2))), r#"{"atUs":7,"phase":"round 2"}"#);
        assert_eq!(text(&Event::Way(migrate::Way::PreCopy)), r#"{"atUs":7,"way":"precopy"}"#);
        assert_eq!(text(&Event::Warning("x")), r#"{"atUs":7,"warning":"x"}"#);
        let round = text(&Event::Round(&Round { bytes: 9, ..Round::default() }));
        assert!(round.starts_with(r#"{"atUs":7,"round":{"number":0,"bytes":9,"#), "{round}");
        let report = Line { at_us: 8, what: What::Report { report: &Report::default() } };
        assert!(serde_json::to_string(&report).unwrap().starts_with(r#"{"atUs":8,"report":{"id":"#));
    }

    /// The tests' standard error is no terminal.
    #[test]
    fn without_a_terminal_nothing_is_shown() {
        drop(at_terminal("web"));
        assert!(LINE.get().is_none());
        end();
    }
}
