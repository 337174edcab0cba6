//! The systemd cgroup driver, failing at each of its steps. It takes a host whose PID 1 is systemd: a virtual machine, in
//! which this test binary runs again.

use std::process::Command;
use std::time::Duration;

use runtime_core::container::{Bus, CgroupDriver};
use test_fixtures::vm::{BROUGHT, Init, skip_reason};
use test_fixtures::{Vm, VmConfig};

use crate::bundle::Bundle;
use crate::faults;

/// Set in the machine.
pub(crate) const INSIDE: &str = "RTC_TEST_SYSTEMD";

/// The host's test, which runs those of [`TESTS`].
pub(crate) const IN_A_MACHINE: &str = "vm::the_systemd_driver_leaves_nothing";

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("a_create_that_fails_at_any_step_leaves_nothing", a_create_that_fails_at_any_step_leaves_nothing),
    ("a_create_in_a_user_namespace_leaves_nothing", a_create_in_a_user_namespace_leaves_nothing),
];

pub(crate) fn is_driver(bundle: &Bundle) -> bool {
    bundle.cgroup_driver != CgroupDriver::Cgroupfs
}

/// Those of the tests' containers that systemd knows of.
pub(crate) fn units() -> String {
    let list = ["list-units", "--all", "--plain", "--no-legend", "*rtc-test-fault*"];
    let output = Command::new("systemctl").args(list).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn in_a_machine() {
    if let Some(why) = skip_reason() {
        println!("skipped: {why}");
        return;
    }
    let own = std::env::current_exe().unwrap();
    let files = vec![(own, "lifecycle".to_owned())];
    let vm = Vm::boot(&VmConfig { init: Init::Systemd, rtc: false, files, ..VmConfig::default() }).unwrap();
    let (inside, test) = (format!("{INSIDE}=1"), format!("{BROUGHT}/lifecycle"));
    let output = vm.spawn_passing_on(["env", &inside, &test]).unwrap().wait(Duration::from_secs(300)).unwrap();
    let text = output.text();
    assert!(output.status.success() && text.contains(&format!("{} passed", TESTS.len())), "{text}");
}

fn bundle() -> Bundle {
    let mut bundle = faults::bundle();
    bundle.cgroup_driver = CgroupDriver::Systemd(Bus::System);
    bundle.spec["linux"]["cgroupsPath"] = format!(":p:{}", faults::cgroup()).into();
    bundle
}

fn a_create_that_fails_at_any_step_leaves_nothing() {
    faults::fails_everywhere(&bundle());
}

fn a_create_in_a_user_namespace_leaves_nothing() {
    let mut bundle = bundle();
    crate::namespaces::user_namespace(&mut bundle);
    faults::fails_everywhere(&bundle);
}
