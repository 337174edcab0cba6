//! What takes a whole kernel: cgroup2 with its controllers, and CAP_SYS_RESOURCE. In a virtual machine there is all of it;
//! on other hosts each check says what is missing.

use std::time::{Duration, Instant};

use test_fixtures::Image;

use crate::host::{Check, Host};

pub(crate) const CHECKS: &[Check] = &[
    ("the limit of processes bites", pids_limit),
    ("the cpu quota bites, and the metrics say so", cpu_quota),
    ("the limit of a disk's bandwidth bites", io_limit),
    ("device rules hold for devices that are made inside", device_rules),
    ("a container divides its own cgroup", delegation),
    ("oom_score_adj is lowered and a limit raised", raised),
];

pub(crate) const CONFIG: &str = "/tmp/config.json";
/// Not below /tmp, where there are no devices.
pub(crate) const ROOTFS: &str = "/var/lib/rootfs";
const GROUP: &str = "/sys/fs/cgroup/default/c1";

/// Says that, and why, a check is left out.
fn lacks(host: &Host, controllers: &[&str]) -> bool {
    let missing = controllers.iter().find(|name| !host.has_controller(name));
    if let Some(name) = missing {
        eprintln!("skipped: no controller {name}");
    }
    missing.is_some()
}

/// Runs a spec, which is ctr's default one with `change`, a program of jq, in busybox.
#[track_caller]
pub(crate) fn start(host: &Host, change: &str, script: &str) {
    host.node.unpack(Image::Busybox, ROOTFS).unwrap();
    let program = format!(
        ".process.args = [\"sh\", \"-c\", $script] | .process.env = [\"PATH=/bin\"] | .process.terminal = false \
         | .root = {{\"path\": \"{ROOTFS}\"}} | .linux.cgroupsPath = \"/default/c1\" | {change}"
    );
    let spec = host.node.run(["ctr", "oci", "spec"]).unwrap();
    host.node.write(CONFIG, spec).unwrap();
    let changed = host.node.run(["jq", "--arg", "script", script, &program, CONFIG]).unwrap();
    host.node.write(CONFIG, changed).unwrap();
    host.ctr_ok(&["run", "-d", "--runtime", host.lane.runtime.name(), "--config", CONFIG, "c1"]);
}

pub(crate) fn remove(host: &Host) {
    host.kill_and_remove("c1");
    host.node.run(["rm", "-rf", CONFIG, ROOTFS]).unwrap();
}

#[track_caller]
pub(crate) fn exec(host: &Host, script: &str) -> String {
    host.ctr_ok(&["task", "exec", "--exec-id", "look", "c1", "sh", "-ec", script])
}

fn group_file(host: &Host, name: &str) -> String {
    host.node.read_text(&format!("{GROUP}/{name}")).unwrap()
}

/// The number behind a word at the start of a line.
fn number(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
    line.unwrap_or_else(|| panic!("no {key} in {text}"))
}

fn pids_limit(host: &Host) {
    if lacks(host, &["pids"]) {
        return;
    }
    start(host, ".linux.resources.pids = {\"limit\": 10}", "while :; do sleep 1; done");
    assert_eq!(group_file(host, "pids.max"), "10");
    let line = ["task", "exec", "--exec-id", "many", "c1", "sh", "-c", "for n in $(seq 20); do sleep 7658 & done"];
    let refused = host.ctr(&line).error_text();
    assert!(refused.contains("fork"), "{refused}");
    assert!(number(&group_file(host, "pids.events"), "max ") > 0);
    assert!(group_file(host, "pids.current").parse::<u64>().unwrap() <= 10);
    remove(host);
}

fn cpu_quota(host: &Host) {
    if lacks(host, &["cpu", "memory"]) {
        return;
    }
    let limits = ".linux.resources.cpu = {\"quota\": 20000, \"period\": 100000} | \
                  .linux.resources.memory = {\"limit\": 67108864}";
    start(host, limits, "while :; do :; done");
    assert_eq!(group_file(host, "cpu.max"), "20000 100000");
    let throttled = || number(&group_file(host, "cpu.stat"), "nr_throttled ");
    host.wait("it is throttled", || throttled() > 3);
    let before = throttled();
    let metrics = host.ctr_ok(&["task", "metrics", "--format", "json", "c1"]);
    host.node.write("/tmp/metrics.json", metrics).unwrap();
    // containerd 1.7 and 2.1 write the same message with different keys.
    let numbers = "[.. | objects | (.nr_throttled // .nrThrottled // empty), (.usage_limit // .usageLimit // empty)] \
                   | map(tonumber) | @text";
    let told = host.node.run(["jq", "-c", "-r", numbers, "/tmp/metrics.json"]).unwrap();
    let told: Vec<u64> = told.trim_matches(['[', ']']).split(',').map(|number| number.parse().unwrap()).collect();
    assert!(told.iter().any(|number| *number >= before && *number < before + 10_000), "{before} is not in {told:?}");
    assert!(told.contains(&67_108_864), "no memory limit in {told:?}");
    host.node.remove("/tmp/metrics.json").unwrap();
    remove(host);
}

