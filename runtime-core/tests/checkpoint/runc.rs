//! runc's images and ours are each other's.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::scene::{Bundle, COUNT};

pub(crate) const TESTS: &[(&str, fn())] =
    &[("an image of runc is restored", of_runc), ("an image of rtc is restored by runc", by_runc)];

struct Runc {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Runc {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    fn next(&mut self) -> u64 {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().parse().unwrap_or_else(|_| {
            let mut text = String::new();
            self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
            panic!("runc: {line:?} {text}")
        })
    }

    /// Its container has ended: the last number that it wrote.
    fn finish(mut self, last: u64) -> u64 {
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        self.child.wait().unwrap();
        rest.lines().last().map_or(last, |line| line.parse().unwrap())
    }
}

fn runc(arguments: &[&str], bundle: &Path) -> Command {
    let mut command = Command::new("runc");
    command.args(arguments).current_dir(bundle);
    command
}

fn of_runc() {
    let bundle = Bundle::new(COUNT);
    bundle.write_config();
    let mut counter = Runc::start(&mut runc(&["run", "theirs"], bundle.path()));
    assert_eq!(counter.next(), 0);
    let checkpoint = ["checkpoint", "--image-path", "one", "--work-path", "work", "theirs"];
    let made = runc(&checkpoint, bundle.path()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let last = counter.finish(0);
    assert!(!bundle.images("one").join("rtc.json").exists());

    let mut counter = bundle.restore("ours", &bundle.images("one"));
    counter.goes_on_after(last);
    let (_, text) = counter.exec(&bundle, "cat /etc/hosts; ip address show dev lo");
    assert!(text.contains("localhost") && text.contains("127.0.0.1/8"), "{text}");
    counter.kill();
    std::fs::remove_dir("/run/runc").unwrap();
}

fn by_runc() {
    let bundle = Bundle::new(COUNT);
    let mut counter = bundle.start();
    assert_eq!(counter.next(), 0);
    let last = counter.freeze_dry(bundle.images("one"), 0);
    let restore = ["restore", "--image-path", "one", "--work-path", "work", "theirs"];
    let mut counter = Runc::start(&mut runc(&restore, bundle.path()));
    assert_eq!(counter.next(), last + 1);
    assert!(runc(&["kill", "theirs", "KILL"], bundle.path()).status().unwrap().success());
    counter.finish(last);
    // A container that was restored in the foreground is deleted by its runc.
    runc(&["delete", "--force", "theirs"], bundle.path()).status().unwrap();
    std::fs::remove_dir("/run/runc").unwrap();
}
