//! What is measured, and how.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bundle::{Bundle, default_spec, run};
use crate::command_line;
use crate::contestant::Contestant;
use crate::error::Error;
use crate::report::{Figure, Unit};
use crate::shim::{Shim, open_fifo};

/// Bytes of the throughput measurement.
const STREAM: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// One thing to measure; it may yield several figures.
#[derive(Clone, Debug)]
pub(crate) enum Measure {
    CtrRun,
    TaskApi,
    CtrExec,
    CommandLine,
    IdleMemory { containers: usize },
    Stdout,
    Checkpoint { mib: u64 },
}

impl Measure {
    pub(crate) fn all() -> Vec<Self> {
        vec![
            Self::CtrRun,
            Self::TaskApi,
            Self::CtrExec,
            Self::CommandLine,
            Self::IdleMemory { containers: 1 },
            Self::IdleMemory { containers: 30 },
            Self::Stdout,
            Self::Checkpoint { mib: 1 },
            Self::Checkpoint { mib: 100 },
            Self::Checkpoint { mib: 1000 },
        ]
    }

    pub(crate) fn name(&self) -> String {
        match self {
            Self::CtrRun => "ctr-run".to_owned(),
            Self::TaskApi => "task-api".to_owned(),
            Self::CtrExec => "ctr-exec".to_owned(),
            Self::CommandLine => "command-line".to_owned(),
            Self::IdleMemory { containers } => format!("idle-memory-{containers}"),
            Self::Stdout => "stdout".to_owned(),
            Self::Checkpoint { mib } => format!("checkpoint-{mib}"),
        }
    }

    /// crun forgets a container that it has checkpointed, and the Go shim's Delete then fails for ever.
    pub(crate) fn takes(&self, contestant: Contestant) -> bool {
        !matches!((self, contestant), (Self::Checkpoint { .. }, Contestant::Crun))
    }

    pub(crate) fn rounds(&self, asked: usize) -> usize {
        let part = match self {
            Self::CtrRun | Self::TaskApi | Self::CtrExec | Self::CommandLine => 1,
            Self::Stdout | Self::Checkpoint { mib: 0..=100 } => 4,
            Self::IdleMemory { .. } | Self::Checkpoint { .. } => 10,
        };
        asked.div_ceil(part)
    }
}

#[derive(Debug)]
pub(crate) struct Bench {
    image: String,
    rootfs: PathBuf,
    spec: Value,
    count: AtomicU32,
}

pub(crate) type Figures = Vec<(Figure, f64)>;

impl Bench {
    pub(crate) fn new(image: String, rootfs: &Path) -> Result<Self, Error> {
        Ok(Self { image, rootfs: rootfs.to_owned(), spec: default_spec()?, count: AtomicU32::new(0) })
    }

    pub(crate) fn take(&self, measure: &Measure, contestant: Contestant) -> Result<Figures, Error> {
        match *measure {
            Measure::CtrRun => self.ctr_run(contestant),
            Measure::TaskApi => self.task_api(contestant),
            Measure::CtrExec => self.ctr_exec(contestant),
            Measure::CommandLine => {
                command_line::measure(contestant, &self.next_id(contestant), &self.spec, &self.rootfs)
            }
            Measure::IdleMemory { containers } => self.idle_memory(contestant, containers),
            Measure::Stdout => self.stdout(contestant),
            Measure::Checkpoint { mib } => self.checkpoint(contestant, mib),
        }
    }

    fn next_id(&self, contestant: Contestant) -> String {
        format!("{}-{}", contestant.name(), self.count.fetch_add(1, Ordering::Relaxed))
    }

    fn ctr_run(&self, contestant: Contestant) -> Result<Figures, Error> {
        let id = self.next_id(contestant);
        let mut command = Command::new("ctr");
        command.args(["run", "--rm"]).args(contestant.ctr_flags()).args([&self.image, &id, "/bin/true"]);
        let (time, _) = timed(|| run(&mut command))?;
        Ok(vec![(Figure::time("ctr run --rm true"), time)])
    }

