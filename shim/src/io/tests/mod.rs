//! Real fifos, pipes, terminals and loggers, driven from the container's side and from the client's.

mod file_log;
mod held;
mod logger;
mod terminal;

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
    io.start(None, Vec::new()).unwrap();
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
async fn closing_waits_for_the_reader_of_a_process_that_ended_at_once() {
    let client = Client::new();
    let path = client.path("stdout");
    let (io, process) = open(&client.config).await;
    let mut slow = reader(&path);
    process.write_noise(100);
    assert!(io.drained(LONG).await);
    let closing = tokio::spawn(io.close());
    tokio::time::sleep(SHORT).await;
    assert!(!closing.is_finished(), "it could still give up, and nobody else has the bytes");
    let read = blocking(move || Hash::of(&mut slow)).await;
    closing.await.unwrap();
    assert_eq!(read.1, 100);
    assert!(client.open_files().is_empty());
}

#[tokio::test]
async fn closing_waits_two_seconds_for_a_reader_and_no_more() {
    let client = Client::new();
    let (io, process) = open(&client.config).await;
    process.write_noise(100);
    let begun = Instant::now();
    io.close().await;
    assert!((TAKEN_WITHIN / 2..LONG).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    assert!(client.open_files().is_empty());
}

#[tokio::test]
async fn closing_waits_for_nobody_to_read_nothing() {
    let client = Client::new();
    let (io, process) = open(&client.config).await;
    drop(process);
    let begun = Instant::now();
    io.close().await;
    assert!(begun.elapsed() < TAKEN_WITHIN / 2, "{:?}", begun.elapsed());
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
