//! A test binary's own tests in a machine: they find there what they find on a host, and need not know. Nodes run in it.

use std::time::Duration;

use super::{BROUGHT, Vm, VmConfig};
use crate::{Error, Result};

/// How the test binary is called in the machine.
const TEST: &str = "test";

/// Boots a machine and runs tests of the running test binary in it, one after the other. Their output goes to this
/// process's own as it comes: each test is named there. `arguments` are those of a test binary, filters and `--skip`.
///
/// The root tree of nodes in the machine is the machine's own; others cannot be had there.
///
/// # Errors
/// When a test fails there or is skipped, none is run, or all together take longer than `deadline`.
pub fn run_tests(config: &VmConfig, arguments: &[&str], deadline: Duration) -> Result<()> {
    let mut config = config.clone();
    let own = std::env::current_exe().map_err(Error::path("find", "/proc/self/exe"))?;
    config.files.push((own, TEST.to_owned()));
    let vm = Vm::boot(&config)?;
    let tree = config.tree.path();
    vm.sh(&format!("mkdir -p '{0}'; mount --bind / '{0}'", tree.display()))?;
    let cache = format!("RTC_CACHE={}", crate::cache::directory().display());
    let (binaries, test) = (format!("RTC_BIN_DIR={BROUGHT}/bin"), format!("{BROUGHT}/{TEST}"));
    let line = ["env", &cache, &binaries, "RUST_BACKTRACE=0", &test, "--test-threads=1", "--nocapture"];
    let output = vm.spawn_passing_on(line.iter().chain(arguments))?.wait(deadline)?;
    let (text, errors) = (output.text(), output.error_text());
    // What is left out here, where there is all, runs nowhere.
    let skipped = errors.lines().find(|line| line.starts_with("skipped:"));
    if output.status.success() && skipped.is_none() && !text.contains("running 0 tests") {
        return Ok(());
    }
    let command = format!("{} in {}", arguments.join(" "), vm.name());
    let tail = text.lines().rev().take(3).collect::<Vec<_>>();
    let tail = tail.into_iter().rev().chain(skipped).collect::<Vec<_>>().join("\n");
    Err(Error::Command { command, status: output.status.to_string(), output: tail })
}