    fn task_api(&self, contestant: Contestant) -> Result<Figures, Error> {
        let bundle = Bundle::new(&self.next_id(contestant), &self.spec, &["/bin/sleep", "1000"])?;
        let (shim_start, shim) = timed(|| Shim::start(contestant, &bundle))?;
        let (create, ()) = timed(|| shim.create(contestant, &bundle, &self.rootfs, None, None))?;
        let (start, ()) = timed(|| shim.start_process(""))?;
        let (exec, code) = timed(|| {
            shim.exec("e", &self.spec, &["/bin/true"])?;
            shim.start_process("e")?;
            shim.wait("e")
        })?;
        if code != 0 {
            return Err(Error::Exit { id: bundle.id.clone(), code });
        }
        shim.delete("e")?;
        let (kill, _) = timed(|| {
            shim.kill()?;
            shim.wait("")
        })?;
        let (delete, ()) = timed(|| shim.delete(""))?;
        shim.shutdown()?;
        Ok(vec![
            (Figure::time("shim start"), shim_start),
            (Figure::time("Create"), create),
            (Figure::time("Start"), start),
            (Figure::time("Create + Start"), create + start),
            (Figure::time("Exec + Start + Wait of true"), exec),
            (Figure::time("Kill + Wait"), kill),
            (Figure::time("Delete"), delete),
        ])
    }

    fn ctr_exec(&self, contestant: Contestant) -> Result<Figures, Error> {
        let id = self.run_detached(contestant, &["/bin/sleep", "1000"])?;
        let (time, _) = timed(|| run(Command::new("ctr").args(["task", "exec", "--exec-id", "e", &id, "/bin/true"])))?;
        remove(&id)?;
        Ok(vec![(Figure::time("ctr task exec true"), time)])
    }

    fn idle_memory(&self, contestant: Contestant, containers: usize) -> Result<Figures, Error> {
        let ids = (0..containers)
            .map(|_| self.run_detached(contestant, &["/bin/sleep", "1000"]))
            .collect::<Result<Vec<_>, _>>()?;
        // Idle threads and buffers of a start have gone by then.
        thread::sleep(Duration::from_secs(12));
        let memory = shim_memory(contestant)?;
        if memory.len() != containers {
            return Err(Error::Shims { name: contestant.name(), found: memory.len(), expected: containers });
        }
        for id in &ids {
            remove(id)?;
        }
        let mean = |of: fn(&Memory) -> f64| memory.iter().map(of).sum::<f64>() / memory.len() as f64;
        Ok(vec![
            (Figure::new(format!("idle shim RSS, {containers} containers"), Unit::Mebibytes), mean(|one| one.rss)),
            (Figure::new(format!("idle shim PSS, {containers} containers"), Unit::Mebibytes), mean(|one| one.pss)),
        ])
    }

    fn stdout(&self, contestant: Contestant) -> Result<Figures, Error> {
        let blocks = (STREAM / (64 << 10)).to_string();
        let command = format!("exec dd if=/dev/zero bs=64k count={blocks} 2>/dev/null");
        let bundle = Bundle::new(&self.next_id(contestant), &self.spec, &["/bin/sh", "-c", &command])?;
        let fifo = bundle.fifo("stdout")?;
        let mut reader = open_fifo(&fifo)?;
        let shim = Shim::start(contestant, &bundle)?;
        shim.create(contestant, &bundle, &self.rootfs, Some(&fifo), None)?;
        let (time, bytes) = timed(|| {
            shim.start_process("")?;
            read_exactly(&mut reader, STREAM).map_err(|err| Error::File { action: "read", path: fifo.clone(), err })
        })?;
        if bytes != STREAM {
            return Err(Error::Short { id: bundle.id.clone(), bytes, expected: STREAM });
        }
        shim.wait("")?;
        shim.delete("")?;
        shim.shutdown()?;
        let rate = (STREAM / MIB) as f64 / (time / 1000.0);
        Ok(vec![(Figure::new("stdout throughput".to_owned(), Unit::MebibytesPerSecond), rate)])
    }

