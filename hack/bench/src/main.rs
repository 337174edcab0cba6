//! The benchmark that runs inside a node: rtc beside `io.containerd.runc.v2` with runc and with crun.
//!
//! The contestants take turns in every round, in an order that rotates, and every figure is told as a ratio to runc's of
//! the same round: absolute times of a busy machine mean little. `cargo xtask bench` makes the node and starts this.

mod bundle;
mod command_line;
mod contestant;
mod error;
mod measure;
mod report;
mod shim;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::contestant::Contestant;
use crate::error::Error;
use crate::measure::{Bench, Measure};
use crate::report::Report;

#[derive(Debug, Parser)]
#[command(about = "Measures rtc beside runc's shim; runs as root beside a containerd")]
struct Args {
    /// Rounds of each measurement; the expensive ones take a part of them
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// Only the measurements whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// Leave a contestant out (rtc, runc or crun)
    #[arg(long)]
    without: Vec<String>,
    /// The image to run; it needs /bin/true and /bin/sh
    #[arg(long, default_value = "docker.io/library/busybox:latest")]
    image: String,
    /// A root filesystem for the measurements that talk to a shim directly: busybox, and /bin/workload
    #[arg(long)]
    rootfs: PathBuf,
    /// Where the results go as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(report) => {
            report.print();
            ExitCode::SUCCESS
        }
        Err(err) => {
            error::print_chain(&err);
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<Report, Error> {
    let contestants: Vec<_> =
        Contestant::ALL.into_iter().filter(|one| !args.without.iter().any(|name| name == one.name())).collect();
    let bench = Bench::new(args.image.clone(), &args.rootfs)?;
    let mut report = Report::new(contestants.clone());
    for measure in Measure::all() {
        if args.only.as_ref().is_some_and(|part| !measure.name().contains(part.as_str())) {
            continue;
        }
        for round in 0..measure.rounds(args.rounds) {
            for turn in 0..contestants.len() {
                let contestant = contestants[(turn + round) % contestants.len()];
                if !measure.takes(contestant) {
                    continue;
                }
                for (figure, value) in bench.take(&measure, contestant)? {
                    report.add(figure, contestant, value);
                }
            }
        }
    }
    if let Some(path) = &args.json {
        report.write_json(path)?;
    }
    Ok(report)
}
