//! What rtc does with systemd beyond runc.

use serde_json::json;

use crate::{BUNDLE, Check, Host};

pub(crate) const CHECKS: &[Check] = &[
    ("a checkpoint is restored into a scope of its own", checkpoint),
    ("a container can be a slice", slice),
    ("over the bus where systemd's own socket is not", by_bus),
    ("properties that are the driver's are refused", own_properties),
    ("systemd that cannot be reached", unreachable),
];

const SLEEP: &[&str] = &["sh", "-c", "while :; do sleep 1; done"];

fn checkpoint(host: &Host<'_>) {
    host.configure(&["sh", "-c", "n=0; while :; do n=$((n+1)); echo $n >/tmp/n; sleep 0.1; done"], |spec| {
        spec["linux"]["resources"]["pids"] = json!({"limit": 30});
    });
    host.start("c1");
    host.wait("it counts", || host.runtime(&["exec", "c1", "cat", "/tmp/n"]).code() == 0);
    host.ok(&["checkpoint", "--image-path", "/tmp/images", "--work-path", "/tmp", "c1"]);
    host.shows("p-c1.scope", &[("LoadState", "not-found")]);
    host.configure(SLEEP, |spec| {
        spec["linux"]["cgroupsPath"] = json!("rtctest-b.slice:p:c2");
        spec["linux"]["resources"]["pids"] = json!({"limit": 40});
    });
    let before: u64 = host.vm.read_text(&format!("{BUNDLE}/rootfs/tmp/n")).unwrap().trim().parse().unwrap();
    host.detached(&format!("restore -d --image-path /tmp/images --work-path /tmp -b {BUNDLE} c2"));
    host.shows("p-c2.scope", &[("ControlGroup", "/rtctest.slice/rtctest-b.slice/p-c2.scope"), ("TasksMax", "40")]);
    let state: serde_json::Value = serde_json::from_str(&host.ok(&["state", "c2"])).unwrap();
    let cgroup = host.vm.read_text(&format!("/proc/{}/cgroup", state["pid"])).unwrap();
    assert_eq!(cgroup, "0::/rtctest.slice/rtctest-b.slice/p-c2.scope");
    host.vm.sh("! pgrep rtc-placeholder; ! pgrep criu").unwrap();
    let count = || host.ok(&["exec", "c2", "cat", "/tmp/n"]).parse::<u64>().unwrap_or_default();
    host.wait("it counts on", || count() > before);
    host.delete("c2");
    // One that cannot be restored leaves no scope.
    host.vm.sh("rm /tmp/images/core-*.img").unwrap();
    let line = ["restore", "-d", "--image-path", "/tmp/images", "--work-path", "/tmp", "-b", BUNDLE, "c2"];
    assert!(host.runtime(&line).code() != 0, "restored");
    host.vm.run(["rm", "-r", "/tmp/images"]).unwrap();
}

fn slice(host: &Host<'_>) {
    host.configure(SLEEP, |spec| {
        spec["linux"]["cgroupsPath"] = json!("rtctest.slice:p:rtctest-inside.slice");
        spec["linux"]["resources"]["pids"] = json!({"limit": 30});
    });
    host.start("c1");
    let path = "/rtctest.slice/rtctest-inside.slice";
    host.shows("rtctest-inside.slice", &[("ActiveState", "active"), ("ControlGroup", path), ("TasksMax", "30")]);
    assert!(!host.vm.read_text(&format!("/sys/fs/cgroup{path}/cgroup.procs")).unwrap().is_empty());
    host.delete("c1");
    host.shows("rtctest-inside.slice", &[("ActiveState", "inactive")]);
}

fn by_bus(host: &Host<'_>) {
    host.vm.run(["mv", "/run/systemd/private", "/run/systemd/private.off"]).unwrap();
    host.configure(SLEEP, |_| ());
    host.start("c1");
    host.ok(&["update", "--pids-limit", "20", "c1"]);
    host.delete("c1");
    host.vm.run(["mv", "/run/systemd/private.off", "/run/systemd/private"]).unwrap();
}

fn own_properties(host: &Host<'_>) {
    for (key, value) in [("PIDs", "[uint32 1]"), ("Slice", "'user.slice'")] {
        host.configure(SLEEP, |spec| spec["annotations"] = json!({format!("org.systemd.property.{key}"): value}));
        host.refused("this property is the runtime's to set");
    }
}

fn unreachable(host: &Host<'_>) {
    host.configure(SLEEP, |_| ());
    let create = |setup: &str, id: &str| {
        let line = format!("{setup}; exec {} --systemd-cgroup create -b {BUNDLE} {id} </dev/null 2>&1", host.program);
        let output = host.vm.exec(["unshare", "--mount", "sh", "-c", &line]).unwrap();
        assert!(output.code() != 0, "created");
        output.text()
    };
    let said = create("mount -t tmpfs none /run/systemd", "c1");
    assert!(said.contains("systemd not running on this host, cannot use systemd cgroups manager"), "{said}");
    let hidden = "mount -t tmpfs none /run/dbus; mount -t tmpfs none /run/systemd; mkdir /run/systemd/system";
    let said = create(hidden, "c1");
    assert!(said.contains("reach systemd at /run/dbus/system_bus_socket"), "{said}");
    let line = format!("{} --systemd-cgroup create -b {BUNDLE} c1 </dev/null 2>&1", host.program);
    let output = host.vm.exec(["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", &line]).unwrap();
    assert!(output.text().contains("systemd is in another pid namespace"), "{}", output.text());
    assert_eq!(host.ok(&["list", "-q"]), "");
}
