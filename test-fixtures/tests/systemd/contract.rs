//! What runc does with systemd, and rtc too, in the same words.

use serde_json::json;

use crate::{Check, Host};

pub(crate) const CHECKS: &[Check] = &[
    ("a scope is where the path says, and gone with the container", scope),
    ("without a path it is runc-ID.scope of system.slice", default_path),
    ("a unit that exists is left alone", exists),
    ("annotations are properties", annotations),
    ("bad paths and annotations are refused", refused),
    ("a program that is missing leaves nothing", missing_program),
    ("devices are denied, also after a reload", devices),
    ("tasks are limited, and an update holds after a reload", tasks),
];

pub(crate) const CHECKS_OF_CGROUP2: &[Check] =
    &[("limits are properties and files", limits), ("memory runs out", memory)];

const UNIT: &str = "p-c1.scope";
const GROUP: &str = "/sys/fs/cgroup/rtctest.slice/rtctest-a.slice/p-c1.scope";
const SLEEP: &[&str] = &["sleep", "1000"];

fn scope(host: &Host<'_>) {
    host.configure(SLEEP, |_| ());
    host.create("c1").unwrap();
    let path = "/rtctest.slice/rtctest-a.slice/p-c1.scope";
    host.shows(
        UNIT,
        &[
            ("ActiveState", "active"),
            ("ControlGroup", path),
            ("Slice", "rtctest-a.slice"),
            ("Delegate", "yes"),
            ("DefaultDependencies", "no"),
            ("MemoryAccounting", "yes"),
            ("TasksAccounting", "yes"),
            ("Transient", "yes"),
        ],
    );
    let state: serde_json::Value = serde_json::from_str(&host.ok(&["state", "c1"])).unwrap();
    let pid = state["pid"].to_string();
    let cgroup = host.vm.read_text(&format!("/proc/{pid}/cgroup")).unwrap();
    assert!(
        cgroup.lines().all(|line| line.ends_with(path) || line.contains(":rdma:") || line.contains("misc")),
        "{cgroup}"
    );
    // Nothing of the runtime's own is left in it.
    assert_eq!(host.ok(&["ps", "-f", "json", "c1"]), format!("[{pid}]"));
    host.ok(&["start", "c1"]);
    host.detached("exec -d c1 sleep 1001");
    let two: Vec<i32> = serde_json::from_str(&host.ok(&["ps", "-f", "json", "c1"])).unwrap();
    assert_eq!(two.len(), 2);
    host.ok(&["pause", "c1"]);
    host.vm.run(["systemctl", "daemon-reload"]).unwrap();
    assert!(host.ok(&["state", "c1"]).contains("\"paused\""));
    host.ok(&["resume", "c1"]);
    assert!(host.ok(&["events", "--stats", "c1"]).contains("\"pids\""));
    host.ok(&["kill", "c1", "KILL"]);
    host.wait("it has stopped", || host.ok(&["state", "c1"]).contains("\"stopped\""));
    host.ok(&["delete", "c1"]);
    host.shows(UNIT, &[("LoadState", "not-found")]);
    let left = host.vm.sh("find /sys/fs/cgroup -name 'p-c1.scope'").unwrap();
    assert_eq!(left, "");
}

fn default_path(host: &Host<'_>) {
    host.configure(SLEEP, |spec| spec["linux"]["cgroupsPath"] = json!(""));
    host.start("c1");
    host.shows("runc-c1.scope", &[("ControlGroup", "/system.slice/runc-c1.scope")]);
    host.delete("c1");
    host.configure(&["true"], |spec| spec["linux"]["cgroupsPath"] = json!(":p:c1"));
    host.ok(&["run", "-b", crate::BUNDLE, "c1"]);
}

fn exists(host: &Host<'_>) {
    host.configure(SLEEP, |_| ());
    host.start("c1");
    let said = host.create("c2").unwrap_err();
    // runc looks into the cgroup first.
    assert!(said.contains("was already loaded") || said.contains("container's cgroup is not empty"), "{said}");
    assert!(host.ok(&["state", "c1"]).contains("\"running\""));
    host.shows(UNIT, &[("ActiveState", "active")]);
    host.delete("c1");
}

fn annotations(host: &Host<'_>) {
    host.configure(SLEEP, |spec| {
        spec["annotations"] = json!({
            "org.systemd.property.TimeoutStopSec": "uint64 123",
            "org.systemd.property.CollectMode": "'inactive-or-failed'",
            "org.systemd.property.After": "['basic.target', 'sockets.target']",
        });
    });
    host.start("c1");
    host.shows(UNIT, &[("TimeoutStopUSec", "2min 3s"), ("CollectMode", "inactive-or-failed")]);
    assert!(host.show(UNIT, "After").contains("basic.target"), "{}", host.show(UNIT, "After"));
    host.delete("c1");
}

fn refused(host: &Host<'_>) {
    for (path, words) in [
        ("/x", "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got \"/x\" instead"),
        ("a--b.slice:p:c1", "invalid slice name: "),
    ] {
        host.configure(SLEEP, |spec| spec["linux"]["cgroupsPath"] = json!(path));
        host.refused(words);
    }
    for (key, value, words) in [
        ("TimeoutStopSec", "'x'", "not a number"),
        ("Memory.Max", "uint64 1", "name incorrect: contains non-alphabetic character"),
        ("CollectMode", "inactive", "org.systemd.property.CollectMode"),
        // systemd's own words.
        ("NoSuchThing", "true", "Cannot set property NoSuchThing"),
    ] {
        host.configure(SLEEP, |spec| spec["annotations"] = json!({format!("org.systemd.property.{key}"): value}));
        host.refused(words);
        host.shows(UNIT, &[("LoadState", "not-found")]);
    }
}

