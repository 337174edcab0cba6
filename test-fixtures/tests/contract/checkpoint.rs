//! Checkpoint and restore: as `ctr` does them, through containerd's content store, and from a copied directory.

use age::secrecy::ExposeSecret;
use containerd_shim_protos::api::Status;
use test_fixtures::{Image, Node, NodeConfig};

use crate::by_socket::{BUNDLE, IMAGES, Shim, is};
use crate::events::{Event, Events};
use crate::host::{Check, Host, LONG, Runtime};

pub(crate) const CHECKS: &[Check] = &[
    ("a checkpoint lets the container run on", runs_on),
    ("a restored counter goes on where it was, and all verbs work on it", restored),
    ("input that was not read yet is read by the restored process", unread_input),
    ("images go on in another node, and back in the first", in_another_node),
    ("annotations seal a checkpoint, and open it", sealed),
];

const CHECKPOINT: &str = "rtc.test/checkpoint:1";

/// The image of the counter; and where there is no iptables, runc's CRIU is told of nftables.
pub(crate) fn prepare(host: &Host) {
    host.node.import("default", &Image::Workload).unwrap();
    host.node
        .sh("mkdir -p /etc/criu; command -v iptables-restore || echo network-lock nftables >/etc/criu/runc.conf")
        .unwrap();
}

