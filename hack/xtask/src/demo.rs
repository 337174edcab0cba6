//! rtc at work in a node, each step with the command that a person would type, and checked. At the end two nodes, and a
//! container that goes from one to the other (`migration`).

mod migration;

use std::io::IsTerminal;
use std::thread::sleep;
use std::time::{Duration, Instant};

use test_fixtures::{Image, Node, NodeConfig, Tree};

use crate::error::Error;
use crate::process::say;
use crate::{build, host};

const CHECKPOINT: &str = "rtc.test/checkpoint:1";
const DIRECTORY: &str = "/var/lib/checkpoints/counter";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The runtime that is shown; `io.containerd.runc.v2` shows runc in the same steps
    #[arg(long, default_value = "io.containerd.rtc.v2")]
    runtime: String,
    /// Take the binaries that are there
    #[arg(long)]
    no_build: bool,
}

pub(crate) fn run(args: &Args) -> Result<(), Error> {
    host::prepare_for_nodes()?;
    if !args.no_build {
        say("building the static binaries (some minutes the first time)");
        build::all()?;
    }
    let tree = Tree::Forky;
    tree.ensure(say)?;
    let started = Instant::now();
    let rtc = args.runtime == "io.containerd.rtc.v2";
    let node = Node::start(NodeConfig { tree, rtc, images: vec![Image::Workload], ..NodeConfig::default() })?;
    let demo = Demo { node, runtime: &args.runtime };
    demo.heading(&format!("A node of its own, started in {} ms", started.elapsed().as_millis()));
    if let Err(error) = demo.steps() {
        say(&format!("\ncontainerd's log:\n{}", last_lines(&demo.node.containerd_log(), 40)));
        return Err(error);
    }
    drop(demo);
    if rtc { migration::show() } else { Ok(()) }
}

struct Demo<'a> {
    node: Node,
    runtime: &'a str,
}

