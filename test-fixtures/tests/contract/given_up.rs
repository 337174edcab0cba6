//! `ctr` is killed while it makes a container: what containerd takes back leaves nothing, and what it does not is there to
//! be deleted.

use std::time::Duration;

use test_fixtures::Image;

use crate::host::{Check, Host, LONG, Runtime};
use crate::killed::forget;

pub(crate) const CHECKS: &[Check] =
    &[("while it runs a container", run_is_killed), ("while a hook holds Create up", create_is_given_up)];

/// Kills `ctr run` after so many milliseconds; the container would run for ever.
fn killed_after(host: &Host, milliseconds: u64, flags: &[&str]) {
    let after = Duration::from_millis(milliseconds).as_secs_f64().to_string();
    let head = ["timeout", "-s", "KILL", &after, "ctr", "run", "--runtime", host.lane.runtime.name()];
    let line = [&head, flags, &[Image::Busybox.name(), "c1", "sleep", "7655"]].concat();
    host.node.exec_within(LONG, line).unwrap();
}

fn run_is_killed(host: &Host) {
    for moment in (10..130).step_by(6) {
        killed_after(host, moment, &[]);
        forget(host);
    }
    nothing_is_left(host);
    assert_eq!(host.run_ok(&[], &["echo", "again"]), "again");
}

/// containerd's own Delete comes while Create is under way, and is all that it does about it.
fn create_is_given_up(host: &Host) {
    if host.lane.runtime == Runtime::Runc {
        eprintln!("skipped: runc, killed while it waits for a hook, leaves the cgroup and the process in it");
        return;
    }
    let hook = r#"{"path": "/bin/sh", "args": ["sh", "-c", "echo in >/tmp/hook; sleep 0.5"]}"#;
    let spec = format!("ctr oci spec | jq '.hooks = {{\"createRuntime\": [{hook}]}} | {SPEC}' >/tmp/spec.json");
    host.node.sh(&spec).unwrap();
    host.node.unpack(Image::Busybox, "/tmp/rootfs").unwrap();
    let line = ["ctr", "run", "--runtime", host.lane.runtime.name(), "--config", "/tmp/spec.json", "c1"];
    let mut running = host.node.spawn(line).unwrap();
    host.wait("the hook has begun", || host.node.exists("/tmp/hook"));
    running.kill();
    host.wait("containerd has given it up", || host.status("c1").is_none());
    forget(host);
    nothing_is_left(host);
    host.node.sh("rm -r /tmp/spec.json /tmp/rootfs /tmp/hook").unwrap();
}

const SPEC: &str = ".process.args = [\"sleep\", \"7655\"] | .process.env = [\"PATH=/bin\"] | .process.terminal = false \
                    | .root = {\"path\": \"/tmp/rootfs\"} | .linux.cgroupsPath = \"/default/c1\"";

fn nothing_is_left(host: &Host) {
    if host.lane.runtime == Runtime::Runc {
        // The Go shim stays when its `start` is killed in a bad moment, and leaves sockets.
        host.node.sh("pkill -KILL -f [c]ontainerd-shim-runc || true; rm -f /run/containerd/s/*").unwrap();
    }
    // ctr mounts the image to look into it; it was not there to unmount it.
    host.node.sh("for d in /tmp/containerd-mount*; do ! [ -e $d ] || { umount $d || true; rmdir $d; }; done").unwrap();
    host.wait("no process is left", || host.node.sh("pgrep -xfc 'sleep 7655' || true").unwrap() == "0");
    // A shim that containerd had not yet connected to ends by itself, after 20 s.
    host.wait("no shim is left", || host.node.exec(["pgrep", "-x", "containerd-shim"]).unwrap().text().is_empty());
}