/// Which process counts, and how far it is.
pub(crate) fn count(node: &Node, id: &str) -> (u64, u64) {
    let line = node.run(["ctr", "task", "exec", "--exec-id", "count", id, "cat", "/count"]).unwrap();
    let mut numbers = line.split_whitespace().map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

fn start_counter(host: &Host) {
    let runtime = host.lane.runtime.name();
    let counter = ["/bin/workload", "counter", "--file", "/count", "--interval-ms", "5"];
    host.ctr_ok(&[&["run", "-d", "--runtime", runtime, Image::Workload.name(), "c1"][..], &counter].concat());
    wait_for_count(host);
}

/// Until c1 has counted.
pub(crate) fn wait_for_count(host: &Host) {
    let running = || host.ctr(&["task", "exec", "--exec-id", "look", "c1", "test", "-s", "/count"]).code() == 0;
    host.wait("it counts", running);
}

/// Into an image of containerd's, with the writable layer.
#[track_caller]
pub(crate) fn checkpoint(host: &Host) {
    let output = host
        .node
        .exec_within(LONG, ["ctr", "container", "checkpoint", "--rw", "--image", "--task", "c1", CHECKPOINT])
        .unwrap();
    assert_eq!(output.code(), 0, "{}\n{}", output.error_text(), host.node.containerd_log());
}

#[track_caller]
pub(crate) fn restore(node: &Node, id: &str) {
    let output = node.exec_within(LONG, ["ctr", "container", "restore", "--rw", "--live", id, CHECKPOINT]).unwrap();
    assert_eq!(output.code(), 0, "{}\n{}", output.error_text(), node.containerd_log());
}

pub(crate) fn forget_checkpoint(node: &Node) {
    node.run(["ctr", "image", "rm", "--sync", CHECKPOINT]).unwrap();
}

/// The same process, and no count is lost or doubled: it is past what was seen before, by no more than has passed.
#[track_caller]
pub(crate) fn assert_goes_on(node: &Node, id: &str, (start, before): (u64, u64)) {
    let (restored, first) = count(node, id);
    assert_eq!(restored, start, "another process counts");
    assert!(first >= before, "{first} after {before}");
    assert!(first < before + 10_000, "{first} after {before}");
    let (_, second) = count(node, id);
    assert!(second > first, "it stands still at {first}");
}

fn runs_on(host: &Host) {
    start_counter(host);
    let before = count(&host.node, "c1");
    let events = Events::listen(host);
    checkpoint(host);
    assert_eq!(host.status("c1").as_deref(), Some("RUNNING"));
    assert_goes_on(&host.node, "c1", before);
    let told = |event: &Event| event.topic == "/tasks/checkpointed" && event.message["container_id"] == "c1";
    match host.lane.runtime {
        Runtime::Rtc => host.wait("who listens hears of it", || events.seen().iter().any(told)),
        Runtime::Runc => eprintln!("skipped: runc's shim tells nobody of a checkpoint"),
    }
    drop(events);
    forget_checkpoint(&host.node);
    host.kill_and_remove("c1");
}

fn restored(host: &Host) {
    start_counter(host);
    let before = count(&host.node, "c1");
    checkpoint(host);
    host.kill_and_remove("c1");

    restore(&host.node, "again");
    assert_goes_on(&host.node, "again", before);
    let processes = host.ctr_ok(&["task", "ps", "again"]);
    assert!(processes.lines().any(|line| line.starts_with(&host.pid("again").to_string())), "{processes}");
    host.ctr_ok(&["task", "metrics", "again"]);
    host.ctr_ok(&["task", "pause", "again"]);
    assert_eq!(host.status("again").as_deref(), Some("PAUSED"));
    host.ctr_ok(&["task", "resume", "again"]);
    host.ctr_ok(&["task", "kill", "-s", "KILL", "again"]);
    host.wait_for_status("again", "STOPPED");
    // ctr's own exit code does not tell.
    let deleted = host.ctr(&["task", "delete", "again"]).error_text();
    assert!(deleted.contains("exit code 137"), "{deleted}");
    host.ctr_ok(&["container", "delete", "again"]);
    forget_checkpoint(&host.node);
}

fn in_another_node(host: &Host) {
    if host.lane.runtime == Runtime::Runc {
        eprintln!("skipped: not every Go shim serves version 3 of the Task service");
        return;
    }
    let config = NodeConfig { tree: host.lane.tree, cgroups: host.lane.cgroups, ..NodeConfig::default() };
    let other = Host { node: Node::start(config).unwrap(), lane: host.lane };
    let script = "n=0; while :; do n=$((n+1)); echo $n >/count; usleep 1000; done";
    // The count, once it is past one: the file is empty for a moment each time.
    let counted_past = |host: &Host, at: u64| {
        let mut count = 0;
        host.wait("it counts on", || {
            count = host.node.read_text(COUNT).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
            count > at
        });
        count
    };

    let shim = Shim::start(host, script, None);
    shim.create(LONG, "").unwrap();
    shim.start_task(LONG).unwrap();
    let mut at = counted_past(host, 100);
    let mut file = dump_and_end(shim, host);

    // There and back again. A new bundle each time, with what is of the root filesystem's: the shell may have been dumped
    // with the file open, and be about to write. What it knows of the count it has from the images alone.
    for (from, to) in [(host, &other), (&other, host)] {
        let shim = Shim::start(to, script, None);
        from.node.copy_directory_to(MOVING, &to.node).unwrap();
        from.node.run(["rm", "-r", MOVING]).unwrap();
        at = String::from_utf8_lossy(&file).trim().parse().unwrap_or(at);
        to.node.write(COUNT, &file).unwrap();
        assert_eq!(shim.create(LONG, MOVING).unwrap().pid, 0);
        shim.start_task(LONG).unwrap();
        let count = counted_past(to, at);
        assert!(count < at + 10_000, "it goes on where it was");
        at = count;
        to.node.run(["rm", "-r", MOVING]).unwrap();
        file = dump_and_end(shim, to);
    }
    host.node.run(["rm", "-r", MOVING]).unwrap();
}

/// The shell's memory has this in one piece, and no argument has.
const MARKER: &str = "plain-marker-7f3a";

fn sealed(host: &Host) {
    if host.lane.runtime == Runtime::Runc {
        eprintln!("skipped: runc seals nothing");
        return;
    }
    let script = "a=plain; b=marker; m=$a-$b-7f3a; n=0; while :; do n=$((n+1)); echo $n >/count; usleep 1000; done";
    let identity = age::x25519::Identity::generate();
    host.node.write("/tmp/key", identity.to_string().expose_secret()).unwrap();
    let annotate = |annotations: &str| {
        let program = format!(".annotations += {{{annotations}}}");
        host.node.sh(&format!("cd {BUNDLE} && jq '{program}' config.json >new && mv new config.json")).unwrap();
    };
    let count = || host.node.read_text(COUNT).ok().and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0);

    let shim = Shim::start(host, script, None);
    let recipient = identity.to_public();
    annotate(&format!("\"org.rtc.criu.compress\": \"zstd:1\", \"org.rtc.criu.encrypt-recipient\": \"{recipient}\""));
    shim.create(LONG, "").unwrap();
    shim.start_task(LONG).unwrap();
    host.wait("it counts", || count() > 100);
    let file = dump_and_end(shim, host);
    let files = host.node.sh(&format!("ls {MOVING}")).unwrap();
    let sealed = |name: &str| name.ends_with(".sealed") || ["rtc.json", "rtc-key.age"].contains(&name);
    assert!(files.lines().count() > 20 && files.lines().all(sealed), "{files}");
    assert_eq!(host.node.sh(&format!("grep -rl {MARKER} {MOVING} /run || true")).unwrap(), "");

    // Without a key, and then with it.
    let shim = Shim::start(host, script, None);
    let at: u64 = String::from_utf8_lossy(&file).trim().parse().unwrap_or(100);
    host.node.write(COUNT, &file).unwrap();
    assert_eq!(shim.create(LONG, MOVING).unwrap().pid, 0);
    let refused = shim.start_task(LONG).unwrap_err().to_string();
    assert!(refused.contains("no key was given"), "{refused}");
    annotate("\"org.rtc.criu.decrypt-key\": \"/tmp/key\"");
    shim.start_task(LONG).unwrap();
    host.wait("it goes on", || count() > at);
    assert!(count() < at + 10_000, "it goes on where it was");
    shim.kill();
    shim.delete();
    shim.shut_down();
    host.node.run(["rm", "-r", MOVING, "/tmp/key"]).unwrap();
}

