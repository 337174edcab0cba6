//! On the host's real hierarchies, each in a fresh cgroup that goes away with the test.

use std::io::Write;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use oci_spec::runtime::{
    LinuxCpuBuilder, LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxMemoryBuilder, LinuxPidsBuilder,
    LinuxResourcesBuilder,
};

use super::*;

const DEADLINE: Duration = Duration::from_secs(5);

/// A cgroup and a process in it; both end with the value.
struct Subject {
    cgroup: Cgroup,
    child: Option<Child>,
}

impl Subject {
    /// `None`, with the reason printed, where cgroups cannot be made.
    fn new() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root to make cgroups");
            return None;
        }
        let name = format!("/rtc-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let id = ContainerId::parse("test").unwrap();
        let cgroup = Cgroup::new(&id, Some(Path::new(&name))).unwrap();
        Some(Self { cgroup, child: None })
    }

    /// The script begins once the process is in the cgroup.
    fn start(&mut self, script: &str) -> Pid {
        let script = format!("read _; {script}");
        let mut command = Command::new("sh");
        let mut child = command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let pid = Pid::new(i32::try_from(child.id()).unwrap()).unwrap();
        for dir in self.cgroup.v1.iter().chain(&self.cgroup.unified) {
            file::write(&dir.path.join("cgroup.procs"), &pid.to_string()).unwrap();
        }
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        self.child = Some(child);
        pid
    }

    fn reap(&mut self) -> std::process::ExitStatus {
        self.child.as_mut().unwrap().wait().unwrap()
    }

    fn read(&self, controller: &str, name: &str) -> Option<String> {
        let dir = self.cgroup.controller(controller).or(self.cgroup.unified.as_ref())?;
        file::read(&dir.path.join(name)).unwrap().map(|text| text.trim().to_owned())
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            self.cgroup.thaw(DEADLINE).ok();
            child.kill().ok();
            child.wait().ok();
        }
        self.cgroup.kill(DEADLINE).ok();
        self.cgroup.remove(DEADLINE).unwrap();
    }
}

fn state(pid: Pid) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
}

#[test]
fn a_process_joins_every_hierarchy_and_the_directories_go_again() {
    let Some(mut subject) = Subject::new() else { return };
    subject.cgroup.create(None).unwrap();
    let pid = subject.start("exec sleep 100");
    for dir in subject.cgroup.dirs() {
        assert_eq!(file::read_pids(&dir.path.join("cgroup.procs")).unwrap(), [pid], "{}", dir.path.display());
    }
    assert!(matches!(subject.cgroup.create(None), Err(Error::InUse { processes: 1, .. })));
    let cgroup = subject.cgroup.clone();
    drop(subject);
    assert!(cgroup.dirs().all(|dir| !dir.path.exists()));
    cgroup.remove(DEADLINE).unwrap();
    assert_eq!(cgroup.pids().unwrap(), []);
}

#[test]
fn the_subtree_freezes_and_thaws_and_is_killed_while_frozen() {
    let Some(mut subject) = Subject::new() else { return };
    subject.cgroup.create(None).unwrap();
    let pid = subject.start("while :; do sh -c :; done");
    assert!(!subject.cgroup.frozen().unwrap());
    subject.cgroup.freeze(DEADLINE).unwrap();
    assert!(subject.cgroup.frozen().unwrap());
    subject.cgroup.signal(Signal::new(18).unwrap()).unwrap();
    assert!(subject.cgroup.frozen().unwrap(), "a signal does not thaw");
    subject.cgroup.thaw(DEADLINE).unwrap();
    assert!(!subject.cgroup.frozen().unwrap());
    subject.cgroup.freeze(DEADLINE).unwrap();
    subject.cgroup.kill(DEADLINE).unwrap();
    assert_eq!(state(pid), 'Z');
    assert!(!subject.reap().success());
}

#[test]
fn a_frozen_cgroup_is_not_joined_and_stays_as_it_is() {
    let Some(subject) = Subject::new() else { return };
    subject.cgroup.create(None).unwrap();
    subject.cgroup.freeze(DEADLINE).unwrap();
    let err = subject.cgroup.create(None).unwrap_err();
    assert!(matches!(err, Error::Frozen { .. }), "{err}");
    assert!(subject.cgroup.frozen().unwrap());
    subject.cgroup.thaw(DEADLINE).unwrap();
    subject.cgroup.create(None).unwrap();
}

#[test]
fn a_signal_reaches_every_process() {
    let Some(mut subject) = Subject::new() else { return };
    subject.cgroup.create(None).unwrap();
    subject.start("trap 'exit 7' TERM; sleep 100 & wait");
    let start = Instant::now();
    while subject.cgroup.pids().unwrap().len() < 2 {
        assert!(start.elapsed() < DEADLINE);
        std::thread::sleep(Duration::from_millis(5));
    }
    // The shell must have set its trap: it has forked after it.
    subject.cgroup.signal(Signal::TERM).unwrap();
    assert_eq!(subject.reap().code(), Some(7));
    subject.cgroup.kill(DEADLINE).unwrap();
}

