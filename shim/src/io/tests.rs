//! Real fifos, pipes, terminals and loggers, driven from the container's side and from the client's.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::stat::Mode;
use tempfile::TempDir;

use super::*;

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(50);

/// The fifos of one process, as containerd makes them.
struct Client {
    dir: TempDir,
    config: StdioConfig,
}

impl Client {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = dir.path().join(name);
            nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o700)).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let config = StdioConfig {
            stdin: make("stdin"),
            stdout: make("stdout"),
            stderr: make("stderr"),
            ..StdioConfig::default()
        };
        Self { dir, config }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Descriptors of this process that lead into the directory: fifos and logs that are still open.
    fn open_files(&self) -> Vec<PathBuf> {
        let fds = fs::read_dir("/proc/self/fd").unwrap().flatten();
        fds.filter_map(|fd| fs::read_link(fd.path()).ok()).filter(|path| path.starts_with(self.dir.path())).collect()
    }
}

/// The container's descriptors.
struct Process {
    stdin: File,
    stdout: File,
    stderr: File,
}

impl Process {
    /// Writes to stdout and exits.
    fn write_noise(mut self, bytes: usize) -> Hash {
        Noise::new(bytes).write_to(&mut self.stdout)
    }
}

impl From<Stdio> for Process {
    fn from(stdio: Stdio) -> Self {
        match stdio {
            Stdio::Fds { stdin, stdout, stderr } => {
                Self { stdin: stdin.into(), stdout: stdout.into(), stderr: stderr.into() }
            }
            Stdio::Terminal => panic!("a terminal"),
        }
    }
}

async fn open(config: &StdioConfig) -> (Io, Process) {
    let (mut io, stdio) = Io::open(config, "c1", "ns1").await.unwrap();
    io.start(None).unwrap();
    (io, stdio.into())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

fn reader(path: &Path) -> File {
    OpenOptions::new().read(true).open(path).unwrap()
}

/// Bytes that differ everywhere: any that are lost, doubled or moved change the hash.
struct Noise {
    state: u64,
    left: usize,
    hash: Hash,
}

impl Noise {
    fn new(bytes: usize) -> Self {
        Self { state: 0x9e37_79b9_7f4a_7c15, left: bytes, hash: Hash::default() }
    }

    /// Writes everything in pieces from 1 byte to 20 kB; returns the hash.
    fn write_to(mut self, file: &mut File) -> Hash {
        let mut piece = Vec::new();
        while self.left > 0 {
            piece.clear();
            let length = (self.next() % 20_000 + 1).min(self.left as u64) as usize;
            while piece.len() < length {
                piece.extend_from_slice(&self.next().to_le_bytes());
            }
            piece.truncate(length);
            self.left -= length;
            self.hash.add(&piece);
            file.write_all(&piece).unwrap();
        }
        self.hash
    }

    fn next(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }
}

/// FNV-1a and the length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hash(u64, usize);

impl Default for Hash {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325, 0)
    }
}

impl Hash {
    fn add(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
        self.1 += bytes.len();
    }

    fn of(file: &mut impl Read) -> Self {
        let (mut hash, mut buffer) = (Self::default(), vec![0; 64 * 1024]);
        loop {
            match file.read(&mut buffer).unwrap() {
                0 => return hash,
                filled => hash.add(&buffer[..filled]),
            }
        }
    }
}

