//! containerd's own shim for runc with the command line in runc's place: all that ctr does with it works.

use std::io::Write;

use test_fixtures::{Image, Output};

use crate::checkpoint::{self, assert_goes_on, count, forget_checkpoint, restore};
use crate::cli::program;
use crate::host::{Check, Host, LONG};

pub(crate) const CHECKS: &[Check] = &[
    ("run", run),
    ("a terminal", terminal),
    ("exec, pause, resume, kill, delete", verbs),
    ("stdin", stdin),
    ("refusals", refusals),
    ("checkpoint, run on, restore", checkpoint_and_restore),
];

/// A first container: directories that it brings stay, and are no leaks.
pub(crate) fn prepare(host: &Host) {
    checkpoint::prepare(host);
    runs(host, &["true"]);
}

fn ctr_run<'a>(host: &'a Host, flags: &[&'a str], command: &[&'a str]) -> Vec<&'a str> {
    ctr_run_image(host, Image::Busybox, flags, command)
}

fn ctr_run_image<'a>(host: &'a Host, image: Image, flags: &[&'a str], command: &[&'a str]) -> Vec<&'a str> {
    let runtime = ["ctr", "run", "--runtime", "io.containerd.runc.v2", "--runc-binary", program(host)];
    [&runtime[..], flags, &[image.name(), "c1"], command].concat()
}

fn runs(host: &Host, command: &[&str]) -> Output {
    host.node.exec(ctr_run(host, &["--rm"], command)).unwrap()
}

fn run(host: &Host) {
    let output = runs(host, &["sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((output.code(), output.text().as_str(), output.error_text().as_str()), (7, "out", "err"));
}

fn terminal(host: &Host) {
    let script = "until [ \"$(stty size 2>/dev/null)\" = '24 80' ]; do sleep 0.02; done
                  echo sized; read line; echo got $line; exit 6";
    let mut terminal = host.node.spawn_tty(ctr_run(host, &["--rm", "-t"], &["sh", "-c", script])).unwrap();
    terminal.expect("sized", LONG).unwrap();
    terminal.send("typed\r").unwrap();
    terminal.expect("got typed", LONG).unwrap();
    assert_eq!(terminal.wait(LONG).unwrap().0.code(), Some(6));
}

fn verbs(host: &Host) {
    host.node.run(ctr_run(host, &["-d"], &["sleep", "1000"])).unwrap();
    let exec = |flags: &[&str], command: &[&str]| {
        host.ctr(&[&["task", "exec", "--exec-id", "e1"], flags, &["c1"], command].concat())
    };
    let output = exec(&[], &["sh", "-c", "echo in; exit 3"]);
    assert_eq!((output.code(), output.text().as_str()), (3, "in"));
    let mut terminal = host.node.spawn_tty(["ctr", "task", "exec", "-t", "--exec-id", "e2", "c1", "tty"]).unwrap();
    terminal.expect("/dev/pts/0", LONG).unwrap();
    assert_eq!(terminal.wait(LONG).unwrap().0.code(), Some(0));
    assert!(exec(&[], &["nonsense"]).error_text().contains(r#"exec: "nonsense": executable file not found in $PATH"#));
    host.ctr_ok(&["task", "pause", "c1"]);
    assert_eq!(host.status("c1").as_deref(), Some("PAUSED"));
    host.ctr_ok(&["task", "resume", "c1"]);
    assert!(host.ctr_ok(&["task", "ps", "c1"]).contains(&host.pid("c1").to_string()));
    host.kill_and_remove("c1");
}

fn stdin(host: &Host) {
    let mut running = host.node.spawn(ctr_run(host, &["--rm"], &["cat"])).unwrap();
    let mut stdin = running.stdin().unwrap();
    stdin.write_all(b"through").unwrap();
    // ctr misses an end of its input that comes before the task runs.
    host.wait("the echo", || running.stdout_so_far() == b"through");
    drop(stdin);
    assert_eq!(running.wait(LONG).unwrap().text(), "through");
}

fn refusals(host: &Host) {
    let output = runs(host, &["nonsense"]);
    assert_ne!(output.code(), 0);
    assert!(
        output.error_text().contains(r#"exec: "nonsense": executable file not found in $PATH"#),
        "{}",
        output.error_text()
    );
}

fn checkpoint_and_restore(host: &Host) {
    let counter = ["/bin/workload", "counter", "--file", "/count", "--interval-ms", "5"];
    host.node.run(ctr_run_image(host, Image::Workload, &["-d"], &counter)).unwrap();
    checkpoint::wait_for_count(host);
    let before = count(&host.node, "c1");
    checkpoint::checkpoint(host);
    assert_eq!(host.status("c1").as_deref(), Some("RUNNING"));
    assert_goes_on(&host.node, "c1", before);
    host.kill_and_remove("c1");

    restore(&host.node, "again");
    assert_goes_on(&host.node, "again", before);
    host.ctr_ok(&["task", "pause", "again"]);
    host.ctr_ok(&["task", "resume", "again"]);
    host.kill_and_remove("again");
    forget_checkpoint(&host.node);
}
