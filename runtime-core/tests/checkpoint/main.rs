//! Checkpoint and restore with the real CRIU, as root, in test nodes with hybrid and with v2-only cgroups.
//!
//! Outside, this program starts a node, copies itself into it and runs each case there; inside it is the runtime.

#![allow(clippy::print_stdout, reason = "a skipped test says why")]

mod chains;
mod criu_killed;
mod failures;
mod forks;
mod host_devices;
mod killed;
mod kinds;
mod memory;
mod preflight;
mod runc;
mod scene;
mod sealed;
mod stopped;
mod streams;
mod tcp;
mod told;

use std::path::Path;
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use test_fixtures::{Cgroups, Node, NodeConfig, Tree, artifact};

/// What the node calls this program, and where the containers' busybox is.
const PROGRAM: &str = "/run/rtc-test";
const BUSYBOX: &str = "/run/busybox";
const WORKLOAD: &str = "/run/workload";
const HOST_BUSYBOX: &str = "/bin/busybox";

/// Names the case, in the process that is inside a node.
const CASE: &str = "RTC_TEST_CASE";

const DEADLINE: Duration = Duration::from_secs(90);

fn main() {
    if std::env::args_os().next().is_some_and(|name| name == runtime_core::init::ARGV0) {
        runtime_core::init::main();
    }
    let cases: Vec<(&str, fn())> = [
        kinds::TESTS,
        chains::TESTS,
        failures::TESTS,
        forks::TESTS,
        host_devices::TESTS,
        memory::TESTS,
        killed::TESTS,
        criu_killed::TESTS,
        preflight::TESTS,
        runc::TESTS,
        sealed::TESTS,
        stopped::TESTS,
        streams::TESTS,
        tcp::TESTS,
        told::TESTS,
    ]
    .concat();
    if let Ok(bundle) = std::env::var(killed::BUNDLE) {
        return killed::checkpoint(Path::new(&bundle));
    }
    if let Ok(name) = std::env::var(CASE) {
        let (_, case) = cases.iter().find(|(case, _)| *case == name).expect("a case of this name");
        return case();
    }
    let mut arguments = Arguments::from_args();
    // Each has a node of its own.
    arguments.test_threads.get_or_insert(2);
    let missing = missing();
    let trials = cases.iter().flat_map(|(name, _)| {
        let name = *name;
        [("hybrid", Cgroups::Hybrid), ("v2", Cgroups::V2)].map(|(layout_name, layout)| {
            Trial::test(format!("{name} on {layout_name}"), move || match missing {
                Some(why) => skipped(name, why),
                None if !Cgroups::supported().contains(&layout) => skipped(name, "this host has no such cgroups"),
                None => run(name, layout),
            })
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
}

fn skipped(name: &str, why: &str) -> Result<(), Failed> {
    println!("skipped {name}: {why}");
    Ok(())
}

fn missing() -> Option<&'static str> {
    test_fixtures::skip_reason().or_else(|| (!Path::new(HOST_BUSYBOX).exists()).then_some("needs busybox-static"))
}

fn run(name: &str, cgroups: Cgroups) -> Result<(), Failed> {
    let config = NodeConfig { tree: Tree::Forky, cgroups, rtc: false, containerd: false, ..NodeConfig::default() };
    let node = Node::start(config)?;
    node.copy_in(&std::env::current_exe()?, PROGRAM)?;
    node.copy_in(Path::new(HOST_BUSYBOX), BUSYBOX)?;
    node.copy_in(&artifact::find_static(artifact::WORKLOAD)?, WORKLOAD)?;
    let before = node.snapshot();
    let dumps = std::env::var(forks::DUMPS).unwrap_or_default();
    let deadline = if dumps.is_empty() { DEADLINE } else { 10 * DEADLINE };
    let variables = [format!("{CASE}={name}"), format!("{}={dumps}", forks::DUMPS)];
    let output = node.exec_within(deadline, ["env", &variables[0], &variables[1], PROGRAM])?;
    if !output.status.success() {
        return Err(format!("{}\n{}", output.text(), output.error_text()).into());
    }
    Ok(node.check_leaks(&before)?)
}
