//! A node with containerd in it, and ctr as the tests speak it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::sleep;
use std::time::{Duration, Instant};

use test_fixtures::node::{Running, Terminal};
use test_fixtures::{Cgroups, Image, Node, NodeConfig, Output, Tree};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runtime {
    Runc,
    Rtc,
}

impl Runtime {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Runc => "io.containerd.runc.v2",
            Self::Rtc => "io.containerd.rtc.v2",
        }
    }

    pub(crate) fn shim(self) -> &'static str {
        match self {
            Self::Runc => "containerd-shim-runc-v2",
            Self::Rtc => "containerd-shim-rtc-v2",
        }
    }
}

/// Where a test runs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lane {
    pub(crate) runtime: Runtime,
    pub(crate) tree: Tree,
    pub(crate) cgroups: Cgroups,
}

impl Lane {
    /// The host's v1 hierarchies have the controllers that cgroup2 would offer.
    pub(crate) fn lacks_controllers(self) -> bool {
        self.cgroups == Cgroups::V2 && Cgroups::supported().contains(&Cgroups::Hybrid)
    }

    fn skip_reason(self) -> Option<&'static str> {
        if let Some(why) = test_fixtures::skip_reason() {
            return Some(why);
        }
        if !Cgroups::supported().contains(&self.cgroups) {
            return Some("this host has no such cgroup hierarchies");
        }
        (self.runtime == Runtime::Runc && self.lacks_controllers())
            .then_some("runc cannot set the default spec's cpu.weight where cgroup2 has no controllers")
    }
}

