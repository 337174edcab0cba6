//! Containers from create to delete, as root, in a mount and pid namespace of the tests' own.

#![allow(clippy::print_stdout, reason = "a skipped test says why")]

mod bundle;
mod exec;
mod hostile;
mod namespaces;
mod process;
mod verbs;

use std::os::unix::process::CommandExt;
use std::process::Command;

use libtest_mimic::{Arguments, Trial};

/// Set in the process that is inside the namespaces.
const INSIDE: &str = "RTC_TEST_INSIDE";

fn main() {
    if std::env::args_os().next().is_some_and(|name| name == runtime_core::init::ARGV0) {
        runtime_core::init::main();
    }
    let mut arguments = Arguments::from_args();
    let tests: Vec<(&str, fn())> =
        [verbs::TESTS, process::TESTS, exec::TESTS, namespaces::TESTS, hostile::TESTS].concat();
    let missing = missing();
    if missing.is_none() && !arguments.list && std::env::var_os(INSIDE).is_none() {
        enter();
    }
    // One at a time: each looks at what the others would leave.
    arguments.test_threads = Some(1);
    let trials = tests.into_iter().map(|(name, test)| {
        let skip = missing;
        Trial::test(name, move || {
            match skip {
                Some(reason) => println!("skipped {name}: {reason}"),
                None => test(),
            }
            Ok(())
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit();
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
