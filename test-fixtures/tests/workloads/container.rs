//! One container on its way: started, checkpointed with its end, restored in its place or in the other node.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use proto::containerd::runc::v1::CheckpointOptions;
use rustix::fs::OFlags;
use test_fixtures::Image;

use crate::containerd::Streams;
use crate::failure::{At, Failure, Result};
use crate::world::{Host, World};

pub(crate) const ID: &str = "c1";
const IMAGES: &str = "/tmp/images";
const WORK: &str = "/tmp/work";
const FIFOS: &str = "/tmp/fifos";
/// How long something may take to come.
const LONG: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Runtime {
    Rtc,
    Runc,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Here,
    There,
}

/// Who runs it, and where it is to be restored.
#[derive(Clone, Copy)]
pub(crate) struct Scene<'a> {
    pub(crate) world: &'a World,
    pub(crate) runtime: Runtime,
    pub(crate) place: Place,
    /// Whether there is time for what takes long.
    pub(crate) whole: bool,
}

/// What the checkpoint is told.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct How {
    pub(crate) tcp: bool,
    pub(crate) locks: bool,
    pub(crate) external_unix: bool,
    pub(crate) terminal: bool,
}

/// A running container. Dropped, nothing of it is left in either node.
pub(crate) struct Container<'a> {
    scene: Scene<'a>,
    host: &'a Host,
    pub(crate) pid: u32,
    terminal: Option<Terminal>,
}

impl<'a> Scene<'a> {
    /// Where it is restored.
    pub(crate) fn target(&self) -> &'a Host {
        if self.place == Place::Here { &self.world.one } else { &self.world.two }
    }

    /// `ctr run -d FLAGS IMAGE c1 ARGUMENTS`, in the first node.
    pub(crate) fn run(self, image: Image, flags: &[&str], arguments: &[&str]) -> Result<Container<'a>> {
        let host = &self.world.one;
        self.prepare()?;
        let line =
            [&["ctr", "run", "-d", "--runtime", self.runtime.name()], flags, &[image.name(), ID], arguments].concat();
        // So that what was begun goes with it.
        let mut container = Container { scene: self, host, pid: 0, terminal: None };
        host.node.run(line)?;
        container.pid = host.pid()?;
        Ok(container)
    }

    /// On a terminal.
    pub(crate) fn run_on_terminal(self, image: Image, arguments: &[&str]) -> Result<Container<'a>> {
        let host = &self.world.one;
        self.prepare()?;
        let flags = ["ctr", "container", "create", "-t", "--runtime", self.runtime.name(), image.name(), ID];
        let mut container = Container { scene: self, host, pid: 0, terminal: None };
        host.node.run([&flags, arguments].concat())?;
        let terminal = Terminal::open(host)?;
        container.pid = host.containerd.start_task(ID, &streams(true), None)?;
        container.terminal = Some(terminal);
        Ok(container)
    }

    fn prepare(&self) -> Result {
        for host in [&self.world.one, &self.world.two] {
            let script = format!(
                "rm -rf {IMAGES} {WORK} {FIFOS} /etc/criu/runc.conf; mkdir {IMAGES} {WORK} {FIFOS}; \
                 mkfifo {FIFOS}/stdin {FIFOS}/stdout {FIFOS}/stderr"
            );
            host.node.sh(&script)?;
        }
        Ok(())
    }
}

impl Runtime {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Rtc => "io.containerd.rtc.v2",
            Self::Runc => "io.containerd.runc.v2",
        }
    }
}

impl Host {
    fn pid(&self) -> Result<u32> {
        let table = self.node.run(["ctr", "task", "ls"])?;
        let row = table.lines().find(|line| line.split_whitespace().next() == Some(ID));
        let pid = row.and_then(|row| row.split_whitespace().nth(1)?.parse().ok());
        pid.ok_or_else(|| Failure::at(At::Scene, format!("no task {ID}:\n{table}")))
    }
}

