//! Cgroup paths and limits.

use test_fixtures::Cgroups;

use crate::host::{Check, Host};

pub(crate) const CHECKS: &[Check] = &[
    ("cgroup path", cgroup_path),
    ("memory limit", memory_limit),
    ("cpu limit", cpu_limit),
    ("cpu shares", cpu_shares),
    ("no memory to begin with", no_memory_to_begin_with),
    ("out of memory", out_of_memory),
];

/// A file of the container's cgroup on the node; ctr puts a container into `/NAMESPACE/ID`.
fn cgroup_file(host: &Host, path: &str, controller: &str, file: &str) -> String {
    match host.lane.cgroups {
        Cgroups::Hybrid => format!("/sys/fs/cgroup/{controller}{path}/{file}"),
        Cgroups::V2 => format!("/sys/fs/cgroup{path}/{file}"),
    }
}

/// The node's mount of a v1 controller, which may share its hierarchy with another.
fn read(host: &Host, controller: &str, file: &str) -> String {
    host.node.read_text(&cgroup_file(host, "/default/c1", controller, file)).unwrap()
}

fn cgroup_path(host: &Host) {
    for (flags, path) in [(&[][..], "/default/c1"), (&["--cgroup", "/mine/deep"][..], "/mine/deep")] {
        host.start_detached(flags, "c1", &["sleep", "1000"]);
        // Read inside the node: the kernel translates the pids for the reader.
        let procs = host.node.run(["cat", &cgroup_file(host, path, "pids", "cgroup.procs")]).unwrap();
        assert_eq!(procs, host.pid("c1").to_string(), "{path}");
        host.kill_and_remove("c1");
        assert!(!host.node.exists(&cgroup_file(host, path, "pids", "cgroup.procs")), "{path}");
    }
    // Of a path that was asked for, only the last part is the container's.
    host.node.sh("find /sys/fs/cgroup -depth -type d -path '*/mine' -exec rmdir {} +").unwrap();
}

/// Whether the lane has the controller; where not, that the limit is refused by its name.
fn has_or_refuses(host: &Host, controller: &str, flags: &[&str]) -> bool {
    if host.has_controller(controller) {
        return true;
    }
    host.run_refuses(flags, &["true"], &[controller]);
    false
}

fn memory_limit(host: &Host) {
    let flags = ["--memory-limit", "67108864"];
    if !has_or_refuses(host, "memory", &flags) {
        return;
    }
    host.start_detached(&flags, "c1", &["sleep", "1000"]);
    let file = if host.lane.cgroups == Cgroups::Hybrid { "memory.limit_in_bytes" } else { "memory.max" };
    assert_eq!(read(host, "memory", file), "67108864");
    host.kill_and_remove("c1");
}

fn cpu_limit(host: &Host) {
    let flags = ["--cpus", "0.5"];
    if !has_or_refuses(host, "cpu", &flags) {
        return;
    }
    host.start_detached(&flags, "c1", &["sleep", "1000"]);
    if host.lane.cgroups == Cgroups::Hybrid {
        assert_eq!(read(host, "cpu", "cpu.cfs_quota_us"), "50000");
        assert_eq!(read(host, "cpu", "cpu.cfs_period_us"), "100000");
    } else {
        assert_eq!(read(host, "cpu", "cpu.max"), "50000 100000");
    }
    host.kill_and_remove("c1");
}

fn cpu_shares(host: &Host) {
    let flags = ["--cpu-shares", "512"];
    if !has_or_refuses(host, "cpu", &flags) {
        return;
    }
    host.start_detached(&flags, "c1", &["sleep", "1000"]);
    if host.lane.cgroups == Cgroups::Hybrid {
        assert_eq!(read(host, "cpu", "cpu.shares"), "512");
    }
    host.kill_and_remove("c1");
}

/// The kernel ends the runtime's own process, or it refuses the limit: in no case is that all one hears.
fn no_memory_to_begin_with(host: &Host) {
    if !host.has_controller("memory") {
        eprintln!("skipped: no memory controller");
        return;
    }
    host.run_refuses(&["--memory-limit", "4096"], &["true"], &["memory limit"]);
}

fn out_of_memory(host: &Host) {
    if !host.has_controller("memory") {
        eprintln!("skipped: no memory controller");
        return;
    }
    let events = host.node.spawn(["ctr", "events"]).unwrap();
    // tail keeps its input in memory until it has seen a line's end.
    let output = host.run(&["--memory-limit", "16777216"], &["sh", "-c", "tail /dev/zero"]);
    assert_eq!(output.code(), 137);
    host.wait("the event /tasks/oom", || String::from_utf8_lossy(&events.stdout_so_far()).contains("/tasks/oom"));
}
