//! containerd goes away, in good order or by SIGKILL, while its containers run.

use test_fixtures::{Node, Result};

use crate::host::{Check, Host, LONG};

pub(crate) const CHECKS: &[Check] =
    &[("restarted", |host| away(host, Node::stop_containerd)), ("killed", |host| away(host, Node::kill_containerd))];

const OUTPUT: &str = "/tmp/away.log";

fn away(host: &Host, go: fn(&Node) -> Result<()>) {
    let uri = format!("file://{OUTPUT}");
    let counting = "n=0; while [ $n -lt 2000 ]; do n=$((n+1)); echo $n; done; sleep 1000";
    host.start_detached(&[], "stays", &["sleep", "1000"]);
    host.start_detached(&[], "ends", &["sh", "-c", "while [ ! -e /end ]; do sleep 0.02; done; exit 9"]);
    host.start_detached(&["--log-uri", &uri], "writes", &["sh", "-c", &format!("sleep 0.3; {counting}")]);
    let (stays, ends) = (host.pid("stays"), host.pid("ends"));

    go(&host.node).unwrap();
    host.node.sh(&format!("touch /proc/{ends}/root/end")).unwrap();
    host.wait("the init has exited", || {
        let stat = host.node.read_text(&format!("/proc/{ends}/stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    });
    host.wait("the output is there", || host.node.read_text(OUTPUT).is_ok_and(|output| output.lines().count() == 2000));
    host.node.start_containerd().unwrap();
    // Listening comes before the loading of the tasks.
    host.wait("containerd answers", || host.ctr(&["task", "ls"]).code() == 0);

    // containerd 2.1 ends a shim that it finds without processes, and the task with it; older ones keep the task.
    host.wait("containerd knows the exit", || host.status("ends").is_none_or(|status| status == "STOPPED"));
    host.wait_for_status("stays", "RUNNING");
    assert_eq!(host.pid("stays"), stays);
    let exec = host.node.exec_within(LONG, ["ctr", "task", "exec", "--exec-id", "e", "stays", "echo", "on"]).unwrap();
    assert_eq!((exec.code(), exec.text().as_str()), (0, "on"), "{}", exec.error_text());
    let lines: Vec<_> = host.node.read_text(OUTPUT).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(lines, (1..=2000).map(|number: u32| number.to_string()).collect::<Vec<_>>());

    if host.status("ends").is_some() {
        let deleted = host.ctr(&["task", "delete", "ends"]);
        assert_eq!(deleted.code(), 9, "the exit that containerd has missed: {}", deleted.error_text());
    }
    host.ctr_ok(&["container", "delete", "ends"]);
    host.kill_and_remove("stays");
    host.kill_and_remove("writes");
    // ctr, which removes the fifos of the tasks that it deletes, never saw that one's end.
    host.node.sh(&format!("rm -rf /run/containerd/fifo/* {OUTPUT}")).unwrap();
}
