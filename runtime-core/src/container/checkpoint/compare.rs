//! What is different between two checkpoints, of one container as a rule: what grew, what is new, what is gone.
//!
//! Processes are matched by their pid, descriptors by their number and by what they are. Memory is compared by what a process
//! holds, wherever that is stored: a checkpoint with a parent holds as much as one without.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use criu::images::{Amount, File, Memory, Mount, OpenFile, Process};
use serde::Serialize;
use serde_json::Value;

use super::inspect::Inspection;

/// Its JSON is an interface: fields are added to it, and none is renamed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Comparison {
    pub before: PathBuf,
    pub after: PathBuf,
    /// Of all files, in bytes.
    pub bytes: Change,
    /// The kinds of images whose size is not the same.
    pub sizes: Vec<SizeChange>,
    pub processes: Sets<ProcessName>,
    /// Of the processes that are in both.
    pub memory: Vec<MemoryChange>,
    /// Files, pipes, sockets and the like, of the processes that are in both.
    pub files: Sets<OwnedFile>,
    pub mounts: Sets<Mount>,
    pub options: Vec<OptionChange>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    pub before: u64,
    pub after: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SizeChange {
    pub kind: String,
    #[serde(flatten)]
    pub bytes: Change,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sets<T> {
    pub gone: Vec<T>,
    pub new: Vec<T>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessName {
    pub pid: u32,
    pub name: Option<String>,
}

/// Bytes that a process holds of one kind of memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MemoryChange {
    #[serde(flatten)]
    pub process: ProcessName,
    /// As in [`Memory`].
    pub kind: &'static str,
    #[serde(flatten)]
    pub bytes: Change,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnedFile {
    #[serde(flatten)]
    pub process: ProcessName,
    #[serde(flatten)]
    pub open: OpenFile,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OptionChange {
    pub name: String,
    /// `None` where it was not said.
    pub before: Option<Value>,
    pub after: Option<Value>,
}

impl Comparison {
    pub fn new(before: &Inspection, after: &Inspection) -> Self {
        let (old, new) = (&before.contents, &after.contents);
        let old_by_pid = by_pid(&old.processes);
        let both = || new.processes.iter().filter_map(|process| Some((*old_by_pid.get(&process.pid)?, process)));
        let mut files = Sets { gone: Vec::new(), new: Vec::new() };
        for (old, new) in both() {
            files.gone.extend(without(old, new));
            files.new.extend(without(new, old));
        }
        Self {
            before: before.directory.clone(),
            after: after.directory.clone(),
            bytes: Change { before: old.bytes, after: new.bytes },
            sizes: sizes(before, after),
            processes: Sets {
                gone: names_without(&old.processes, &new.processes),
                new: names_without(&new.processes, &old.processes),
            },
            memory: both().flat_map(|(old, new)| memory(old, new)).collect(),
            files,
            mounts: Sets { gone: mounts(&old.mounts, &new.mounts), new: mounts(&new.mounts, &old.mounts) },
            options: options(before, after),
        }
    }
}

impl Change {
    fn if_any(before: u64, after: u64) -> Option<Self> {
        (before != after).then_some(Self { before, after })
    }
}

fn by_pid(processes: &[Process]) -> BTreeMap<u32, &Process> {
    processes.iter().map(|process| (process.pid, process)).collect()
}

fn name(process: &Process) -> ProcessName {
    ProcessName { pid: process.pid, name: process.name.clone() }
}

fn names_without(processes: &[Process], others: &[Process]) -> Vec<ProcessName> {
    let others = by_pid(others);
    processes.iter().filter(|process| !others.contains_key(&process.pid)).map(name).collect()
}

fn sizes(before: &Inspection, after: &Inspection) -> Vec<SizeChange> {
    let mut kinds: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    before.contents.sizes.iter().for_each(|size| kinds.entry(&size.kind).or_default().0 = size.bytes);
    after.contents.sizes.iter().for_each(|size| kinds.entry(&size.kind).or_default().1 = size.bytes);
    let changes = kinds.into_iter().filter_map(|(kind, (before, after))| {
        Some(SizeChange { kind: kind.to_owned(), bytes: Change::if_any(before, after)? })
    });
    let mut changes: Vec<_> = changes.collect();
    // What changed most comes first.
    changes.sort_by_key(|change| std::cmp::Reverse(change.bytes.before.abs_diff(change.bytes.after)));
    changes
}

fn memory(old: &Process, new: &Process) -> Vec<MemoryChange> {
    let held = |amount: &Amount| amount.stored.saturating_add(amount.in_parent).saturating_add(amount.lazy);
    let kinds = |memory: &Memory| [memory.anonymous, memory.file, memory.shared, memory.other].map(|kind| held(&kind));
    let names = ["anonymous", "file", "shared", "other"].into_iter();
    let changes = names.zip(kinds(&old.memory).into_iter().zip(kinds(&new.memory)));
    let changed = changes.filter_map(|(kind, (before, after))| {
        Some(MemoryChange { process: name(new), kind, bytes: Change::if_any(before, after)? })
    });
    changed.collect()
}

/// The descriptors of a process that another state of it does not have.
fn without(process: &Process, other: &Process) -> Vec<OwnedFile> {
    let others: BTreeMap<u32, File> = other.files.iter().map(|open| (open.fd, lasting(&open.file))).collect();
    let only = process.files.iter().filter(|open| others.get(&open.fd) != Some(&lasting(&open.file)));
    only.map(|open| OwnedFile { process: name(process), open: open.clone() }).collect()
}

/// Without what changes while a file is used.
fn lasting(file: &File) -> File {
    let mut file = file.clone();
    match &mut file {
        File::Regular { position, size, .. } => (*position, *size) = (0, None),
        File::Pipe { unread, .. } | File::Fifo { unread, .. } => *unread = 0,
        File::Socket { unread, unsent, .. } => (*unread, *unsent) = (0, 0),
        File::Eventfd { counter } => *counter = 0,
        _ => {}
    }
    file
}

fn mounts(mounts: &[Mount], others: &[Mount]) -> Vec<Mount> {
    let key = |mount: &Mount| (mount.path.clone(), mount.filesystem.clone(), mount.external.clone());
    let others: BTreeSet<_> = others.iter().map(key).collect();
    mounts.iter().filter(|mount| !others.contains(&key(mount))).cloned().collect()
}

fn options(before: &Inspection, after: &Inspection) -> Vec<OptionChange> {
    let all = |inspection: &Inspection| {
        let record = inspection.record.as_ref();
        let mut options = record.map(|record| record.options.clone()).unwrap_or_default();
        if let Some(record) = record {
            options.insert("leftRunning".to_owned(), record.left_running.into());
        }
        options
    };
    let (old, new) = (all(before), all(after));
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let changed = names.into_iter().filter(|name| old.get(*name) != new.get(*name));
    let change = |name: &String| OptionChange {
        name: name.clone(),
        before: old.get(name).cloned(),
        after: new.get(name).cloned(),
    };
    changed.map(change).collect()
}

#[cfg(test)]
mod tests {
    use criu::images::{Access, ProcessState};

    use super::*;

    fn process(pid: u32, memory: Memory, files: Vec<OpenFile>) -> Process {
        Process {
            pid,
            parent: 0,
            group: 1,
            session: 1,
            name: Some("app".into()),
            state: ProcessState::Alive,
            uid: None,
            gid: None,
            seccomp: false,
            executable: None,
            arguments: None,
            threads: Vec::new(),
            memory,
            files,
        }
    }

    fn log(fd: u32, path: &str, position: u64) -> OpenFile {
        let (path, access) = (path.to_owned(), Access::Write);
        OpenFile {
            fd,
            file: File::Regular { path, access, position, size: Some(position), deleted: false, external: false },
        }
    }

    #[test]
    fn memory_in_the_parents_images_is_held_as_well() {
        let memory = |stored, in_parent| Memory {
            anonymous: Amount { stored, in_parent, ..Amount::default() },
            ..Memory::default()
        };
        let whole = process(1, memory(10, 0), Vec::new());
        assert_eq!(super::memory(&whole, &process(1, memory(2, 8), Vec::new())), []);
        let grown = super::memory(&whole, &process(1, memory(5, 8), Vec::new()));
        let bytes = Change { before: 10, after: 13 };
        assert_eq!(grown, [MemoryChange { process: name(&whole), kind: "anonymous", bytes }]);
    }

    #[test]
    fn a_file_that_is_written_to_is_the_same_and_one_that_took_its_number_is_not() {
        let old = process(1, Memory::default(), vec![log(1, "/a", 5), log(2, "/b", 5)]);
        let new = process(1, Memory::default(), vec![log(1, "/a", 9), log(2, "/c", 5), log(3, "/b", 5)]);
        let fds = |files: Vec<OwnedFile>| files.into_iter().map(|owned| owned.open.fd).collect::<Vec<_>>();
        assert_eq!((fds(without(&old, &new)), fds(without(&new, &old))), (vec![2], vec![2, 3]));
    }

    #[test]
    fn processes_come_and_go_by_their_pids() {
        let [a, b, c] = [1, 2, 3].map(|pid| process(pid, Memory::default(), Vec::new()));
        let pids = |names: Vec<ProcessName>| names.into_iter().map(|name| name.pid).collect::<Vec<_>>();
        let (before, after) = ([a.clone(), b], [a, c]);
        assert_eq!((pids(names_without(&before, &after)), pids(names_without(&after, &before))), (vec![2], vec![3]));
    }
}