    fn checkpoint(&self, contestant: Contestant, mib: u64) -> Result<Figures, Error> {
        let args = ["/bin/workload", "memory", "--mib", &mib.to_string(), "--ready", "/ready"];
        let ready = self.rootfs.join("ready");
        fs::remove_file(&ready).ok();
        let bundle = Bundle::new(&self.next_id(contestant), &self.spec, &args)?;
        let images = bundle.path("images");
        let shim = Shim::start(contestant, &bundle)?;
        shim.create(contestant, &bundle, &self.rootfs, None, None)?;
        shim.start_process("")?;
        wait_for(&ready, &bundle.id)?;
        let (dump, ()) = timed(|| shim.checkpoint(&images))?;
        shim.wait("")?;
        shim.delete("")?;
        shim.shutdown()?;

        let again = Bundle::new(&self.next_id(contestant), &self.spec, &args)?;
        let shim = Shim::start(contestant, &again)?;
        let (restore, ()) = timed(|| {
            shim.create(contestant, &again, &self.rootfs, None, Some(&images))?;
            shim.start_process("")
        })?;
        shim.kill()?;
        shim.wait("")?;
        shim.delete("")?;
        shim.shutdown()?;
        Ok(vec![
            (Figure::time(&format!("Checkpoint, {mib} MiB")), dump),
            (Figure::time(&format!("Create + Start from a checkpoint, {mib} MiB")), restore),
        ])
    }

    fn run_detached(&self, contestant: Contestant, args: &[&str]) -> Result<String, Error> {
        let id = self.next_id(contestant);
        run(Command::new("ctr").args(["run", "-d"]).args(contestant.ctr_flags()).args([&self.image, &id]).args(args))?;
        Ok(id)
    }
}

fn remove(id: &str) -> Result<(), Error> {
    run(Command::new("ctr").args(["task", "delete", "--force", id]))?;
    run(Command::new("ctr").args(["container", "delete", id])).map(drop)
}

/// Milliseconds, and what the action returned.
pub(crate) fn timed<T>(action: impl FnOnce() -> Result<T, Error>) -> Result<(f64, T), Error> {
    let begin = Instant::now();
    let value = action()?;
    Ok((begin.elapsed().as_secs_f64() * 1000.0, value))
}

fn read_exactly(reader: &mut impl Read, bytes: u64) -> std::io::Result<u64> {
    let mut buffer = vec![0; 1 << 20];
    let mut read = 0;
    while read < bytes {
        read += reader.read(&mut buffer)? as u64;
    }
    Ok(read)
}

fn wait_for(path: &Path, id: &str) -> Result<(), Error> {
    for _ in 0..6000 {
        if path.exists() {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Err(Error::NotReady { id: id.to_owned() })
}

/// MiB of one shim.
struct Memory {
    rss: f64,
    pss: f64,
}

/// The serving processes of a contestant's shim.
fn shim_memory(contestant: Contestant) -> Result<Vec<Memory>, Error> {
    let proc_dir = Path::new("/proc");
    let entries = fs::read_dir(proc_dir).map_err(|err| Error::File { action: "list", path: proc_dir.into(), err })?;
    let mut shims = Vec::new();
    for entry in entries.flatten() {
        // A process may end while the list is read.
        let Ok(command) = fs::read(entry.path().join("cmdline")) else { continue };
        let program = command.split(|byte| *byte == 0).next().unwrap_or_default();
        if !program.ends_with(contestant.shim_binary().as_bytes()) {
            continue;
        }
        let path = entry.path().join("smaps_rollup");
        let rollup = fs::read_to_string(&path).map_err(|err| Error::File { action: "read", path, err })?;
        shims.push(Memory { rss: rollup_field(&rollup, "Rss:"), pss: rollup_field(&rollup, "Pss:") });
    }
    Ok(shims)
}

/// A field of smaps_rollup, from KiB to MiB.
fn rollup_field(rollup: &str, field: &str) -> f64 {
    let line = rollup.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok()).map_or(f64::NAN, |kib| kib / 1024.0)
}
