//! Containers that the command line makes itself, from a bundle: the same with runc and with rtc, in the same words.

use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};
use test_fixtures::{Image, Output};

use crate::cli::program;
use crate::host::{Check, Host, LONG, Runtime};

pub(crate) const CHECKS: &[Check] = &[
    ("create, start, kill, delete", verbs),
    ("run in the foreground", foreground),
    ("run refuses", refusals),
    ("signals are forwarded", signals),
    ("a terminal in the foreground", terminal),
    ("a terminal for a console socket", console_socket),
    ("exec", exec),
    ("exec refuses", exec_refusals),
    ("exec in a paused container", exec_paused),
    ("descriptors", descriptors),
    ("notify socket", notify),
];

pub(crate) const RESTORE: &[Check] = &[("checkpoint and restore", restore)];

const BUNDLE: &str = "/srv/bundle";

/// The bundle, and a first container, whose directories and cgroups stay and are no leaks.
pub(crate) fn prepare(host: &Host) {
    host.node.run(["mkdir", "-p", BUNDLE]).unwrap();
    host.node.unpack(Image::Busybox, &format!("{BUNDLE}/rootfs")).unwrap();
    host.node.run([program(host), "spec", "-b", BUNDLE]).unwrap();
    configure(host, &["true"], |_| ());
    host.node.run([program(host), "run", "-b", BUNDLE, "first"]).unwrap();
}

fn configure(host: &Host, args: &[&str], change: impl FnOnce(&mut Value)) {
    let path = format!("{BUNDLE}/config.json");
    let mut spec: Value = serde_json::from_slice(&host.node.read(&path).unwrap()).unwrap();
    spec["process"]["args"] = json!(args);
    spec["process"]["terminal"] = json!(false);
    spec["root"]["readonly"] = json!(false);
    change(&mut spec);
    host.node.write(&path, spec.to_string()).unwrap();
}

fn runtime(host: &Host, arguments: &[&str]) -> Output {
    host.node.exec([program(host)].iter().chain(arguments)).unwrap()
}

#[track_caller]
fn ok(host: &Host, arguments: &[&str]) -> String {
    let output = runtime(host, arguments);
    assert_eq!((output.code(), output.error_text().as_str()), (0, ""), "{arguments:?}: {}", output.text());
    output.text()
}

/// It ends with `code`, and its last line has `words` in it, with the program's own name for `PROGRAM`.
#[track_caller]
fn refuses(host: &Host, arguments: &[&str], code: i32, words: &str) {
    let output = runtime(host, arguments);
    let text = output.error_text().replace("\\\"", "\"");
    assert_eq!(output.code(), code, "{arguments:?}: {} {text}", output.text());
    assert!(text.contains(&words.replace("PROGRAM", program(host))), "{arguments:?}: {text}");
}

fn state(host: &Host, id: &str) -> Value {
    serde_json::from_str(&ok(host, &["state", id])).unwrap()
}

/// `create`, with stdio that does not keep the caller waiting.
#[track_caller]
fn create(host: &Host, id: &str, flags: &str) {
    host.node
        .sh(&format!("{} create -b {BUNDLE} {flags} {id} </dev/null >/tmp/{id}.log 2>&1", program(host)))
        .unwrap_or_else(|err| panic!("{err}: {}", host.node.read_text(&format!("/tmp/{id}.log")).unwrap_or_default()));
}

#[track_caller]
fn start_sleeping(host: &Host, id: &str) {
    configure(host, &["sleep", "1000"], |_| ());
    create(host, id, "");
    ok(host, &["start", id]);
}

#[track_caller]
fn remove(host: &Host, id: &str) {
    ok(host, &["delete", "-f", id]);
    host.node.run(["rm", "-f", &format!("/tmp/{id}.log")]).unwrap();
}

