//! The open files.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Statx, StatxFlags, makedev, statx};

use super::Subject;
use super::mappings::{IO_URING, IO_URING_REMEDY, IO_URING_WHY};
use super::processes::Process;
use super::report::{Finding, Kind, Report, Severity};

/// Anonymous inodes that CRIU dumps, by the end of their links. A map of BPF's only in some builds.
const ANONYMOUS: [&str; 9] =
    ["[eventfd]", "[eventpoll]", "inotify", "[fanotify]", "[signalfd]", "[timerfd]", "[pidfd]", "bpf-map", "[pidfs]"];

/// Memory, terminals (aux, consoles, pty masters and slaves, serial lines): the character devices that CRIU knows.
const MEM: u32 = 1;
const TTYS: [std::ops::RangeInclusive<u32>; 4] = [4..=5, 128..=143, 188..=188, 204..=204];
const PTS: std::ops::RangeInclusive<u32> = 136..=143;
const MISC: u32 = 10;
/// net/tun and autofs.
const MISC_KNOWN: [u32; 2] = [200, 235];

const UNKNOWN_WHY: &str = "CRIU does not know files of this kind";
const UNKNOWN_REMEDY: &str = "close it before the checkpoint, or end the process";

/// A socket in some process.
#[derive(Clone, Debug)]
pub(super) struct Socket {
    pub(super) pid: i32,
    pub(super) fd: String,
}

/// The sockets by their inodes.
pub(super) type Sockets = HashMap<u64, Socket>;

pub(super) fn read(subject: &Subject, processes: &[Process], report: &mut Report) -> Sockets {
    let mut sockets = Sockets::new();
    let terminals = pty_devices(subject);
    for pid in processes.iter().map(|process| process.pid) {
        let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for entry in entries.flatten() {
            let (fd, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
            let Ok(link) = fs::read_link(&path) else { continue };
            let link = link.to_string_lossy();
            if let Some(inode) = inode(&link, "socket:[") {
                sockets.entry(inode).or_insert(Socket { pid, fd });
            } else if let Some(kind) = link.strip_prefix("anon_inode:") {
                anonymous(subject, pid, &fd, kind, report);
            } else if link.starts_with('/') {
                named(subject, pid, &fd, &path, &link, &terminals, report);
            }
        }
    }
    sockets
}

/// `socket:[7]` and the like.
pub(super) fn inode(link: &str, prefix: &str) -> Option<u64> {
    link.strip_prefix(prefix)?.strip_suffix(']')?.parse().ok()
}

fn anonymous(subject: &Subject, pid: i32, fd: &str, kind: &str, report: &mut Report) {
    let what = format!("fd {fd} is anon_inode:{kind}");
    if IO_URING.ends_with(kind) {
        report.refuse(Kind::IoUring, Some(pid), what, IO_URING_WHY, IO_URING_REMEDY);
    } else if !ANONYMOUS.contains(&kind) {
        unknown(subject, pid, what, report);
    } else if kind == "inotify" {
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).unwrap_or_default();
        if watches_overlay(&info) {
            let why = "CRIU finds it only where it looks for it, which is /etc, /var/log and few others";
            let remedy = "watch a file of a tmpfs or of a bind mount, or set irmap-scan-path in CRIU's configuration";
            let what = format!("fd {fd} is an inotify that watches a file of an overlay");
            report.warn(Kind::File, Some(pid), what, why, remedy);
        }
    }
}

/// `inotify wd:1 ino:1d31 sdev:61 mask:8 ignored_mask:0 fhandle-bytes:24 fhandle-type:f8 f_handle:…`, where f8 is an overlay's
/// (linux/exportfs.h), which it makes no file of again.
fn watches_overlay(info: &str) -> bool {
    info.lines().any(|line| line.starts_with("inotify ") && line.contains(" fhandle-type:f8 "))
}

/// A plugin may know it.
fn unknown(subject: &Subject, pid: i32, what: String, report: &mut Report) {
    let severity = if subject.settings.plugins { Severity::Warn } else { Severity::Refuse };
    let (why, remedy) = (UNKNOWN_WHY.to_owned(), UNKNOWN_REMEDY.to_owned());
    report.add(Finding { kind: Kind::File, severity, pid: Some(pid), what, why, remedy });
}

fn named(
    subject: &Subject,
    pid: i32,
    fd: &str,
    path: &Path,
    link: &str,
    terminals: &HashSet<u64>,
    report: &mut Report,
) {
    let Some(stat) = look(path) else { return };
    let what = || format!("fd {fd} is {link}");
    match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::CharacterDevice => {
            let (major, minor) = (stat.stx_rdev_major, stat.stx_rdev_minor);
            let device = makedev(stat.stx_dev_major, stat.stx_dev_minor);
            if PTS.contains(&major) && !terminals.contains(&device) && !subject.settings.shell_job {
                // CRIU fails only if a session of the container's has it for its controlling terminal.
                let why = "the terminal is not the container's own, and is not there at a restore";
                report.warn(
                    Kind::Terminal,
                    Some(pid),
                    what(),
                    why,
                    "checkpoint with shell-job, and restore on a terminal",
                );
            } else if !is_known_device(major, minor) {
                unknown(subject, pid, format!("{}, a character device {major}:{minor}", what()), report);
            }
        }
        FileType::BlockDevice => unknown(subject, pid, format!("{}, a block device", what()), report),
        FileType::RegularFile => {
            if link.ends_with(" (deleted)") && !link.starts_with("/memfd:") {
                deleted_file(subject, pid, &stat, link, &what(), report);
            }
            if !subject.settings.file_locks {
                lock(pid, fd, what(), report);
            }
        }
        _ => {}
    }
}