fn missing_program(host: &Host<'_>) {
    host.configure(&["no-such-program"], |_| ());
    host.refused("no-such-program");
    host.shows(UNIT, &[("LoadState", "not-found")]);
    host.vm.sh("! pgrep rtc-placeholder").unwrap();
}

/// The kernel's log, which no container is given, and a null device.
const DEVICES: &str = "mknod /dev/kmsg2 c 1 11; mknod /dev/null2 c 1 3; echo x >/dev/null2 && ! cat /dev/kmsg2";

fn devices(host: &Host<'_>) {
    host.configure(SLEEP, |_| ());
    host.start("c1");
    let look = || host.ok(&["exec", "c1", "sh", "-c", DEVICES]);
    look();
    host.shows(UNIT, &[("DevicePolicy", "strict")]);
    assert!(host.show(UNIT, "DeviceAllow").contains("/dev/char/1:3 rwm"), "{}", host.show(UNIT, "DeviceAllow"));
    host.vm.run(["systemctl", "daemon-reload"]).unwrap();
    look();
    // systemd writes all files of the unit again.
    host.ok(&["update", "--pids-limit", "70", "c1"]);
    host.vm.run(["systemctl", "set-property", "--runtime", UNIT, "CPUWeight=55"]).unwrap();
    look();
    host.delete("c1");
}

/// The file's text, in whatever hierarchy it is.
fn pids_max(host: &Host<'_>) -> String {
    host.vm.sh("cat $(find /sys/fs/cgroup -path '*/p-c1.scope/pids.max')").unwrap()
}

fn tasks(host: &Host<'_>) {
    // As few as can be: what holds the place of the first is not counted.
    host.configure(SLEEP, |spec| spec["linux"]["resources"]["pids"] = json!({"limit": 1}));
    host.start("c1");
    assert_eq!(pids_max(host), "1");
    host.shows(UNIT, &[("TasksMax", "1")]);
    // runc's own process goes in afterwards, which no limit forbids.
    assert!(host.runtime(&["exec", "c1", "sh", "-c", "true & wait"]).code() != 0, "another process");
    host.ok(&["update", "--pids-limit", "20", "c1"]);
    for _ in 0..2 {
        assert_eq!(pids_max(host), "20");
        host.shows(UNIT, &[("TasksMax", "20")]);
        host.vm.run(["systemctl", "daemon-reload"]).unwrap();
    }
    host.ok(&["exec", "c1", "true"]);
    host.delete("c1");
}

fn limits(host: &Host<'_>) {
    host.configure(SLEEP, |spec| {
        spec["linux"]["resources"] = json!({
            "memory": {"limit": 67_108_864, "reservation": 33_554_432, "swap": 67_108_864},
            "cpu": {"shares": 2048, "quota": 20_500, "period": 50_000, "cpus": "0-1"},
            "blockIO": {"weight": 500},
            "unified": {"memory.high": "60000000", "memory.oom.group": "1", "cpu.max.burst": "1000"},
        });
    });
    host.start("c1");
    let properties = [
        ("MemoryMax", "67108864"),
        ("MemoryLow", "33554432"),
        ("MemorySwapMax", "0"),
        // The file is page by page, the property is what was asked for.
        ("MemoryHigh", "60000000"),
        ("CPUWeight", "174"),
        // To the next percent.
        ("CPUQuotaPerSecUSec", "410ms"),
        ("CPUQuotaPeriodUSec", "50ms"),
        ("AllowedCPUs", "0-1"),
        ("IOWeight", "4950"),
        ("OOMPolicy", "kill"),
    ];
    host.shows(UNIT, &properties);
    let files = |quota: &str| {
        for (file, value) in [
            ("memory.max", "67108864"),
            ("memory.low", "33554432"),
            ("cpu.weight", "174"),
            ("cpu.max", quota),
            ("cpuset.cpus", "0-1"),
            ("memory.oom.group", "1"),
        ] {
            assert_eq!(host.vm.read_text(&format!("{GROUP}/{file}")).unwrap(), value, "{file}");
        }
    };
    files("20500 50000");
    host.vm.run(["systemctl", "daemon-reload"]).unwrap();
    let update = ["update", "--memory", "50331648", "--memory-swap", "50331648", "--cpu-quota", "10000", "c1"];
    host.ok(&update);
    host.shows(UNIT, &[("MemoryMax", "50331648"), ("CPUQuotaPerSecUSec", "200ms"), ("CPUQuotaPeriodUSec", "50ms")]);
    host.vm.run(["systemctl", "daemon-reload"]).unwrap();
    assert_eq!(host.vm.read_text(&format!("{GROUP}/memory.max")).unwrap(), "50331648");
    assert_eq!(host.vm.read_text(&format!("{GROUP}/cpu.max")).unwrap(), "10000 50000");
    host.delete("c1");
}

fn memory(host: &Host<'_>) {
    let limits = json!({"limit": 33_554_432, "swap": 33_554_432});
    host.configure(SLEEP, |spec| spec["linux"]["resources"]["memory"] = limits.clone());
    host.start("c1");
    assert_eq!(host.runtime(&["exec", "c1", "tail", "/dev/zero"]).code(), 137);
    // systemd leaves what it has delegated alone: the container lives on.
    assert!(host.ok(&["state", "c1"]).contains("\"running\""));
    host.delete("c1");
    // A unit that has failed goes too.
    host.configure(&["tail", "/dev/zero"], |spec| spec["linux"]["resources"]["memory"] = limits);
    host.start("c1");
    host.wait("it has stopped", || host.ok(&["state", "c1"]).contains("\"stopped\""));
    host.delete("c1");
}
