//! The processes and their threads.

use proto::criu::images::{CoreEntry, PstreeEntry, TaskKobjIdsEntry};
use serde::Serialize;

use super::super::{CORE, PSTREE};
use super::Kind;
use super::files::Files;
use super::memory::{self, Memory, Shared};
use super::open_file::{self, OpenFile};
use super::reader::{Needed, Reader, text};
use super::size::Listing;

const IDS: u32 = 0x5443_2030;

/// As the process itself saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    pub pid: u32,
    /// 0 for the root.
    pub parent: u32,
    pub group: u32,
    pub session: u32,
    /// Of the main thread, at most 15 bytes; `None` where its image cannot be read.
    pub name: Option<String>,
    pub state: ProcessState,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// It has a seccomp filter.
    pub seccomp: bool,
    pub executable: Option<String>,
    /// `None` where the page that has them is not in these images.
    pub arguments: Option<Vec<String>>,
    /// With the main thread.
    pub threads: Vec<Thread>,
    pub memory: Memory,
    pub files: Vec<OpenFile>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Thread {
    pub tid: u32,
    /// `None` for a thread of CRIU before 3.16, and where its image cannot be read.
    pub name: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ProcessState {
    /// Running or asleep.
    Alive,
    Stopped,
    Zombie,
    /// Its image cannot be read, or does not say.
    #[default]
    Unknown,
}

impl ProcessState {
    /// `task_state` (`pid.h` in CRIU).
    fn new(state: u32) -> Self {
        match state {
            1 => Self::Alive,
            2 | 6 => Self::Zombie,
            3 => Self::Stopped,
            _ => Self::Unknown,
        }
    }
}

/// With the ids of what the root has for itself.
pub(super) fn read(
    reader: &mut Reader<'_>,
    kind: Kind,
    listing: &Listing,
    files: &Files,
    shared: &mut Shared,
) -> (Vec<Process>, Option<TaskKobjIdsEntry>) {
    let mut processes = Vec::new();
    match kind {
        Kind::Checkpoint => reader.each("pstree.img", PSTREE, Needed::Yes, |entry| processes.push(Process::new(entry))),
        Kind::PreDump => processes.extend(listing.memory_maps.iter().filter_map(|name| Process::of_map(name))),
    }
    let mut root = None;
    for process in &mut processes {
        if reader.gives_up() {
            break;
        }
        if kind == Kind::PreDump {
            process.take_memory(reader, Needed::No, files, shared);
            continue;
        }
        let ids = process.take_core(reader);
        if process.state != ProcessState::Zombie {
            process.take_memory(reader, Needed::Yes, files, shared);
            if let Some(ids) = &ids {
                process.files = open_file::read(reader, ids.files_id, files);
            }
        }
        root = root.or(ids);
    }
    (processes, root)
}

impl Process {
    fn new(entry: PstreeEntry) -> Self {
        let mut threads: Vec<_> = entry.threads.into_iter().map(|tid| Thread { tid, name: None }).collect();
        // See `read_tasks`.
        if let Some(main) = threads.first_mut() {
            main.tid = entry.pid;
        }
        Self {
            pid: entry.pid,
            parent: entry.ppid,
            group: entry.pgid,
            session: entry.sid,
            name: None,
            state: ProcessState::default(),
            uid: None,
            gid: None,
            seccomp: false,
            executable: None,
            arguments: None,
            threads,
            memory: Memory::default(),
            files: Vec::new(),
        }
    }

    /// A pre-dump has no tree: `name` is that of its map of a process's memory.
    fn of_map(name: &str) -> Option<Self> {
        let pid = name.strip_prefix("pagemap-")?.strip_suffix(".img")?.parse().ok()?;
        Some(Self::new(PstreeEntry { pid, ..PstreeEntry::default() }))
    }

    /// The ids of what it has for itself; a zombie has nothing.
    fn take_core(&mut self, reader: &mut Reader<'_>) -> Option<TaskKobjIdsEntry> {
        let mut ids = None;
        for number in 0..self.threads.len() {
            if reader.gives_up() {
                break;
            }
            let thread = &mut self.threads[number];
            let core: Option<CoreEntry> = reader.first(&format!("core-{}.img", thread.tid), CORE, Needed::Yes);
            let Some(core) = core else { continue };
            let of_thread = core.thread_core.unwrap_or_default();
            thread.name = of_thread.comm.as_deref().map(text);
            if number > 0 {
                continue;
            }
            ids = core.ids;
            self.uid = of_thread.creds.as_ref().map(|creds| creds.uid);
            self.gid = of_thread.creds.as_ref().map(|creds| creds.gid);
            self.seccomp = of_thread.seccomp_mode.is_some_and(|mode| mode != 0);
            if let Some(task) = core.tc {
                self.name = Some(text(&task.comm));
                self.state = ProcessState::new(task.task_state);
                self.threads[0].name.clone_from(&self.name);
            }
        }
        // In a file of their own since the first CRIUs, and in the core's as well in newer ones.
        let own = reader.first(&format!("ids-{}.img", self.pid), IDS, Needed::No);
        own.or(ids)
    }

    fn take_memory(&mut self, reader: &mut Reader<'_>, needed: Needed, files: &Files, shared: &mut Shared) {
        let mapped = memory::read(reader, self.pid, needed, shared);
        self.memory = mapped.memory;
        self.arguments = mapped.arguments;
        self.executable = mapped.executable.and_then(|id| files.path(id));
    }
}
