//! What is in a node, to tell afterwards what a test left there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::Node;
use crate::{Error, Result};

/// Processes, mounts, cgroups and files of run time state in a node at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot(BTreeSet<String>);

impl Snapshot {
    /// What is here and was not in `before`, one thing a line.
    pub fn since(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }
}

impl Node {
    /// What is in the node now. Directories that containerd and ctr keep, once they have used them, do not count, nor do
    /// files; their contents do.
    pub fn snapshot(&self) -> Snapshot {
        let mut all = BTreeSet::new();
        self.add_processes(&mut all);
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", self.pid())).unwrap_or_default();
        all.extend(mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(|path| format!("mount {path}")));
        all.extend(self.cgroups.list().into_iter().map(|path| format!("cgroup {path}")));
        for directory in ["/run", "/tmp", "/dev/shm", "/dev/mqueue", "/var/run/netns", "/var/lib/cni"] {
            let root = self.path("/");
            add_files(&root, &self.path(directory), &mut all);
        }
        Snapshot(all)
    }

    /// Waits until nothing is in the node that was not there `before`.
    ///
    /// # Errors
    /// `Leaks`, naming what is left after fifteen seconds.
    pub fn check_leaks(&self, before: &Snapshot) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            let left = self.snapshot().since(before);
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Error::Leaks { node: self.name().to_owned(), leaks: left.join("\n") });
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// # Panics
    /// When [`Self::check_leaks`] fails.
    #[track_caller]
    pub fn assert_no_leaks(&self, before: &Snapshot) {
        if let Err(leaks) = self.check_leaks(before) {
            panic!("{leaks}");
        }
    }

    fn add_processes(&self, all: &mut BTreeSet<String>) {
        let Ok(entries) = fs::read_dir(self.path("/proc")) else { return };
        for entry in entries.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            let command = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            // containerd may be restarted within a test.
            if command.trim() != "containerd" && !command.is_empty() {
                all.insert(format!("process {pid} {}", command.trim()));
            }
        }
    }
}

/// Files, sockets and leaf directories below `directory`, links not followed.
fn add_files(root: &Path, directory: &Path, all: &mut BTreeSet<String>) {
    // Directories that are made once and kept; not what is in them.
    const KEPT: &[&str] = &["/run/containerd/fifo", "/run/containerd/s", "/run/netns", "/run/rtc", "/run/lock"];
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let named = format!("/{}", path.strip_prefix(root).unwrap_or(&path).display());
        if is_not_ours(&named) {
            continue;
        }
        let is_directory = entry.file_type().is_ok_and(|t| t.is_dir());
        if !(is_directory && (KEPT.contains(&named.as_str()) || is_namespace_directory(&named))) {
            all.insert(format!("file {named}"));
        }
        if is_directory {
            add_files(root, &path, all);
        }
    }
}

/// What is kept, whatever the test: rtc's cache of compiled seccomp filters, CRIU's of the kernel's features, and the
/// directory that containerd unpacks the checkpoint of a restored container into.
fn is_not_ours(path: &str) -> bool {
    path == "/run/criu.kdat" || path.contains("/@seccomp") || path.starts_with("/tmp/ctrd-checkpoint")
}

/// `…/io.containerd.runtime.v2.task/NAMESPACE`, which containerd makes with a namespace's first container and keeps.
fn is_namespace_directory(path: &str) -> bool {
    let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
    parent == "/run/containerd/io.containerd.runtime.v2.task" || parent == "/run/containerd/runc"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_what_is_new() {
        let before = Snapshot(BTreeSet::from(["process 1 tini".to_owned()]));
        let after = Snapshot(BTreeSet::from(["process 1 tini".to_owned(), "mount /x".to_owned()]));
        assert_eq!(after.since(&before), ["mount /x"]);
        assert_eq!(before.since(&after), [""; 0]);
    }

    #[test]
    fn keeps_a_namespace_but_not_its_contents() {
        assert!(is_namespace_directory("/run/containerd/io.containerd.runtime.v2.task/default"));
        assert!(!is_namespace_directory("/run/containerd/io.containerd.runtime.v2.task/default/c1"));
    }
}
