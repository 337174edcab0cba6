//! `ctr task exec`.

use std::io::Write;

use crate::host::{Check, Host, LONG, NOISE, NOISE_MOUNT};

pub(crate) const CHECKS: &[Check] = &[
    ("exit code, streams and stdin", exit_code_and_streams),
    ("it is inside", inside),
    ("user and working directory", user_and_directory),
    ("terminal", terminal),
    ("detached", detached),
    ("many, and then the container's own end", many),
    ("the container's end takes it along", ends_with_container),
    ("a large stdout", large_stdout),
    ("in a paused container", in_paused),
];

fn exec(host: &Host, flags: &[&str], command: &[&str]) -> test_fixtures::Output {
    host.ctr(&[&["task", "exec", "--exec-id", "e1"], flags, &["c1"], command].concat())
}

fn with_container(host: &Host, check: impl FnOnce()) {
    host.start_detached(&[], "c1", &["sleep", "1000"]);
    check();
    host.kill_and_remove("c1");
}

fn exit_code_and_streams(host: &Host) {
    with_container(host, || {
        let output = exec(host, &[], &["sh", "-c", "echo out; echo err >&2; exit 3"]);
        assert_eq!((output.code(), output.stdout.as_slice()), (3, &b"out\n"[..]), "{}", output.error_text());
        assert!(output.error_text().starts_with("err"), "{}", output.error_text());
        // The id is free again.
        assert_eq!(exec(host, &[], &["true"]).code(), 0);

        let mut running = host.node.spawn(["ctr", "task", "exec", "--exec-id", "e1", "c1", "cat"]).unwrap();
        let mut stdin = running.stdin().unwrap();
        stdin.write_all(b"through").unwrap();
        // ctr misses an end of its input that comes before the process runs.
        host.wait("the echo", || running.stdout_so_far() == b"through");
        drop(stdin);
        assert_eq!(running.wait(LONG).unwrap().code(), 0);
    });
}

fn inside(host: &Host) {
    with_container(host, || {
        let script = "for ns in cgroup ipc mnt net pid uts; do readlink /proc/self/ns/$ns; done; cat /proc/1/comm
                      grep CapEff /proc/self/status; grep NoNewPrivs /proc/self/status; ls -A /proc/self/fd | wc -l";
        let output = exec(host, &[], &["sh", "-c", script]);
        let text = output.text();
        let (namespaces, rest) = text.split_at(text.find("sleep").unwrap_or_else(|| panic!("{output:?}")));
        let pid = host.pid("c1");
        let links = format!("for ns in cgroup ipc mnt net pid uts; do readlink /proc/{pid}/ns/$ns; done");
        assert_eq!(namespaces.trim(), host.node.sh(&links).unwrap());
        let effective = host.node.run(["grep", "CapEff", &format!("/proc/{pid}/status")]).unwrap();
        // stdin, stdout, stderr, and the directory that ls reads.
        assert_eq!(rest.lines().collect::<Vec<_>>(), ["sleep", &effective, "NoNewPrivs:\t1", "4"]);
    });
}

fn user_and_directory(host: &Host) {
    with_container(host, || {
        let output = exec(host, &["--user", "1000", "--cwd", "/home/user"], &["sh", "-c", "id -u; pwd"]);
        assert_eq!(output.text(), "1000\n/home/user", "{}", output.error_text());
    });
}

fn terminal(host: &Host) {
    with_container(host, || {
        let script = "tty; until [ \"$(stty size 2>/dev/null)\" = '24 80' ]; do sleep 0.02; done; echo sized
                      read -r line; echo got $line; exit 5";
        let line = ["ctr", "task", "exec", "-t", "--exec-id", "e1", "c1", "sh", "-c", script];
        let mut terminal = host.node.spawn_tty(line).unwrap();
        terminal.expect("/dev/pts/", LONG).unwrap();
        terminal.expect("sized", LONG).unwrap();
        terminal.send("word\n").unwrap();
        terminal.expect("got word", LONG).unwrap();
        assert_eq!(terminal.wait(LONG).unwrap().0.code(), Some(5));
    });
}

fn detached(host: &Host) {
    with_container(host, || {
        exec(host, &["-d"], &["sh", "-c", "echo $$ > /tmp/ran; sleep 1000"]);
        host.wait("it runs", || !exec_text(host, "cat /tmp/ran 2>/dev/null").is_empty());
        let table = host.ctr_ok(&["task", "ps", "c1"]);
        assert_eq!(table.lines().count(), 3, "{table}");
        host.ctr_ok(&["task", "kill", "--exec-id", "e1", "-s", "TERM", "c1"]);
        host.wait("it is gone", || host.ctr_ok(&["task", "ps", "c1"]).lines().count() == 2);
        assert_eq!(host.ctr(&["task", "delete", "--exec-id", "e1", "c1"]).code(), 143);
        // ctr removes the fifos of an exec that it has waited for itself.
        host.node.sh("rm -r $(dirname /run/containerd/fifo/*/e1-stdin)").unwrap();
    });
}

fn exec_text(host: &Host, script: &str) -> String {
    host.ctr(&["task", "exec", "--exec-id", "probe", "c1", "sh", "-c", script]).text()
}

fn many(host: &Host) {
    with_container(host, || {
        let script = "seq 1 24 | xargs -P 8 -I N ctr task exec --exec-id eN c1 echo ran N | sort | uniq | wc -l";
        assert_eq!(host.node.sh(script).unwrap(), "24");
        assert_eq!(host.status("c1").as_deref(), Some("RUNNING"));
    });
}

fn ends_with_container(host: &Host) {
    host.start_detached(&[], "c1", &["sleep", "1000"]);
    let line = ["ctr", "task", "exec", "--exec-id", "e1", "c1", "sh", "-c", "echo up; sleep 1000"];
    let running = host.node.spawn(line).unwrap();
    host.wait("it runs", || running.stdout_so_far() == b"up\n");
    host.ctr_ok(&["task", "kill", "-s", "KILL", "c1"]);
    assert_eq!(running.wait(LONG).unwrap().code(), 137);
    host.wait_for_status("c1", "STOPPED");
    host.remove_stopped("c1");
}

fn large_stdout(host: &Host) {
    host.start_detached(&["--mount", NOISE_MOUNT], "c1", &["sleep", "1000"]);
    let script = |noise| format!("for i in 1 2 3 4 5 6 7 8; do cat {noise}; done");
    let line = format!("ctr task exec --exec-id e1 c1 sh -c '{}' | sha256sum", script("/noise"));
    let expected = host.node.sh(&format!("({}) | sha256sum", script(NOISE))).unwrap();
    assert_eq!(host.node.sh(&line).unwrap(), expected);
    host.kill_and_remove("c1");
}

fn in_paused(host: &Host) {
    with_container(host, || {
        host.ctr_ok(&["task", "pause", "c1"]);
        host.ctr_refuses(&["task", "exec", "--exec-id", "e1", "c1", "true"], &["paused"]);
        host.ctr_ok(&["task", "resume", "c1"]);
    });
}
