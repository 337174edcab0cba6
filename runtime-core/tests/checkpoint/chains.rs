//! Checkpoint, restore, checkpoint, restore …: what comes of a restore can be checkpointed as what was created.

use std::fs::{self, File, OpenOptions};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use runtime_core::Signal;
use runtime_core::container::{CheckpointOptions, Container, RestoreOptions, Started, Stdio};
use serde_json::json;

use crate::kinds::talk;
use crate::scene::{Bundle, COUNT, ok, pipes};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("pipes, then nothing, then pipes", pipes_and_null),
    ("a log that goes on", one_log),
    ("a log for each generation", logs),
    ("a log, then a pipe, then a log", log_and_pipe),
    ("an input file is read on", input_file),
    ("a terminal for three generations", terminals),
];

/// Counts into a file of its own as well: who has no stdio is seen to go on.
const COUNT_BOTH: &str =
    "i=0; while :; do echo $i; echo $i > /data/new; mv /data/new /data/n; i=$((i+1)); sleep 0.02; done";

fn null() -> OwnedFd {
    OpenOptions::new().read(true).write(true).open("/dev/null").unwrap().into()
}

fn nothing() -> Stdio {
    Stdio::Fds { stdin: null(), stdout: null(), stderr: null() }
}

fn to(file: &File) -> Stdio {
    Stdio::Fds { stdin: null(), stdout: file.try_clone().unwrap().into(), stderr: file.try_clone().unwrap().into() }
}

/// One generation of a container.
struct Generation {
    container: Container,
    started: Started,
}

impl Generation {
    fn first(bundle: &Bundle, stdio: Stdio) -> Self {
        let (container, started) = ok(Container::create(bundle.options("first", stdio)));
        ok(container.start());
        Self { container, started }
    }

    fn next(bundle: &Bundle, images: &Path, stdio: Stdio) -> Self {
        let options = RestoreOptions::new(bundle.options("next", stdio), images.to_owned());
        let (container, started) = ok(Container::restore(options));
        Self { container, started }
    }

    fn end(self, images: PathBuf) -> PathBuf {
        ok(self.container.checkpoint(&CheckpointOptions::new(images.clone())));
        self.started.child.wait().unwrap();
        ok(self.container.delete(false));
        images
    }

