//! `rtc stats`: what containers have used, at one moment.

use std::process::ExitCode;

use runtime_core::container::{Container, Status};

use crate::context::Context;
use crate::error::Error;
use crate::events::Event;
use crate::events::stats::Stats as Usage;
use crate::{list, output};

/// Display the resource usage of containers once
///
/// Of all containers that run, if none is named.
#[derive(Debug, clap::Args)]
pub(crate) struct Stats {
    /// The ids of containers
    #[arg(value_name = "container-id")]
    ids: Vec<String>,

    /// "table", or "json" for the objects that `rtc events --stats` prints
    #[arg(short, long, default_value = "table")]
    format: String,
}

impl Stats {
    pub(crate) fn run(self, context: &Context) -> Result<ExitCode, Error> {
        let containers = self.containers(context)?;
        let events = containers.iter().map(Event::stats).collect::<Result<Vec<_>, _>>()?;
        let text = match self.format.as_str() {
            "table" => table(&events),
            "json" => output::json_line("the statistics", &events)?,
            _ => return Err(Error::Format),
        };
        output::print(&text)?;
        Ok(ExitCode::SUCCESS)
    }

    fn containers(&self, context: &Context) -> Result<Vec<Container>, Error> {
        let mut containers = Vec::new();
        if self.ids.is_empty() {
            for (id, _) in list::directories(context)? {
                // One that is deleted meanwhile is none that runs.
                if let Ok(container) = context.load(&id)
                    && container.status().is_ok_and(|status| status != Status::Stopped)
                {
                    containers.push(container);
                }
            }
        }
        for id in &self.ids {
            let container = context.load(id)?;
            if container.status()? == Status::Stopped {
                return Err(Error::Stopped { id: id.clone() });
            }
            containers.push(container);
        }
        Ok(containers)
    }
}

fn table(events: &[Event<'_>]) -> String {
    let header = ["ID", "PIDS", "CPU TIME", "MEMORY", "LIMIT", "READ", "WRITTEN"].map(str::to_owned);
    let rows = events.iter().filter_map(|event| event.usage().map(|usage| row(event.id(), usage)));
    output::table(&std::iter::once(header).chain(rows).collect::<Vec<_>>())
}

fn row(id: &str, usage: &Usage) -> [String; 7] {
    let moved = |op: &str| {
        let entries = usage.blkio.io_service_bytes_recursive.iter().filter(|entry| entry.op == op);
        bytes(entries.map(|entry| entry.value).sum())
    };
    let memory = &usage.memory.usage;
    // v1 has its "no limit" rounded down to a page.
    let limit = if memory.limit == 0 || memory.limit >= 1 << 62 { "-".to_owned() } else { bytes(memory.limit) };
    [
        id.to_owned(),
        usage.pids.current.to_string(),
        seconds(usage.cpu.usage.total),
        bytes(memory.usage),
        limit,
        moved("Read"),
        moved("Write"),
    ]
}

/// Of nanoseconds.
fn seconds(nanoseconds: u64) -> String {
    let milliseconds = nanoseconds / 1_000_000;
    format!("{}.{:03}s", milliseconds / 1000, milliseconds % 1000)
}

/// With one digit behind the point, as du(1) and podman have it.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count}B");
    }
    let exponent = count.ilog2() / 10;
    let tenths = (u128::from(count) * 10) >> (10 * exponent);
    format!("{}.{}{}", tenths / 10, tenths % 10, UNITS[exponent as usize - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_readable() {
        assert_eq!(bytes(1023), "1023B");
        assert_eq!(bytes(1536), "1.5KiB");
        assert_eq!(bytes(u64::MAX), "15.9EiB");
        assert_eq!(seconds(1_234_567_890), "1.234s");
    }

    #[test]
    fn no_limit_is_no_number() {
        let row = row("web", &Usage::default());
        assert_eq!(row, ["web", "0", "0.000s", "0B", "-", "0B", "0B"]);
    }
}
