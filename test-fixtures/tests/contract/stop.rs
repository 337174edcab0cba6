//! How containers end when they are told to, as people know it from `docker stop`.

use crate::host::{Check, Host, LONG};

pub(crate) const CHECKS: &[Check] = &[
    ("SIGTERM runs the handler, whose output arrives", handler_runs),
    ("without a handler only SIGKILL ends PID 1", stays_without_handler),
    ("a process that is not PID 1 ends with 143", default_action),
    ("children go with PID 1", children_go_along),
    ("kill reaches one process, kill --all every one", kill_all),
    ("signals by name and number", signals),
    ("a paused container is killed", kill_paused),
    ("kill of what has ended", kill_ended),
    ("a daemon that leaves its parent", orphans_are_reaped),
];

fn handler_runs(host: &Host) {
    let script = "trap 'echo bye; echo warned >&2; exit 42' TERM; echo ready; while :; do sleep 0.05; done";
    let running = host.spawn_run(&[], &["sh", "-c", script]);
    host.wait("the handler is set", || running.stdout_so_far() == b"ready\n");
    host.ctr_ok(&["task", "kill", "c1"]);
    let output = running.wait(LONG).unwrap();
    assert_eq!((output.code(), output.stdout.as_slice()), (42, &b"ready\nbye\n"[..]), "{}", output.error_text());
    assert!(output.error_text().contains("warned"));
}

fn stays_without_handler(host: &Host) {
    let running = host.spawn_run(&[], &["sh", "-c", "echo ready; while :; do sleep 0.05; done"]);
    host.wait("it runs", || running.stdout_so_far() == b"ready\n");
    host.ctr_ok(&["task", "kill", "-s", "TERM", "c1"]);
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(host.status("c1").as_deref(), Some("RUNNING"));
    host.ctr_ok(&["task", "kill", "-s", "KILL", "c1"]);
    assert_eq!(running.wait(LONG).unwrap().code(), 137);
}

fn default_action(host: &Host) {
    // In a pid namespace that it has not made it is no PID 1.
    let running = host.spawn_run(&["--with-ns", "pid:/proc/1/ns/pid"], &["sh", "-c", "echo ready; sleep 1000"]);
    host.wait("it runs", || running.stdout_so_far() == b"ready\n");
    host.ctr_ok(&["task", "kill", "-s", "TERM", "c1"]);
    assert_eq!(running.wait(LONG).unwrap().code(), 143);
}

fn children_go_along(host: &Host) {
    host.start_detached(&[], "c1", &["sh", "-c", "sleep 4321 & (trap '' TERM; sleep 4321) & wait"]);
    let count = || host.node.sh("pgrep -xfc 'sleep 4321' || true").unwrap();
    host.wait("the children run", || count() == "2");
    host.kill_and_remove("c1");
    assert_eq!(count(), "0");
}

fn kill_all(host: &Host) {
    // Without a pid namespace of its own nobody takes the children along.
    let flags = ["--with-ns", "pid:/proc/1/ns/pid"];
    host.start_detached(&flags, "c1", &["sh", "-c", "sleep 5432 & sleep 5432 & trap : TERM; while :; do wait; done"]);
    let count = || host.node.sh("pgrep -xfc 'sleep 5432' || true").unwrap();
    host.wait("the children run", || count() == "2");
    host.ctr_ok(&["task", "kill", "-s", "TERM", "c1"]);
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(count(), "2", "TERM was for PID 1 alone");
    host.ctr_ok(&["task", "kill", "--all", "-s", "KILL", "c1"]);
    host.wait("all are gone", || count() == "0");
    host.wait_for_status("c1", "STOPPED");
    host.remove_stopped("c1");
}

fn signals(host: &Host) {
    let script = "trap 'echo usr1' USR1; trap 'echo hup' HUP; trap 'echo int; exit' INT
                  echo ready; while :; do sleep 0.05; done";
    let running = host.spawn_run(&[], &["sh", "-c", script]);
    let seen = |text: &str| host.wait(text, || running.stdout_so_far().ends_with(text.as_bytes()));
    seen("ready\n");
    host.ctr_ok(&["task", "kill", "-s", "SIGUSR1", "c1"]);
    seen("usr1\n");
    host.ctr_ok(&["task", "kill", "-s", "1", "c1"]);
    seen("hup\n");
    host.ctr_ok(&["task", "kill", "-s", "INT", "c1"]);
    assert_eq!(running.wait(LONG).unwrap().text(), "ready\nusr1\nhup\nint");
}

fn kill_paused(host: &Host) {
    let running = host.spawn_run(&[], &["sh", "-c", "echo ready; sleep 1000 & wait"]);
    host.wait("it runs", || running.stdout_so_far() == b"ready\n");
    host.ctr_ok(&["task", "pause", "c1"]);
    host.ctr_ok(&["task", "kill", "-s", "KILL", "c1"]);
    assert_eq!(running.wait(LONG).unwrap().code(), 137);
}

fn kill_ended(host: &Host) {
    host.start_detached(&[], "c1", &["true"]);
    host.wait_for_status("c1", "STOPPED");
    host.ctr_refuses(&["task", "kill", "c1"], &["already finished", "not found", "exited"]);
    host.remove_stopped("c1");
}

fn orphans_are_reaped(host: &Host) {
    host.start_detached(&[], "c1", &["sh", "-c", "(sh -c 'sleep 0.1' &); sleep 1000"]);
    host.ctr_ok(&["task", "exec", "--exec-id", "e1", "c1", "sh", "-c", "(sleep 0.2 &)"]);
    host.wait("only PID 1 is left", || host.ctr_ok(&["task", "ps", "c1"]).lines().count() == 2);
    host.kill_and_remove("c1");
}