#[tokio::test]
async fn output_is_exact_for_a_reader_that_is_slow_and_goes_away() {
    const BYTES: usize = 8 << 20;
    let client = Client::new();
    let (io, process) = open(&client.config).await;
    let written = tokio::task::spawn_blocking(move || process.write_noise(BYTES));
    let path = client.path("stdout");
    let read = blocking(move || {
        let (mut hash, mut buffer) = (Hash::default(), vec![0; 100_000]);
        let mut fifo = reader(&path);
        let mut reads = 0;
        while hash.1 < BYTES {
            if reads % 64 == 63 {
                // As when containerd restarts: for a while nobody reads.
                drop(fifo);
                std::thread::sleep(Duration::from_millis(5));
                fifo = reader(&path);
            }
            let filled = fifo.read(&mut buffer).unwrap();
            assert_ne!(filled, 0, "end of file after {} bytes", hash.1);
            hash.add(&buffer[..filled]);
            reads += 1;
        }
        assert_eq!(fifo.read(&mut buffer).unwrap(), 0);
        assert!(reads > 128, "the reader never went away");
        hash
    });
    let read = read.await;
    assert_eq!(read, written.await.unwrap());
    assert!(io.drained(LONG).await);
}

#[tokio::test]
async fn a_reader_that_comes_after_the_exit_gets_everything_and_the_end() {
    let client = Client::new();
    let (io, mut process) = open(&client.config).await;
    process.stdout.write_all(b"last words").unwrap();
    drop(process);
    assert!(io.drained(LONG).await, "a missing reader must not hold up the exit");
    tokio::time::sleep(SHORT).await;
    let (out, err) = (client.path("stdout"), client.path("stderr"));
    let text = blocking(move || io::read_to_string(reader(&out)).unwrap()).await;
    assert_eq!(text, "last words");
    assert_eq!(blocking(move || io::read_to_string(reader(&err)).unwrap()).await, "");
}

#[tokio::test]
async fn a_full_fifo_holds_the_process_and_loses_nothing() {
    const BYTES: usize = 1 << 20;
    let client = Client::new();
    let (io, process) = open(&client.config).await;
    let written = tokio::task::spawn_blocking(move || process.write_noise(BYTES));
    assert!(!io.drained(Duration::from_millis(200)).await);
    assert!(!written.is_finished(), "1 MiB fits in no pipe");
    let path = client.path("stdout");
    let read = blocking(move || Hash::of(&mut reader(&path))).await;
    assert_eq!(read, written.await.unwrap());
}

#[tokio::test]
async fn output_is_delivered_only_when_the_last_writer_is_gone() {
    let client = Client::new();
    let (io, process) = open(&client.config).await;
    let grandchild = process.stderr.try_clone().unwrap();
    drop(process);
    assert!(!io.drained(SHORT).await);
    drop(grandchild);
    assert!(io.drained(LONG).await);
}

#[tokio::test]
async fn stdin_ends_after_close_io_and_not_with_a_client_that_detaches() {
    let client = Client::new();
    let (mut io, mut process) = open(&client.config).await;
    let path = client.path("stdin");
    let attach = |text: &'static str| {
        let path = path.clone();
        blocking(move || OpenOptions::new().write(true).open(path).unwrap().write_all(text.as_bytes()).unwrap())
    };
    attach("one ").await;
    attach("two ").await;
    let process_reads = tokio::task::spawn_blocking(move || io::read_to_string(&mut process.stdin).unwrap());
    tokio::time::sleep(SHORT).await;
    assert!(!process_reads.is_finished(), "a detached client must not end stdin");

    let mut last = OpenOptions::new().write(true).open(&path).unwrap();
    io.close_stdin();
    last.write_all(b"three").unwrap();
    tokio::time::sleep(SHORT).await;
    assert!(!process_reads.is_finished(), "what a client still writes belongs to stdin");
    drop(last);
    assert_eq!(process_reads.await.unwrap(), "one two three");
}

#[tokio::test]
async fn stdin_is_exact_for_a_slow_process() {
    let client = Client::new();
    let (mut io, mut process) = open(&client.config).await;
    let path = client.path("stdin");
    let written = tokio::task::spawn_blocking(move || {
        let mut fifo = OpenOptions::new().write(true).open(path).unwrap();
        Noise::new(4 << 20).write_to(&mut fifo)
    });
    tokio::time::sleep(SHORT).await;
    io.close_stdin();
    let read = blocking(move || Hash::of(&mut process.stdin)).await;
    assert_eq!(read, written.await.unwrap());
}

