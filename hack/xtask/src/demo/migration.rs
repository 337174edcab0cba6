//! A container that counts, and goes on counting at another node.

use std::thread::sleep;
use std::time::{Duration, Instant};

use test_fixtures::Node;
use test_fixtures::street::Street;

use super::{expect_on, heading};
use crate::error::Error;
use crate::process::say;

const ID: &str = "clock";
/// How often a person is shown the count.
const TICK: Duration = Duration::from_millis(150);
const TICKS: usize = 6;

pub(super) fn show() -> Result<(), Error> {
    heading("Two nodes with a network between them, and a container that counts at the first");
    let street = Street::new()?;
    let _receiving = street.receive()?;
    street.start(ID, &["counter", "--file", "/count", "--interval-ms", "10"])?;
    let before = watch(&street, TICKS)?;

    heading("It moves to the other one, and goes on there");
    let line = Street::command(ID, false);
    say(&format!("  $ {}", line.join(" ")));
    let said = std::thread::scope(|scope| {
        let moving = scope.spawn(|| street.one.run(&line));
        while !moving.is_finished() {
            watch(&street, 1)?;
        }
        moving.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).map_err(Error::from)
    })?;
    for line in said.lines() {
        say(&format!("    {line}"));
    }
    let after = watch(&street, TICKS)?;
    let here = |node: &Node| count(node).map(|count| count.is_some());
    if here(&street.one)? || !here(&street.two)? {
        let found = "another place".to_owned();
        return Err(Error::Demo { what: "the container that moved", expected: "node-b".to_owned(), found });
    }
    expect_on("the count at the other node", &before, &after)
}

/// Shows the count, from wherever it counts; the last one.
fn watch(street: &Street, ticks: usize) -> Result<String, Error> {
    let mut last = String::new();
    for _ in 0..ticks {
        let next = Instant::now() + TICK;
        for (name, node) in [("node-a", &street.one), ("node-b", &street.two)] {
            if let Some(found) = count(node)? {
                let number = found.rsplit(' ').next().unwrap_or_default().trim_start_matches('0');
                say(&format!("    {name:<10}{number:>8}"));
                last = found;
            }
        }
        sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(last)
}

/// `START COUNT` of the container at a node, if it is there.
fn count(node: &Node) -> Result<Option<String>, Error> {
    let script = "pid=$(pgrep -x workload | head -n 1); [ -n \"$pid\" ] && cat /proc/$pid/root/count";
    let output = node.exec(["sh", "-c", script])?;
    Ok(Some(output.text()).filter(|text| output.code() == 0 && !text.is_empty()))
}
