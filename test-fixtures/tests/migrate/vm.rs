//! What takes another kernel than most hosts have, in a virtual machine: nodes and all.

use std::time::Duration;

use test_fixtures::{VmConfig, vm};

#[test]
fn memory_goes_ahead() {
    if let Some(why) = vm::skip_reason() {
        eprintln!("skipped: {why}");
        return;
    }
    let test = ["--exact", "precopy::memory_goes_ahead"];
    vm::run_tests(&VmConfig::default(), &test, Duration::from_secs(280)).unwrap();
}
