//! What a container sees of its cgroup, and a further process in it.

use std::path::Path;
use std::process::Command;

use runtime_core::container::{Container, Status};
use serde_json::json;

use crate::bundle::{Bundle, Running, chain, exec};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("a_cgroup_mount_shows_the_containers_own", a_cgroup_mount_shows_the_containers_own),
    ("a_cgroup_of_another_is_left_alone", a_cgroup_of_another_is_left_alone),
    ("a_read_only_cgroup_mount_is_read_only", a_read_only_cgroup_mount_is_read_only),
    ("a_delegated_cgroup_is_the_users", a_delegated_cgroup_is_the_users),
    ("a_user_namespace_has_its_cgroup", a_user_namespace_has_its_cgroup),
    ("an_exec_joins_the_init_in_a_child_cgroup", an_exec_joins_the_init_in_a_child_cgroup),
];

/// In a mount namespace of our own.
pub(crate) fn mount_v2_alone() {
    let script = "umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup";
    let status = Command::new("sh").args(["-c", script]).status().expect("sh");
    assert!(status.success(), "mount cgroup v2");
}

fn v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

/// The container's own directory below /sys/fs/cgroup, as it must show inside.
fn own() -> &'static str {
    if v2() { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/pids" }
}

fn bundle(script: &str, namespace: bool, options: &[&str]) -> Bundle {
    let mut bundle = Bundle::new(script);
    bundle.spec["linux"]["cgroupsPath"] = format!("/rtc-test-{}/c", std::process::id()).into();
    let mount = json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options});
    bundle.spec["mounts"].as_array_mut().unwrap().push(mount);
    if !namespace {
        bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|kind| kind["type"] != "cgroup");
    }
    bundle
}

fn a_cgroup_of_another_is_left_alone() {
    let bundle = bundle("exec sleep 100", false, &[]);
    let _parent = Parent;
    let (first, running) = bundle.create().unwrap_or_else(|err| panic!("{}", chain(&err)));
    first.start().unwrap();
    let begun = std::time::Instant::now();
    let err = bundle.create_as("second").map(drop).unwrap_err();
    assert!(chain(&err).contains("container's cgroup is not empty: 1 process"), "{}", chain(&err));
    // Nothing waited for the first one's processes to go.
    assert!(begun.elapsed() < std::time::Duration::from_secs(3));
    assert!(first.pid().is_some() && first.status().is_ok_and(|status| status == Status::Running));
    first.delete(true).unwrap();
    running.finish();
    bundle.assert_nothing_left();
}

impl Drop for Parent {
    fn drop(&mut self) {
        let name = format!("rtc-test-{}", std::process::id());
        let mounts = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
        for mount in mounts.chain(["/sys/fs/cgroup".into()]) {
            // Not in every hierarchy.
            std::fs::remove_dir(mount.join(&name)).ok();
        }
    }
}

/// Of the container's cgroup; it outlives the container, as with runc.
struct Parent;

fn a_cgroup_mount_shows_the_containers_own() {
    let _parent = Parent;
    let own = own();
    for namespace in [true, false] {
        // Ours is the first process that it shows, and what is made there is below the container's.
        let script = format!(
            "read -r first < {own}/cgroup.procs; echo $first; ls -d {own}/rtc-test-*; \
             mkdir {own}/made && cat {own}/made/cgroup.procs && rmdir {own}/made; grep -c rtc-test /proc/self/cgroup"
        );
        let (_, output) = bundle(&script, namespace, &["nosuid", "noexec", "nodev"]).run();
        let output = output.replace(&format!("ls: {own}/rtc-test-*: No such file or directory\n"), "");
        let mut lines = output.lines();
        assert_eq!(lines.next(), Some("1"), "{output}");
        let paths: u32 = lines.next().unwrap().parse().unwrap();
        assert_eq!((paths == 0, lines.next()), (namespace, None), "{output}");
    }
}

fn a_read_only_cgroup_mount_is_read_only() {
    let _parent = Parent;
    let own = own();
    for namespace in [true, false] {
        let script =
            format!("mkdir {own}/made; echo 1 > {own}/cgroup.procs; mkdir /sys/fs/cgroup/top; cat {own}/cgroup.procs");
        let (_, output) = bundle(&script, namespace, &["nosuid", "noexec", "nodev", "ro"]).run();
        assert_eq!(output.matches("Read-only file system").count(), 3, "{output}");
        assert!(output.lines().any(|line| line == "1"), "{output}");
    }
}

fn a_delegated_cgroup_is_the_users() {
    let _parent = Parent;
    let own = own();
    let script = format!("stat -c %u {own} {own}/cgroup.procs; mkdir {own}/made && rmdir {own}/made && echo made");
    let mut bundle = bundle(&script, true, &["nosuid", "noexec", "nodev"]);
    bundle.spec["process"]["user"] = json!({"uid": 33, "gid": 33});
    let (_, output) = bundle.run();
    // On v1 a cgroup cannot be given away safely.
    assert_eq!(output.ends_with("33\n33\nmade"), v2(), "{output}");
    assert_eq!(output.starts_with("0\n0\n"), !v2(), "{output}");
}

fn a_user_namespace_has_its_cgroup() {
    let _parent = Parent;
    let own = own();
    for (options, writable) in
        [(&["nosuid", "noexec", "nodev"][..], true), (&["nosuid", "noexec", "nodev", "ro"], false)]
    {
        let script = format!(
            "read -r first < {own}/cgroup.procs; echo $first; mkdir {own}/made && rmdir {own}/made && echo made"
        );
        let mut bundle = bundle(&script, true, options);
        crate::namespaces::user_namespace(&mut bundle);
        let (_, output) = bundle.run();
        assert_eq!(output.lines().next(), Some("1"), "{output}");
        assert_eq!(output.ends_with("made") && !output.contains("mkdir:"), writable && v2(), "{output}");
    }
}

fn an_exec_joins_the_init_in_a_child_cgroup() {
    if !v2() {
        println!("skipped: cgroup v1 takes processes anywhere");
        return;
    }
    if std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap().trim().is_empty() {
        println!("skipped: every controller is in a v1 hierarchy, and none keeps processes in the leaves");
        return;
    }
    let _parent = Parent;
    let script = "mkdir /sys/fs/cgroup/child; echo 1 > /sys/fs/cgroup/child/cgroup.procs; \
                  read -r first rest < /sys/fs/cgroup/cgroup.controllers; \
                  echo +$first > /sys/fs/cgroup/cgroup.subtree_control && echo up > /tmp/up; exec sleep 60";
    let bundle = bundle(script, true, &["nosuid", "noexec", "nodev"]);
    let (container, running) = bundle.create().unwrap_or_else(|err| panic!("{}", chain(&err)));
    container.start().unwrap();
    crate::process::wait_for(&bundle.path().join("rootfs/tmp/up"));
    let (code, output) = in_cgroup(&container).finish();
    assert_eq!((code, output.as_str()), (0, "0::/child"));
    container.delete(true).unwrap();
    running.finish();
    bundle.assert_nothing_left();
}

fn in_cgroup(container: &Container) -> Running {
    let process = json!({"user": {"uid": 0, "gid": 0}, "args": ["grep", "0::", "/proc/self/cgroup"], "env": ["PATH=/bin"], "cwd": "/"});
    exec(container, process, false).unwrap_or_else(|err| panic!("{}", chain(&err)))
}
