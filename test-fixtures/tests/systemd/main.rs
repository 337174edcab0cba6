//! The systemd cgroup driver on hosts whose PID 1 is systemd: virtual machines.
//!
//! One boot has all checks: those of [`contract`] with runc and with rtc, as far as they are one contract, then those of
//! rtc's own command line and of its shim. Another has those of a user's own systemd.

#![expect(clippy::print_stderr, reason = "why a test is skipped, and which check a failure belongs to")]

mod contract;
mod own;
mod shim;
mod user;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use test_fixtures::vm::{self, BROUGHT, Init};
use test_fixtures::{Output, Tree, Vm, VmConfig};

type Check = (&'static str, fn(&Host<'_>));

const BUNDLE: &str = "/srv/bundle";

#[test]
fn on_cgroup2() {
    let Some(vm) = boot(Tree::Forky, Init::Systemd) else { return };
    assert_eq!(vm.read_text("/proc/1/comm").unwrap(), "systemd");
    let runc = Host::new(&vm, "runc");
    let rtc = Host::new(&vm, &format!("{BROUGHT}/bin/rtc"));
    runc.check(contract::CHECKS);
    rtc.check(contract::CHECKS);
    rtc.check(contract::CHECKS_OF_CGROUP2);
    rtc.check(own::CHECKS);
    shim::prepare(&vm);
    rtc.check(shim::CHECKS);
}

#[test]
fn of_a_user() {
    let Some(vm) = boot(Tree::Forky, Init::Systemd) else { return };
    user::check(&vm);
}

#[test]
fn on_hybrid() {
    let Some(vm) = boot(Tree::Trixie, Init::SystemdHybrid) else { return };
    assert!(vm.exists("/sys/fs/cgroup/devices/cgroup.procs").unwrap(), "no v1");
    let rtc = Host::new(&vm, &format!("{BROUGHT}/bin/rtc"));
    rtc.check(contract::CHECKS);
}

fn boot(tree: Tree, init: Init) -> Option<Vm> {
    if let Some(why) = vm::skip_reason() {
        eprintln!("skipped: {why}");
        return None;
    }
    Some(Vm::boot(&VmConfig { tree, init, ..VmConfig::default() }).unwrap())
}

/// A machine with a bundle, and a runtime.
struct Host<'a> {
    vm: &'a Vm,
    program: String,
}

impl<'a> Host<'a> {
    fn new(vm: &'a Vm, program: &str) -> Self {
        let rootfs = format!("{BUNDLE}/rootfs");
        vm.sh(&format!(
            "mkdir -p {rootfs}/bin {rootfs}/proc {rootfs}/dev {rootfs}/sys {rootfs}/tmp; cp /usr/bin/busybox {rootfs}/bin/; \
             for name in sh sleep cat dd mknod tail true; do ln -sf busybox {rootfs}/bin/$name; done"
        ))
        .unwrap();
        Self { vm, program: program.to_owned() }
    }

    /// All of them, whatever failed before; each is to leave no unit behind.
    #[track_caller]
    fn check(&self, checks: &[Check]) {
        let mut failed = Vec::new();
        for (name, check) in checks {
            let started = Instant::now();
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                check(self);
                assert_eq!(self.units(), "", "units are left");
            }));
            eprintln!("{}: {name}: {:?} in {:?}", self.program, result.is_ok(), started.elapsed());
            if result.is_err() {
                failed.push(*name);
                self.clean();
            }
        }
        assert!(failed.is_empty(), "{}: {failed:?}", self.program);
    }

    fn clean(&self) {
        let ids = ["c1", "c2"].map(|id| format!("{} delete -f {id}", self.program)).join("; ");
        self.vm.sh(&format!("{ids}; systemctl stop 'p-*.scope' 'runc-*.scope'; true")).ok();
    }

    /// Of containers.
    fn units(&self) -> String {
        let list = ["systemctl", "list-units", "--all", "--plain", "--no-legend", "p-*", "runc-*", "rtctest-in*"];
        self.vm.run(list).unwrap()
    }

    fn configure(&self, args: &[&str], change: impl FnOnce(&mut Value)) {
        let mut spec = json!({
            "ociVersion": "1.2.0",
            "root": {"path": "rootfs"},
            "process": {
                "user": {"uid": 0, "gid": 0}, "args": args, "env": ["PATH=/bin"], "cwd": "/",
                "capabilities": {"bounding": ["CAP_MKNOD"], "permitted": ["CAP_MKNOD"], "effective": ["CAP_MKNOD"]},
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
            ],
            "linux": {
                "cgroupsPath": "rtctest-a.slice:p:c1",
                "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "network"}, {"type": "cgroup"}],
                "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            },
        });
        change(&mut spec);
        self.vm.write(&format!("{BUNDLE}/config.json"), spec.to_string()).unwrap();
    }

    fn runtime(&self, arguments: &[&str]) -> Output {
        let program = [self.program.as_str(), "--systemd-cgroup"];
        self.vm.exec(program.iter().chain(arguments)).unwrap()
    }

    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.runtime(arguments);
        assert_eq!(output.code(), 0, "{arguments:?}: {} {}", output.text(), output.error_text());
        output.text()
    }

    /// A command that leaves a process behind, which is not to have the streams that this waits for.
    #[track_caller]
    fn detached(&self, arguments: &str) {
        let line = format!("{} --systemd-cgroup {arguments} </dev/null >/tmp/detached.log 2>&1", self.program);
        let log = || self.vm.read_text("/tmp/detached.log").unwrap_or_default();
        self.vm.sh(&line).unwrap_or_else(|err| panic!("{err}: {}", log()));
    }

    /// A container that runs, with stdio that keeps nobody waiting.
    #[track_caller]
    fn start(&self, id: &str) {
        self.create(id).unwrap();
        self.ok(&["start", id]);
    }

    fn create(&self, id: &str) -> Result<(), String> {
        let log = format!("/tmp/{id}.log");
        let line = format!("{} --systemd-cgroup create -b {BUNDLE} {id} </dev/null >{log} 2>&1", self.program);
        self.vm.sh(&line).map(drop).map_err(|_| self.vm.read_text(&log).unwrap())
    }

    #[track_caller]
    fn refused(&self, words: &str) {
        let said = self.create("c1").expect_err("created").replace("\\\"", "\"");
        assert!(said.contains(words), "{said}");
        assert!(self.runtime(&["state", "c1"]).code() != 0, "a state is left");
    }

    #[track_caller]
    fn delete(&self, id: &str) {
        self.ok(&["delete", "-f", id]);
    }

    fn show(&self, unit: &str, property: &str) -> String {
        self.vm.run(["systemctl", "show", "-P", property, unit]).unwrap()
    }

    #[track_caller]
    fn shows(&self, unit: &str, expected: &[(&str, &str)]) {
        for (property, value) in expected {
            assert_eq!(self.show(unit, property), *value, "{property} of {unit}");
        }
    }

    #[track_caller]
    fn wait(&self, what: &str, until: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !until() {
            assert!(Instant::now() < deadline, "it never was so: {what}");
        }
    }
}
