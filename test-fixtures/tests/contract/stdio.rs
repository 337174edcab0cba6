//! Streams: every byte arrives, in order, and then the end.

use std::io::Write;
use std::time::Duration;

use test_fixtures::Image;

use crate::host::{Check, Host, LONG, NOISE, NOISE_MOUNT, Runtime};

pub(crate) const CHECKS: &[Check] = &[
    ("stdin", stdin),
    ("a large stdout", large_stdout),
    ("a slow reader", slow_reader),
    ("output just before the exit", last_words),
    ("output of a terminal just before the exit", last_words_of_a_terminal),
    ("stdin that the container does not read", unread_stdin),
    ("log file", log_file),
    ("logger", logger),
    ("logger that fails", failing_logger),
];

/// A script that prints about 200 MB of which no two parts are alike.
fn much(noise: &str) -> String {
    format!("i=0; while [ $i -lt 100 ]; do echo part $i; cat {noise}; i=$((i + 1)); done")
}

/// A line for the node's shell that runs a container.
fn run_line(host: &Host, command: &str) -> String {
    let (runtime, image) = (host.lane.runtime.name(), Image::Busybox.name());
    format!("ctr run --rm --runtime {runtime} --mount {NOISE_MOUNT} {image} c1 sh -c '{command}'")
}

fn stdin(host: &Host) {
    let mut running = host.spawn_run(&[], &["cat"]);
    let mut stdin = running.stdin().unwrap();
    stdin.write_all(b"one\ntwo").unwrap();
    // ctr misses an end of its input that comes before the task runs.
    host.wait("the echo", || running.stdout_so_far() == b"one\ntwo");
    drop(stdin);
    let output = running.wait(LONG).unwrap();
    assert_eq!((output.code(), output.stdout.as_slice()), (0, &b"one\ntwo"[..]));

    let script = format!("cat {NOISE} {NOISE} | {}", run_line(host, "sha256sum"));
    let expected = host.node.sh(&format!("cat {NOISE} {NOISE} | sha256sum")).unwrap();
    assert_eq!(host.node.sh(&script).unwrap(), expected);
}

fn large_stdout(host: &Host) {
    let script = format!("{} | sha256sum", run_line(host, &much("/noise")));
    let expected = host.node.sh(&format!("({}) | sha256sum", much(NOISE))).unwrap();
    assert_eq!(host.node.sh(&script).unwrap(), expected);
}

fn slow_reader(host: &Host) {
    let source = "seq 1 300000; seq 1 1000 >&2";
    let slow = "sha256sum </dev/null >/dev/null; sleep 1; dd bs=3 count=2000 2>/dev/null; sleep 0.5; cat";
    let script =
        format!("({}) 2>/tmp/err | ({slow}) | sha256sum; sha256sum </tmp/err; rm /tmp/err", run_line(host, source));
    let expected = host.node.sh("seq 1 300000 | sha256sum; seq 1 1000 | sha256sum").unwrap();
    assert_eq!(host.node.sh(&script).unwrap(), expected);
}

fn last_words(host: &Host) {
    // 60 kB fit in the pipe: the process is gone before anybody has read them.
    let command = |noise| format!("dd if={noise} bs=60000 count=1 2>/dev/null; echo end");
    let expected = host.node.sh(&format!("({}) | sha256sum", command(NOISE))).unwrap();
    let line = run_line(host, &command("/noise"));
    for _ in 0..5 {
        assert_eq!(host.node.sh(&format!("{line} | sha256sum")).unwrap(), expected);
    }
}

fn last_words_of_a_terminal(host: &Host) {
    if host.lane.runtime == Runtime::Runc {
        eprintln!("skipped: runc's shim stops reading at the exit what the kernel has not yet passed on");
        return;
    }
    for _ in 0..5 {
        let terminal = host.spawn_tty(&[], &["sh", "-c", "seq 1 400; echo end"]);
        let (status, output) = terminal.wait(LONG).unwrap();
        assert_eq!(status.code(), Some(0));
        // ctr resets its own terminal before its last line is out.
        let lines: Vec<_> = output.split(['\r', '\n']).filter(|line| !line.is_empty()).collect();
        assert_eq!(lines.len(), 401, "{output}");
        assert_eq!(lines.last(), Some(&"end"));
    }
}

fn unread_stdin(host: &Host) {
    let script = format!("seq 1 200000 | {}", run_line(host, "exec <&-; sleep 0.3; echo done"));
    assert_eq!(host.node.sh(&script).unwrap(), "done");
}

fn log_file(host: &Host) {
    let flags = ["--log-uri", "file:///tmp/logs/deep/c1.log"];
    for _ in 0..2 {
        let output = host.run(&flags, &["sh", "-c", "echo out; echo err >&2; exit 4"]);
        assert_eq!((output.code(), output.text().as_str()), (4, ""), "{}", output.error_text());
    }
    let log = host.node.read_text("/tmp/logs/deep/c1.log").unwrap();
    let mut lines: Vec<_> = log.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["err", "err", "out", "out"]);
    host.node.sh("rm -r /tmp/logs").unwrap();
}

fn logger(host: &Host) {
    let script = "#!/bin/sh\necho \"$CONTAINER_NAMESPACE $CONTAINER_ID $*\" >/tmp/log/args\nexec 5>&-\n\
                  cat <&3 >/tmp/log/out &\ncat <&4 >/tmp/log/err &\nwait\n";
    host.node.write("/tmp/log/logger", script).unwrap();
    host.node.sh("chmod 755 /tmp/log/logger").unwrap();
    let flags = ["--log-uri", "binary:///tmp/log/logger?key=value"];
    let output = host.run(&flags, &["sh", "-c", "seq 1 100000; echo err >&2; exit 6"]);
    assert_eq!((output.code(), output.text().as_str()), (6, ""), "{}", output.error_text());
    assert_eq!(host.node.read_text("/tmp/log/args").unwrap(), "default c1 key value");
    // runc's shim may end a logger that is still writing; what is written must be exact.
    host.wait("the log is complete", || host.node.read_text("/tmp/log/out").unwrap().ends_with("\n100000"));
    assert_eq!(host.node.sh("sha256sum </tmp/log/out").unwrap(), host.node.sh("seq 1 100000 | sha256sum").unwrap());
    assert_eq!(host.node.read_text("/tmp/log/err").unwrap(), "err");
    host.node.sh("rm -r /tmp/log").unwrap();
}

fn failing_logger(host: &Host) {
    let started = std::time::Instant::now();
    host.run_refuses(&["--log-uri", "binary:///no/such/logger"], &["true"], &["/no/such/logger"]);
    assert!(started.elapsed() < Duration::from_secs(10));
}
