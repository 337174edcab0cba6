//! Ways of the memory other than into the image directory at once.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use runtime_core::ErrorKind;
use runtime_core::container::{CheckpointOptions, Container, RestoreOptions, Status};
use serde_json::json;

use crate::scene::{Bundle, COUNT, Counter, chain, ok, pipes};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("parent images that are not there are refused", bad_parent),
    ("a pre-dump is a checkpoint's parent, or refused for the kernel's sake", pre_dump),
    ("lazy pages are fetched by the restored container", lazy_pages),
    ("a page server gets the memory", page_server),
];

fn bad_parent() {
    let bundle = Bundle::new(COUNT);
    let mut counter = bundle.start();
    assert_eq!(counter.next(), 0);
    let images = bundle.images("one");
    for (parent, words) in [("/absolute", "relative"), ("../missing", "no such directory")] {
        let mut options = CheckpointOptions::new(images.clone());
        options.parent = Some(PathBuf::from(parent));
        let err = counter.container.checkpoint(&options).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidArgument);
        assert!(chain(&err).contains(words), "{}", chain(&err));
        assert!(!images.exists());
    }
    counter.goes_on_after(0);
    counter.kill();
}

fn pre_dump() {
    let bundle = Bundle::new(COUNT);
    let mut counter = bundle.start();
    assert_eq!(counter.next(), 0);
    let mut options = CheckpointOptions::new(bundle.images("pre"));
    options.pre_dump = true;
    let last = match counter.container.checkpoint(&options) {
        Err(err) => {
            assert_eq!(err.kind(), ErrorKind::FailedPrecondition);
            assert!(chain(&err).contains("CONFIG_MEM_SOFT_DIRTY"), "{}", chain(&err));
            assert!(!bundle.images("pre").exists());
            counter.goes_on_after(0)
        }
        Ok(_) => {
            let last = counter.goes_on_after(0);
            assert!(bundle.refused(&bundle.images("pre")).contains("not a checkpoint"));
            let mut options = CheckpointOptions::new(bundle.images("one"));
            options.parent = Some(PathBuf::from("../pre"));
            ok(counter.container.checkpoint(&options));
            let last = counter.gone(137, last);
            assert!(bundle.images("one").join("parent").is_symlink());
            counter = bundle.restore("second", &bundle.images("one"));
            counter.goes_on_after(last)
        }
    };
    assert_eq!(counter.container.status().unwrap(), Status::Running);
    counter.goes_on_after(last);
    counter.kill();
}

/// CRIU's pipes for pages want more than the default; the host's, for as long as a test needs it.
struct PipeSize(String);

const PIPE_SIZE: &str = "/proc/sys/fs/pipe-max-size";

impl PipeSize {
    fn raise() -> Self {
        let before = fs::read_to_string(PIPE_SIZE).unwrap();
        fs::write(PIPE_SIZE, "16777216").unwrap();
        Self(before)
    }
}

impl Drop for PipeSize {
    fn drop(&mut self) {
        fs::write(PIPE_SIZE, &self.0).unwrap();
    }
}

fn lazy_pages() {
    let _size = PipeSize::raise();
    let mut bundle = Bundle::new(COUNT);
    let mut counter = bundle.start();
    assert_eq!(counter.next(), 0);
    let last = counter.goes_on_after(0);
    let images = bundle.images("one");
    let mut options = CheckpointOptions::new(images.clone());
    options.lazy_pages = true;
    let err = counter.container.checkpoint(&options).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::InvalidArgument);
    assert!(chain(&err).contains("page server"), "{}", chain(&err));

    let (mut status, theirs) = std::io::pipe().unwrap();
    options.page_server = Some("127.0.0.1:27277".parse().unwrap());
    options.status_fd = Some(theirs.into());
    let dump = thread::spawn(move || {
        let made = counter.container.checkpoint(&options);
        drop(options);
        (made, counter)
    });
    let mut byte = [1];
    status.read_exact(&mut byte).unwrap();
    assert_eq!(byte, [0]);
    let listening = listening();
    assert!(listening.contains("127.0.0.1:27277") && !listening.contains("0.0.0.0:27277"), "{listening}");
    let in_images = size(&images);

    let mut daemon = lazy_daemon(&images);
    bundle.spec["linux"]["cgroupsPath"] = json!("/rtc-checkpoint-other");
    let mut restored = restore_lazily(&bundle, &images);
    let (made, counter) = dump.join().unwrap();
    let made = ok(made);
    assert!(daemon.wait().unwrap().success());
    let last = counter.gone(137, last);
    assert!(made.bytes >= in_images);
    restored.goes_on_after(last);
    restored.kill();
}

/// The addresses that somebody listens on.
fn listening() -> String {
    let output = Command::new("ss").arg("-Hltn").output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < until, "not there: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn size(images: &Path) -> u64 {
    fs::read_dir(images).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

fn lazy_daemon(images: &Path) -> Child {
    let mut criu = Command::new("criu");
    criu.args([
        "lazy-pages",
        "--page-server",
        "--address",
        "127.0.0.1",
        "--port",
        "27277",
        "-v4",
        "-o",
        "lazy.log",
        "-D",
    ]);
    let child = criu.arg(images).arg("-W").arg(images).spawn().unwrap();
    wait_for("the socket of criu lazy-pages", || images.join("lazy-pages.socket").exists());
    child
}

fn restore_lazily(bundle: &Bundle, images: &Path) -> Counter {
    let (stdio, output) = pipes();
    let mut options = RestoreOptions::new(bundle.options("second", stdio), images.to_owned());
    options.lazy_pages = true;
    let (container, started) = ok(Container::restore(options));
    Counter { container, started, output }
}

fn page_server() {
    let bundle = Bundle::new(COUNT);
    let mut counter = bundle.start();
    assert_eq!(counter.next(), 0);
    let there = bundle.images("there");
    fs::create_dir(&there).unwrap();
    let mut criu = Command::new("criu");
    criu.args(["page-server", "--address", "127.0.0.1", "--port", "27278", "-v4", "-o", "server.log", "--images-dir"]);
    let mut server = criu.arg(&there).spawn().unwrap();
    wait_for("the page server", || listening().contains(":27278"));
    let images = bundle.images("one");
    let mut options = CheckpointOptions::new(images.clone());
    options.page_server = Some("127.0.0.1:27278".parse().unwrap());
    ok(counter.container.checkpoint(&options));
    assert!(server.wait().unwrap().success());
    let last = counter.gone(137, 0);
    let has_pages = |dir: &Path| {
        fs::read_dir(dir).unwrap().any(|entry| entry.unwrap().file_name().to_string_lossy().starts_with("pages-"))
    };
    assert!(!has_pages(&images) && has_pages(&there));
    for entry in fs::read_dir(&there).unwrap().map(|entry| entry.unwrap().path()) {
        fs::rename(&entry, images.join(entry.file_name().unwrap())).unwrap();
    }
    let mut counter = bundle.restore("second", &images);
    counter.goes_on_after(last);
    counter.kill();
}
