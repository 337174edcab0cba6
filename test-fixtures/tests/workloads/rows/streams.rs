//! Bytes and events under way within the container, terminals, and unix sockets to the outside.

use std::time::{Duration, Instant};

use test_fixtures::node::Running;
use test_fixtures::{Image, Node};

use super::memory::counted;
use super::{Expected, Row};
use crate::container::{How, Place, Scene};
use crate::failure::{At, Failure, Result};

pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "pipes",
        looked_at: "no byte lost, doubled or out of order, with some under way at the dump",
        expected: Expected::GoesOn,
        run: |scene| counted(scene, &["pipes"]).map(drop),
    },
    Row {
        name: "FIFO",
        looked_at: "the same",
        expected: Expected::GoesOn,
        run: |scene| counted(scene, &["fifo", "--fifo", "/fifo"]).map(drop),
    },
    Row {
        name: "unix sockets (stream, datagram; pair, path, abstract)",
        looked_at: "the same, in each",
        expected: Expected::GoesOn,
        run: |scene| counted(scene, &["unix", "--socket", "/socket"]).map(drop),
    },
    Row {
        name: "unix datagram socket to the outside, of the same path there, in the host's network namespace",
        looked_at: "the one outside gets each number in its order (`ext-unix-sk`)",
        expected: Expected::GoesOn,
        run: datagrams_outside,
    },
    Row {
        name: "unix datagram socket to the outside, in a network namespace of its own",
        looked_at: "",
        expected: Expected::Refused("made in another network namespace"),
        run: |scene| reported(scene, "datagram"),
    },
    Row {
        name: "unix stream socket to the outside",
        looked_at: "",
        expected: Expected::Refused("CRIU cannot dump half of a stream"),
        run: |scene| reported(scene, "stream"),
    },
    Row {
        name: "epoll, eventfd, timerfd, signalfd, inotify (of a file of a tmpfs)",
        looked_at: "the epoll tells of each, and each gives what it should",
        expected: Expected::GoesOn,
        run: events,
    },
    Row {
        name: "inotify of a file of the root filesystem, an overlay",
        looked_at: "",
        expected: Expected::Refused("Can't dump that handle"),
        run: watched_overlay,
    },
    Row {
        name: "shell on the container's terminal",
        looked_at: "a variable of the shell's, asked for at the new terminal (`shell-job`)",
        expected: Expected::GoesOn,
        run: shell,
    },
    Row {
        name: "pty session with a shell, within",
        looked_at: "what is typed is answered; the terminal's size",
        expected: Expected::GoesOn,
        run: session,
    },
];

const SHARED: &str = "type=bind,src=/srv/out,dst=/srv/out,options=rbind:rw";
const EXTERNAL: How = How { tcp: false, locks: false, external_unix: true, terminal: false };

/// Who gets the numbers, outside of the container.
struct Collector<'a> {
    node: &'a Node,
    running: Running,
}

impl<'a> Collector<'a> {
    fn start(node: &'a Node, kind: &str) -> Result<Self> {
        node.sh("rm -rf /srv/out; mkdir -p /srv/out")?;
        let line =
            ["workload", "collect", "--kind", kind, "--socket", "/srv/out/socket", "--file", "/srv/out/collected"];
        let line = [&line, &["--ready", "/srv/out/ready", "--interval-ms", "0"][..]].concat();
        let collector = Self { node, running: node.spawn(line)? };
        let started = Instant::now();
        while !node.exists("/srv/out/ready") {
            if started.elapsed() > Duration::from_secs(10) {
                return Err(Failure::at(At::Scene, "nobody listens outside"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(collector)
    }

    fn count(&self) -> u64 {
        let text = self.node.read_text("/srv/out/collected").unwrap_or_default();
        text.split_once(' ').and_then(|(_, count)| count.parse().ok()).unwrap_or(0)
    }

    fn goes_on(&mut self) -> Result {
        let (before, started) = (self.count(), Instant::now());
        while self.count() < before + 20 {
            if started.elapsed() > Duration::from_secs(20) || !self.running.is_running() {
                let why = self.node.read_text("/srv/out/collected.error").unwrap_or_default();
                return Err(Failure::after(format!("nothing comes outside after {before} {why}")));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

fn datagrams_outside(scene: Scene<'_>) -> Result {
    let mut collector = Collector::start(&scene.world.one.node, "datagram")?;
    let line = ["/bin/workload", "report", "--kind", "datagram", "--socket", "/srv/out/socket", "--file", "/count"];
    let mut container = scene.run(Image::Workload, &["--net-host", "--mount", SHARED], &line)?;
    let before = container.counts("/count")?;
    let mut there = None;
    container.moves_to(EXTERNAL, || {
        if scene.place == Place::There {
            there = Some(Collector::start(&scene.world.two.node, "datagram")?);
        }
        Ok(())
    })?;
    container.goes_on("/count", &before)?;
    there.as_mut().unwrap_or(&mut collector).goes_on()
}

fn reported(scene: Scene<'_>, kind: &str) -> Result {
    let _collector = Collector::start(&scene.world.one.node, kind)?;
    let line = ["/bin/workload", "report", "--kind", kind, "--socket", "/srv/out/socket", "--file", "/count"];
    let container = scene.run(Image::Workload, &["--mount", SHARED], &line)?;
    container.counts("/count")?;
    container.refused(EXTERNAL, "other end is outside of the container")
}

fn events(scene: Scene<'_>) -> Result {
    let flags = ["--mount", "type=tmpfs,src=tmpfs,dst=/mem,options=mode=755"];
    let line = ["/bin/workload", "events", "--watched", "/mem/watched", "--file", "/count"];
    let mut container = scene.run(Image::Workload, &flags, &line)?;
    let first = container.wait("it counts", || container.count("/count"))?;
    // Right after the timer has come, for it must not come in the dump.
    let before = container.wait("it goes on", || container.count("/count").filter(|now| now.1 > first.1))?;
    container.moves(How::default())?;
    container.goes_on_by(2, "/count", &before)
}

fn watched_overlay(scene: Scene<'_>) -> Result {
    let line = ["/bin/workload", "events", "--watched", "/watched", "--file", "/count"];
    let container = scene.run(Image::Workload, &[], &line)?;
    container.wait("it counts", || container.count("/count"))?;
    container.refused(How::default(), "watches a file of an overlay")
}

fn shell(scene: Scene<'_>) -> Result {
    let mut container = scene.run_on_terminal(Image::Workload, &["/bin/sh"])?;
    // What is typed is echoed, and is not the answer.
    container.ask("x=42; echo \"<$x>\"", "<42>")?;
    container.moves(How { terminal: true, ..How::default() })?;
    container.ask("echo \"<$x$x>\"", "<4242>")
}

fn session(scene: Scene<'_>) -> Result {
    let mut container = scene.run(Image::Programs, &[], &["workload", "pty", "--shell", "bash", "--file", "/count"])?;
    let before = container.counts("/count")?;
    container.moves(How::default())?;
    container.goes_on("/count", &before)
}
