//! Workloads, checkpointed and restored through containerd, in place and in another node: the rows of the table in criu's
//! README. As tests they run with rtc; as a table (`cargo xtask workloads`, which names the file) with runc beside it.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what is skipped, and how far the table is")]

mod client;
mod container;
mod containerd;
mod failure;
mod rows;
mod table;
mod world;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

use crate::container::{Place, Runtime, Scene};
use crate::rows::{GROUPS, Row};
use crate::world::World;

/// Names the file that the table is written to.
const TABLE: &str = "RTC_WORKLOADS_TABLE";
/// Rows whose name contains this, of the table.
const ONLY: &str = "RTC_WORKLOADS_ONLY";

fn main() -> ExitCode {
    if let Some(path) = std::env::var_os(TABLE) {
        return make_table(path.as_ref());
    }
    let arguments = Arguments::from_args();
    let trials = GROUPS.iter().map(|(name, rows)| Trial::test(*name, move || test(rows)));
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn scene(world: &World, runtime: Runtime, whole: bool) -> Scene<'_> {
    Scene { world, runtime, place: Place::Here, whole }
}

fn test(rows: &[Row]) -> Result<(), Failed> {
    if let Some(why) = test_fixtures::skip_reason() {
        println!("skipped: {why}");
        return Ok(());
    }
    let world = World::start();
    let mut wrong = Vec::new();
    for row in rows {
        let results = row.run(scene(&world, Runtime::Rtc, false));
        wrong.extend(row.judge(&results).err());
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let logs = [&world.one, &world.two].map(|host| host.node.containerd_log());
    Err(format!("{}\n\n{}", wrong.join("\n"), logs.join("\n")).into())
}

/// Fails, with the table made, when a row of rtc's is not what it should be.
fn make_table(path: &std::path::Path) -> ExitCode {
    let only = std::env::var(ONLY).unwrap_or_default();
    let world = World::start();
    let (mut text, mut wrong) = (table::head(), Vec::new());
    for row in GROUPS.iter().flat_map(|(_, rows)| *rows).filter(|row| row.name.contains(&only)) {
        let [rtc, runc] = [Runtime::Rtc, Runtime::Runc].map(|runtime| row.run(scene(&world, runtime, true)));
        let line = table::line(row, &rtc, &runc);
        print!("{line}");
        text.push_str(&line);
        wrong.extend(row.judge(&rtc).err());
    }
    if let Err(error) = std::fs::write(path, text) {
        eprintln!("write {}: {error}", path.display());
        return ExitCode::FAILURE;
    }
    for one in &wrong {
        eprintln!("not as it should be: {one}");
    }
    if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
