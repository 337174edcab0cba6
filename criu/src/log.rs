//! The end of CRIU's log: what went wrong, in CRIU's words.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, openat};

use crate::advice;
use crate::error::Failure;

/// Bytes read from the end of a log: at level 4 it can have megabytes, and the cause is near the end.
const TAIL: u64 = 256 * 1024;

/// Lines that say that it failed, and nothing more; quoted when there is no other.
const VERDICTS: [&str; 9] = [
    "failed with -1",
    // What CRIU found on the way there stands before it.
    "Unable to open fd=",
    // What was not seized cannot be let go.
    "Unable to detach from",
    "Dumping FAILED",
    "Pre-dumping FAILED",
    "Restoring FAILED",
    "One of more action scripts failed",
    "RPC client reported script error",
    "exited, status=",
];

/// Errors by name that are none, or that a failure brings with it; never quoted.
const NOISE: [&str; 3] = ["Can't setup RLIMIT_NOFILE", "cgroupd: recv req error", ".criu.cgyard"];

/// What the log of `directory` and CRIU's standard error say of a failure.
pub(crate) fn failure(log: Option<(BorrowedFd<'_>, &str)>, stderr: &mut File) -> Failure {
    let mut failure = log.map_or_else(Failure::default, |(directory, file)| of_file(directory, file));
    if failure.line.is_none() {
        let path = failure.log;
        // Before the log is open CRIU, or the dynamic loader, can write to standard error only.
        let text = tail(stderr);
        failure = from_text(&text);
        failure.line = failure.line.or_else(|| text.lines().rfind(|line| !line.trim().is_empty()).map(message));
        failure.log = path;
    }
    failure
}

/// What a log says of a failure.
pub(crate) fn of_file(directory: BorrowedFd<'_>, file: &str) -> Failure {
    let opened = openat(directory, file, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty());
    let Ok(fd) = opened else { return Failure::default() };
    let mut failure = from_text(&tail(&mut File::from(fd)));
    failure.log = directory_path(directory).map(|directory| directory.join(file));
    failure
}

/// The version that CRIU writes at the beginning of a log: `(00.000015) Version: 4.2.1 (gitid 0)`. `None` if the log is
/// not there, or its level is too low.
pub fn logged_version(log: &Path) -> Option<String> {
    let mut head = String::new();
    File::open(log).ok()?.take(4096).read_to_string(&mut head).ok()?;
    version_of(&head)
}

/// The names that CRIU has given its run, by which it calls what it leaves between a dump and a restore:
/// `(00.000000) CRIU run id = ea81…`. The process that serves a request has one of its own, and logs its parent's too.
pub fn logged_run_ids(log: &Path) -> Vec<String> {
    let mut head = String::new();
    let read = File::open(log).and_then(|file| file.take(4096).read_to_string(&mut head));
    if read.is_ok() { run_ids_of(&head) } else { Vec::new() }
}

fn run_ids_of(head: &str) -> Vec<String> {
    head.lines().filter_map(|line| Some(line.split_once(") CRIU run id = ")?.1.trim().to_owned())).collect()
}

/// The directory of the host's on which CRIU builds the mounts of a restore, and which it removes in the end: a name that
/// mkdtemp(3) has made.
pub fn logged_mount_dir(log: &Path) -> Option<PathBuf> {
    let mut head = String::new();
    File::open(log).ok()?.take(TAIL).read_to_string(&mut head).ok()?;
    mount_dir_of(&head)
}

fn mount_dir_of(head: &str) -> Option<PathBuf> {
    const PREFIX: &str = "/tmp/.criu.mntns.";
    let name: String = head.split_once(PREFIX)?.1.chars().take_while(char::is_ascii_alphanumeric).collect();
    (name.len() == 6).then(|| PathBuf::from(format!("{PREFIX}{name}")))
}

/// What a CRIU has done about the network that it dumps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoggedLock {
    Never,
    /// It has begun to lock it, or more.
    Locked,
    /// It has begun to unlock it, or more.
    Unlocked,
}

