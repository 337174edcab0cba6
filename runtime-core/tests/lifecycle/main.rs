//! Containers from create to delete, as root, in a mount and pid namespace of the tests' own; once with the host's
//! cgroups, and those that cgroups matter to a second time with cgroup v2 alone.

#![allow(clippy::print_stdout, reason = "a skipped test says why")]

mod bundle;
mod cgroups;
mod config;
mod devices;
mod dies;
mod exec;
mod faults;
mod hooks;
mod hostile;
mod mounts;
mod namespaces;
mod process;
mod seccomp;
mod start;
mod systemd;
mod verbs;

use std::os::unix::process::CommandExt;
use std::process::Command;

use libtest_mimic::{Arguments, Trial};

/// Set in the process that is inside the namespaces.
const INSIDE: &str = "RTC_TEST_INSIDE";
/// Set where cgroup v2 alone is mounted.
const V2: &str = "RTC_TEST_V2";
const V2_PREFIX: &str = "v2::";

fn main() {
    if std::env::args_os().next().is_some_and(|name| name == runtime_core::init::ARGV0) {
        runtime_core::init::main();
    }
    if let Some(bundle) = std::env::var_os(dies::BUNDLE) {
        return dies::create(std::path::Path::new(&bundle));
    }
    let mut arguments = Arguments::from_args();
    let tests: Vec<(&str, fn())> = [
        verbs::TESTS,
        process::TESTS,
        exec::TESTS,
        cgroups::TESTS,
        namespaces::TESTS,
        hostile::TESTS,
        mounts::TESTS,
        seccomp::TESTS,
        hooks::TESTS,
        devices::TESTS,
        config::TESTS,
        faults::TESTS,
        dies::TESTS,
        start::TESTS,
    ]
    .concat();
    let on_v2: Vec<(&str, fn())> = [verbs::TESTS, exec::TESTS, cgroups::TESTS, dies::TESTS].concat();
    let on_systemd = std::env::var_os(systemd::INSIDE).is_some();
    let missing = missing();
    let inside_v2 = std::env::var_os(V2).is_some();
    // The machine is told apart by our pid, and has namespaces enough.
    let outside = on_systemd || arguments.exact && arguments.filter.as_deref() == Some(systemd::IN_A_MACHINE);
    if missing.is_none() && !arguments.list && !outside && std::env::var_os(INSIDE).is_none() {
        enter();
    }
    if inside_v2 {
        cgroups::mount_v2_alone();
    }
    // One at a time: each looks at what the others would leave.
    arguments.test_threads = Some(1);
    let mut trials: Vec<_> = tests.into_iter().map(|(name, test)| trial(name.to_owned(), missing, test)).collect();
    trials.extend(on_v2.into_iter().map(|(name, test)| {
        let name = format!("{V2_PREFIX}{name}");
        if inside_v2 { trial(name, missing, test) } else { trial(name.clone(), missing, move || run_on_v2(&name)) }
    }));
    match on_systemd {
        true => trials = systemd::TESTS.iter().map(|(name, test)| trial((*name).to_owned(), missing, test)).collect(),
        false if outside => trials.push(trial(systemd::IN_A_MACHINE.to_owned(), missing, systemd::in_a_machine)),
        false => {
            let needs_a_name = Some("runs outside of the tests' namespaces, when it is named by --exact");
            trials.push(trial(systemd::IN_A_MACHINE.to_owned(), needs_a_name, || ()));
        }
    }
    libtest_mimic::run(&arguments, trials).exit();
}

fn trial(name: String, skip: Option<&'static str>, test: impl FnOnce() + Send + 'static) -> Trial {
    Trial::test(name.clone(), move || {
        match skip {
            Some(reason) => println!("skipped {name}: {reason}"),
            None => test(),
        }
        Ok(())
    })
}

/// Runs one test in a process of its own, which mounts cgroup v2 over the host's hierarchies.
fn run_on_v2(name: &str) {
    let output = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--cgroup", "--propagation", "private"])
        .arg(std::env::current_exe().expect("our own path"))
        .args(["--exact", "--include-ignored", name])
        .env(V2, "1")
        .output()
        .expect("unshare");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("1 passed"), "no test of this name: {text}");
}

fn missing() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root");
    }
    (!std::path::Path::new(bundle::BUSYBOX).exists()).then_some("needs busybox-static")
}

/// Becomes `unshare` of this very program.
fn enter() -> ! {
    let err = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"])
        .arg(std::env::current_exe().expect("our own path"))
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    panic!("execute unshare: {err}")
}