    fn kill(self) {
        ok(self.container.kill(Signal::KILL, false));
        self.started.child.wait().unwrap();
        ok(self.container.delete(false));
    }
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < until, "not so: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn count(bundle: &Bundle) -> u64 {
    fs::read_to_string(bundle.path().join("data/n")).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn pipes_and_null() {
    let bundle = Bundle::new(COUNT_BOTH);
    let (stdio, output) = pipes();
    let first = Generation::first(&bundle, stdio);
    wait_for("it counts", || count(&bundle) > 3);
    let images = first.end(bundle.images("one"));
    drop(output);

    // Twice: the second is a checkpoint of what was restored to nothing, and so is the third.
    let mut images = images;
    for name in ["two", "three"] {
        let before = count(&bundle);
        let next = Generation::next(&bundle, &images, nothing());
        wait_for("it goes on", || count(&bundle) > before + 3);
        assert!(count(&bundle) < before + 200, "it began anew or jumped");
        images = next.end(bundle.images(name));
    }
    // What was nothing stays nothing: with pipes nobody could tell the three apart.
    let (stdio, output) = pipes();
    let before = count(&bundle);
    let last = Generation::next(&bundle, &images, stdio);
    wait_for("it goes on", || count(&bundle) > before + 3);
    drop(output);
    wait_for("it goes on without its reader", || count(&bundle) > before + 6);
    last.kill();
}

fn numbers(log: &Path) -> Vec<u64> {
    fs::read_to_string(log).unwrap().lines().map(|line| line.parse().unwrap_or_else(|_| panic!("{line:?}"))).collect()
}

fn assert_consecutive(numbers: &[u64], first: u64) {
    assert_eq!(numbers.first(), Some(&first));
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
}

/// Appending, and at an offset of its own: neither overwrites what is there.
fn one_log() {
    for append in [true, false] {
        let bundle = Bundle::new(COUNT);
        let log = bundle.images("log");
        let open = || OpenOptions::new().create(true).write(true).truncate(false).append(append).open(&log).unwrap();
        let mut generation = Generation::first(&bundle, to(&open()));
        for name in ["one", "two", "three"] {
            let before = fs::read(&log).unwrap().len();
            wait_for("it logs", || fs::read(&log).unwrap().len() > before + 10);
            let images = generation.end(bundle.images(name));
            generation = Generation::next(&bundle, &images, to(&open()));
        }
        let before = fs::read(&log).unwrap().len();
        wait_for("it logs", || fs::read(&log).unwrap().len() > before + 10);
        generation.kill();
        assert_consecutive(&numbers(&log), 0);
    }
}

fn logs() {
    let bundle = Bundle::new(COUNT);
    let path = |name: &str| bundle.images(&format!("log-{name}"));
    let open = |name: &str| File::create(path(name)).unwrap();
    let mut generation = Generation::first(&bundle, to(&open("zero")));
    let mut first = 0;
    for (log, name) in [("zero", "one"), ("one", "two"), ("two", "three")] {
        wait_for("it logs", || fs::read(path(log)).unwrap().len() > 10);
        let images = generation.end(bundle.images(name));
        let numbers = numbers(&path(log));
        assert_consecutive(&numbers, first);
        first = numbers.last().unwrap() + 1;
        generation = Generation::next(&bundle, &images, to(&open(name)));
    }
    wait_for("it logs", || fs::read(path("three")).unwrap().len() > 10);
    generation.kill();
    assert_consecutive(&numbers(&path("three")), first);
}

fn log_and_pipe() {
    let bundle = Bundle::new(COUNT);
    let log = bundle.images("log");
    let open = || OpenOptions::new().create(true).append(true).open(&log).unwrap();
    let first = Generation::first(&bundle, to(&open()));
    wait_for("it logs", || fs::read(&log).unwrap().len() > 10);
    let images = first.end(bundle.images("one"));
    let last = *numbers(&log).last().unwrap();
    let mut counter = bundle.restore("second", &images);
    let last = counter.goes_on_after(last);
    let last = counter.freeze_dry(bundle.images("two"), last);
    let before = fs::read(&log).unwrap().len();
    let third = Generation::next(&bundle, &bundle.images("two"), to(&open()));
    wait_for("it logs again", || fs::read(&log).unwrap().len() > before + 10);
    third.kill();
    let all = numbers(&log);
    assert!(all.contains(&(last + 1)) && !all.contains(&last), "{last} {all:?}");
}

fn input_file() {
    let bundle = Bundle::new("while read x; do echo $x; sleep 0.02; done; sleep 1000");
    let (input, log) = (bundle.images("input"), bundle.images("log"));
    let lines: String = (0..1000).map(|number| format!("{number}\n")).collect();
    fs::write(&input, lines).unwrap();
    let open = || Stdio::Fds {
        stdin: File::open(&input).unwrap().into(),
        stdout: OpenOptions::new().create(true).append(true).open(&log).unwrap().into(),
        stderr: null(),
    };
    let mut generation = Generation::first(&bundle, open());
    for name in ["one", "two"] {
        let before = fs::read(&log).unwrap().len();
        wait_for("it reads", || fs::read(&log).unwrap().len() > before + 10);
        let images = generation.end(bundle.images(name));
        generation = Generation::next(&bundle, &images, open());
    }
    let before = fs::read(&log).unwrap().len();
    wait_for("it reads on", || fs::read(&log).unwrap().len() > before + 10);
    generation.kill();
    assert_consecutive(&numbers(&log), 0);
}

fn terminals() {
    let mut bundle = Bundle::new("x=kept; while read line; do echo got $line $x; done");
    bundle.spec["process"]["terminal"] = json!(true);
    let mut generation = Generation::first(&bundle, Stdio::Terminal);
    for name in ["one", "two", "three"] {
        let said = talk(generation.started.console.as_ref().unwrap(), &format!("{name}\n"));
        assert!(said.contains(&format!("got {name} kept")), "{said}");
        let images = generation.end(bundle.images(name));
        generation = Generation::next(&bundle, &images, Stdio::Terminal);
    }
    assert!(talk(generation.started.console.as_ref().unwrap(), "end\n").contains("got end kept"));
    generation.kill();
}
