//! kill -9 of the shim: containerd notices and cleans up through the shim's `delete`.

use std::time::Duration;

use test_fixtures::{Cgroups, Image, Tree};

use crate::events::Events;
use crate::host::{Check, Host, LONG, Runtime};

pub(crate) const CHECKS: &[Check] = &[
    ("a running container", running),
    ("a paused container", paused),
    ("with an exec in it", with_exec),
    ("the events", events),
    ("at any moment of run", at_any_moment_of_run),
    ("at any moment of exec", at_any_moment_of_exec),
    ("at any moment of checkpoint", at_any_moment_of_checkpoint),
    ("at any moment of delete", at_any_moment_of_delete),
];

fn kill_shim(host: &Host) {
    host.node.run(["pkill", "-KILL", "-f", host.lane.runtime.shim()]).unwrap();
}

/// Waits until containerd knows, and removes what it then still has.
fn clean_up(host: &Host) {
    host.wait("the container's processes are gone", || host.node.sh("pgrep -xfc 'sleep 7654' || true").unwrap() == "0");
    host.wait("containerd has noticed", || host.status("c1").is_none_or(|status| status != "RUNNING"));
    // containerd may have forgotten the task already.
    host.ctr(&["task", "delete", "-f", "c1"]);
    host.ctr_ok(&["container", "delete", "c1"]);
    // ctr removes the fifos of a task that it deletes itself.
    host.node.sh("rm -rf /run/containerd/fifo/*").unwrap();
    if host.lane.runtime == Runtime::Runc {
        // The Go shim leaves its socket.
        host.node.sh("rm -f /run/containerd/s/*").unwrap();
    }
}

fn running(host: &Host) {
    host.start_detached(&[], "c1", &["sh", "-c", "sleep 7654 & sleep 7654"]);
    kill_shim(host);
    clean_up(host);
    // The id can be used again at once.
    assert_eq!(host.run_ok(&[], &["echo", "again"]), "again");
}

fn paused(host: &Host) {
    host.start_detached(&[], "c1", &["sleep", "7654"]);
    host.ctr_ok(&["task", "pause", "c1"]);
    kill_shim(host);
    clean_up(host);
}

fn with_exec(host: &Host) {
    host.start_detached(&[], "c1", &["sleep", "7654"]);
    host.ctr_ok(&["task", "exec", "-d", "--exec-id", "e1", "c1", "sleep", "7654"]);
    kill_shim(host);
    clean_up(host);
}

/// Nobody but containerd can tell that the container has ended.
fn events(host: &Host) {
    let events = Events::listen(host);
    host.start_detached(&[], "c1", &["sleep", "7654"]);
    let pid = host.pid("c1");
    kill_shim(host);
    host.wait("the last event", || events.seen().iter().any(|event| event.topic == "/tasks/delete"));
    clean_up(host);
    let seen: Vec<_> = events.seen().into_iter().filter(|event| event.topic.starts_with("/tasks/")).collect();
    let topics: Vec<_> = seen.iter().map(|event| event.topic.as_str()).collect();
    assert_eq!(topics, ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"], "{seen:?}");
    for ended in &seen[2..] {
        assert_eq!(ended.message["container_id"], "c1", "{ended:?}");
        assert_eq!(ended.message["exit_status"], 137, "{ended:?}");
        assert_eq!(ended.message["pid"], pid, "{ended:?}");
    }
}

/// Runs `ctr` with `arguments` once for each moment, and kills `start` and the serving process then, whichever there is;
/// not `delete`, which containerd runs because of that. Nothing may be left, each time.
fn at_moments(host: &Host, moments: impl Iterator<Item = u64>, arguments: &[&str], prepare: fn(&Host)) {
    if host.lane.runtime == Runtime::Runc {
        eprintln!("skipped: nothing left at any moment is what rtc promises; of the Go shim it is not asked");
        return;
    }
    if (host.lane.tree == Tree::Forky) != (host.lane.cgroups == Cgroups::Hybrid) {
        eprintln!("skipped: it takes long, and two lanes have both containerds and both cgroup layouts");
        return;
    }
    let pattern = format!("{} .*-id c1 (-debug start|start|-address)", host.lane.runtime.shim());
    let script =
        format!("after=$1; shift; ctr \"$@\" >/dev/null 2>&1 & sleep $after; pkill -KILL -f '{pattern}' || true; wait");
    for moment in moments {
        prepare(host);
        let deleted = deletes(host);
        let after = Duration::from_millis(moment).as_secs_f64().to_string();
        let line = [&["sh", "-euc", &script, "sh", &after], arguments].concat();
        host.node.exec_within(LONG, line).unwrap();
        forget(host);
        host.wait("no process of it is left", || host.node.sh("pgrep -xfc 'sleep 7654' || true").unwrap() == "0");
        if deletes(host) == deleted {
            // containerd runs no `delete` for a shim that it was not yet connected to. A name without a socket behind it
            // can be left then; the next start of that id replaces it.
            assert_eq!(host.run_ok(&[], &["echo", "again"]), "again");
        }
        let left = "find /run/containerd/rtc/default /run/containerd/s /sys/fs/cgroup -mindepth 1 \
                    -name c1 -o -path '/run/containerd/s/*'; grep /c1/ /proc/self/mountinfo || true";
        host.wait(&format!("nothing is left of a shim that was killed after {moment} ms"), || {
            host.node.sh(left).unwrap().is_empty()
        });
    }
}

/// How often containerd has run the shim's `delete` until now.
fn deletes(host: &Host) -> usize {
    host.node.containerd_log().matches("cleaning up dead shim").count()
}

/// Removes what containerd then still has of the container: its record, and its task if the shim was not there to be killed.
pub(crate) fn forget(host: &Host) {
    host.wait("containerd has taken it back", || {
        host.ctr(&["task", "delete", "-f", "c1"]);
        let gone = host.ctr(&["container", "delete", "c1"]);
        gone.code() == 0 || gone.error_text().contains("not found")
    });
    // ctr, which makes these, was not there to remove them.
    host.node.sh("rm -rf /run/containerd/fifo/*; ctr snapshot rm c1 2>/dev/null || true").unwrap();
}

fn start_one(host: &Host) {
    host.start_detached(&[], "c1", &["sleep", "7654"]);
}

fn at_any_moment_of_run(host: &Host) {
    let line = ["run", "-d", "--runtime", host.lane.runtime.name(), Image::Busybox.name(), "c1", "sleep", "7654"];
    at_moments(host, (15..130).step_by(6), &line, |_| ());
}

fn at_any_moment_of_exec(host: &Host) {
    at_moments(host, (10..60).step_by(8), &["task", "exec", "--exec-id", "e1", "c1", "sleep", "7654"], start_one);
}

fn at_any_moment_of_checkpoint(host: &Host) {
    at_moments(host, (20..260).step_by(40), &["task", "checkpoint", "--image-path", "/tmp/images", "c1"], start_one);
    host.node.sh("rm -rf /tmp/images").unwrap();
}

fn at_any_moment_of_delete(host: &Host) {
    at_moments(host, (10..80).step_by(8), &["task", "delete", "-f", "c1"], start_one);
}
