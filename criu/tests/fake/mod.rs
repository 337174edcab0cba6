//! The scripted CRIU behind [`criu::Spawn`].

use std::error::Error as StdError;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use criu::{Common, Criu, DumpOptions, Error, Process, Spawn};
use proto::criu::rpc::{CriuDumpResp, CriuReqType, CriuResp};
use test_fixtures::fake_criu::{FakeCriu, FakeProcess, Step, reply};

pub(crate) struct Fake(pub(crate) FakeCriu);

#[derive(Debug)]
struct Standin(FakeProcess);

impl Spawn for Fake {
    fn spawn(&self, command: Command) -> io::Result<Box<dyn Process>> {
        Ok(Box::new(Standin(self.0.spawn(&command)?)))
    }
}

impl Process for Standin {
    fn pid(&self) -> i32 {
        i32::try_from(self.0.child.id()).unwrap()
    }

    fn pidfd(&self) -> BorrowedFd<'_> {
        self.0.pidfd.as_fd()
    }

    fn wait(&mut self) -> io::Result<u32> {
        let status = self.0.child.wait()?;
        Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap()).unsigned_abs())
    }
}

pub(crate) fn script(steps: Vec<Step>) -> Fake {
    Fake(FakeCriu::new(steps))
}

pub(crate) fn criu() -> Criu {
    Criu::at("/usr/sbin/criu")
}

pub(crate) fn common(dir: &Path) -> Common {
    Common::new(File::open(dir).unwrap().into())
}

pub(crate) fn dump(dir: &Path) -> DumpOptions {
    DumpOptions::new(Common { notify: true, ..common(dir) }, 42)
}

pub(crate) fn dumped() -> CriuResp {
    CriuResp { dump: Some(CriuDumpResp { restored: Some(false) }), ..reply(CriuReqType::Dump, true) }
}

/// Runs a dump with every notification acknowledged.
pub(crate) fn run_dump(steps: Vec<Step>, limit: Option<Duration>) -> (Result<(), Error>, Fake) {
    let dir = tempfile::tempdir().unwrap();
    let fake = script(steps);
    let result = criu().start(dump(dir.path()), &fake).unwrap().run(&mut (), limit);
    (result, fake)
}

/// The message with those of its sources.
pub(crate) fn chain(err: &dyn StdError) -> String {
    let mut text = err.to_string();
    let mut source = err.source();
    while let Some(err) = source {
        text += &format!(": {err}");
        source = err.source();
    }
    text
}

/// Gone, or a zombie that its new parent has not reaped yet; waits two seconds for it.
pub(crate) fn is_dead(pid: i32) -> bool {
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        match fs::read_to_string(format!("/proc/{pid}/stat")) {
            Err(_) => return true,
            Ok(stat) if stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X'])) => return true,
            Ok(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    false
}