/// The numbers of a disk of the node's kernel, as `MAJOR:MINOR`.
fn disk(host: &Host) -> Option<(String, String)> {
    let found = host.node.sh("cat /sys/block/nvme*/dev /sys/block/[sv]d*/dev 2>/dev/null | head -n 1").ok()?;
    let (major, minor) = found.split_once(':')?;
    Some((major.to_owned(), minor.to_owned()))
}

fn io_limit(host: &Host) {
    if lacks(host, &["io"]) {
        return;
    }
    let Some((major, minor)) = disk(host) else {
        eprintln!("skipped: no disk");
        return;
    };
    let change = format!(
        ".linux.resources.blockIO = {{\"throttleReadBpsDevice\": [{{\"major\": {major}, \"minor\": {minor}, \
         \"rate\": 1048576}}]}} | .linux.devices = [{{\"path\": \"/dev/disk\", \"type\": \"b\", \"major\": {major}, \
         \"minor\": {minor}, \"fileMode\": 384, \"uid\": 0, \"gid\": 0}}] | .linux.resources.devices += \
         [{{\"allow\": true, \"type\": \"b\", \"major\": {major}, \"minor\": {minor}, \"access\": \"r\"}}]"
    );
    start(host, &change, "while :; do sleep 1; done");
    let limit = group_file(host, "io.max");
    assert_eq!(limit, format!("{major}:{minor} rbps=1048576 wbps=max riops=max wiops=max"));
    let started = Instant::now();
    exec(host, "dd if=/dev/disk of=/dev/null bs=65536 count=64 iflag=direct");
    // 4 MiB; the kernel lets a first slice pass.
    assert!(started.elapsed() > Duration::from_secs(3), "{:?}", started.elapsed());
    remove(host);
}

fn device_rules(host: &Host) {
    start(host, ".", "while :; do sleep 1; done");
    exec(host, "mknod /tmp/null c 1 3; echo gone >/tmp/null; rm /tmp/null");
    // /dev/kmsg, by another name.
    let denied = exec(host, "mknod /tmp/kmsg c 1 11; head -c 1 /tmp/kmsg 2>&1 && exit 1; rm /tmp/kmsg");
    assert!(denied.contains("Operation not permitted"), "{denied}");
    remove(host);
}

fn delegation(host: &Host) {
    if lacks(host, &["pids", "memory"]) {
        return;
    }
    let writable = ".mounts += [{\"destination\": \"/sys/fs/cgroup\", \"type\": \"cgroup\", \"source\": \"cgroup\", \
                    \"options\": [\"rw\"]}]";
    let namespace = "if any(.linux.namespaces[]; .type == \"cgroup\") then . \
                     else .linux.namespaces += [{\"type\": \"cgroup\"}] end";
    let limit = ".linux.resources.pids = {\"limit\": 50}";
    start(host, &format!("{writable} | {namespace} | {limit}"), "exec sleep 1000");
    assert_eq!(exec(host, "cat /proc/1/cgroup"), "0::/");
    let script = "cd /sys/fs/cgroup; mkdir own; for pid in $(cat cgroup.procs); do echo $pid >own/cgroup.procs || :; done; \
                  echo '+pids +memory' >cgroup.subtree_control; mkdir part; echo 7 >part/pids.max; cat part/pids.max";
    assert_eq!(exec(host, script), "7");
    assert_eq!(group_file(host, "part/pids.max"), "7");
    remove(host);
    assert!(!host.node.exists(GROUP), "its own cgroups go with it");
}

fn raised(host: &Host) {
    let status = host.node.sh("cat /proc/self/status").unwrap();
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).unwrap();
    // CAP_SYS_RESOURCE
    if u64::from_str_radix(bounding, 16).unwrap() >> 24 & 1 == 0 {
        eprintln!("skipped: no CAP_SYS_RESOURCE");
        return;
    }
    let limits = "[{\"type\": \"RLIMIT_NOFILE\", \"soft\": 200000, \"hard\": 1000000}]";
    let change = format!(".process.oomScoreAdj = -500 | .process.rlimits = {limits}");
    start(host, &change, "while :; do sleep 1; done");
    assert_eq!(exec(host, "cat /proc/1/oom_score_adj"), "-500");
    let files = exec(host, "grep 'Max open files' /proc/1/limits");
    assert_eq!(files.split_whitespace().collect::<Vec<_>>(), ["Max", "open", "files", "200000", "1000000", "files"]);
    remove(host);
}