/// A check's name and what it does.
pub(crate) type Check = (&'static str, fn(&Host));

/// Puts a file of 2 MB that is as random as a program is into a container, as `/noise`.
pub(crate) const NOISE_MOUNT: &str = "type=bind,src=/usr/bin/busybox,dst=/noise,options=rbind:ro";
/// The same file on the node.
pub(crate) const NOISE: &str = "/usr/bin/busybox";

pub(crate) const LONG: Duration = Duration::from_secs(30);

/// Runs the checks one after the other in one node, and looks for leaks after each.
#[track_caller]
pub(crate) fn check(lane: Lane, checks: &[Check]) {
    check_after(lane, |_| (), checks);
}

/// As [`check`], in a node that `prepare` has made ready: what that leaves is no leak.
#[track_caller]
pub(crate) fn check_after(lane: Lane, prepare: fn(&Host), checks: &[Check]) {
    if let Some(why) = lane.skip_reason() {
        eprintln!("skipped: {why}");
        return;
    }
    let host = Host::start(lane);
    prepare(&host);
    let mut failed = Vec::new();
    for (name, check) in checks {
        let before = host.node.snapshot();
        eprintln!("-- {name}");
        let whole = catch_unwind(AssertUnwindSafe(|| check(&host))).is_ok();
        if !whole {
            failed.push(format!("{name}: see above"));
            host.remove_everything();
        }
        if let Err(leaks) = host.node.check_leaks(&before) {
            failed.push(format!("{name}: {leaks}"));
        }
    }
    assert!(failed.is_empty(), "{} of {} checks failed:\n{}", failed.len(), checks.len(), failed.join("\n"));
}

pub(crate) struct Host {
    pub(crate) node: Node,
    pub(crate) lane: Lane,
}

impl Host {
    fn start(lane: Lane) -> Self {
        let config = NodeConfig {
            tree: lane.tree,
            cgroups: lane.cgroups,
            images: vec![Image::Busybox],
            rtc: lane.runtime == Runtime::Rtc,
            containerd: true,
        };
        let host = Self { node: Node::start(config).unwrap(), lane };
        // Directories and cgroups that a namespace's first container brings, and that stay, are no leaks.
        host.run_ok(&[], &["true"]);
        host
    }

    pub(crate) fn ctr(&self, arguments: &[&str]) -> Output {
        self.node.exec(["ctr"].iter().chain(arguments)).unwrap()
    }

    /// As [`Self::ctr`]; it has to succeed. Returns its standard output, trimmed.
    #[track_caller]
    pub(crate) fn ctr_ok(&self, arguments: &[&str]) -> String {
        let output = self.ctr(arguments);
        assert_eq!(output.code(), 0, "ctr {}: {}", arguments.join(" "), output.error_text());
        output.text()
    }

    /// As [`Self::ctr`]; it has to fail with a message that holds one of `words`, whatever their case.
    #[track_caller]
    pub(crate) fn ctr_refuses(&self, arguments: &[&str], words: &[&str]) {
        let output = self.ctr(arguments);
        let message = output.error_text();
        assert_ne!(output.code(), 0, "ctr {} succeeded: {}", arguments.join(" "), output.text());
        let named = words.iter().any(|word| message.to_lowercase().contains(&word.to_lowercase()));
        assert!(named, "ctr {}: none of {words:?} in: {message}", arguments.join(" "));
    }

    fn run_line<'a>(&self, how: &[&'a str], image: &'a str, id: &'a str, command: &[&'a str]) -> Vec<&'a str> {
        let mut line = vec!["run", "--runtime", self.lane.runtime.name()];
        line.extend_from_slice(how);
        line.extend_from_slice(&[image, id]);
        line.extend_from_slice(command);
        line
    }

    /// `ctr run --rm FLAGS busybox c1 COMMAND`.
    pub(crate) fn run(&self, flags: &[&str], command: &[&str]) -> Output {
        self.ctr(&self.run_line(&[&["--rm"], flags].concat(), Image::Busybox.name(), "c1", command))
    }

    /// As [`Self::run`], with another image or a root directory.
    pub(crate) fn run_image(&self, flags: &[&str], image: &str, command: &[&str]) -> Output {
        self.ctr(&self.run_line(&[&["--rm"], flags].concat(), image, "c1", command))
    }

    /// As [`Self::run`]; it has to succeed. Returns its standard output, trimmed.
    #[track_caller]
    pub(crate) fn run_ok(&self, flags: &[&str], command: &[&str]) -> String {
        let output = self.run(flags, command);
        assert_eq!(output.code(), 0, "run {flags:?} {command:?}: {} {}", output.text(), output.error_text());
        output.text()
    }

    /// As [`Self::run`]; it has to fail with a message that holds one of `words`.
    #[track_caller]
    pub(crate) fn run_refuses(&self, flags: &[&str], command: &[&str], words: &[&str]) {
        self.ctr_refuses(&self.run_line(&[&["--rm"], flags].concat(), Image::Busybox.name(), "c1", command), words);
    }

    /// [`Self::run`] as a child.
    pub(crate) fn spawn_run(&self, flags: &[&str], command: &[&str]) -> Running {
        let line = self.run_line(&[&["--rm"], flags].concat(), Image::Busybox.name(), "c1", command);
        self.node.spawn(["ctr"].iter().chain(&line)).unwrap()
    }

    /// `ctr run --rm -t FLAGS busybox c1 COMMAND` on a terminal of 80 by 24.
    pub(crate) fn spawn_tty(&self, flags: &[&str], command: &[&str]) -> Terminal {
        let line = self.run_line(&[&["--rm", "-t"], flags].concat(), Image::Busybox.name(), "c1", command);
        self.node.spawn_tty(["ctr"].iter().chain(&line)).unwrap()
    }

    /// `ctr run -d FLAGS busybox ID COMMAND`.
    #[track_caller]
    pub(crate) fn start_detached(&self, flags: &[&str], id: &str, command: &[&str]) {
        self.ctr_ok(&self.run_line(&[&["-d"], flags].concat(), Image::Busybox.name(), id, command));
    }

    /// Kills a container and removes it.
    #[track_caller]
    pub(crate) fn kill_and_remove(&self, id: &str) {
        self.ctr_ok(&["task", "kill", "-s", "KILL", id]);
        self.wait_for_status(id, "STOPPED");
        self.remove_stopped(id);
    }

    /// Deletes a stopped task and its container.
    #[track_caller]
    pub(crate) fn remove_stopped(&self, id: &str) {
        self.ctr_ok(&["task", "delete", id]);
        self.ctr_ok(&["container", "delete", id]);
    }

    /// `RUNNING`, `STOPPED` … as `ctr task ls` says, or nothing.
    pub(crate) fn status(&self, id: &str) -> Option<String> {
        let table = self.ctr_ok(&["task", "ls"]);
        let rows = table.lines().map(|row| row.split_whitespace().collect::<Vec<_>>());
        rows.filter(|row| row.first() == Some(&id)).find_map(|row| row.get(2).map(|status| (*status).to_owned()))
    }

    /// The pid of a task, as the node sees it.
    #[track_caller]
    pub(crate) fn pid(&self, id: &str) -> u32 {
        let table = self.ctr_ok(&["task", "ls"]);
        let row = table.lines().map(|row| row.split_whitespace().collect::<Vec<_>>()).find(|row| row[0] == id);
        row.unwrap_or_else(|| panic!("no task {id}:\n{table}"))[1].parse().unwrap()
    }

    #[track_caller]
    pub(crate) fn wait_for_status(&self, id: &str, status: &str) {
        self.wait(&format!("{id} is {status}"), || self.status(id).as_deref() == Some(status));
    }

    #[track_caller]
    pub(crate) fn wait(&self, what: &str, mut done: impl FnMut() -> bool) {
        let started = Instant::now();
        while !done() {
            assert!(started.elapsed() < LONG, "not so after {LONG:?}: {what}");
            sleep(Duration::from_millis(10));
        }
    }

    /// Whether the node's cgroups have a controller, by its v1 or v2 name.
    pub(crate) fn has_controller(&self, name: &str) -> bool {
        match self.lane.cgroups {
            Cgroups::Hybrid => self.node.exists(&format!("/sys/fs/cgroup/{name}")),
            Cgroups::V2 => {
                let all = self.node.read_text("/sys/fs/cgroup/cgroup.controllers").unwrap();
                all.split(' ').any(|controller| controller == name)
            }
        }
    }

    /// After a failed check: what can be removed is, so that the next one starts clean.
    fn remove_everything(&self) {
        for id in self.ctr(&["task", "ls", "-q"]).text().lines() {
            self.ctr(&["task", "delete", "-f", id]);
        }
        for id in self.ctr(&["container", "ls", "-q"]).text().lines() {
            self.ctr(&["container", "delete", id]);
        }
    }
}
