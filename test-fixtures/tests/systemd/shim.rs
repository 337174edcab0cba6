//! The driver under containerd: rtc's shim with its `SystemdCgroup` option, and rtc under runc's shim.

use test_fixtures::vm::BROUGHT;
use test_fixtures::{Image, Tree, Vm};

use crate::{Check, Host};

pub(crate) const CHECKS: &[Check] = &[
    ("ctr run with the shim's option", run),
    ("a killed shim's container is deleted, and its scope", killed),
    ("under runc's shim", runc_shim),
];

const OPTIONS: &str = "/tmp/rtc.toml";
const UNIT: &str = "p-c1.scope";
const PATH: &str = "rtctest-a.slice:p:c1";

pub(crate) fn prepare(vm: &Vm) {
    vm.write("/etc/containerd/config.toml", include_str!("../../src/node/containerd-2.toml")).unwrap();
    vm.write(OPTIONS, "SystemdCgroup = true\n").unwrap();
    let image = Image::Busybox;
    vm.write("/tmp/image.tar", image.archive(Tree::Forky, image.name()).unwrap()).unwrap();
    let path = format!("PATH={BROUGHT}/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    vm.sh(&format!("export {path}; setsid containerd >/tmp/containerd.log 2>&1 </dev/null &")).unwrap();
    vm.sh("for _ in $(seq 300); do ctr version >/dev/null 2>&1 && exit 0; sleep 0.1; done; cat /tmp/containerd.log; exit 1")
        .unwrap();
    vm.run(["ctr", "image", "import", "/tmp/image.tar"]).unwrap();
}

fn ctr_run(host: &Host<'_>, runtime: &[&str]) {
    let line = ["ctr", "run", "-d", "--cgroup", PATH, "--memory-limit", "67108864"];
    let rest = [Image::Busybox.name(), "c1", "sleep", "1000"];
    host.vm.run(line.iter().chain(runtime).chain(&rest)).unwrap();
    host.shows(UNIT, &[("ControlGroup", "/rtctest.slice/rtctest-a.slice/p-c1.scope"), ("MemoryMax", "67108864")]);
}

fn remove(host: &Host<'_>) {
    host.vm.sh("ctr task kill -s KILL c1; ctr task delete c1 || true; ctr container rm c1").unwrap();
    host.wait("the unit is gone", || host.show(UNIT, "LoadState") == "not-found");
}

const RTC: [&str; 4] = ["--runtime", "io.containerd.rtc.v2", "--runtime-config-path", OPTIONS];

fn run(host: &Host<'_>) {
    ctr_run(host, &RTC);
    let exec = ["ctr", "task", "exec", "--exec-id", "e", "c1", "sh", "-c", "cat /proc/self/cgroup"];
    // In a cgroup namespace of its own; in none it is the host's path.
    let seen = host.vm.run(exec).unwrap();
    assert!(seen == "0::/" || seen.ends_with("/p-c1.scope"), "{seen}");
    host.vm.run(["ctr", "task", "pause", "c1"]).unwrap();
    host.vm.run(["ctr", "task", "resume", "c1"]).unwrap();
    assert!(host.vm.run(["ctr", "task", "metrics", "c1"]).unwrap().contains("memory"), "no metrics");
    remove(host);
}

fn killed(host: &Host<'_>) {
    ctr_run(host, &RTC);
    host.vm.sh("pkill -KILL -f '[c]ontainerd-shim-rtc-v2'").unwrap();
    host.wait("the unit is gone", || host.show(UNIT, "LoadState") == "not-found");
    host.vm.sh("ctr task delete c1 || true; ctr container rm c1").unwrap();
}

fn runc_shim(host: &Host<'_>) {
    let binary = format!("{BROUGHT}/bin/rtc");
    let runtime = ["--runtime", "io.containerd.runc.v2", "--runc-binary", binary.as_str(), "--runc-systemd-cgroup"];
    ctr_run(host, &runtime);
    remove(host);
}