fn verbs(host: &Host) {
    configure(host, &["sh", "-c", "echo begun; sleep 1000"], |_| ());
    create(host, "c1", "--pid-file /tmp/pid");
    let created = state(host, "c1");
    assert_eq!((&created["status"], &created["bundle"]), (&"created".into(), &BUNDLE.into()));
    assert_eq!(created["pid"].to_string(), host.node.read_text("/tmp/pid").unwrap());
    assert_eq!(host.node.read_text("/tmp/c1.log").unwrap(), "");
    ok(host, &["exec", "c1", "true"]);
    refuses(host, &["create", "-b", BUNDLE, "c1"], 1, "container with given ID already exists");
    ok(host, &["start", "c1"]);
    host.wait("it has begun", || host.node.read_text("/tmp/c1.log").unwrap() == "begun");
    assert_eq!(state(host, "c1")["status"], "running");
    refuses(host, &["start", "c1"], 1, "cannot start an already running container");
    refuses(host, &["delete", "c1"], 1, "cannot delete container c1 that is not stopped: running");
    ok(host, &["kill", "c1", "KILL"]);
    host.wait("it has stopped", || state(host, "c1")["status"] == "stopped");
    refuses(host, &["start", "c1"], 1, "cannot start a container that has stopped");
    refuses(host, &["exec", "c1", "true"], 255, "exec failed: cannot exec in a stopped container");
    ok(host, &["delete", "c1"]);
    refuses(host, &["start", "c1"], 1, "container does not exist");

    // A container that was never started.
    create(host, "c1", "");
    ok(host, &["delete", "c1"]);
    host.node.run(["rm", "/tmp/pid", "/tmp/c1.log"]).unwrap();
}

fn foreground(host: &Host) {
    configure(host, &["sh", "-c", "read line; echo out $line; echo err >&2; exit 42"], |_| ());
    let mut running = host.node.spawn([program(host), "run", "-b", BUNDLE, "c1"]).unwrap();
    running.stdin().unwrap().write_all(b"typed\n").unwrap();
    let output = running.wait(LONG).unwrap();
    assert_eq!((output.code(), output.text().as_str(), output.error_text().as_str()), (42, "out typed", "err"));
    refuses(host, &["state", "c1"], 1, "container does not exist");

    configure(host, &["sh", "-c", "kill -KILL $$"], |spec| {
        // PID 1 of a namespace cannot kill itself.
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "pid");
    });
    assert_eq!(runtime(host, &["run", "-b", BUNDLE, "c1"]).code(), 137);

    host.node.run([program(host), "spec", "-b", "/tmp"]).unwrap();
    host.node.run(["mv", "/tmp/config.json", &format!("{BUNDLE}/config.json")]).unwrap();
    configure(host, &["sh", "-c", "exit 3"], |_| ());
    assert_eq!(runtime(host, &["run", "--keep", "-b", BUNDLE, "c1"]).code(), 3);
    assert_eq!(state(host, "c1")["status"], "stopped");
    ok(host, &["delete", "c1"]);
}