fn is_known_device(major: u32, minor: u32) -> bool {
    match major {
        MEM => true,
        MISC => MISC_KNOWN.contains(&minor),
        major => TTYS.iter().any(|range| range.contains(&major)),
    }
}

/// Of what the process has open or mapped, without asking a file server that may not answer.
fn look(path: &Path) -> Option<Statx> {
    let mask = StatxFlags::BASIC_STATS | StatxFlags::MNT_ID;
    statx(CWD, path, AtFlags::STATX_DONT_SYNC, mask).ok()
}

/// The same for a mapping, whose link is `path`.
pub(super) fn deleted(subject: &Subject, pid: i32, path: &str, name: &str, report: &mut Report) {
    let what = &format!("{name} is mapped");
    if let Some(stat) = look(Path::new(path))
        && FileType::from_raw_mode(stat.stx_mode.into()) == FileType::RegularFile
    {
        deleted_file(subject, pid, &stat, name, what, report);
    }
}

fn deleted_file(subject: &Subject, pid: i32, stat: &Statx, name: &str, what: &str, report: &mut Report) {
    let key = format!("file[{:x}:{:x}]", stat.stx_mnt_id, stat.stx_ino);
    if subject.settings.names_external || subject.streams.contains(&key) {
        return;
    }
    if stat.stx_nlink > 0 {
        if !subject.settings.link_remap && !has_its_name(pid, name, stat) {
            let why = "it has lost this name and still has another";
            report.refuse(Kind::DeletedFile, Some(pid), what.to_owned(), why, "checkpoint with link-remap");
        }
        return;
    }
    // Older CRIU counts the size, newer what is on disk.
    let bytes = stat.stx_size.min(stat.stx_blocks.saturating_mul(512));
    if bytes > subject.settings.ghost_limit {
        let why =
            format!("it has {bytes} bytes, and deleted files are carried up to {} bytes", subject.settings.ghost_limit);
        let remedy = "raise ghost-limit above the size of the deleted file";
        report.refuse(Kind::DeletedFile, Some(pid), what.to_owned(), &why, remedy);
    }
}

/// A name may end as that of a deleted file does.
fn has_its_name(pid: i32, name: &str, stat: &Statx) -> bool {
    let there = look(Path::new(&format!("/proc/{pid}/root{name}")));
    let identity = |stat: &Statx| (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino);
    there.is_some_and(|there| identity(&there) == identity(stat))
}

/// The locks that the process holds through this descriptor. Not in /proc/locks: to read that one stops all locking of the host
/// for a grace period of RCU, 15 ms and more.
fn lock(pid: i32, fd: &str, what: String, report: &mut Report) {
    let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).unwrap_or_default();
    if info.lines().any(|line| line.starts_with("lock:")) {
        let why = "a lock is only carried when it is asked for";
        report.refuse(
            Kind::FileLock,
            Some(pid),
            format!("{what}, with a lock on it"),
            why,
            "checkpoint with file-locks",
        );
    }
}

/// The devices of the pty filesystems in the container's mounts, and of a pty that is bound on its console.
fn pty_devices(subject: &Subject) -> HashSet<u64> {
    let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", subject.init)).unwrap_or_default();
    let device = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        if !after.starts_with("devpts ") {
            return None;
        }
        let (major, minor) = before.split(' ').nth(2)?.split_once(':')?;
        Some(makedev(major.parse().ok()?, minor.parse().ok()?))
    };
    mounts.lines().filter_map(device).collect()
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn devices_that_criu_knows() {
        assert!(is_known_device(1, 3) && is_known_device(136, 0) && is_known_device(5, 2) && is_known_device(10, 200));
        // fuse, kvm, and a GPU.
        assert!(!is_known_device(10, 229) && !is_known_device(10, 232) && !is_known_device(195, 0));
    }

    #[test]
    fn a_watch_of_an_overlay_is_told_from_others() {
        let line =
            |kind| format!("flags:\t04000\ninotify wd:1 ino:1d31 sdev:61 mask:8 fhandle-type:{kind} f_handle:00\n");
        assert!(watches_overlay(&line("f8")) && !watches_overlay(&line("1")) && !watches_overlay("flags:\t04000\n"));
    }

    #[test]
    fn an_inode_is_between_brackets() {
        assert_eq!(inode("socket:[12]", "socket:["), Some(12));
        assert_eq!(inode("pipe:[12]", "socket:["), None);
    }
}
