//! What is told of the rows, as Markdown.

use crate::container::{Place, Runtime, Scene};
use crate::failure::{At, Failure, Result};
use crate::rows::{Expected, Row};

/// How much is told of a reason.
const LENGTH: usize = 160;

impl Row {
    /// Runs it as often as there are places; what happened in each.
    pub(crate) fn run(&self, scene: Scene<'_>) -> [Result; 2] {
        [Place::Here, Place::There].map(|place| match (self.expected, place) {
            // Where it would have been restored is no matter to what is not checkpointed; that is shown once.
            (Expected::Refused(_), Place::There) => Err(Failure::at(At::Checkpoint, "")),
            _ => (self.run)(Scene { place, ..scene }),
        })
    }

    /// Whether that is what rtc is to do.
    pub(crate) fn judge(&self, results: &[Result; 2]) -> std::result::Result<(), String> {
        for (result, place) in results.iter().zip(["in place", "in another node"]) {
            let right = match (self.expected, result) {
                (Expected::GoesOn, Ok(())) => true,
                (Expected::Refused(words), Err(failure)) => {
                    failure.at == At::Checkpoint && (failure.why.is_empty() || failure.why.contains(words))
                }
                _ => false,
            };
            if !right {
                let found = result.as_ref().map_or_else(ToString::to_string, |()| "it goes on".to_owned());
                return Err(format!("{}, {place}: {found}", self.name));
            }
        }
        Ok(())
    }
}

pub(crate) fn head() -> String {
    "| workload | looked at after the restore | rtc, in place | rtc, in another node | runc, in place | runc, in another node |\n\
     | --- | --- | --- | --- | --- | --- |\n"
        .to_owned()
}

pub(crate) fn line(row: &Row, rtc: &[Result; 2], runc: &[Result; 2]) -> String {
    let cells: Vec<String> = [(Runtime::Rtc, rtc), (Runtime::Runc, runc)]
        .into_iter()
        .flat_map(|(who, both)| both.iter().map(move |one| cell(who, one)))
        .collect();
    format!("| {} | {} | {} |\n", row.name, row.looked_at, cells.join(" | "))
}

fn cell(runtime: Runtime, result: &Result) -> String {
    let Err(failure) = result else { return "goes on".to_owned() };
    if failure.why.is_empty() {
        return String::new();
    }
    let begun = runtime == Runtime::Runc || failure.why.contains("criu dump failed");
    let at = match (failure.at, begun) {
        (At::Scene, _) => "does not run",
        (At::Checkpoint, false) => "refused",
        (At::Checkpoint, true) => "checkpoint fails",
        (At::Restore, _) => "restore fails",
        (At::After, _) => "restored, but wrong",
    };
    format!("{at}: {}", short(&failure.why))
}

/// In one line of the table, without what differs from run to run.
fn short(why: &str) -> String {
    let line = why.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
    // What is known: whose container it is, and where in CRIU's source it was said.
    let line = line.rsplit_once(" container c1: ").map_or(line.as_str(), |(_, rest)| rest);
    // What is for a person who is at the machine: where the log is, and what to do.
    let line = line.split(" (log: ").next().and_then(|line| line.split("; ").next()).unwrap_or(line);
    let mut text = String::new();
    let mut digits = String::new();
    for character in line.chars().chain([' ']) {
        if character.is_ascii_digit() {
            digits.push(character);
            continue;
        }
        // Numbers of processes, inodes, lines.
        text.push_str(if digits.len() > 2 { "N" } else { &digits });
        digits.clear();
        text.push(character);
    }
    let text = text.trim_end();
    match text.char_indices().nth(LENGTH) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
