//! More processes than one, and what a process has.

use std::process::{Command, ExitCode, Stdio};

use rustix::process::{getpid, setsid};

use crate::args::Args;
use crate::{Outcome, say, sleep_forever};

/// A tree of processes, each of which says `process PID` and then waits forever. With zombies, each inner one has a dead
/// child that it does not reap; with sessions, each child leads a session.
pub(crate) fn tree(args: &Args) -> Outcome {
    let depth: u32 = args.number("depth")?;
    let width: u32 = args.number_or("width", 2)?;
    let sessions = args.get("sessions").is_some();
    if args.get("child").is_some() && sessions {
        setsid()?;
    }
    say(&format!("process {}\n", getpid()))?;
    if depth == 0 {
        sleep_forever();
    }
    // Held to the end, and never waited for.
    let mut children = Vec::new();
    for _ in 0..width {
        let mut command = Command::new("/proc/self/exe");
        command.args(["tree", "--depth", &(depth - 1).to_string(), "--width", &width.to_string(), "--child", "yes"]);
        for name in ["zombies", "sessions"] {
            if let Some(value) = args.get(name) {
                command.args([format!("--{name}"), value.to_owned()]);
            }
        }
        children.push(command.spawn()?);
    }
    if args.get("zombies").is_some() {
        children.push(Command::new("/proc/self/exe").args(["exit", "--code", "0"]).spawn()?);
    }
    sleep_forever()
}

/// Starts a process in a session of its own that outlives this one, and says its pid.
pub(crate) fn daemon() -> Outcome {
    let mut command = Command::new("/proc/self/exe");
    command.args(["tree", "--depth", "0", "--child", "yes", "--sessions", "yes"]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    say(&format!("daemon {}\n", child.id()))?;
    Ok(ExitCode::SUCCESS)
}

/// Says `FD TARGET` for each fd of this process, in order, but for the one that lists them.
pub(crate) fn fds() -> Outcome {
    let directory = std::fs::read_dir("/proc/self/fd")?;
    let mut all: Vec<(u32, String)> = Vec::new();
    for entry in directory {
        let entry = entry?;
        let number = entry.file_name().to_string_lossy().parse()?;
        // The listing's own fd is closed by the time that it could be read twice.
        let target = std::fs::read_link(entry.path())?.display().to_string();
        if !target.starts_with("/proc/") || !target.ends_with("/fd") {
            all.push((number, target));
        }
    }
    all.sort();
    for (number, target) in all {
        say(&format!("{number} {target}\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}
