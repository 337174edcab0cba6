//! `rtc events`: statistics and out-of-memory kills, one JSON object on a line each.

pub(crate) mod stats;

use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use runtime_core::cgroup::OomWatch;
use runtime_core::container::{Container, Status};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::Serialize;

use crate::context::Context;
use crate::error::Error;
use crate::output;
use stats::Stats;

/// Display out-of-memory kills and resource usage of a container
///
/// Prints one JSON object on a line: the statistics once in each interval, and an "oom" when the kernel has killed a
/// process for lack of memory. Ends with the container.
#[derive(Debug, clap::Args)]
pub(crate) struct Events {
    /// The container's id
    #[arg(value_name = "container-id")]
    id: String,

    /// How often the statistics are shown, for instance 500ms or 1m30s
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration, allow_negative_numbers = true)]
    interval: Duration,

    /// Show the statistics once
    #[arg(long)]
    stats: bool,
}

#[derive(Serialize)]
pub(crate) struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Stats>,
}

impl<'a> Event<'a> {
    /// What the container has used until now.
    pub(crate) fn stats(container: &'a Container) -> Result<Self, Error> {
        let data = Stats::new(&container.stats()?, container.details()?);
        Ok(Self { kind: "stats", id: container.id().as_str(), data: Some(data) })
    }

    pub(crate) fn id(&self) -> &str {
        self.id
    }

    pub(crate) fn usage(&self) -> Option<&Stats> {
        self.data.as_ref()
    }

    fn print(&self) -> Result<(), Error> {
        output::print(&output::json_line("an event", self)?)
    }
}

impl Events {
    pub(crate) fn run(self, context: &Context) -> Result<ExitCode, Error> {
        let container = context.load(&self.id)?;
        if self.interval.is_zero() {
            return Err(Error::Interval);
        }
        if container.status()? == Status::Stopped {
            return Err(Error::Stopped { id: self.id });
        }
        if self.stats {
            Event::stats(&container)?.print()?;
        } else {
            watch(&container, self.interval)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Until the container has ended.
fn watch(container: &Container, interval: Duration) -> Result<(), Error> {
    let mut oom = match container.oom_watch() {
        Ok(watch) => Some(watch),
        // There are still the statistics.
        Err(err) => {
            let err = runtime_core::error::chain(&err);
            tracing::warn!("out-of-memory kills cannot be told: {err}");
            None
        }
    };
    let mut next = Instant::now() + interval;
    loop {
        let news = wait(oom.as_ref(), next).map_err(Error::Poll)?;
        if news && !tell_kills(container, &mut oom)? || container.status()? == Status::Stopped {
            return Ok(());
        }
        if Instant::now() >= next {
            match Event::stats(container) {
                Ok(event) => event.print()?,
                Err(err) => tracing::error!("{}", runtime_core::error::chain(&err)),
            }
            next += interval;
        }
    }
}

/// Whether there may be news of the OOM killer; `false` at the deadline.
fn wait(oom: Option<&OomWatch>, deadline: Instant) -> Result<bool, Errno> {
    let left = deadline.saturating_duration_since(Instant::now());
    // A duration that poll cannot hold has no end that anybody would see.
    let timeout = Timespec::try_from(left).ok();
    let mut fds: Vec<_> = oom.map(|oom| PollFd::from_borrowed_fd(oom.as_fd(), PollFlags::IN)).into_iter().collect();
    match poll(&mut fds, timeout.as_ref()) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(err) => Err(err),
    }
}

/// `false` once the cgroup is gone.
fn tell_kills(container: &Container, oom: &mut Option<OomWatch>) -> Result<bool, Error> {
    let Some(watch) = oom else { return Ok(true) };
    let failed = |err| Error::from(runtime_core::Error::Cgroup { id: container.id().clone(), err });
    let Some(kills) = watch.read().map_err(failed)? else { return Ok(false) };
    for _ in 0..kills {
        Event { kind: "oom", id: container.id().as_str(), data: None }.print()?;
    }
    Ok(true)
}

/// As Go writes durations: "1h30m", "1.5s", "100ms". What is below zero counts as zero.
pub(crate) fn duration(text: &str) -> Result<Duration, &'static str> {
    const UNITS: [(&str, f64); 8] =
        [("ns", 1e-9), ("us", 1e-6), ("µs", 1e-6), ("μs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let bad = "parse error";
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    let mut seconds = 0.0;
    if rest.is_empty() {
        return Err(bad);
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or(bad)?;
        let (number, tail) = rest.split_at(digits);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit).ok_or(bad)?;
        seconds += number.parse::<f64>().map_err(|_| bad)? * scale;
        rest = tail;
    }
    if negative {
        return Ok(Duration::ZERO);
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        let ok = |text, millis| assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        ok("5s", 5000);
        ok("100ms", 100);
        ok("1m30s", 90_000);
        ok("1.5h", 5_400_000);
        ok("0", 0);
        ok("-1s", 0);
        for text in ["", "5", "s", "1x", "1s2", "-", "1..s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_oom_is_what_runc_prints() {
        let event = Event { kind: "oom", id: "web", data: None };
        assert_eq!(serde_json::to_string(&event).unwrap(), r#"{"type":"oom","id":"web"}"#);
    }
}
