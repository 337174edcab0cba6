//! A container whose init a signal has stopped.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use runtime_core::ErrorKind;
use runtime_core::container::{CheckpointOptions, Status};
use rustix::process::{Pid, Signal, kill_process};

use crate::scene::{Bundle, COUNT, Counter, chain, ok};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("a stopped process is carried as it is", stopped),
    ("a stopped process is found where the kernel has no names", without_names),
];

/// Far less than a CRIU that hangs is waited for.
const SOON: Duration = Duration::from_secs(10);

fn signal(counter: &Counter, signal: Signal) {
    let pid = counter.container.pid().unwrap().as_raw();
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// Waits until the init is in a state like `T`, or in another one.
fn wait_for(counter: &Counter, state: &str, expected: bool) {
    let until = Instant::now() + SOON;
    let is = || fs::read_to_string(format!("/proc/{}/stat", counter.container.pid().unwrap())).unwrap().contains(state);
    while is() != expected {
        assert!(Instant::now() < until, "the init does not get to {state}: {expected}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn stopped() {
    let bundle = Bundle::new(COUNT);
    let mut counter = bundle.start();
    assert_eq!(counter.next(), 0);
    signal(&counter, Signal::STOP);
    wait_for(&counter, ") T ", true);

    let began = Instant::now();
    counter.snapshot(bundle.images("one"));
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    assert_eq!(counter.container.status().unwrap(), Status::Running);
    wait_for(&counter, ") T ", true);

    ok(counter.container.pause());
    if Path::new("/sys/fs/cgroup/freezer").exists() {
        // Nobody but its caller may let it out of the freezer of cgroup v1, where CRIU would hang.
        let err = counter.container.checkpoint(&CheckpointOptions::new(bundle.images("two"))).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::FailedPrecondition);
        assert!(chain(&err).contains("is stopped by a signal"), "{}", chain(&err));
        assert!(!bundle.images("two").exists());
    }
    assert_eq!(counter.container.status().unwrap(), Status::Paused);
    ok(counter.container.resume());
    // CRIU stops it again by a signal, which can be pending for the next dump: SIGCONT takes it away.
    signal(&counter, Signal::CONT);
    wait_for(&counter, ") T ", false);
    signal(&counter, Signal::STOP);
    wait_for(&counter, ") T ", true);
    let last = counter.freeze_dry(bundle.images("three"), 0);
    let mut counter = bundle.restore("second", &bundle.images("three"));
    wait_for(&counter, ") T ", true);
    signal(&counter, Signal::CONT);
    counter.goes_on_after(last);
    counter.kill();
}

/// As in a kernel without CONFIG_KALLSYMS.
fn without_names() {
    let bundle = Bundle::new(COUNT);
    let mut counter = bundle.start();
    assert_eq!(counter.next(), 0);
    let nameless = bundle.path().join("nameless");
    fs::write(&nameless, "0").unwrap();
    let wchan = format!("/proc/{}/wchan", counter.container.pid().unwrap());
    let bind = nix::mount::MsFlags::MS_BIND;
    nix::mount::mount(Some(&nameless), wchan.as_str(), None::<&str>, bind, None::<&str>).unwrap();
    // Also of one that runs.
    for (signal_before, state) in [(Signal::CONT, false), (Signal::STOP, true)] {
        signal(&counter, signal_before);
        wait_for(&counter, ") T ", state);
        let began = Instant::now();
        counter.snapshot(bundle.images("one"));
        assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
        assert_eq!(counter.container.status().unwrap(), Status::Running);
        wait_for(&counter, ") T ", state);
    }
    nix::mount::umount(wchan.as_str()).unwrap();
    signal(&counter, Signal::CONT);
    counter.goes_on_after(0);
    counter.kill();
}
