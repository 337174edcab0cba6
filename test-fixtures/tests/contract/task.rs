//! `ctr task` and `ctr container`.

use std::io::Write;

use test_fixtures::Image;

use crate::events::Events;
use crate::host::{Check, Host, LONG};

pub(crate) const CHECKS: &[Check] = &[
    ("create, start, delete", create_start_delete),
    ("a task that never ran", never_started),
    ("ls and ps", ls_and_ps),
    ("pause and resume", pause_and_resume),
    ("metrics", metrics),
    ("attach", attach),
    ("two containers", two_containers),
    ("events", events),
    ("containerd restarted", containerd_restarted),
];

fn create(host: &Host, id: &str, command: &[&str]) {
    let head = ["container", "create", "--runtime", host.lane.runtime.name(), Image::Busybox.name(), id];
    host.ctr_ok(&[&head, command].concat());
}

fn create_start_delete(host: &Host) {
    create(host, "c1", &["sh", "-c", "echo hello; exit 9"]);
    assert_eq!(host.ctr_ok(&["container", "ls", "-q"]), "c1");
    assert_eq!(host.status("c1"), None);
    let output = host.ctr(&["task", "start", "c1"]);
    assert_eq!((output.code(), output.text().as_str()), (9, "hello"), "{}", output.error_text());
    // The container is still there, and can be run again.
    assert_eq!(host.ctr(&["task", "start", "c1"]).code(), 9);
    host.ctr_ok(&["container", "delete", "c1"]);
}

fn never_started(host: &Host) {
    // ctr has no verb that creates a task alone: a client that is killed between the two leaves one.
    create(host, "c1", &["sleep", "1000"]);
    host.ctr_ok(&["task", "start", "-d", "c1"]);
    host.ctr_ok(&["task", "delete", "-f", "c1"]);
    assert_eq!(host.status("c1"), None);
    host.ctr_ok(&["container", "delete", "c1"]);
}

fn ls_and_ps(host: &Host) {
    host.start_detached(&[], "c1", &["sh", "-c", "sleep 1000 & sleep 1000 & wait"]);
    assert_eq!(host.status("c1").as_deref(), Some("RUNNING"));
    let pid = host.pid("c1");
    assert!(host.node.read_text(&format!("/proc/{pid}/cmdline")).unwrap().starts_with("sh"));
    host.wait("three processes", || host.ctr_ok(&["task", "ps", "c1"]).lines().count() == 4);
    let table = host.ctr_ok(&["task", "ps", "c1"]);
    assert!(table.lines().any(|row| row.split_whitespace().next() == Some(&pid.to_string())), "{table}");
    host.kill_and_remove("c1");
}

pub(crate) fn pause_and_resume(host: &Host) {
    host.start_detached(
        &["--mount", "type=bind,src=/tmp,dst=/mnt,options=rbind:rw"],
        "c1",
        &["sh", "-c", "i=0; while :; do i=$((i + 1)); echo $i > /mnt/count.new; mv /mnt/count.new /mnt/count; done"],
    );
    host.wait("it counts", || host.node.exists("/tmp/count"));
    for _ in 0..3 {
        host.ctr_ok(&["task", "pause", "c1"]);
        assert_eq!(host.status("c1").as_deref(), Some("PAUSED"));
        let before = host.node.read_text("/tmp/count").unwrap();
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert_eq!(host.node.read_text("/tmp/count").unwrap(), before, "a paused container goes on");
        host.ctr_ok(&["task", "resume", "c1"]);
        assert_eq!(host.status("c1").as_deref(), Some("RUNNING"));
        host.wait("it counts on", || host.node.read_text("/tmp/count").is_ok_and(|count| count != before));
    }
    host.kill_and_remove("c1");
    host.node.sh("rm -f /tmp/count /tmp/count.new").unwrap();
}