impl Demo<'_> {
    fn steps(&self) -> Result<(), Error> {
        self.shell("containerd --version; criu --version | head -n 1; uname -sr")?;
        self.run_to_its_end()?;
        // From here, for the first container makes directories that containerd keeps.
        let before = self.node.snapshot();
        self.run_and_execute()?;
        self.pause_and_resume()?;
        self.checkpoint_and_restore()?;
        self.checkpoint_and_exit()?;
        self.node.check_leaks(&before)?;
        self.heading("Nothing is left in the node: no process, mount, cgroup, socket or state directory");
        Ok(())
    }

    fn run_to_its_end(&self) -> Result<(), Error> {
        self.heading("Run a container to its end");
        let (runtime, image) = (self.runtime, Image::Workload.name());
        let hello =
            self.shell(&format!("ctr run --rm --runtime {runtime} {image} hello echo 'hello from a container'"))?;
        expect("the container's output", "hello from a container", &hello)
    }

    fn run_and_execute(&self) -> Result<(), Error> {
        let (runtime, image) = (self.runtime, Image::Workload.name());
        self.heading("Run one that counts in its memory, and writes the count to a file");
        self.shell(&format!(
            "ctr run --detach --runtime {runtime} {image} counter /bin/workload counter --file /count --interval-ms 10"
        ))?;
        self.shell("ctr task ls")?;

        self.heading("Execute a command in it");
        self.shell("ctr task exec --exec-id look counter ps -o pid,ppid,args")?;
        sleep(Duration::from_millis(300));
        self.shell("ctr task exec --exec-id look counter cat /count").map(drop)
    }

    fn pause_and_resume(&self) -> Result<(), Error> {
        self.heading("Pause it: the count stands still");
        self.shell("ctr task pause counter")?;
        let status = self.shell("ctr task ls | tail -n +2")?;
        if !status.contains("PAUSED") {
            return Err(Error::Demo { what: "the paused task", expected: "PAUSED".to_owned(), found: status });
        }
        let count = "cat /proc/$(ctr task ls | awk '$1 == \"counter\" { print $2 }')/root/count";
        let first = self.shell(count)?;
        sleep(Duration::from_millis(300));
        expect("the count of a paused container", &first, &self.shell(count)?)?;

        self.heading("Resume it: the count goes on");
        self.shell("ctr task resume counter")?;
        sleep(Duration::from_millis(300));
        expect_on("the resumed count", &first, &self.shell(count)?)
    }

    fn checkpoint_and_restore(&self) -> Result<(), Error> {
        self.heading("Checkpoint it into an image, and remove it");
        let before = self.shell("ctr task exec --exec-id look counter cat /count")?;
        self.shell(&format!("ctr container checkpoint --rw --task counter {CHECKPOINT}"))?;
        self.shell("ctr task kill --signal KILL counter")?;
        self.wait_until_stopped("counter")?;
        self.shell("ctr task rm counter; ctr container rm counter")?;

        self.heading("Restore it: the count goes on where it was, in the same process");
        self.shell(&format!("ctr container restore --rw --live again {CHECKPOINT}"))?;
        let after = self.shell("ctr task exec --exec-id look again cat /count")?;
        expect_on("the restored count", &before, &after)?;
        self.shell("ctr task ls").map(drop)
    }

    fn checkpoint_and_exit(&self) -> Result<(), Error> {
        self.heading("Checkpoint it into a directory, and let it end");
        self.shell(&format!("ctr task checkpoint --exit --image-path {DIRECTORY} again"))?;
        self.wait_until_stopped("again")?;
        self.shell(&format!("du -sh {DIRECTORY}; ls {DIRECTORY} | head -n 6"))?;
        self.shell("ctr task rm again; ctr container rm again").map(drop)
    }

    fn wait_until_stopped(&self, id: &str) -> Result<(), Error> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let tasks = self.node.run(["ctr", "task", "ls"])?;
            let line = tasks.lines().find(|line| line.split_whitespace().next() == Some(id));
            match line {
                Some(line) if !line.contains("STOPPED") && Instant::now() < deadline => {
                    sleep(Duration::from_millis(20))
                }
                Some(line) if !line.contains("STOPPED") => {
                    return Err(Error::Demo {
                        what: "the task",
                        expected: "STOPPED".to_owned(),
                        found: line.to_owned(),
                    });
                }
                _ => return Ok(()),
            }
        }
    }

    /// Shows a command line, runs it, shows its output.
    fn shell(&self, line: &str) -> Result<String, Error> {
        say(&format!("  $ {line}"));
        let started = Instant::now();
        let output = self.node.sh(line)?;
        for line in output.lines() {
            say(&format!("    {line}"));
        }
        say(&format!("    {}", dim(&format!("({} ms)", started.elapsed().as_millis()))));
        Ok(output)
    }

    fn heading(&self, text: &str) {
        heading(text);
    }
}

fn heading(text: &str) {
    let line = if std::io::stdout().is_terminal() { format!("\n\x1b[1m{text}\x1b[0m") } else { format!("\n{text}") };
    say(&line);
}

fn expect(what: &'static str, expected: &str, found: &str) -> Result<(), Error> {
    if expected == found {
        return Ok(());
    }
    Err(Error::Demo { what, expected: expected.to_owned(), found: found.to_owned() })
}

/// Of two lines `START COUNT`, the second is of the same process, and later.
fn expect_on(what: &'static str, before: &str, after: &str) -> Result<(), Error> {
    let parse = |line: &str| {
        let (start, count) = line.trim().split_once(' ')?;
        Some((start.to_owned(), count.parse::<u64>().ok()?))
    };
    match (parse(before), parse(after)) {
        (Some((start, one)), Some((same, two))) if start == same && two > one => Ok(()),
        _ => Err(Error::Demo { what, expected: format!("more than {before:?}"), found: after.to_owned() }),
    }
}

fn dim(text: &str) -> String {
    if std::io::stdout().is_terminal() { format!("\x1b[2m{text}\x1b[0m") } else { text.to_owned() }
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_goes_on_in_the_same_process_only() {
        assert!(expect_on("count", "7 0010", "7 0011").is_ok());
        assert!(expect_on("count", "7 0010", "7 0010").is_err());
        assert!(expect_on("count", "7 0010", "8 0011").is_err());
        assert!(expect_on("count", "7 0010", "").is_err());
    }
}
