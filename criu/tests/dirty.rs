//! Memory that is copied while its process runs: real CRIU, on a kernel that tracks dirty memory. Few hosts' do; the test is
//! run in a virtual machine as well.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use criu::images::{Contents, Kind};
use criu::{After, Common, Criu, Direct, DumpOptions, PreDumpOptions};
use test_fixtures::artifact;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 32;
const PATIENCE: Option<Duration> = Some(Duration::from_secs(60));

fn skip_reason() -> Option<String> {
    if let Some(why) = test_fixtures::skip_reason() {
        return Some(why.to_owned());
    }
    let features = match Criu::find().and_then(|criu| criu.features(&Direct)) {
        Ok(features) => features,
        Err(error) => return Some(error.to_string()),
    };
    (!features.mem_track).then(|| "CRIU says that this kernel does not track dirty memory".to_owned())
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A process with memory in a session of its own, once it is filled.
fn fill(directory: &Path) -> Killed {
    let ready = directory.join("ready");
    let mut command = Command::new("setsid");
    command.arg(artifact::find(artifact::WORKLOAD).unwrap()).args(["memory", "--mib", &SIZE.to_string(), "--ready"]);
    command.arg(&ready).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = Killed(command.spawn().unwrap());
    let started = Instant::now();
    while !ready.exists() {
        assert!(started.elapsed() < Duration::from_secs(60), "its memory is not filled");
        std::thread::sleep(Duration::from_millis(10));
    }
    child
}

fn common(directory: &Path, name: &str) -> Common {
    let images = directory.join(name);
    fs::create_dir(&images).unwrap();
    Common::new(File::open(images).unwrap().into())
}

/// Bytes of memory in an image directory.
fn pages(directory: &Path) -> u64 {
    let files = fs::read_dir(directory).unwrap().flatten();
    let pages = files.filter(|file| file.file_name().to_string_lossy().starts_with("pages-"));
    pages.map(|file| file.metadata().unwrap().len()).sum()
}

#[test]
fn only_what_changed_is_copied_again() {
    if let Some(why) = skip_reason() {
        eprintln!("skipped: {why}");
        return;
    }
    let criu = Criu::find().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let mut process = fill(directory);
    let pid = i32::try_from(process.0.id()).unwrap();

    let first = PreDumpOptions::new(common(directory, "1"), pid);
    criu.start(first, &Direct).unwrap().run(&mut (), PATIENCE).unwrap();
    assert!(process.0.try_wait().unwrap().is_none(), "a pre-dump leaves the process alive");
    let mut second = PreDumpOptions::new(common(directory, "2"), pid);
    second.parent_img = Some("../1".to_owned());
    criu.start(second, &Direct).unwrap().run(&mut (), PATIENCE).unwrap();
    let mut last = DumpOptions::new(common(directory, "3"), pid);
    last.parent_img = Some("../2".to_owned());
    last.track_mem = true;
    last.after = After::Run;
    criu.start(last, &Direct).unwrap().run(&mut (), PATIENCE).unwrap();
    assert!(process.0.try_wait().unwrap().is_none(), "it was to run on");

    let [before, _, made] = ["1", "2", "3"].map(|name| Contents::read(&directory.join(name)).unwrap());
    assert_eq!((before.kind, made.kind), (Kind::PreDump, Kind::Checkpoint));
    assert_eq!((&before.problems, &made.problems), (&Vec::new(), &Vec::new()));
    assert!(before.memory().total().stored >= SIZE * MIB, "{:?}", before.memory());
    assert!(made.processes[0].memory.anonymous.in_parent >= SIZE * MIB, "{:?}", made.memory());
    assert_eq!(made.parents.len(), 2);

    let [first, second, last] = ["1", "2", "3"].map(|name| pages(&directory.join(name)));
    assert!(first >= SIZE * MIB, "{first} bytes at first");
    assert!(second < MIB && last < MIB, "{second} and {last} bytes of memory that nobody wrote to");
}

mod vm {
    use std::time::Duration;

    use test_fixtures::{VmConfig, vm};

    #[test]
    fn dirty_memory_is_tracked() {
        if let Some(why) = vm::skip_reason() {
            eprintln!("skipped: {why}");
            return;
        }
        let test = ["--exact", "only_what_changed_is_copied_again"];
        vm::run_tests(&VmConfig::default(), &test, Duration::from_secs(180)).unwrap();
    }
}
