//! Moves a container back and forth between two nodes while somebody talks to it, and tells what that somebody noticed.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;
use test_fixtures::Node;
use test_fixtures::node::Running;
use test_fixtures::street::Street;

use crate::error::Error;
use crate::process::say;
use crate::{build, host};

const ID: &str = "echo";
const STOP: &str = "/run/stop-talking";
/// For one move, and for the last answers.
const LIMIT: Duration = Duration::from_secs(120);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How often
    #[arg(long, default_value_t = 100)]
    moves: usize,
    /// Take the binaries that are there
    #[arg(long)]
    no_build: bool,
}

/// Of each move, in microseconds.
#[derive(Debug, Default)]
struct Moves {
    /// The longest that a client waited for an answer.
    noticed: Vec<u64>,
    pause: Vec<u64>,
    dump: Vec<u64>,
    transfer: Vec<u64>,
    restore: Vec<u64>,
    total: Vec<u64>,
}

pub(crate) fn run(args: &Args) -> Result<(), Error> {
    host::prepare_for_nodes()?;
    if !args.no_build {
        say("building the static binaries (some minutes the first time)");
        build::all()?;
    }
    let street = Street::new()?;
    street.start_echo(ID)?;
    let _receiving = street.receive()?;
    // Every wait of 2 ms and more; and a stream in which a byte too much, too little or too early is seen.
    let single = street.talk(Path::new(STOP), &["--interval-ms", "1", "--gap-ms", "2"])?;
    let stream = street.talk(Path::new(STOP), &["--interval-ms", "1", "--window", "50"])?;
    let mut moves = Moves::default();
    let begun = Instant::now();
    for number in 0..args.moves {
        let back = number % 2 == 1;
        let from = if back { &street.two } else { &street.one };
        moves.add(&single, from, back)?;
    }
    let took = begun.elapsed();
    street.client.write(STOP, "")?;
    let talked = [said(single)?, said(stream)?].into_iter().sum::<u64>();
    say(&format!(
        "\n{} moves in {} s; {talked} numbers of 8 bytes were sent on 2 connections and came back, each once and in order\n",
        args.moves,
        took.as_secs()
    ));
    moves.print();
    Ok(())
}

impl Moves {
    fn add(&mut self, client: &Running, from: &Node, back: bool) -> Result<(), Error> {
        let heard = client.stdout_so_far().len();
        let line = [Street::command(ID, back), vec!["--json".to_owned()]].concat();
        let output = from.exec_within(LIMIT, &line)?;
        let report = serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default();
        let field = |name: &str| report.get(name).and_then(Value::as_u64);
        let [Some(pause), Some(dump), Some(transfer), Some(restore), Some(total)] =
            ["pauseUs", "dumpUs", "transferUs", "restoreUs", "totalUs"].map(field)
        else {
            return Err(Error::Demo { what: "a move", expected: "a report".to_owned(), found: output.error_text() });
        };
        self.pause.push(pause);
        self.dump.push(dump);
        self.transfer.push(transfer);
        self.restore.push(restore);
        self.total.push(total);
        self.noticed.push(longest(client, heard)?);
        Ok(())
    }

    fn print(&self) {
        say("ms                              median      max");
        for (what, values) in [
            ("a client waited", &self.noticed),
            ("pause, as the source saw it", &self.pause),
            ("  dump", &self.dump),
            ("  transfer", &self.transfer),
            ("  restore", &self.restore),
            ("whole move", &self.total),
        ] {
            let mut sorted = values.clone();
            sorted.sort_unstable();
            let tell = |value: Option<&u64>| value.map_or(0.0, |micros| *micros as f64 / 1000.0);
            say(&format!("{what:<28}{:>10.1}{:>9.1}", tell(sorted.get(sorted.len() / 2)), tell(sorted.last())));
        }
    }
}

/// The longest wait that the client has told of since it had said so many bytes. The one of the move is told when it has ended.
fn longest(client: &Running, heard: usize) -> Result<u64, Error> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let said = client.stdout_so_far();
        let new = String::from_utf8_lossy(said.get(heard..).unwrap_or_default()).into_owned();
        // A line that is still being written is for the next time.
        let whole = new.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let gaps = whole.lines().filter_map(|line| line.strip_prefix("gap-us ")?.parse::<u64>().ok());
        if let Some(longest) = gaps.max().filter(|longest| *longest > 20_000) {
            return Ok(longest);
        }
        if Instant::now() > deadline {
            let expected = "a wait of 20 ms and more, and an answer".to_owned();
            return Err(Error::Demo { what: "the client in a move", expected, found: new });
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// How many numbers a client has sent and had back.
fn said(client: Running) -> Result<u64, Error> {
    let output = client.wait(LIMIT)?;
    let text = output.text();
    let talked =
        text.lines().filter_map(|line| line.strip_prefix("talked ")?.split(' ').next()?.parse().ok()).next_back();
    let found = || format!("{}{}", output.error_text(), text.lines().next_back().unwrap_or_default());
    talked.ok_or_else(|| Error::Demo { what: "a client", expected: "talked".to_owned(), found: found() })
}