#[tokio::test]
async fn a_process_that_closes_its_stdin_ends_the_clients_writing() {
    let client = Client::new();
    let (_io, process) = open(&client.config).await;
    drop(process.stdin);
    let path = client.path("stdin");
    let err = blocking(move || {
        let mut fifo = OpenOptions::new().write(true).open(path).unwrap();
        let started = Instant::now();
        loop {
            if let Err(err) = fifo.write_all(&[0; 4096]) {
                return err;
            }
            assert!(started.elapsed() < LONG, "the fifo still has a reader");
        }
    });
    assert_eq!(err.await.kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn a_busy_stream_leaves_the_shim_time_for_other_tasks() {
    let client = Client::new();
    let (_io, mut process) = open(&client.config).await;
    let path = client.path("stdout");
    let reads = tokio::task::spawn_blocking(move || Hash::of(&mut reader(&path)).1);
    let writes = tokio::task::spawn_blocking(move || {
        let piece = vec![7; 64 * 1024];
        (0..512).for_each(|_| process.stdout.write_all(&piece).unwrap());
    });
    let mut longest = Duration::ZERO;
    while !writes.is_finished() {
        let started = Instant::now();
        tokio::time::sleep(Duration::from_millis(1)).await;
        longest = longest.max(started.elapsed());
    }
    writes.await.unwrap();
    assert_eq!(reads.await.unwrap(), 512 * 64 * 1024);
    assert!(longest < Duration::from_millis(500), "a sleep of 1 ms took {longest:?}");
}

#[tokio::test]
async fn without_ends_the_process_gets_dev_null() {
    let (io, mut process) = open(&StdioConfig::default()).await;
    assert_eq!(io::read_to_string(&mut process.stdin).unwrap(), "");
    process.stdout.write_all(b"x").unwrap();
    process.stderr.write_all(b"x").unwrap();
    assert!(io.drained(SHORT).await, "there is nothing to deliver");
}

#[tokio::test]
async fn pipes_belong_to_the_processs_user() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: giving a pipe to another user needs root");
        return;
    }
    let mut client = Client::new();
    (client.config.uid, client.config.gid) = (1000, 1001);
    let (_io, process) = open(&client.config).await;
    for file in [&process.stdin, &process.stdout, &process.stderr] {
        let metadata = file.metadata().unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (1000, 1001));
    }
}

