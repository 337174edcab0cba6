//! Two nodes and what is asked of them.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use test_fixtures::node::Running;
use test_fixtures::{Image, Node, NodeConfig, Output, Tree};

use crate::relay::{FAR, Fate, Judge, NEAR, Relay};

pub(crate) const LONG: Duration = Duration::from_secs(60);
/// A file that ends a receiver for good.
const STOP: &str = "/run/stop-receiving";

/// The source has the image; the destination has nothing.
pub(crate) struct World {
    pub(crate) one: Node,
    pub(crate) two: Node,
}

impl World {
    pub(crate) fn new() -> Self {
        let node = |images| Node::start(NodeConfig { tree: Tree::Forky, images, ..NodeConfig::default() }).unwrap();
        Self { one: node(vec![Image::Workload]), two: node(Vec::new()) }
    }
}

pub(crate) fn all_passes() -> Judge {
    Arc::new(|_, _| Fate::Passes)
}

/// `rtc migrate receive` in a node until it is dropped, started again when it ends, as a service manager does.
pub(crate) struct Receiver<'a> {
    node: &'a Node,
    running: Option<Running>,
}

impl<'a> Receiver<'a> {
    pub(crate) fn start(node: &'a Node) -> Self {
        Self::start_with(node, &[])
    }

    pub(crate) fn start_with(node: &'a Node, options: &[&str]) -> Self {
        let options = options.join(" ");
        let script = format!("while [ ! -e {STOP} ]; do rtc migrate receive --listen unix://{FAR} {options}; done");
        let running = node.spawn(["sh", "-c", &script]).unwrap();
        wait("it listens", || UnixStream::connect(node.path(FAR)).is_ok());
        Self { node, running: Some(running) }
    }

    /// What it has said.
    pub(crate) fn stop(mut self) -> String {
        self.end().map(|output| output.error_text()).unwrap_or_default()
    }

    fn end(&mut self) -> Option<Output> {
        let running = self.running.take()?;
        self.node.write(STOP, "").unwrap();
        self.node.exec(["pkill", "-TERM", "-x", "rtc-migrate"]).unwrap();
        let output = running.wait(LONG).ok();
        self.node.remove(STOP).unwrap();
        output
    }
}

impl Drop for Receiver<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

pub(crate) fn migrate(from: &Node, id: &str, options: &[&str]) -> Output {
    let target = format!("unix://{NEAR}");
    let line = [&["rtc", "migrate", id, "--to", &target][..], options].concat();
    from.exec_within(LONG, line).unwrap()
}

/// A whole move, with all that it needs on the other side.
#[track_caller]
pub(crate) fn move_over(from: &Node, to: &Node, id: &str, options: &[&str]) -> Output {
    move_over_with(from, to, id, options, &[])
}

/// As [`move_over`], with options of the receiver's.
#[track_caller]
pub(crate) fn move_over_with(from: &Node, to: &Node, id: &str, options: &[&str], receive: &[&str]) -> Output {
    let receiver = Receiver::start_with(to, receive);
    let relay = Relay::start(from, to, all_passes());
    let output = migrate(from, id, options);
    drop(relay);
    let said = receiver.stop();
    assert_eq!(output.code(), 0, "{}\n{said}\n{}\n{}", output.error_text(), logged(from), logged(to));
    output
}

/// What the shims of a node have logged last.
pub(crate) fn logged(node: &Node) -> String {
    let log = node.containerd_log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("rtc")).collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// A container that counts: the file has its count, the log every one.
pub(crate) fn start_counter(node: &Node, id: &str) {
    start_counter_with(node, id, &[]);
}

/// As [`start_counter`], with options of ctr's.
pub(crate) fn start_counter_with(node: &Node, id: &str, options: &[&str]) {
    let runtime = [&["--runtime", "io.containerd.rtc.v2"], options].concat();
    let counter = ["/bin/workload", "counter", "--file", "/count", "--log", "/log", "--interval-ms", "2"];
    let run = [&["ctr", "run", "-d"][..], &runtime, &[Image::Workload.name(), id], &counter].concat();
    node.run(run).unwrap();
    wait("it counts", || count(node, id) > 3);
}

/// The count of a container, 0 if there is none.
pub(crate) fn count(node: &Node, id: &str) -> u64 {
    let text = inside(node, id, "/count").unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// A file of a running container.
pub(crate) fn inside(node: &Node, id: &str, path: &str) -> Option<String> {
    let pid = pid(node, id)?;
    node.read_text(&format!("/proc/{pid}/root{path}")).ok()
}

pub(crate) fn pid(node: &Node, id: &str) -> Option<u32> {
    let tasks = node.run(["ctr", "task", "ls"]).unwrap();
    let line = tasks.lines().find(|line| line.split_whitespace().next() == Some(id))?.to_owned();
    let mut fields = line.split_whitespace().skip(1);
    let pid = fields.next()?.parse().ok()?;
    (fields.next() == Some("RUNNING")).then_some(pid)
}

/// It counts on, and has counted nothing twice and left nothing out.
#[track_caller]
pub(crate) fn assert_counts_on(node: &Node, id: &str, from: u64) {
    let before = count(node, id);
    assert!(before >= from, "{before} after {from}");
    wait("it counts on", || count(node, id) > before);
    let log = inside(node, id, "/log").unwrap();
    let mut expected = 1_u64;
    for line in log.lines() {
        // The last line may be half written, as the file is read while it grows.
        if line != expected.to_string() && expected + 1 < before {
            panic!("{line} in the place of {expected}");
        }
        expected += 1;
    }
    assert!(expected > before, "the log ends at {expected}");
}

/// Nothing of a container, and of no migration, is there.
#[track_caller]
pub(crate) fn assert_gone(node: &Node, id: &str) {
    for command in
        [["ctr", "container", "ls", "-q"].as_slice(), &["ctr", "task", "ls", "-q"], &["ctr", "snapshot", "ls"]]
    {
        let listed = node.run(command).unwrap();
        let there = listed.lines().any(|line| line.split_whitespace().next() == Some(id));
        assert!(!there, "{}: {listed}", command.join(" "));
    }
    let leases = node.run(["ctr", "leases", "ls", "-q"]).unwrap();
    assert!(!leases.contains("rtc-migrate"), "{leases}");
    assert_eq!(status(node), "");
}

/// What `rtc migrate status` says.
pub(crate) fn status(node: &Node) -> String {
    node.exec(["rtc", "migrate", "status"]).unwrap().text()
}

pub(crate) fn remove(node: &Node, id: &str) {
    node.run(["ctr", "task", "rm", "--force", id]).ok();
    node.run(["ctr", "container", "rm", id]).ok();
}

#[track_caller]
pub(crate) fn wait(what: &str, done: impl Fn() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < LONG, "not: {what}");
        sleep(Duration::from_millis(10));
    }
}