fn unread_input(host: &Host) {
    if host.lane.runtime == Runtime::Runc {
        eprintln!("skipped: runc loses it");
        return;
    }
    let script = "echo up; while [ ! -e /go ]; do usleep 5000; done; cat";
    let fifos = |name: &str| {
        let dir = format!("/tmp/{name}");
        host.node.sh(&format!("mkdir {dir} && mkfifo {dir}/in {dir}/out")).unwrap();
        dir
    };
    let read = |dir: &str, bytes: usize| host.node.sh(&format!("timeout 10 head -c {bytes} {dir}/out")).unwrap();
    let (first, second) = (fifos("first"), fifos("second"));
    let shim = Shim::start(host, script, None);
    shim.create_with(&first, "").unwrap();
    shim.start_task(LONG).unwrap();
    assert_eq!(read(&first, 3), "up");
    // More than the pipe holds: the rest waits in the fifo, and in the client for a while.
    host.node.sh(&format!("seq 20000 >{first}/in")).unwrap();
    host.node.run(["mkdir", "-p", IMAGES]).unwrap();
    shim.checkpoint(LONG).unwrap();
    shim.wait("dumped and gone", is(Status::STOPPED));
    host.node.run(["mv", IMAGES, MOVING]).unwrap();
    shim.delete();
    shim.shut_down();
    drop(shim);

    let shim = Shim::start(host, script, None);
    shim.create_with(&second, MOVING).unwrap();
    shim.start_task(LONG).unwrap();
    host.node.write(&format!("{BUNDLE}/rootfs/go"), b"").unwrap();
    host.node.sh(&format!("echo more >{second}/in")).unwrap();
    let all = (1..=20000).map(|number| format!("{number}\n")).collect::<String>() + "more\n";
    assert_eq!(read(&second, all.len()), all.trim());
    shim.kill();
    shim.delete();
    shim.shut_down();
    host.node.run(["rm", "-r", MOVING, &first, &second]).unwrap();
}

/// Outlives the bundle.
const MOVING: &str = "/tmp/moving";
/// What the container writes; in the bundle's root filesystem.
const COUNT: &str = "/tmp/bundle/rootfs/count";

/// The contents of the file that the container writes.
fn dump_and_end(shim: Shim<'_>, host: &Host) -> Vec<u8> {
    host.node.run(["mkdir", "-p", IMAGES]).unwrap();
    shim.checkpoint(LONG).unwrap();
    shim.wait("dumped and gone", is(Status::STOPPED));
    let file = host.node.read(COUNT).unwrap();
    host.node.run(["mv", IMAGES, MOVING]).unwrap();
    assert_eq!(shim.delete().exit_status, 137);
    shim.shut_down();
    file
}