/// Reads the whole log.
///
/// # Errors
/// It cannot be read.
pub fn logged_network_lock(log: &Path) -> io::Result<LoggedLock> {
    let mut last = LoggedLock::Never;
    for line in BufReader::new(File::open(log)?).split(b'\n') {
        let said = message(&String::from_utf8_lossy(&line?));
        // Some versions name the part of CRIU first.
        match said.strip_prefix("net: ").unwrap_or(&said) {
            "Lock network" => last = LoggedLock::Locked,
            "Unlock network" => last = LoggedLock::Unlocked,
            _ => {}
        }
    }
    Ok(last)
}

pub(crate) fn version_of(head: &str) -> Option<String> {
    let version = head.lines().find_map(|line| line.split_once(") Version: "))?.1;
    version.split_ascii_whitespace().next().map(str::to_owned)
}

pub(crate) fn from_text(text: &str) -> Failure {
    let errors = || text.lines().filter(|line| is_error(line) && !NOISE.iter().any(|noise| line.contains(noise)));
    // A well-known cause is worth more than what followed from it.
    if let Some((line, advice)) = advice::find(errors()) {
        return Failure { line: Some(message(line)), advice: Some(advice), ..Failure::default() };
    }
    let line = errors()
        .rfind(|line| !VERDICTS.iter().any(|verdict| line.contains(verdict)))
        .or_else(|| errors().next_back())
        .map(message);
    Failure { line, ..Failure::default() }
}

/// `(00.012345) Error (criu/tty.c:1861): …`, with a pid in front of `Error` when a restored process logs.
fn is_error(line: &str) -> bool {
    line.contains("Error (")
}

/// Without the time stamp.
fn message(line: &str) -> String {
    let line = line.trim();
    match line.strip_prefix('(').and_then(|rest| rest.split_once(") ")) {
        Some((time, rest)) if time.bytes().all(|b| b.is_ascii_digit() || b == b'.') => rest.trim_start().to_owned(),
        _ => line.to_owned(),
    }
}

/// Errors reading a log are no news to somebody who reads of a failure: there is then no line.
fn tail(file: &mut File) -> String {
    let mut bytes = Vec::new();
    let read = file
        .seek(SeekFrom::End(0))
        .and_then(|end| file.seek(SeekFrom::Start(end.saturating_sub(TAIL))))
        .and_then(|_| file.take(TAIL).read_to_end(&mut bytes));
    match read {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => String::new(),
    }
}