fn refusals(host: &Host) {
    refuses(host, &["create", "-b", "/tmp", "c1"], 1, "JSON specification file config.json not found");
    refuses(host, &["run", "-b", "/nowhere", "c1"], 1, "chdir /nowhere: no such file or directory");
    configure(host, &["nonsense"], |_| ());
    refuses(host, &["run", "-b", BUNDLE, "c1"], 1, r#"exec: "nonsense": executable file not found in $PATH"#);
    refuses(host, &["create", "-b", BUNDLE, "c1"], 1, "PROGRAM create failed: ");
    refuses(host, &["run", "-b", BUNDLE, "a/b"], 1, "invalid container ID format");
    configure(host, &[], |_| ());
    refuses(host, &["run", "-b", BUNDLE, "c1"], 1, "args must not be empty");
    configure(host, &["true"], |spec| spec["process"]["cwd"] = json!("relative"));
    refuses(host, &["run", "-b", BUNDLE, "c1"], 1, "Cwd must be an absolute path");
    configure(host, &["true"], |spec| spec["process"]["cwd"] = json!("/"));
    let socket = ["--console-socket", "/tmp/socket"];
    let needless = "cannot use console socket if PROGRAM will not detach or allocate tty";
    refuses(host, &[&["create", "-b", BUNDLE][..], &socket, &["c1"]].concat(), 1, needless);
    configure(host, &["true"], |spec| spec["process"]["terminal"] = json!(true));
    refuses(host, &[&["run", "-b", BUNDLE][..], &socket, &["c1"]].concat(), 1, needless);
    let needed = "cannot allocate tty if PROGRAM will detach without setting console socket";
    refuses(host, &["create", "-b", BUNDLE, "c1"], 1, needed);
    refuses(host, &["run", "-d", "-b", BUNDLE, "c1"], 1, needed);
    refuses(host, &[&["create", "-b", BUNDLE][..], &socket, &["c1"]].concat(), 1, "no such file or directory");
    configure(host, &["true"], |_| ());
    // runc leaves the state directory then.
    if host.lane.runtime == Runtime::Rtc {
        refuses(host, &["run", "-b", BUNDLE, "--preserve-fds", "90", "c1"], 1, "unable to stat preserved-fd 0 (of 90)");
    }
    refuses(host, &["state", "c1"], 1, "container does not exist");
}

fn signals(host: &Host) {
    configure(host, &["sh", "-c", "trap 'echo got; exit 9' TERM; echo ready; while :; do sleep .05; done"], |_| ());
    let running = host.node.spawn([program(host), "run", "-b", BUNDLE, "c1"]).unwrap();
    host.wait("it is ready", || running.stdout_so_far() == b"ready\n");
    // The command's own process in the node.
    host.node.run(["pkill", "-TERM", "-x", program(host)]).unwrap();
    let output = running.wait(LONG).unwrap();
    assert_eq!((output.code(), output.text().as_str()), (9, "ready\ngot"));
}

fn terminal(host: &Host) {
    // The size may come a moment after the start.
    let script =
        "until [ \"$(stty size 2>/dev/null)\" = '24 80' ]; do sleep 0.02; done; echo sized; read line; echo got $line
                  until [ \"$(stty size)\" = '30 100' ]; do sleep 0.02; done; echo resized; exit 6";
    configure(host, &["sh", "-c", script], |spec| spec["process"]["terminal"] = json!(true));
    let mut terminal = host.node.spawn_tty([program(host), "run", "-b", BUNDLE, "c1"]).unwrap();
    terminal.expect("sized\r\n", LONG).unwrap();
    terminal.send("typed\r").unwrap();
    terminal.expect("got typed\r\n", LONG).unwrap();
    terminal.resize(100, 30).unwrap();
    terminal.expect("resized\r\n", LONG).unwrap();
    let (status, _) = terminal.wait(LONG).unwrap();
    assert_eq!(status.code(), Some(6));

    // A process without a terminal sees none, whoever sits at the command's.
    configure(host, &["sh", "-c", "test -t 0 || test -t 1 || echo none"], |_| ());
    let terminal = host.node.spawn_tty([program(host), "run", "-b", BUNDLE, "c1"]).unwrap();
    let (status, text) = terminal.wait(LONG).unwrap();
    assert_eq!((status.code(), text.as_str()), (Some(0), "none\r\n"));

    start_sleeping(host, "c1");
    let mut terminal = host.node.spawn_tty([program(host), "exec", "-t", "c1", "sh", "-c", "tty; exit 4"]).unwrap();
    terminal.expect("/dev/pts/0\r\n", LONG).unwrap();
    assert_eq!(terminal.wait(LONG).unwrap().0.code(), Some(4));
    remove(host, "c1");
}

/// One message with one descriptor.
fn receive(stream: UnixStream) -> (String, OwnedFd) {
    stream.set_read_timeout(Some(LONG)).unwrap();
    let mut data = [0; 256];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut buffers = [IoSliceMut::new(&mut data)];
    let length = recvmsg(&stream, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap().bytes;
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    (String::from_utf8_lossy(&data[..length]).into_owned(), fd.unwrap())
}

fn console_socket(host: &Host) {
    let listener = UnixListener::bind(host.node.path("/tmp/console.sock")).unwrap();
    let script = "stty size; read line; echo got $line; exec sleep 1000";
    configure(host, &["sh", "-c", script], |spec| {
        spec["process"]["terminal"] = json!(true);
        spec["process"]["consoleSize"] = json!({"width": 91, "height": 17});
    });
    create(host, "c1", "--console-socket /tmp/console.sock --pidfd-socket /tmp/console.sock");
    let mut received = [receive(listener.accept().unwrap().0), receive(listener.accept().unwrap().0)];
    received.sort_by(|a, b| a.0.cmp(&b.0));
    let [(name, master), (kind, _pidfd)] = received;
    assert!(name.starts_with("/dev/"), "{name}");
    assert_eq!(kind, "standard");
    let mut master = std::fs::File::from(master);
    ok(host, &["start", "c1"]);
    expect(&mut master, "17 91\r\n");
    master.write_all(b"typed\n").unwrap();
    expect(&mut master, "got typed\r\n");

    let exec =
        ["exec", "-d", "-t", "--console-socket", "/tmp/console.sock", "c1", "sh", "-c", "echo further; sleep 1000"];
    ok(host, &exec);
    let (_, further) = receive(listener.accept().unwrap().0);
    expect(&mut std::fs::File::from(further), "further\r\n");
    remove(host, "c1");
    host.node.remove("/tmp/console.sock").unwrap();
    configure(host, &["true"], |spec| {
        spec["process"].as_object_mut().unwrap().remove("consoleSize");
    });
}

#[track_caller]
fn expect(master: &mut std::fs::File, text: &str) {
    let mut read = Vec::new();
    while !read.ends_with(text.as_bytes()) {
        let mut byte = [0];
        master.read_exact(&mut byte).unwrap_or_else(|err| panic!("{err} after {:?}", String::from_utf8_lossy(&read)));
        read.push(byte[0]);
    }
}

fn exec(host: &Host) {
    start_sleeping(host, "c1");
    assert_eq!(runtime(host, &["exec", "c1", "sh", "-c", "exit 5"]).code(), 5);
    assert_eq!(ok(host, &["exec", "c1", "echo", "--env", "-d", "--", "x"]), "--env -d -- x");
    assert_eq!(
        ok(host, &["exec", "--user", "5:6", "-g", "7", "-g", "8", "c1", "sh", "-c", "id -u; id -g; id -G"]),
        "5\n6\n6 7 8"
    );
    assert_eq!(
        ok(host, &["exec", "-e", "A=b", "-e", "C=d,e", "--cwd", "/tmp", "c1", "sh", "-c", "echo $A $C $PWD"]),
        "b d,e /tmp"
    );
    let bounding = |flags: &[&str]| {
        let line = ok(host, &[&["exec"], flags, &["c1", "grep", "CapBnd", "/proc/self/status"]].concat());
        u64::from_str_radix(line.split_whitespace().last().unwrap(), 16).unwrap()
    };
    // CAP_SYS_PTRACE
    assert_eq!(bounding(&[]) & 1 << 19, 0);
    assert_eq!(bounding(&["--cap", "CAP_SYS_PTRACE"]) & 1 << 19, 1 << 19);
    let privileges =
        |flags: &[&str]| ok(host, &[&["exec"], flags, &["c1", "grep", "NoNewPrivs", "/proc/self/status"]].concat());
    assert_eq!(privileges(&["--no-new-privs"]), "NoNewPrivs:\t1");

    let process =
        json!({"user": {"uid": 3, "gid": 4}, "cwd": "/", "env": ["PATH=/bin"], "args": ["sh", "-c", "id -u; exit 2"]});
    host.node.write("/tmp/process.json", process.to_string()).unwrap();
    let output = runtime(host, &["exec", "--process", "/tmp/process.json", "c1"]);
    assert_eq!((output.code(), output.text().as_str()), (2, "3"));

    // What is detached keeps the caller's output.
    host.node.sh(&format!("{} exec -d --pid-file /tmp/pid c1 sleep 999 >/dev/null 2>&1", program(host))).unwrap();
    let pid = host.node.read_text("/tmp/pid").unwrap();
    assert!(ok(host, &["ps", "-f", "json", "c1"]).contains(&pid), "{pid}");
    remove(host, "c1");
    host.node.run(["rm", "/tmp/pid", "/tmp/process.json"]).unwrap();
}

fn exec_refusals(host: &Host) {
    start_sleeping(host, "c1");
    refuses(host, &["exec", "c1", "nonsense"], 255, r#"exec: "nonsense": executable file not found in $PATH"#);
    refuses(host, &["exec", "c1"], 255, "exec failed: exec args cannot be empty");
    refuses(host, &["exec", "nobody", "true"], 255, "exec failed: container does not exist");
    refuses(host, &["exec", "-u", "web", "c1", "true"], 255, "bad uid");
    refuses(
        host,
        &["exec", "-d", "-t", "c1", "true"],
        255,
        "cannot allocate tty if PROGRAM will detach without setting",
    );
    refuses(host, &["exec", "--cgroup", "../x", "c1", "true"], 255, "../x is not a sub cgroup path");
    refuses(host, &["exec", "--cgroup", "a", "--cgroup", "b", "c1", "true"], 255, "(missing <controller>: prefix)");
    refuses(host, &["exec", "-p", "/nowhere", "c1"], 255, "open /nowhere: no such file or directory");
    assert_eq!(runtime(host, &["exec", "--nonsense", "c1", "true"]).code(), 1);
    remove(host, "c1");
}

fn exec_paused(host: &Host) {
    start_sleeping(host, "c1");
    ok(host, &["pause", "c1"]);
    let refused = "cannot exec in a paused container (use --ignore-paused to override)";
    refuses(host, &["exec", "c1", "true"], 255, refused);
    let mut waiting = host.node.spawn([program(host), "exec", "--ignore-paused", "c1", "echo", "resumed"]).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert!(waiting.is_running());
    ok(host, &["resume", "c1"]);
    assert_eq!(waiting.wait(LONG).unwrap().text(), "resumed");
    remove(host, "c1");
}

fn descriptors(host: &Host) {
    let list = "cat <&3; cat <&4; echo $(ls /proc/self/fd)";
    configure(host, &["sh", "-c", list], |_| ());
    let here = "3<<A 4<<B 5<<C\na\nA\nb\nB\nc\nC\n";
    let run = |line: &str| host.node.sh(&format!("{} {line} {here}", program(host))).unwrap();
    // The third is not for the container.
    assert_eq!(run(&format!("run --preserve-fds 2 -b {BUNDLE} c1")), "a\nb\n0 1 2 3 4 5");
    start_sleeping(host, "c1");
    assert_eq!(run(&format!("exec --preserve-fds 2 c1 sh -c '{list}'")), "a\nb\n0 1 2 3 4 5");
    remove(host, "c1");

    configure(host, &["sh", "-c", "cat <&3; cat <&4; echo $LISTEN_FDS $LISTEN_PID"], |_| ());
    let script = format!(
        "sh -c 'export LISTEN_FDS=1 LISTEN_PID=$$; exec {} run --preserve-fds 1 -b {BUNDLE} c1' {here}",
        program(host)
    );
    assert_eq!(host.node.sh(&script).unwrap(), "a\nb\n1 1");
}

fn notify(host: &Host) {
    let socket = UnixDatagram::bind(host.node.path("/tmp/notify.sock")).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    let message = || {
        let mut data = [0; 256];
        let length = socket.recv(&mut data).unwrap();
        String::from_utf8_lossy(&data[..length]).into_owned()
    };
    configure(host, &["sh", "-c", "test -S $NOTIFY_SOCKET && echo $NOTIFY_SOCKET; exec sleep 1000"], |_| ());
    let env = ["env", "NOTIFY_SOCKET=/tmp/notify.sock", program(host)];
    let quietly = "exec \"$@\" </dev/null >/tmp/log 2>&1";
    let line = [&["sh", "-c", quietly, "sh"][..], &env].concat();
    for verbs in [&[&["run", "-d", "-b", BUNDLE, "c1"][..]][..], &[&["create", "-b", BUNDLE, "c1"], &["start", "c1"]]] {
        let (last, before) = verbs.split_last().unwrap();
        for verb in before {
            host.node.run(line.iter().chain(*verb)).unwrap();
        }
        let mut waiting = host.node.spawn(line.iter().chain(*last)).unwrap();
        host.wait("it is told of its socket", || {
            host.node.read_text("/tmp/log").is_ok_and(|text| text == "/run/notify/notify.sock")
        });
        let root = format!("/run/{}/c1/notify/notify.sock", program(host));
        let container = UnixDatagram::unbound().unwrap();
        container.send_to(b"STATUS=not yet", host.node.path(&root)).unwrap();
        assert!(waiting.is_running());
        container.send_to(b"READY=1\nSTATUS=ready", host.node.path(&root)).unwrap();
        assert_eq!(message(), "READY=1\n");
        assert_eq!(message(), format!("MAINPID={}\n", state(host, "c1")["pid"]));
        assert_eq!(message(), "BARRIER=1");
        assert_eq!(waiting.wait(LONG).unwrap().code(), 0);
        remove(host, "c1");
    }
    host.node.run(["rm", "/tmp/notify.sock", "/tmp/log"]).unwrap();
}

fn restore(host: &Host) {
    let script = "i=0; while :; do i=$((i+1)); echo $i >/count; usleep 20000; done";
    configure(host, &["sh", "-c", script], |_| ());
    // CRIU carries no file of the host's.
    host.node.sh(&format!("{} create -b {BUNDLE} c1 </dev/null >/dev/null 2>&1", program(host))).unwrap();
    ok(host, &["start", "c1"]);
    let count = || ok(host, &["exec", "c1", "cat", "/count"]).parse::<u64>().unwrap_or(0);
    host.wait("it counts", || count() > 2);
    ok(host, &["checkpoint", "--image-path", "/tmp/images", "c1"]);
    refuses(host, &["state", "c1"], 1, "container does not exist");
    let before: u64 = host.node.read_text(&format!("{BUNDLE}/rootfs/count")).unwrap().parse().unwrap();
    let line = format!("{} restore -d --image-path /tmp/images -b {BUNDLE} --pid-file /tmp/pid c1", program(host));
    host.node
        .sh(&format!("{line} </dev/null >/tmp/c1.log 2>&1"))
        .unwrap_or_else(|err| panic!("{err} {}", host.node.read_text("/tmp/c1.log").unwrap_or_default()));
    let restored = state(host, "c1");
    assert_eq!(restored["status"], "running");
    assert_eq!(restored["pid"].to_string(), host.node.read_text("/tmp/pid").unwrap());
    host.wait("it counts on", || count() > before);
    remove(host, "c1");
    host.node.run(["rm", "-r", "/tmp/images", "/tmp/pid"]).unwrap();
}