#[test]
fn a_failed_creation_leaves_nothing_behind() {
    let Some(subject) = Subject::new() else { return };
    let cpu = LinuxCpuBuilder::default().cpus("4096").build().unwrap();
    let resources = LinuxResourcesBuilder::default().cpu(cpu).build().unwrap();
    assert!(subject.cgroup.create(Some(&resources)).is_err());
    assert!(subject.cgroup.dirs().all(|dir| !dir.path.exists()));
}

#[test]
fn limits_are_written_or_refused_by_name() {
    let Some(subject) = Subject::new() else { return };
    let memory = LinuxMemoryBuilder::default().limit(67_108_864_i64).build().unwrap();
    let pids = LinuxPidsBuilder::default().limit(50_i64).build().unwrap();
    let resources = LinuxResourcesBuilder::default().memory(memory).pids(pids).build().unwrap();
    match subject.cgroup.create(Some(&resources)) {
        Ok(()) => {
            let file = if subject.cgroup.is_v2() { "memory.max" } else { "memory.limit_in_bytes" };
            assert_eq!(subject.read("memory", file).unwrap(), "67108864");
            assert_eq!(subject.read("pids", "pids.max").unwrap(), "50");
        }
        Err(err @ Error::MissingController { .. }) => {
            assert!(
                err.to_string().starts_with("memory limit 67108864: controller memory is not available in"),
                "{err}"
            );
        }
        Err(err) => panic!("{err:?}"),
    }
}

#[test]
fn default_values_need_no_controller() {
    let Some(subject) = Subject::new() else { return };
    let cpu = LinuxCpuBuilder::default().shares(1024_u64).build().unwrap();
    let pids = LinuxPidsBuilder::default().limit(-1_i64).build().unwrap();
    let memory = LinuxMemoryBuilder::default().limit(-1_i64).build().unwrap();
    let resources = LinuxResourcesBuilder::default().cpu(cpu).pids(pids).memory(memory).build().unwrap();
    subject.cgroup.create(Some(&resources)).unwrap();
    subject.cgroup.update(&resources).unwrap();
}

#[test]
fn statistics_count_the_process() {
    let Some(mut subject) = Subject::new() else { return };
    subject.cgroup.create(None).unwrap();
    subject.start("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 100");
    std::thread::sleep(Duration::from_millis(100));
    match subject.cgroup.stats().unwrap() {
        Stats::V1(stats) => {
            assert!(stats.pids.unwrap().current >= 1);
            assert!(stats.cpu.unwrap().usage.total > 0);
            assert!(stats.memory.unwrap().usage.unwrap().limit > 0);
        }
        Stats::V2(stats) => assert!(stats.cpu.unwrap().usage_usec > 0),
    }
}

#[test]
fn device_rules_hold_and_change() {
    let Some(mut subject) = Subject::new() else { return };
    subject.cgroup.create(Some(&LinuxResourcesBuilder::default().build().unwrap())).unwrap();
    // 1:11 is kmsg, which no container gets; null it always gets.
    let script = "true </dev/null || exit 1; true </dev/kmsg 2>/dev/null && exit 2; exit 0";
    subject.start(script);
    assert_eq!(subject.reap().code(), Some(0));
    let kmsg = LinuxDeviceCgroupBuilder::default()
        .allow(true)
        .typ(LinuxDeviceType::C)
        .major(1_i64)
        .minor(11_i64)
        .access("r")
        .build()
        .unwrap();
    let resources = LinuxResourcesBuilder::default().devices(vec![kmsg]).build().unwrap();
    subject.cgroup.update(&resources).unwrap();
    subject.start(script);
    assert_eq!(subject.reap().code(), Some(2));
}

#[test]
fn an_oom_kill_is_counted_and_the_end_is_seen() {
    let Some(mut subject) = Subject::new() else { return };
    let memory = LinuxMemoryBuilder::default().limit(16_777_216_i64).swap(16_777_216_i64).build().unwrap();
    let resources = LinuxResourcesBuilder::default().memory(memory).build().unwrap();
    match subject.cgroup.create(Some(&resources)) {
        Ok(()) => {}
        Err(Error::MissingController { .. }) => {
            eprintln!("skipped: no memory controller");
            return;
        }
        Err(err) => panic!("{err:?}"),
    }
    let mut watch = subject.cgroup.oom_watch().unwrap();
    assert_eq!(watch.read().unwrap(), Some(0));
    subject.start("cat /dev/zero | tail -c 100M");
    assert!(!subject.reap().success());
    let poll = &mut [nix::poll::PollFd::new(watch.as_fd(), nix::poll::PollFlags::POLLIN)];
    assert_eq!(nix::poll::poll(poll, 5000_u16).unwrap(), 1);
    // More than one where the kernel finds no memory again before the first victim is gone.
    assert!(watch.read().unwrap() >= Some(1));
    subject.cgroup.remove(DEADLINE).unwrap();
    assert_eq!(watch.read().unwrap(), None);
}
