//! kill -9 of the shim: containerd notices and cleans up through the shim's `delete`.

use crate::host::{Check, Host, Runtime};

pub(crate) const CHECKS: &[Check] =
    &[("a running container", running), ("a paused container", paused), ("with an exec in it", with_exec)];

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
