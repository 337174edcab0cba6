//! How far a long dump or restore is, on a terminal: the phase, the bytes and their rate.
//!
//! CRIU tells nothing while it works, so a thread looks: at the sizes of the pages' images that a dump writes, and at the
//! memory of the processes that a restore makes. The expected sum is an estimate at a dump, whose processes have memory that
//! is not written, and change it until they are frozen.
//!
//! Nothing is shown where standard error is no terminal, and of what takes less than [`PATIENCE`].

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use runtime_core::container::Container;

/// How long something may take without a word.
const PATIENCE: Duration = Duration::from_millis(400);
const INTERVAL: Duration = Duration::from_millis(100);

const TEMPLATE: &str = "{msg} [{bar:30}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec}";

/// Until it is dropped; what it showed is gone then.
#[derive(Debug)]
pub(crate) struct Progress(Option<(Sender<()>, JoinHandle<()>)>);

/// What is looked at.
#[derive(Debug)]
enum Watched {
    /// An image directory, which had this much in it before.
    Dump { directory: PathBuf, before: u64 },
    /// The processes that descend from this one.
    Restore,
}

impl Progress {
    pub(crate) fn of_dump(container: &Container, directory: &Path) -> Self {
        let pids = container.pids().unwrap_or_default();
        let expected = pids.iter().map(|pid| memory(pid.as_raw())).sum();
        Self::start(Watched::Dump { directory: directory.to_owned(), before: pages(directory) }, expected)
    }

    pub(crate) fn of_restore(directory: &Path) -> Self {
        Self::start(Watched::Restore, pages(directory))
    }

    fn start(watched: Watched, expected: u64) -> Self {
        let target = ProgressDrawTarget::stderr();
        if target.is_hidden() {
            return Self(None);
        }
        let (stop, stopped) = channel();
        let watch = move || watch(&watched, expected, target, &stopped);
        // Who cannot have a thread for it does without.
        let thread = std::thread::Builder::new().name("progress".to_owned()).spawn(watch);
        Self(thread.ok().map(|thread| (stop, thread)))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.0.take() {
            drop(stop);
            // It has nothing to say at its end.
            thread.join().ok();
        }
    }
}

fn watch(watched: &Watched, expected: u64, target: ProgressDrawTarget, stopped: &Receiver<()>) {
    if stopped.recv_timeout(PATIENCE) != Err(RecvTimeoutError::Timeout) {
        return;
    }
    let bar = ProgressBar::with_draw_target(Some(expected), target).with_style(style());
    loop {
        let done = watched.done();
        // First, for what is set next is drawn at once.
        bar.set_message(watched.phase(done));
        bar.set_length(expected.max(done));
        bar.set_position(done);
        bar.tick();
        if stopped.recv_timeout(INTERVAL) != Err(RecvTimeoutError::Timeout) {
            break;
        }
    }
    bar.finish_and_clear();
}

fn style() -> ProgressStyle {
    // A test holds that it is one.
    ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

impl Watched {
    fn done(&self) -> u64 {
        match self {
            Self::Dump { directory, before } => pages(directory).saturating_sub(*before),
            Self::Restore => descendants(std::process::id()).into_iter().map(memory).sum(),
        }
    }

    fn phase(&self, done: u64) -> &'static str {
        match (self, done) {
            (Self::Dump { .. }, 0) => "freezing",
            (Self::Dump { .. }, _) => "writing memory",
            (Self::Restore, 0) => "starting",
            (Self::Restore, _) => "restoring memory",
        }
    }
}

/// Bytes of memory in an image directory.
fn pages(directory: &Path) -> u64 {
    let files = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let pages = files.filter(|file| file.file_name().as_encoded_bytes().starts_with(b"pages-"));
    pages.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
}

/// Bytes of a process that are its own or shared, and no file's (proc_pid_status(5)); 0 for one that has ended.
fn memory(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    in_status(&status)
}

fn in_status(status: &str) -> u64 {
    let fields = status.lines().filter_map(|line| line.split_once(':'));
    let ours = fields.filter(|(name, _)| matches!(*name, "RssAnon" | "RssShmem"));
    let kib = ours.filter_map(|(_, value)| value.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.map(|kib| kib.saturating_mul(1024)).sum()
}

/// The children of a process's threads, and theirs (proc_pid_task(5)).
fn descendants(pid: u32) -> Vec<i32> {
    let children = |pid: String| -> Vec<i32> {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let lists = tasks.map(|task| std::fs::read_to_string(task.path().join("children")).unwrap_or_default());
        lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
    };
    let mut found = children(pid.to_string());
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        let more = children(pid.to_string());
        found.extend(more);
        next += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_what_is_no_files() {
        assert_eq!(
            in_status("Name:\tx\nVmRSS:\t 99 kB\nRssAnon:\t 8 kB\nRssFile:\t 5 kB\nRssShmem:\t 4 kB\n"),
            12 << 10
        );
        assert!(memory(std::process::id().cast_signed()) > 0);
        assert_eq!(memory(-1), 0);
    }

    #[test]
    fn a_dump_is_as_far_as_its_pages() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("pages-1.img"), [0; 10]).unwrap();
        let dump = Watched::Dump { directory: directory.path().to_owned(), before: pages(directory.path()) };
        assert_eq!((dump.done(), dump.phase(0)), (0, "freezing"));
        std::fs::write(directory.path().join("pages-2.img"), [0; 7]).unwrap();
        std::fs::write(directory.path().join("pagemap-2.img"), [0; 7]).unwrap();
        assert_eq!((dump.done(), dump.phase(7)), (7, "writing memory"));
    }

    #[test]
    fn a_restore_is_as_far_as_the_memory_of_its_processes() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id().cast_signed();
        let found = descendants(std::process::id());
        child.kill().and_then(|()| child.wait()).unwrap();
        assert!(found.contains(&pid), "{found:?}");
    }

    /// The tests' standard error is no terminal.
    #[test]
    fn without_a_terminal_nothing_is_started() {
        assert!(Progress::of_restore(Path::new("/nowhere")).0.is_none());
    }

    #[test]
    fn the_template_is_one() {
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
    }
}
