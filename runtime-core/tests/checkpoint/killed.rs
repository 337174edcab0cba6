//! Who checkpoints is killed in the middle of it.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use runtime_core::ContainerId;
use runtime_core::container::{CheckpointOptions, Container, Status};

use crate::scene::{Bundle, COUNT, Counter, ok};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("a container runs on when who checkpoints it is killed", runs_on),
    ("a paused container stays paused when who checkpoints it is killed", stays_paused),
];

/// Names the bundle, in the process that checkpoints and is killed.
pub(crate) const BUNDLE: &str = "RTC_TEST_BUNDLE";

pub(crate) fn checkpoint(bundle: &Path) {
    let container = ok(Container::load(&bundle.join("state"), &ContainerId::parse("first").unwrap()));
    let mut options = CheckpointOptions::new(bundle.join("images"));
    options.work_dir = Some(bundle.join("work"));
    // Killed after its last word to CRIU it has made a checkpoint all the same.
    options.leave_running = true;
    ok(container.checkpoint(&options));
}

/// Not as a zombie that nobody has reaped yet.
fn is_running(name: &str) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let names = processes.map(|process| fs::read_to_string(process.path().join("stat")).unwrap_or_default());
    names.into_iter().any(|stat| stat.contains(&format!("({name})")) && !stat.contains(") Z "))
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < until, "not so: {what}");
        sleep(Duration::from_millis(1));
    }
}

fn start(bundle: &Bundle) -> Child {
    let program = std::env::current_exe().unwrap();
    Command::new(program).env(BUNDLE, bundle.path()).spawn().unwrap()
}

/// Kills it when `file` is written, and waits until nobody of it is left.
fn kill_at(bundle: &Bundle, file: &str) {
    for _ in 0..10 {
        let mut process = start(bundle);
        wait_for("it is under way", || bundle.path().join(file).exists());
        process.kill().unwrap();
        // On a busy machine it may have been done before.
        let killed = !process.wait().unwrap().success();
        wait_for("criu has ended", || !is_running("criu"));
        wait_for("the guard has ended", || !is_running("rtc-guard"));
        fs::remove_dir_all(bundle.images("images")).unwrap();
        fs::remove_dir_all(bundle.images("work")).unwrap();
        if killed {
            return;
        }
    }
    panic!("it was too fast to be killed at {file}");
}

fn inventory(bundle: &Bundle) -> Vec<u8> {
    fs::read(bundle.images("images").join("rtc.json")).unwrap()
}

/// Kills it when `file` is written, as long as the older checkpoint is in its place.
fn kill_beside(bundle: &Bundle, file: &str, older: &[u8]) {
    let mut process = start(bundle);
    wait_for("it is under way", || bundle.path().join(file).exists());
    process.kill().unwrap();
    let killed = !process.wait().unwrap().success();
    wait_for("criu has ended", || !is_running("criu"));
    wait_for("the guard has ended", || !is_running("rtc-guard"));
    assert!(killed && inventory(bundle) == older, "it was too fast to be killed at {file}");
}

fn counting() -> (Bundle, Counter) {
    let bundle = Bundle::new(COUNT);
    let mut counter = bundle.start();
    assert_eq!(counter.next(), 0);
    (bundle, counter)
}

fn runs_on() {
    let (bundle, mut counter) = counting();
    let mut last = 0;
    // When it is frozen and CRIU has not begun, when it has, and between two images.
    for file in ["images/descriptors.json", "work/dump.log", "images/cgroup.img", "images/core-1.img"] {
        kill_at(&bundle, file);
        assert_eq!(counter.container.status().unwrap(), Status::Running, "after {file}");
        // Longer than what it may have written before.
        sleep(Duration::from_millis(200));
        last = counter.goes_on_after(last);
    }
    // With an older checkpoint in the directory, that one is whole.
    counter.snapshot(bundle.images("images"));
    let older = inventory(&bundle);
    for file in ["images/.rtc-new/descriptors.json", "images/.rtc-new/core-1.img"] {
        kill_beside(&bundle, file, &older);
        last = counter.goes_on_after(last);
    }
    // And it can be checkpointed still.
    last = counter.freeze_dry(bundle.images("one"), last);
    let mut counter = bundle.restore("second", &bundle.images("one"));
    counter.goes_on_after(last);
    counter.kill();
}

fn stays_paused() {
    let (bundle, mut counter) = counting();
    ok(counter.container.pause());
    kill_at(&bundle, "images/core-1.img");
    assert_eq!(counter.container.status().unwrap(), Status::Paused);
    ok(counter.container.resume());
    counter.goes_on_after(0);
    counter.kill();
}