fn metrics(host: &Host) {
    host.start_detached(&[], "c1", &["sleep", "1000"]);
    let table = host.ctr_ok(&["task", "metrics", "c1"]);
    assert!(table.contains("c1"), "{table}");
    let json = host.ctr_ok(&["task", "metrics", "--format", "json", "c1"]);
    if host.has_controller("pids") {
        let words: String = json.split_whitespace().collect();
        assert!(words.contains("\"pids\":{\"current\":1"), "{json}");
    }
    host.kill_and_remove("c1");
}

fn attach(host: &Host) {
    create(host, "c1", &["sh", "-c", "while read -r line; do echo got $line; done; exit 8"]);
    host.ctr_ok(&["task", "start", "-d", "c1"]);
    let mut client = host.node.spawn(["ctr", "task", "attach", "c1"]).unwrap();
    let mut stdin = client.stdin().unwrap();
    stdin.write_all(b"one\n").unwrap();
    host.wait("the answer", || client.stdout_so_far() == b"got one\n");
    // A client that goes away takes nothing with it.
    client.kill();
    client.wait(LONG).unwrap();
    assert_eq!(host.status("c1").as_deref(), Some("RUNNING"));
    drop(stdin);

    let mut client = host.node.spawn(["ctr", "task", "attach", "c1"]).unwrap();
    client.stdin().unwrap().write_all(b"two\n").unwrap();
    host.wait("the second answer", || client.stdout_so_far() == b"got two\n");
    host.ctr_ok(&["task", "kill", "-s", "KILL", "c1"]);
    assert_eq!(client.wait(LONG).unwrap().code(), 137);
    // The client that has seen the end deletes the task.
    host.ctr_ok(&["container", "delete", "c1"]);
}

fn two_containers(host: &Host) {
    host.start_detached(&[], "a", &["sleep", "1000"]);
    host.start_detached(&[], "b", &["sleep", "1000"]);
    assert_ne!(host.pid("a"), host.pid("b"));
    host.kill_and_remove("a");
    assert_eq!(host.status("b").as_deref(), Some("RUNNING"));
    host.kill_and_remove("b");
}

pub(crate) fn events(host: &Host) {
    let events = Events::listen(host);
    host.start_detached(&[], "c1", &["sleep", "1000"]);
    host.ctr_ok(&["task", "exec", "--exec-id", "e1", "c1", "true"]);
    host.ctr_ok(&["task", "pause", "c1"]);
    host.ctr_ok(&["task", "resume", "c1"]);
    host.kill_and_remove("c1");
    host.wait("the last event", || events.seen().iter().any(|event| event.topic == "/tasks/delete"));
    let seen = events.seen();
    let topics: Vec<_> = seen.iter().map(|event| event.topic.as_str()).filter(|t| t.starts_with("/tasks/")).collect();
    let expected = [
        "/tasks/create",
        "/tasks/start",
        "/tasks/exec-added",
        "/tasks/exec-started",
        "/tasks/exit",
        "/tasks/paused",
        "/tasks/resumed",
        "/tasks/exit",
        "/tasks/delete",
    ];
    assert_eq!(topics, expected, "{seen:?}");
}

fn containerd_restarted(host: &Host) {
    host.start_detached(&[], "c1", &["sleep", "1000"]);
    let pid = host.pid("c1");
    host.node.kill_containerd().unwrap();
    host.node.start_containerd().unwrap();
    host.wait("containerd has found its task", || host.status("c1").as_deref() == Some("RUNNING"));
    assert_eq!(host.pid("c1"), pid);
    assert_eq!(host.ctr_ok(&["task", "exec", "--exec-id", "e1", "c1", "echo", "still here"]), "still here");
    // Of a task that ends while containerd is away, containerd deletes the shim when it comes back.
    host.node.kill_containerd().unwrap();
    host.node.run(["kill", "-KILL", &pid.to_string()]).unwrap();
    host.node.start_containerd().unwrap();
    host.wait("containerd knows", || host.status("c1").as_deref() != Some("RUNNING"));
    host.ctr(&["task", "delete", "c1"]);
    host.ctr_ok(&["container", "delete", "c1"]);
    // ctr removes the fifos of a task that it deletes, and here there may have been none.
    host.node.sh("rm -rf /run/containerd/fifo/*").unwrap();
}
