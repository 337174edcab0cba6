//! Memory mappings of files that CRIU cannot map again.

use std::fs;

use super::Subject;
use super::files::deleted;
use super::report::{Kind, Report};

/// Mappings of deleted names that are no files of a filesystem.
const MEMORY: [&str; 4] = ["/memfd:", "/dev/zero", SYSV, "/anon_hugepage"];

/// Shared memory of System V.
const SYSV: &str = "/SYSV";

/// Where the kernel runs instructions that a probe has replaced; it stays when the probe is gone.
const UPROBES: &str = "[uprobes]";

pub(super) const IO_URING: &str = "anon_inode:[io_uring]";
pub(super) const IO_URING_WHY: &str = "CRIU cannot dump a process that uses io_uring";
pub(super) const IO_URING_REMEDY: &str =
    "let the program use another way (for many it is an option), or set kernel.io_uring_disabled";

/// `shares_ipc`: the process is in our own IPC namespace.
pub(super) fn check(subject: &Subject, pid: i32, shares_ipc: bool, report: &mut Report) {
    let Ok(maps) = fs::read_to_string(format!("/proc/{pid}/maps")) else { return };
    for (range, name) in maps.lines().filter_map(parse) {
        if name == IO_URING {
            // Also after the descriptor was closed.
            let what = format!("{name} is mapped");
            report.refuse(Kind::IoUring, Some(pid), what, IO_URING_WHY, IO_URING_REMEDY);
        } else if shares_ipc && name.starts_with(SYSV) {
            let what = format!("the shared memory {} is mapped", name.trim_end_matches(" (deleted)"));
            let why =
                "CRIU carries shared memory of System V with its IPC namespace, and the container has none of its own";
            report.refuse(Kind::Namespace, Some(pid), what, why, "give the container an ipc namespace");
        } else if name == UPROBES {
            let what = format!("{name} is mapped");
            let why = "a tracer has put probes into its program, which CRIU dumps only where its configuration has allow-uprobes";
            report.warn(Kind::Traced, Some(pid), what, why, "remove the probes before the process starts");
        } else if name.ends_with(" (deleted)") && !MEMORY.iter().any(|memory| name.starts_with(memory)) {
            let path = format!("/proc/{pid}/map_files/{}", link_name(range));
            deleted(subject, pid, &path, name, report);
        }
    }
}

/// Range and name of a line that has one: `START-END perms offset device inode    NAME`.
fn parse(line: &str) -> Option<(&str, &str)> {
    let mut rest = line;
    let mut range = "";
    for i in 0..5 {
        let (field, after) = rest.split_once(' ')?;
        if i == 0 {
            range = field;
        }
        rest = after;
    }
    let name = rest.trim_start();
    (!name.is_empty()).then_some((range, name))
}

/// Both numbers without the leading zeros that maps has.
fn link_name(range: &str) -> String {
    let short = |number: &str| number.trim_start_matches('0').to_owned();
    range.split('-').map(short).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_with_a_name_is_read() {
        let line = "00400000-00402000 r-xp 00000000 fe:01 1234                           /a b (deleted)";
        assert_eq!(parse(line), Some(("00400000-00402000", "/a b (deleted)")));
        assert_eq!(parse("7f0000000000-7f0000001000 rw-p 00000000 00:00 0 "), None);
        assert_eq!(link_name("00400000-00402000"), "400000-402000");
    }
}
