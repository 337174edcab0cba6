//! `binary://`, with shell scripts as loggers.

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
    io.start(None, Vec::new()).unwrap();
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
    io.start(Some(pty.master), Vec::new()).unwrap();
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