impl Container<'_> {
    /// Checkpoints it, which ends it, and restores it where the scene says.
    pub(crate) fn moves(&mut self, how: How) -> Result {
        self.moves_to(how, || Ok(()))
    }

    /// The same; `between` makes ready what the container needs at its new place.
    pub(crate) fn moves_to(&mut self, how: How, between: impl FnOnce() -> Result) -> Result {
        self.checkpoint(how)?;
        // The file has what it wrote last, and what it writes from now on is another's.
        self.terminal = None;
        self.host.containerd.delete_task(ID)?;
        between()?;
        if self.scene.place == Place::There {
            self.carry()?;
        }
        let target = self.scene.target();
        self.host = target;
        self.terminal = Some(Terminal::open(target)?);
        let started = target.containerd.start_task(ID, &streams(how.terminal), Some((IMAGES, WORK)));
        self.pid = started.map_err(|status| self.failure(At::Restore, status.message(), "restore.log"))?;
        Ok(())
    }

    pub(crate) fn checkpoint(&self, how: How) -> Result {
        let options = CheckpointOptions {
            exit: true,
            open_tcp: how.tcp,
            external_unix_sockets: how.external_unix,
            terminal: how.terminal,
            file_locks: how.locks,
            image_path: IMAGES.to_owned(),
            work_path: WORK.to_owned(),
            ..Default::default()
        };
        if self.scene.runtime == Runtime::Runc {
            // Its shim hands these options to no restore, and has no name for the last one.
            let all = [
                (how.tcp, "tcp-established\n"),
                (how.external_unix, "ext-unix-sk\n"),
                (how.terminal, "shell-job\n"),
                (how.locks, "file-locks\n"),
                (true, "link-remap\n"),
            ];
            let text: String = all.iter().filter(|(told, _)| *told).map(|(_, line)| *line).collect();
            for host in [&self.scene.world.one, &self.scene.world.two] {
                host.node.write("/etc/criu/runc.conf", &text)?;
            }
        }
        let answer = self.host.containerd.checkpoint(ID, &options);
        answer.map_err(|status| self.failure(At::Checkpoint, status.message(), "dump.log"))
    }

    /// rtc names the reason; what runc's shim says leads to CRIU's log.
    fn failure(&self, at: At, message: &str, log: &str) -> Failure {
        // An error by name only, and what is said when all is lost.
        const NOISE: [&str; 3] = ["Can't setup RLIMIT_NOFILE", "failed with -1", "FAILED"];
        let log = self.host.node.read_text(&format!("{WORK}/{log}")).unwrap_or_default();
        let errors = log.lines().filter(|line| !NOISE.iter().any(|noise| line.contains(noise)));
        let error = errors.filter_map(|line| line.split_once("Error (")?.1.split_once("): ")).next();
        match (self.scene.runtime, error) {
            (Runtime::Runc, Some((_, why))) => Failure::at(at, format!("CRIU: {why}")),
            _ => Failure::at(at, message),
        }
    }

    /// Record, writable layer and images go to the other node.
    fn carry(&self) -> Result {
        let (from, to) = (&self.scene.world.one, &self.scene.world.two);
        let record = from.containerd.container(ID)?;
        to.containerd.take_over(record, from.containerd.parent(ID)?)?;
        let (upper, place) = (from.containerd.writable_layer(ID)?, to.containerd.writable_layer(ID)?);
        from.node.copy_contents_to(&upper, &to.node, &place)?;
        from.node.copy_contents_to(IMAGES, &to.node, IMAGES)?;
        from.node.run(["ctr", "container", "rm", ID]).map(drop)?;
        Ok(())
    }

    /// A file of the container.
    pub(crate) fn read(&self, path: &str) -> Option<String> {
        self.host.node.read_text(&format!("/proc/{}/root{path}", self.pid)).ok()
    }

    /// What `/proc/PID/NAME` of its first process says, in the node.
    pub(crate) fn proc(&self, name: &str) -> Result<String> {
        Ok(self.host.node.read_text(&format!("/proc/{}/{name}", self.pid))?)
    }

    /// Runs a command in it; its exit code and output.
    pub(crate) fn exec(&self, arguments: &[&str]) -> Result<(i32, String)> {
        let output = self.host.node.exec([&["ctr", "task", "exec", "--exec-id", "e", ID], arguments].concat())?;
        Ok((output.code(), format!("{}{}", output.text(), output.error_text())))
    }

    /// Types a line at its terminal, and waits for the answer.
    pub(crate) fn ask(&mut self, line: &str, answer: &str) -> Result {
        let terminal = self.terminal.as_mut().ok_or_else(|| Failure::at(At::Scene, "it has no terminal"))?;
        terminal.ask(line, answer)
    }

    pub(crate) fn signal(&self, name: &str) -> Result {
        Ok(self.host.node.run(["ctr", "task", "kill", "-s", name, ID]).map(drop)?)
    }

    /// `START COUNT` of a file that the workload writes.
    pub(crate) fn count(&self, path: &str) -> Option<(String, u64)> {
        let text = self.read(path)?;
        let (start, count) = text.split_once(' ')?;
        Some((start.to_owned(), count.parse().ok()?))
    }

    /// Waits until the workload has counted some way; where it is.
    pub(crate) fn counts(&self, path: &str) -> Result<(String, u64)> {
        self.wait("it counts", || self.count(path).filter(|(_, count)| *count >= 10))
    }

    /// The same process, on from there, and nothing was wrong since.
    pub(crate) fn goes_on(&self, path: &str, before: &(String, u64)) -> Result {
        self.goes_on_by(10, path, before)
    }

    /// By as many rounds.
    pub(crate) fn goes_on_by(&self, rounds: u64, path: &str, (start, before): &(String, u64)) -> Result {
        let (found, first) = self.wait("it counts", || self.count(path))?;
        if (&found, true) != (start, first >= *before && first < before + 10_000) {
            return Err(Failure::after(format!("{found} {first} after {start} {before}")));
        }
        self.wait("it goes on", || self.count(path).filter(|(_, count)| *count >= first + rounds)).map(drop)
    }

    /// Waits for something to be there.
    pub(crate) fn wait<T>(&self, what: &str, found: impl Fn() -> Option<T>) -> Result<T> {
        let started = Instant::now();
        loop {
            if let Some(found) = found() {
                return Ok(found);
            }
            let ended = self.proc("stat").is_err();
            if ended || started.elapsed() > LONG {
                let said = self.host.containerd.writable_layer(ID).ok();
                let said = said.and_then(|upper| self.host.node.read_text(&format!("{upper}/count.error")).ok());
                let how = if ended { "it ended" } else { "not so in time" };
                return Err(Failure::after(format!("{how}: {what} {}", said.unwrap_or_default())));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A refused checkpoint has not touched it, and rtc tells beforehand of what stands in the way.
    pub(crate) fn refused(&self, how: How, told: &str) -> Result {
        let Err(failure) = self.checkpoint(how) else {
            return Err(Failure::after("it was checkpointed"));
        };
        let before = self.wait("it counts", || self.count("/count"))?;
        self.goes_on_by(2, "/count", &before)?;
        if self.scene.runtime == Runtime::Rtc {
            let check = ["rtc", "--root", "/run/containerd/rtc/default", "checkpoint", "--check"];
            let flags = if how.external_unix { &["--ext-unix-sk"][..] } else { &[] };
            let check = self.host.node.exec([&check[..], flags, &[ID]].concat())?;
            let said = format!("{}{}", check.text(), check.error_text());
            if !said.contains(told) {
                return Err(Failure::after(format!("the preflight does not tell: {said}")));
            }
        }
        Err(failure)
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        self.terminal = None;
        for host in [&self.scene.world.one, &self.scene.world.two] {
            // Some of it is not there, and which that is depends on how far it came; and a restore that failed halfway
            // leaves runc's shim with a task that it cannot delete.
            let script = format!(
                "ctr task rm --force {ID}; ctr container rm {ID} || {{ \
                 pkill -KILL -f 'containerd-shim-runc-v2.* -id {ID} '; runc --root /run/containerd/runc/default delete --force {ID}; \
                 for i in $(seq 50); do ctr task rm --force {ID}; ctr container rm {ID} && break; sleep 0.1; done; }}; \
                 ctr snapshot rm {ID}; rm -rf {IMAGES} {WORK} {FIFOS} /etc/criu/runc.conf"
            );
            let is_there =
                host.node.run(["ctr", "container", "ls", "-q"]).is_ok_and(|all| all.lines().any(|id| id == ID));
            if is_there {
                host.node.exec(["sh", "-c", &script]).ok();
            }
        }
    }
}

fn streams(terminal: bool) -> Streams {
    let stderr = if terminal { String::new() } else { format!("{FIFOS}/stderr") };
    Streams { stdin: format!("{FIFOS}/stdin"), stdout: format!("{FIFOS}/stdout"), stderr, terminal }
}

/// The other ends of a container's streams.
struct Terminal {
    stdin: File,
    stdout: File,
    _stderr: File,
}

impl Terminal {
    fn open(host: &Host) -> Result<Self> {
        // Read and write, so that nobody waits for anybody.
        let open = |name: &str| {
            let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
            let path = host.node.path(&format!("{FIFOS}/{name}"));
            let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path);
            file.map_err(|error| Failure::at(At::Scene, format!("open {name}: {error}")))
        };
        Ok(Self { stdin: open("stdin")?, stdout: open("stdout")?, _stderr: open("stderr")? })
    }

    /// Types a line, and waits for something to come out.
    fn ask(&mut self, line: &str, answer: &str) -> Result {
        use std::io::{Read, Write};
        self.stdin.write_all(format!("{line}\n").as_bytes()).map_err(Failure::after)?;
        let (mut seen, started) = (Vec::new(), Instant::now());
        while !String::from_utf8_lossy(&seen).contains(answer) {
            let mut buffer = [0; 1024];
            match self.stdout.read(&mut buffer) {
                Ok(count) => seen.extend_from_slice(&buffer[..count]),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
            if started.elapsed() > LONG {
                let seen = String::from_utf8_lossy(&seen).into_owned();
                return Err(Failure::after(format!("{line:?} is answered with {seen:?}")));
            }
        }
        Ok(())
    }
}
