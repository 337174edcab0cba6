//! Memory and processes.

use test_fixtures::Image;

use super::{Expected, Row};
use crate::container::{Container, How, Scene};
use crate::failure::{Failure, Result};

pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "counter",
        looked_at: "the same process; no count lost or doubled",
        expected: Expected::GoesOn,
        run: |scene| counted(scene, &["counter", "--log", "/log"]).and_then(|container| whole_log(&container, "/log")),
    },
    Row { name: "threads", looked_at: "each of 50 counts on", expected: Expected::GoesOn, run: threads },
    Row {
        name: "child tree with zombies and sessions",
        looked_at: "pid, parent, group, session and state of each of 17 processes",
        expected: Expected::GoesOn,
        run: tree,
    },
    Row { name: "1 GiB heap", looked_at: "each byte", expected: Expected::GoesOn, run: heap },
    Row {
        name: "shared memory (anonymous, System V, POSIX)",
        looked_at: "two processes answer one another in each; its contents",
        expected: Expected::GoesOn,
        run: shared,
    },
    Row {
        name: "memfd",
        looked_at: "contents and seals",
        expected: Expected::GoesOn,
        run: |scene| counted(scene, &["memfd"]).map(drop),
    },
];

/// A mode of the workload that goes round after round, moved; it checks itself.
pub(crate) fn counted<'a>(scene: Scene<'a>, mode: &[&str]) -> Result<Container<'a>> {
    counted_with(scene, &[], How::default(), mode)
}

pub(crate) fn counted_with<'a>(scene: Scene<'a>, flags: &[&str], how: How, mode: &[&str]) -> Result<Container<'a>> {
    let line = [&["/bin/workload"], mode, &["--file", "/count", "--interval-ms", "2"]].concat();
    let mut container = scene.run(Image::Workload, flags, &line)?;
    let before = container.counts("/count")?;
    container.moves(how)?;
    container.goes_on("/count", &before)?;
    Ok(container)
}

/// Each number has a line, in its place.
pub(crate) fn whole_log(container: &Container<'_>, path: &str) -> Result {
    let log = container.read(path).unwrap_or_default();
    // The last line may be half written, as the file is read while it grows.
    let lines: Vec<&str> = log.lines().rev().skip(1).collect();
    match lines.iter().rev().enumerate().find(|(at, line)| **line != (at + 1).to_string()) {
        Some((at, line)) => Err(Failure::after(format!("{line} in the place of {}", at + 1))),
        None if lines.len() < 20 => Err(Failure::after(format!("{} lines in the log", lines.len()))),
        None => Ok(()),
    }
}

fn threads(scene: Scene<'_>) -> Result {
    let line = ["/bin/workload", "threads", "--count", "50", "--file", "/count"];
    let mut container = scene.run(Image::Workload, &[], &line)?;
    let counts = |container: &Container<'_>| -> Option<Vec<u64>> {
        let text = container.read("/count")?;
        let counts: Vec<u64> = text.split(' ').map_while(|count| count.parse().ok()).collect();
        (counts.len() == 50).then_some(counts)
    };
    let before =
        container.wait("they count", || counts(&container).filter(|all| all.iter().all(|count| *count > 5)))?;
    container.moves(How::default())?;
    let on = |after: &Vec<u64>| after.iter().zip(&before).all(|(after, before)| after > before);
    container.wait("each counts on", || counts(&container).filter(on)).map(drop)
}

/// `PID STATE PARENT GROUP SESSION` of each process of the workload, zombies too.
fn processes(container: &Container<'_>) -> Result<Vec<String>> {
    let (_, text) = container.exec(&["sh", "-c", "cat /proc/[0-9]*/stat 2>/dev/null"])?;
    let mut all: Vec<String> = text
        .lines()
        .filter_map(|line| {
            let (pid, rest) = line.split_once(" (")?;
            let (name, rest) = rest.rsplit_once(") ")?;
            let fields: Vec<&str> = rest.split(' ').take(4).collect();
            matches!(name, "workload" | "exe").then(|| format!("{pid} {}", fields.join(" ")))
        })
        .collect();
    all.sort();
    Ok(all)
}

fn tree(scene: Scene<'_>) -> Result {
    let line = ["/bin/workload", "tree", "--depth", "2", "--width", "3", "--zombies", "yes", "--sessions", "yes"];
    let mut container = scene.run(Image::Workload, &[], &line)?;
    // 1 + 3 + 9, and a zombie of each of the four that have children; asleep, when all is set up.
    let mut before = Vec::new();
    for _ in 0..100 {
        before = processes(&container)?;
        let zombies = before.iter().filter(|process| process.contains(" Z ")).count();
        if before.len() == 17 && zombies == 4 && before.iter().all(|one| one.contains(" S ") || one.contains(" Z ")) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    container.moves(How::default())?;
    let after = processes(&container)?;
    if before.len() == 17 && after == before {
        return Ok(());
    }
    Err(Failure::after(format!("{after:?}, and not {before:?}")))
}

fn heap(scene: Scene<'_>) -> Result {
    let mib = if scene.whole { "1024" } else { "64" };
    let line = ["/bin/workload", "memory", "--mib", mib, "--ready", "/ready", "--verdict", "/verdict"];
    let mut container = scene.run(Image::Workload, &[], &line)?;
    container.wait("the memory is filled", || container.read("/ready"))?;
    container.moves(How::default())?;
    container.signal("SIGUSR1")?;
    let verdict =
        container.wait("it has looked at all", || container.read("/verdict").filter(|text| !text.is_empty()))?;
    if verdict == "intact" { Ok(()) } else { Err(Failure::after(verdict)) }
}

fn shared(scene: Scene<'_>) -> Result {
    let mut container = scene.run(Image::Programs, &[], &["python3", "/srv/shared.py"])?;
    let before = container.counts("/count")?;
    container.moves(How::default())?;
    container.goes_on("/count", &before)
}