#[tokio::test]
async fn dropping_it_closes_every_descriptor() {
    let client = Client::new();
    let (io, mut process) = open(&client.config).await;
    assert!(client.open_files().len() >= 4, "{:?}", client.open_files());
    drop(io);
    // The tasks end in the runtime's next turn.
    tokio::time::sleep(SHORT).await;
    assert_eq!(client.open_files(), Vec::<PathBuf>::new());
    assert_eq!(process.stdout.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(process.stderr.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(process.stdin.read(&mut [0]).unwrap(), 0);
}

#[tokio::test]
async fn ends_that_are_not_there_are_named() {
    let client = Client::new();
    let mut config = client.config.clone();
    config.stderr = "/no/such/fifo".into();
    let err = Io::open(&config, "c1", "ns1").await.unwrap_err();
    assert_eq!(err.to_string(), "open /no/such/fifo for stderr");
    assert!(matches!(err, Error::Open { err: Errno::ENOENT, .. }));
    assert_eq!(client.open_files(), Vec::<PathBuf>::new());

    config = client.config.clone();
    config.stdin = "/dev/zero".into();
    assert_eq!(Io::open(&config, "c1", "ns1").await.unwrap_err().to_string(), "stdin \"/dev/zero\": not a fifo");
    config.stdin = "binary:///bin/cat".into();
    assert!(Io::open(&config, "c1", "ns1").await.unwrap_err().to_string().contains("only be a fifo"));
}

mod terminal {
    use nix::pty::openpty;
    use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
    use rustix::termios::tcgetwinsize;

    use super::*;

    async fn open(config: &StdioConfig) -> (Io, File) {
        let (mut io, stdio) = Io::open(config, "c1", "ns1").await.unwrap();
        assert!(matches!(stdio, Stdio::Terminal));
        let pty = openpty(None, None).unwrap();
        let mut raw = tcgetattr(&pty.slave).unwrap();
        cfmakeraw(&mut raw);
        tcsetattr(&pty.slave, SetArg::TCSANOW, &raw).unwrap();
        io.start(Some(pty.master)).unwrap();
        (io, pty.slave.into())
    }

    fn client() -> Client {
        let mut client = Client::new();
        client.config.terminal = true;
        client.config.stderr.clear();
        client
    }

    #[tokio::test]
    async fn everything_written_before_the_last_close_arrives() {
        let client = client();
        let (io, mut slave) = open(&client.config).await;
        let written = tokio::task::spawn_blocking(move || Noise::new(1 << 20).write_to(&mut slave));
        let path = client.path("stdout");
        let read = blocking(move || Hash::of(&mut reader(&path))).await;
        assert_eq!(read, written.await.unwrap());
        assert!(io.drained(LONG).await);
    }

    #[tokio::test]
    async fn output_still_in_the_terminal_at_the_exit_arrives() {
        for _ in 0..20 {
            let client = client();
            let (io, mut slave) = open(&client.config).await;
            slave.write_all(&[b'x'; 3000]).unwrap();
            drop(slave);
            assert!(io.drained(LONG).await);
            let path = client.path("stdout");
            assert_eq!(blocking(move || Hash::of(&mut reader(&path))).await.1, 3000);
        }
    }

    #[tokio::test]
    async fn the_keyboard_reaches_it_and_the_size_changes() {
        let client = client();
        let (io, mut slave) = open(&client.config).await;
        OpenOptions::new().write(true).open(client.path("stdin")).unwrap().write_all(b"ls\r").unwrap();
        let (text, slave) = blocking(move || {
            let mut text = [0; 3];
            slave.read_exact(&mut text).unwrap();
            (text, slave)
        })
        .await;
        assert_eq!(&text, b"ls\r");
        io.resize(132, 43).unwrap();
        let size = tcgetwinsize(&slave).unwrap();
        assert_eq!((size.ws_col, size.ws_row), (132, 43));
    }

    #[tokio::test]
    async fn the_end_of_stdin_hangs_up_after_the_output_so_far() {
        let client = client();
        let (mut io, mut slave) = open(&client.config).await;
        slave.write_all(&[b'x'; 2000]).unwrap();
        io.close_stdin();
        assert!(io.drained(LONG).await);
        let path = client.path("stdout");
        assert_eq!(blocking(move || Hash::of(&mut reader(&path))).await.1, 2000);
        assert_eq!(slave.write(b"x").unwrap_err().raw_os_error(), Some(Errno::EIO as i32));
        assert!(matches!(io.resize(80, 25), Err(Error::NoTerminal)));
    }

    #[tokio::test]
    async fn its_output_goes_to_a_file_or_nowhere_too() {
        let mut client = client();
        client.config.stdin.clear();
        client.config.stdout = format!("file://{}", client.path("log").display());
        let (io, mut slave) = open(&client.config).await;
        slave.write_all(b"hello").unwrap();
        drop(slave);
        assert!(io.drained(LONG).await);
        assert_eq!(fs::read_to_string(client.path("log")).unwrap(), "hello");

        client.config.stdout.clear();
        let (io, slave) = open(&client.config).await;
        let written = tokio::task::spawn_blocking(move || Noise::new(1 << 18).write_to(&mut { slave }));
        assert!(io.drained(LONG).await);
        assert_eq!(written.await.unwrap().1, 1 << 18);
    }
}

mod file_log {
    use super::*;

    fn config(path: &Path) -> StdioConfig {
        let uri = format!("file://{}", path.display());
        StdioConfig { stdout: uri.clone(), stderr: uri, ..StdioConfig::default() }
    }

    #[tokio::test]
    async fn both_streams_are_appended_to_one_file_that_is_made_with_its_parents() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/c.log");
        for round in 1..=2 {
            let (io, mut process) = open(&config(&path)).await;
            process.stdout.write_all(b"out\n").unwrap();
            process.stderr.write_all(b"err\n").unwrap();
            drop(process);
            assert!(io.drained(LONG).await);
            let mut lines: Vec<_> = fs::read_to_string(&path).unwrap().lines().map(str::to_owned).collect();
            lines.sort();
            assert_eq!(lines, [vec!["err"; round], vec!["out"; round]].concat());
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
    }

    #[tokio::test]
    async fn a_log_is_exact_and_can_be_truncated_by_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let (io, mut process) = open(&config(&path)).await;
        process.stdout.write_all(b"old").unwrap();
        while fs::metadata(&path).unwrap().len() < 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
        let written = blocking(move || process.write_noise(40 << 20)).await;
        assert!(io.drained(LONG).await);
        assert_eq!(Hash::of(&mut reader(&path)), written);
    }

    #[tokio::test]
    async fn a_full_disk_holds_the_process_and_drops_nothing() {
        let config = StdioConfig { stdout: "/dev/full".into(), ..StdioConfig::default() };
        let (io, process) = open(&config).await;
        let written = tokio::task::spawn_blocking(move || (&process.stdout).write_all(&[1; 1 << 20]));
        assert!(!io.drained(Duration::from_millis(200)).await);
        assert!(!written.is_finished());
        drop(io);
        assert_eq!(written.await.unwrap().unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}

mod logger {
    use super::*;

    struct Script {
        dir: TempDir,
        config: StdioConfig,
    }

    impl Script {
        fn new(text: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("logger");
            let text = format!("#!/bin/sh\ncd {}\n{text}\n", dir.path().display());
            OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o755)
                .open(&path)
                .unwrap()
                .write_all(text.as_bytes())
                .unwrap();
            let uri = format!("binary://{}?--tag=a%20b&env.LEVEL=3", path.display());
            let config = StdioConfig { stdout: uri.clone(), stderr: uri, ..StdioConfig::default() };
            Self { dir, config }
        }

        fn read(&self, name: &str) -> String {
            fs::read_to_string(self.dir.path().join(name)).unwrap()
        }
    }

    /// Another thread's fork may hold the script open for writing for a moment: ETXTBSY.
    async fn start(config: &StdioConfig) -> Result<(Io, Stdio), Error> {
        loop {
            match Io::open(config, "c1", "ns1").await {
                Err(Error::LoggerStart { err, .. }) if err.raw_os_error() == Some(Errno::ETXTBSY as i32) => {}
                other => return other,
            }
        }
    }

    async fn open(config: &StdioConfig) -> (Io, Process) {
        let (mut io, stdio) = start(config).await.unwrap();
        io.start(None).unwrap();
        (io, stdio.into())
    }

    #[tokio::test]
    async fn one_logger_gets_both_streams_its_arguments_and_its_environment() {
        let script = Script::new(
            "echo \"$@ $CONTAINER_ID $CONTAINER_NAMESPACE $LEVEL\" > args; ls /proc/self/fd > fds; exec 5>&-
             cat <&3 > out & cat <&4 > err; wait; echo end > end",
        );
        let (io, mut process) = open(&script.config).await;
        let written = blocking(move || {
            process.stderr.write_all(b"err").unwrap();
            process.write_noise(3 << 20)
        })
        .await;
        assert!(io.drained(LONG).await);
        io.close().await;
        assert_eq!(script.read("end"), "end\n", "close waits for the logger");
        assert_eq!(script.read("args"), "--tag a b c1 ns1 3\n");
        // The fourth is the directory that ls reads, and sh keeps none of ours.
        assert_eq!(script.read("fds").lines().filter(|fd| fd.parse::<u32>().unwrap() < 10).count(), 7);
        assert_eq!(Hash::of(&mut reader(&script.dir.path().join("out"))), written);
        assert_eq!(script.read("err"), "err");
    }

    #[tokio::test]
    async fn a_terminal_is_logged_too() {
        let mut script = Script::new("exec 5>&-; cat <&3 > out");
        script.config.terminal = true;
        let (mut io, _) = start(&script.config).await.unwrap();
        let pty = nix::pty::openpty(None, None).unwrap();
        io.start(Some(pty.master)).unwrap();
        File::from(pty.slave).write_all(b"hello").unwrap();
        assert!(io.drained(LONG).await);
        io.close().await;
        assert_eq!(script.read("out"), "hello");
    }

    #[tokio::test]
    async fn a_logger_that_ends_before_it_is_ready_is_named_with_its_status() {
        let script = Script::new("exit 7");
        let err = start(&script.config).await.unwrap_err();
        let path = script.dir.path().join("logger");
        assert_eq!(err.to_string(), format!("logger {} ended with status 7 before it was ready", path.display()));
    }

    #[tokio::test]
    async fn a_logger_that_is_missing_is_named() {
        let config = StdioConfig { stdout: "binary:///no/such/logger".into(), ..StdioConfig::default() };
        let err = Io::open(&config, "c1", "ns1").await.unwrap_err();
        assert_eq!(err.to_string(), "start logger /no/such/logger");
        assert_eq!(err.kind(), runtime_core::ErrorKind::NotFound);
    }

    #[tokio::test(start_paused = true)]
    async fn a_logger_that_is_never_ready_is_ended() {
        let script = Script::new("echo $$ > pid; exec sleep 1000");
        let err = start(&script.config).await.unwrap_err();
        assert!(err.to_string().ends_with("was not ready within 10 s"), "{err}");
    }

    #[tokio::test]
    async fn a_logger_that_dies_gives_the_process_a_broken_pipe() {
        let script = Script::new("exec 5>&-; read line <&3; exit 1");
        let (io, mut process) = open(&script.config).await;
        process.stdout.write_all(b"line\n").unwrap();
        let err = blocking(move || {
            loop {
                if let Err(err) = process.stdout.write_all(&[0; 4096]) {
                    return err;
                }
            }
        });
        assert_eq!(err.await.kind(), io::ErrorKind::BrokenPipe);
        io.close().await;
    }

    #[tokio::test]
    async fn a_logger_that_ignores_its_end_is_killed() {
        let script = Script::new("trap '' TERM; echo $$ > pid; exec 5>&-; while :; do sleep 0.1; done");
        let (io, process) = open(&script.config).await;
        let pid: i32 = script.read("pid").trim().parse().unwrap();
        drop(process);
        // With the clock stopped, the 12 s pass at once.
        tokio::time::pause();
        io.close().await;
        let gone = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None);
        assert_eq!(gone, Err(Errno::ESRCH));
    }

    #[tokio::test]
    async fn two_loggers_for_one_process_are_refused() {
        let mut config = Script::new("").config;
        config.stderr = "binary:///bin/other".into();
        let err = Io::open(&config, "c1", "ns1").await.unwrap_err();
        assert!(err.to_string().contains("one serves both"), "{err}");
    }
}

/// The container's ends must be blocking, or its writes would fail when a pipe is full.
#[tokio::test]
async fn the_processs_own_descriptors_block() {
    let client = Client::new();
    let (_io, process) = open(&client.config).await;
    for file in [&process.stdin, &process.stdout, &process.stderr] {
        let flags = nix::fcntl::fcntl(file.as_fd(), nix::fcntl::FcntlArg::F_GETFL).unwrap();
        assert!(!OFlag::from_bits_truncate(flags).contains(OFlag::O_NONBLOCK));
    }
}

/// What the service holds across awaits of a multi-task runtime.
#[test]
fn it_can_be_shared_between_tasks() {
    fn check<T: Send + Sync>() {}
    check::<Io>();
    check::<OwnedFd>();
}