fn directory_path(directory: BorrowedFd<'_>) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_that_says_why_is_found() {
        let failure = from_text(
            "(00.000001) Version: 4.2.1\n\
             (00.010000) Error (criu/files-ext.c:98): Can't dump file 5 of that type [20666] (chr 10:200 /dev/x)\n\
             (00.010100) Error (criu/cr-dump.c:1669): Dump files (pid: 7) failed with -1\n\
             (00.020000) Error (criu/cr-dump.c:2111): Dumping FAILED.\n",
        );
        let expected = "Error (criu/files-ext.c:98): Can't dump file 5 of that type [20666] (chr 10:200 /dev/x)";
        assert_eq!(failure.line.unwrap(), expected);
        assert_eq!(failure.advice, None);
    }

    #[test]
    fn a_well_known_cause_is_quoted_with_advice() {
        let failure = from_text(
            "(00.1) Error (criu/sk-inet.c:200): inet: Connected TCP socket, consider using --tcp-established option.\n\
             (00.2) Error (criu/something.c:1): another consequence\n",
        );
        assert!(failure.line.unwrap().contains("Connected TCP socket"));
        assert_eq!(failure.advice.unwrap(), "checkpoint with tcp-established or tcp-close");
    }

    #[test]
    fn a_process_that_would_not_stop_is_quoted_and_not_that_it_was_never_held() {
        let failure = from_text(
            "(10.0) Error (criu/cr-dump.c:1655): Timeout reached. Try to interrupt: 0\n\
             (10.0) Error (compel/src/lib/infect.c:262): Unseizable non-zombie 1753 found, state D, err -1/4\n\
             (10.0) Error (compel/src/lib/infect.c:417): Unable to detach from 1753: No such process\n\
             (10.0) Error (criu/cr-dump.c:1975): Dumping FAILED.\n",
        );
        assert!(failure.line.unwrap().contains("Unseizable non-zombie 1753"));
        assert!(failure.advice.unwrap().contains("uninterruptible"));
    }

    #[test]
    fn what_a_descriptor_could_not_be_opened_for_is_quoted() {
        let failure = from_text(
            "(00.01)     1: Error (criu/sk-unix.c:1515): unix: Can't connect 10 socket: No such file or directory\n\
             (00.01)     1: Error (criu/files.c:1281): Unable to open fd=4 id=0x6\n\
             (00.02) Error (criu/cr-restore.c:2576): Restoring FAILED.\n",
        );
        assert!(failure.line.unwrap().contains("Can't connect 10 socket"));
    }

    #[test]
    fn a_log_with_the_verdict_alone_gives_the_verdict() {
        let failure = from_text("(00.02) Error (criu/cr-dump.c:2111): Dumping FAILED.\n");
        assert_eq!(failure.line.unwrap(), "Error (criu/cr-dump.c:2111): Dumping FAILED.");
    }

    #[test]
    fn the_version_is_at_the_beginning() {
        let head = "(00.000000) CRIU run id = ea81\n(00.000015) Version: 4.2.1 (gitid 0)\n(00.1) Running on x\n";
        assert_eq!(version_of(head).unwrap(), "4.2.1");
        assert_eq!(run_ids_of(head), ["ea81"]);
        let mounts = "(00.01) mnt: Will mount 63 @ /tmp/.criu.mntns.4LQJeP/mnt-0000000063 /sys/firmware\n";
        assert_eq!(mount_dir_of(mounts).unwrap(), Path::new("/tmp/.criu.mntns.4LQJeP"));
        assert_eq!(mount_dir_of("/tmp/.criu.mntns./x"), None);
        assert_eq!(version_of("(00.1) Error (criu/x.c:1): y\n"), None);
    }

    #[test]
    fn the_last_word_about_the_network_counts() {
        let last = |text: &str| {
            let log = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(log.path(), text).unwrap();
            logged_network_lock(log.path()).unwrap()
        };
        assert_eq!(last("(00.01) Version: 4.2.1\n(00.02) x: Lock network\n"), LoggedLock::Never);
        assert_eq!(last("(00.01) net: Lock network\n(00.02) Running network-lock scripts\n"), LoggedLock::Locked);
        assert_eq!(last("(00.01) Lock network\n(00.02) Dumping\n(00.03) net: Unlock network\n"), LoggedLock::Unlocked);
        assert!(logged_network_lock(Path::new("/does/not/exist")).is_err());
    }

    #[test]
    fn noise_is_not_quoted() {
        let failure = from_text("(00.01) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self: no\n");
        assert_eq!(failure.line, None);
        let failure = from_text(
            "(00.01)     1: Error (criu/protobuf.c:93): Read 257 bytes while 527 expected from mm-1.img\n\
             (00.02) Error (criu/cgroup.c:2055): cg: cgroupd: recv req error: No such file or directory\n",
        );
        assert!(failure.line.unwrap().contains("while 527 expected"));
    }

    #[test]
    fn a_restored_process_names_itself() {
        let failure = from_text("(00.02)      1: Error (criu/files-reg.c:2240): Can't open file dev/x: No such file\n");
        assert_eq!(failure.line.unwrap(), "1: Error (criu/files-reg.c:2240): Can't open file dev/x: No such file");
    }

    #[test]
    fn the_new_socket_option_is_explained() {
        let failure =
            from_text("(00.1) Error (criu/sockets.c:540): sockets: Can't get 1:34 opt: Operation not supported\n");
        assert!(failure.advice.unwrap().contains("4.2"), "{failure}");
    }

    #[test]
    fn standard_error_is_read_where_there_is_no_log() {
        use std::io::Write as _;
        let mut stderr = tempfile::tempfile().unwrap();
        stderr.write_all(b"criu: error while loading shared libraries: libnet.so.1\n\n").unwrap();
        let failure = failure(None, &mut stderr);
        assert_eq!(failure.line.unwrap(), "criu: error while loading shared libraries: libnet.so.1");
    }
}
