//! Bad input: a message that a user can act on, and nothing left behind.

use crate::host::{Check, Host, LONG};

pub(crate) const CHECKS: &[Check] = &[
    ("unknown container", unknown_container),
    ("duplicate id", duplicate_id),
    ("missing executable", missing_executable),
    ("what is no executable", not_executable),
    ("impossible working directory", impossible_directory),
    ("unknown user", unknown_user),
    ("mount of what is not there", missing_mount_source),
    ("missing namespace", missing_namespace),
    ("verbs at the wrong moment", wrong_moment),
    ("exec of what is not there", bad_exec),
    ("bundle gone", bundle_gone),
];

fn unknown_container(host: &Host) {
    for verb in [&["start"][..], &["kill"], &["pause"], &["resume"], &["ps"], &["metrics"], &["delete"]] {
        host.ctr_refuses(&[&["task"], verb, &["nobody"]].concat(), &["not found"]);
    }
    host.ctr_refuses(&["task", "exec", "--exec-id", "e1", "nobody", "true"], &["not found"]);
}

fn duplicate_id(host: &Host) {
    host.start_detached(&[], "c1", &["sleep", "1000"]);
    host.run_refuses(&[], &["true"], &["already exists"]);
    assert_eq!(host.status("c1").as_deref(), Some("RUNNING"));
    host.kill_and_remove("c1");
}

fn missing_executable(host: &Host) {
    host.run_refuses(&[], &["/no/such/program"], &["no such file", "not found"]);
    host.run_refuses(&[], &["no-such-program"], &["not found"]);
    let (status, output) = host.spawn_tty(&[], &["no-such-program"]).wait(LONG).unwrap();
    assert!(!status.success() && output.contains("not found"), "{output}");
}

fn not_executable(host: &Host) {
    host.run_refuses(&[], &["/etc/passwd"], &["permission denied"]);
    host.run_refuses(&[], &["/etc"], &["permission denied", "is a directory"]);
}

fn impossible_directory(host: &Host) {
    host.run_refuses(&["--cwd", "/etc/passwd/below"], &["true"], &["/etc/passwd", "not a directory"]);
}

fn unknown_user(host: &Host) {
    host.run_refuses(&["--user", "nosuchuser"], &["true"], &["user"]);
    // ctr has not got as far as to remember that it has made one; containerd's collector may have been faster.
    host.ctr(&["snapshot", "remove", "c1"]);
}

fn missing_mount_source(host: &Host) {
    let mount = "type=bind,src=/no/such/source,dst=/mnt,options=rbind";
    host.run_refuses(&["--mount", mount], &["true"], &["/no/such/source"]);
}

fn missing_namespace(host: &Host) {
    host.run_refuses(&["--with-ns", "network:/no/such/ns"], &["true"], &["/no/such/ns"]);
}

fn wrong_moment(host: &Host) {
    host.start_detached(&[], "c1", &["sleep", "1000"]);
    host.ctr_refuses(&["task", "start", "c1"], &["already", "exists"]);
    host.ctr_refuses(&["task", "delete", "c1"], &["not stopped", "running"]);
    host.ctr_refuses(&["container", "delete", "c1"], &["task", "running"]);
    host.ctr_refuses(&["task", "resume", "c1"], &["not paused", "cannot resume", "running"]);
    host.ctr_ok(&["task", "pause", "c1"]);
    host.ctr_refuses(&["task", "pause", "c1"], &["paused"]);
    host.ctr_refuses(&["task", "delete", "c1"], &["paused", "not stopped"]);
    host.ctr_ok(&["task", "resume", "c1"]);
    assert_eq!(host.status("c1").as_deref(), Some("RUNNING"));
    host.kill_and_remove("c1");
}

fn bad_exec(host: &Host) {
    host.start_detached(&[], "c1", &["sleep", "1000"]);
    let exec = |flags: &[&'static str], command: &'static str| {
        [&["task", "exec", "--exec-id", "e1"], flags, &["c1", command]].concat()
    };
    host.ctr_refuses(&exec(&[], "/no/such/program"), &["no such file", "not found"]);
    host.ctr_refuses(&exec(&[], "/etc/passwd"), &["permission denied"]);
    host.ctr_refuses(&exec(&["--cwd", "/etc/passwd"], "true"), &["/etc/passwd", "not a directory"]);
    // The id of a failed exec is free again.
    assert_eq!(host.ctr(&exec(&[], "true")).code(), 0);
    let line = ["ctr", "task", "exec", "--exec-id", "e1", "c1", "sh", "-c", "echo up; sleep 1000"];
    let running = host.node.spawn(line).unwrap();
    host.wait("it runs", || running.stdout_so_far() == b"up\n");
    host.ctr_refuses(&exec(&[], "true"), &["already exists", "e1"]);
    host.kill_and_remove("c1");
    running.wait(LONG).unwrap();
}

fn bundle_gone(host: &Host) {
    host.start_detached(&[], "c1", &["sleep", "1000"]);
    host.node.sh("rm /run/containerd/io.containerd.runtime.v2.task/default/c1/config.json").unwrap();
    assert_eq!(host.status("c1").as_deref(), Some("RUNNING"));
    host.kill_and_remove("c1");
}
