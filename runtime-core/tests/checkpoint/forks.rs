//! A container whose processes come and go while it is checkpointed.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use runtime_core::ErrorKind;
use runtime_core::container::{CheckpointOptions, Status};

use crate::scene::{Bundle, COUNT, Counter, chain, ok};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("a shell that forks all the time is restored each time", forks),
    ("a shell that forks all the time runs on each time", forks_on),
    ("a vfork under way is waited for", waits_for_vfork),
    ("a vfork that does not end is refused", refuses_vfork),
];

/// How many dumps, where it is to be more than a quick look.
pub(crate) const DUMPS: &str = "RTC_TEST_DUMPS";

/// The node's own shell uses vfork for it, unlike older ones.
const FORKS: &str = "echo 0; n=0; while :; do n=$((n+1)); echo $n >/count; usleep 1000; done";

fn dumps() -> usize {
    std::env::var(DUMPS).ok().and_then(|text| text.parse().ok()).unwrap_or(12)
}

fn forking() -> Bundle {
    let bundle = Bundle::new(FORKS);
    fs::copy("/usr/bin/busybox", bundle.path().join("rootfs/bin/busybox")).unwrap();
    bundle
}

fn forks() {
    let bundle = forking();
    let mut counter = bundle.start();
    assert_eq!(counter.next(), 0);
    for _ in 0..dumps() {
        let images = bundle.images("images");
        counter.freeze_dry(images.clone(), 0);
        counter = bundle.restore("first", &images);
        fs::remove_dir_all(images).unwrap();
    }
    counter.kill();
}

fn forks_on() {
    let bundle = forking();
    let mut counter = bundle.start();
    assert_eq!(counter.next(), 0);
    for _ in 0..dumps() {
        let images = bundle.images("images");
        counter.snapshot(images.clone());
        assert_eq!(counter.container.status().unwrap(), Status::Running);
        fs::remove_dir_all(images).unwrap();
    }
    counter.kill();
}

/// Holds everybody up who executes a file, by a write lease on it (fcntl(2), F_SETLEASE), until it is dropped.
struct Lease(Child);

impl Lease {
    fn on(path: &PathBuf, length: Duration) -> Self {
        let script = "open F, '+<', $ARGV[0] or die; $SIG{IO} = 'IGNORE'; fcntl(F, 1024, 1) or die; $| = 1;
                      print \"held\\n\"; select undef, undef, undef, $ARGV[1]";
        let mut perl = Command::new("perl");
        perl.arg("-e").arg(script).arg(path).arg(length.as_secs_f64().to_string()).stdout(Stdio::piped());
        let mut child = perl.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "held\n");
        Self(child)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A container that counts, and in which a process waits for its vfork child, which is held up in execve.
fn in_vfork(length: Duration) -> (Bundle, Counter, Lease) {
    let bundle = Bundle::new(&format!("echo x | xargs /data/true & {COUNT}"));
    let program = bundle.path().join("data/true");
    fs::copy(crate::BUSYBOX, &program).unwrap();
    let lease = Lease::on(&program, length);
    let mut counter = bundle.start();
    assert_eq!(counter.next(), 0);
    let waits = || {
        let stats = ok(counter.container.pids()).into_iter().map(|pid| fs::read_to_string(format!("/proc/{pid}/stat")));
        stats.flatten().any(|stat| stat.contains(") D "))
    };
    let until = Instant::now() + Duration::from_secs(10);
    while !waits() {
        assert!(Instant::now() < until, "no vfork");
        std::thread::sleep(Duration::from_millis(1));
    }
    (bundle, counter, lease)
}

fn waits_for_vfork() {
    let length = Duration::from_millis(700);
    let began = Instant::now();
    let (bundle, counter, lease) = in_vfork(length);
    let last = counter.freeze_dry(bundle.images("one"), 0);
    assert!(began.elapsed() >= length, "{:?}: dumped within the vfork", began.elapsed());
    // It was not frozen while it was waited for.
    assert!(last > 5, "{last}");
    drop(lease);
    let mut counter = bundle.restore("second", &bundle.images("one"));
    counter.goes_on_after(last);
    counter.kill();
}

fn refuses_vfork() {
    let (bundle, mut counter, lease) = in_vfork(Duration::from_secs(60));
    let images = bundle.images("one");
    ok(counter.container.pause());
    let refuse = |counter: &Counter| {
        let err = counter.container.checkpoint(&CheckpointOptions::new(images.clone())).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::FailedPrecondition);
        assert!(chain(&err).contains("vfork"), "{}", chain(&err));
        assert!(!images.exists());
    };
    // What is paused cannot be let run until it suits.
    let began = Instant::now();
    refuse(&counter);
    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!(counter.container.status().unwrap(), Status::Paused);
    ok(counter.container.resume());

    refuse(&counter);
    assert_eq!(counter.container.status().unwrap(), Status::Running);
    counter.goes_on_after(0);
    drop(lease);
    counter.kill();
}
