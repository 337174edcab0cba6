//! A pod of five: the sandbox whose namespaces the others have joined, a server and its client, and two that count in turns in
//! memory that both have mapped. Where they are is in their /dev/shm.

use std::thread::sleep;
use std::time::{Duration, Instant};

use test_fixtures::{Image, Node, NodeConfig, Output, Tree};

pub(crate) const LONG: Duration = Duration::from_secs(60);
pub(crate) const IMAGES: &str = "/srv/checkpoint";
pub(crate) const SANDBOX: &str = "pause";
const SHM: &str = "/run/pod-shm";
const LOGS: &str = "/run/pod-logs";
/// CRIU's configuration for the client.
const CONFIG: &str = "/run/client.conf";
const SCRIPT: &str = "/run/fail";

const MEMBERS: [(&str, &[&str]); 5] = [
    (SANDBOX, &["pause"]),
    ("server", &["echo", "--listen", "127.0.0.1:7"]),
    ("client", &["talk", "--connect", "127.0.0.1:7", "--interval-ms", "2", "--file", "/dev/shm/number"]),
    ("left", &["lockstep", "--file", "/dev/shm/steps", "--slot", "0"]),
    ("right", &["lockstep", "--file", "/dev/shm/steps", "--slot", "1"]),
];

pub(crate) struct Pod {
    pub(crate) node: Node,
}

/// How far its members have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    number: u64,
    steps: [u64; 2],
}

impl Pod {
    /// A node for one.
    pub(crate) fn place() -> Self {
        let config = NodeConfig { tree: Tree::Forky, images: vec![Image::Workload], ..NodeConfig::default() };
        let node = Node::start(config).unwrap();
        node.sh(&format!("mkdir -p {SHM} {LOGS} && mount -t tmpfs tmpfs {SHM}")).unwrap();
        node.write(CONFIG, "").unwrap();
        Self { node }
    }

    pub(crate) fn run(&self) {
        for (id, command) in MEMBERS {
            let log = format!("file://{LOGS}/{id}");
            self.ctr(&["run", "-d", "--log-uri", &log], id, command);
        }
        self.wait("it goes on", |pod| {
            pod.progress().is_some_and(|progress| progress.number > 3 && progress.steps[0] > 3)
        });
    }

    /// Without a task: for a restore of what ran on another node.
    pub(crate) fn create(&self) {
        for (id, command) in MEMBERS {
            self.ctr(&["container", "create"], id, command);
        }
    }

    pub(crate) fn ctr(&self, verb: &[&str], id: &str, command: &[&str]) {
        let mount = format!("type=bind,src={SHM},dst=/dev/shm,options=rbind:rw");
        let mut line = vec!["ctr".to_owned()];
        let mut push = |words: &[&str]| line.extend(words.iter().map(|word| (*word).to_owned()));
        push(verb);
        push(&["--runtime", "io.containerd.rtc.v2", "--mount", &mount]);
        push(&["--annotation", &format!("io.containerd.runc.v2.group={SANDBOX}")]);
        if id == "client" {
            push(&["--annotation", &format!("org.criu.config={CONFIG}")]);
        }
        if id != SANDBOX {
            // On another node there is no such process yet; the restore does not look.
            let pid = self.pid(SANDBOX).unwrap_or(1);
            for (kind, name) in [("network", "net"), ("ipc", "ipc"), ("uts", "uts")] {
                push(&["--with-ns", &format!("{kind}:/proc/{pid}/ns/{name}")]);
            }
        }
        push(&[Image::Workload.name(), id, "/bin/workload"]);
        push(command);
        self.node.run(line).unwrap();
    }

    pub(crate) fn checkpoint(&self, options: &[&str]) -> Output {
        let line = [&["rtc", "pod", "checkpoint", "--image-path", IMAGES, SANDBOX][..], options].concat();
        self.node.exec_within(LONG, line).unwrap()
    }

    pub(crate) fn restore(&self) -> Output {
        self.node.exec_within(LONG, ["rtc", "pod", "restore", "--image-path", IMAGES]).unwrap()
    }

    /// CRIU fails for the client at this notification.
    pub(crate) fn fail_at(&self, action: &str) {
        self.node.write(SCRIPT, format!("#!/bin/sh\n[ \"$CRTOOLS_SCRIPT_ACTION\" != {action} ]\n")).unwrap();
        self.node.run(["chmod", "+x", SCRIPT]).unwrap();
        self.node.write(CONFIG, format!("action-script {SCRIPT}\n")).unwrap();
    }

    pub(crate) fn fail_no_more(&self) {
        self.node.write(CONFIG, "").unwrap();
    }

    pub(crate) fn progress(&self) -> Option<Progress> {
        let number = self.node.read_text(&format!("{SHM}/number")).ok()?.parse().ok()?;
        let steps = self.node.read(&format!("{SHM}/steps")).ok()?;
        let step = |at: usize| Some(u64::from_be_bytes(steps.get(at..at + 8)?.try_into().ok()?));
        Some(Progress { number, steps: [step(0)?, step(8)?] })
    }

    pub(crate) fn pid(&self, id: &str) -> Option<u32> {
        let tasks = self.node.run(["ctr", "task", "ls"]).unwrap();
        let line = tasks.lines().find(|line| line.split_whitespace().next() == Some(id))?.to_owned();
        let fields: Vec<_> = line.split_whitespace().skip(1).collect();
        fields.first()?.parse().ok().filter(|_| fields.get(1) == Some(&"RUNNING"))
    }

    pub(crate) fn running(&self) -> Vec<&'static str> {
        MEMBERS.iter().map(|(id, _)| *id).filter(|id| self.pid(id).is_some()).collect()
    }

    /// All are there, none has found anything wrong, and all go on from where they were.
    #[track_caller]
    pub(crate) fn assert_goes_on(&self, from: Progress) {
        let at = self.progress().unwrap();
        assert!(at.number >= from.number && at.steps[0] >= from.steps[0], "{at:?} after {from:?}");
        self.wait("it goes on", |pod| {
            let now = pod.progress().unwrap();
            now.number > at.number + 5 && now.steps[0] > at.steps[0] + 5 && now.steps[1] > at.steps[1] + 5
        });
        assert_eq!(self.running(), MEMBERS.map(|(id, _)| id), "{}", self.said());
    }

    /// What the members and the shim have said.
    pub(crate) fn said(&self) -> String {
        let log = self.node.containerd_log();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("rtc")).collect();
        let own = self.node.sh(&format!("tail -n 2 {LOGS}/*")).unwrap_or_default();
        format!("{own}\n{}", lines[lines.len().saturating_sub(30)..].join("\n"))
    }

    #[track_caller]
    fn wait(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let started = Instant::now();
        while !done(self) {
            assert!(started.elapsed() < LONG, "not: {what}: {:?}\n{}", self.progress(), self.said());
            sleep(Duration::from_millis(10));
        }
    }
}
