//! The nodes themselves: that a container runs in one with runc, that two hear one another, that nothing is left of one.
//! What the runtimes do in a node is tested in `contract`.

#![expect(clippy::print_stderr, reason = "a skipped test says why")]

use std::fs;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use test_fixtures::{Cgroups, Error, Image, Node, NodeConfig, Tree, artifact};

const SOON: Duration = Duration::from_secs(10);

fn skipped() -> bool {
    let why = test_fixtures::skip_reason();
    if let Some(why) = why {
        eprintln!("skipped: {why}");
    }
    why.is_some()
}

/// A node without containerd.
fn bare() -> Node {
    Node::start(NodeConfig { rtc: false, containerd: false, ..NodeConfig::default() }).unwrap()
}

fn cgroups_named(part: &str) -> Vec<String> {
    let mut all = Vec::new();
    for root in ["/sys/fs/cgroup".to_owned()]
        .into_iter()
        .chain(fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path().display().to_string()))
    {
        let Ok(entries) = fs::read_dir(root) else { continue };
        let names = entries.flatten().map(|entry| entry.path().display().to_string());
        all.extend(names.filter(|name| name.contains(part)));
    }
    all
}

#[test]
fn runc_runs_in_every_tree() {
    if skipped() {
        return;
    }
    for tree in Tree::ALL {
        let config = NodeConfig { tree, rtc: false, images: vec![Image::Busybox], ..NodeConfig::default() };
        let node = Node::start(config).unwrap();
        let run = ["ctr", "run", "--rm", Image::Busybox.name(), "c1", "echo", "hello"];
        // The first container leaves directories that containerd keeps.
        node.run(run).unwrap();
        let before = node.snapshot();
        assert_eq!(node.run(run).unwrap(), "hello");
        node.assert_no_leaks(&before);
    }
}

#[test]
fn a_node_has_the_cgroups_that_were_asked_for() {
    if skipped() {
        return;
    }
    for cgroups in Cgroups::supported() {
        let config = NodeConfig { cgroups, rtc: false, containerd: false, ..NodeConfig::default() };
        let node = Node::start(config).unwrap();
        let types = node.sh("stat -f -c %T /sys/fs/cgroup").unwrap();
        assert_eq!(types, if cgroups == Cgroups::V2 { "cgroup2fs" } else { "tmpfs" });
        // The root of the node's cgroup2 is empty, and so may have controllers for its children.
        let root = if cgroups == Cgroups::V2 { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/unified" };
        assert_eq!(node.sh(&format!("cat {root}/cgroup.procs")).unwrap(), "");
        assert_eq!(node.sh("grep ^0:: /proc/self/cgroup").unwrap(), "0::/init");
    }
}

#[test]
fn nothing_is_left_of_a_node() {
    if skipped() {
        return;
    }
    let node = bare();
    let marker = node.name().to_owned();
    let own = format!("rtc-node-{}-", std::process::id());
    let (pid, mounts) = (node.pid(), fs::read_to_string("/proc/self/mountinfo").unwrap());
    assert!(!mounts.contains(&marker), "a node's mounts are its own");
    assert!(!cgroups_named(&own).is_empty());
    node.sh("mkdir /sys/fs/cgroup/cpu/left || mkdir /sys/fs/cgroup/left").unwrap();
    node.sh("setsid sleep 1000 >/dev/null 2>&1 & sleep 1000 >/dev/null 2>&1 &").unwrap();
    drop(node);
    assert!(!fs::exists(format!("/proc/{pid}")).unwrap());
    assert_eq!(cgroups_named(&own), [""; 0]);
}

/// Tells the next test's other half, a process of its own, to make a node and wait to be killed.
const OWNER: &str = "RTC_TEST_OWNER";

#[test]
fn a_node_dies_with_its_owner() {
    if skipped() {
        return;
    }
    if std::env::var_os(OWNER).is_some() {
        let node = bare();
        println!("owner of {}", node.pid());
        return sleep(SOON);
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "--nocapture", "a_node_dies_with_its_owner"]).env(OWNER, "1").stdout(Stdio::piped());
    let mut owner = command.spawn().unwrap();
    let mut output = std::io::BufReader::new(owner.stdout.take().unwrap());
    let pid = loop {
        let mut line = String::new();
        assert_ne!(std::io::BufRead::read_line(&mut output, &mut line).unwrap(), 0, "the owner ended early");
        // Behind the test's name, on the same line.
        if let Some((_, pid)) = line.trim().split_once("owner of ") {
            break pid.to_owned();
        }
    };
    let mark = format!("rtc-node-{}-", owner.id());
    assert!(fs::exists(format!("/proc/{pid}")).unwrap());
    assert!(!cgroups_named(&mark).is_empty());

    owner.kill().unwrap();
    owner.wait().unwrap();
    let deadline = Instant::now() + SOON;
    while is_alive(&pid) {
        assert!(Instant::now() < deadline, "the node outlives its owner");
        sleep(Duration::from_millis(10));
    }
    // Its cgroups go with the start of another node, once the host's init has reaped what was in them.
    loop {
        drop(bare());
        if cgroups_named(&mark).is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "left: {:?}", cgroups_named(&mark));
        sleep(Duration::from_millis(100));
    }
}

fn is_alive(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[test]
fn a_command_that_takes_too_long_is_killed() {
    if skipped() {
        return;
    }
    let node = bare();
    let before = node.snapshot();
    let result = node.exec_within(Duration::from_millis(300), ["sh", "-c", "echo begun; exec sleep 1000"]);
    assert!(matches!(result, Err(Error::Timeout { ref output, .. }) if output == "begun\n"), "{result:?}");
    node.assert_no_leaks(&before);
}

#[test]
fn what_is_left_is_told() {
    if skipped() {
        return;
    }
    let node = bare();
    let before = node.snapshot();
    node.sh("mkdir /run/leak; mount -t tmpfs leak /run/leak; setsid sleep 1000 >/dev/null 2>&1 &").unwrap();
    let left = node.snapshot().since(&before);
    assert!(left.contains(&"file /run/leak".to_owned()), "{left:?}");
    assert!(left.contains(&"mount /run/leak".to_owned()), "{left:?}");
    assert!(left.iter().any(|line| line.starts_with("process ")), "{left:?}");
    assert!(matches!(node.check_leaks(&before), Err(Error::Leaks { .. })));
}

#[test]
fn a_terminal_has_a_size_and_a_session() {
    if skipped() {
        return;
    }
    let node = bare();
    let mut terminal = node.spawn_tty(["sh"]).unwrap();
    terminal.send("stty size; tty </dev/tty >/dev/null && echo con''trolling\n").unwrap();
    terminal.expect("24 80", SOON).unwrap();
    terminal.expect("controlling", SOON).unwrap();
    terminal.resize(100, 30).unwrap();
    terminal.send("stty size\n").unwrap();
    terminal.expect("30 100", SOON).unwrap();
    terminal.send("exit 7\n").unwrap();
    let (status, rest) = terminal.wait(SOON).unwrap();
    assert_eq!(status.code(), Some(7), "{rest}");
}

#[test]
fn containerd_stops_starts_and_dies() {
    if skipped() {
        return;
    }
    let node = Node::start(NodeConfig { rtc: false, images: vec![Image::Busybox], ..NodeConfig::default() }).unwrap();
    node.run(["ctr", "run", "-d", Image::Busybox.name(), "c1", "sleep", "1000"]).unwrap();
    for stop in [Node::stop_containerd, Node::kill_containerd] {
        stop(&node).unwrap();
        assert!(!node.exec(["ctr", "--connect-timeout", "100ms", "version"]).unwrap().status.success());
        node.start_containerd().unwrap();
        assert!(node.run(["ctr", "task", "ls"]).unwrap().contains("RUNNING"));
    }
}

#[test]
fn containerd_reads_the_example_configuration() {
    if skipped() {
        return;
    }
    for (tree, file) in [(Tree::Trixie, "config-1.7.toml"), (Tree::Forky, "config-2.toml")] {
        let node = Node::start(NodeConfig { tree, rtc: false, containerd: false, ..NodeConfig::default() }).unwrap();
        node.copy_in(&artifact::workspace().join("hack/containerd").join(file), "/etc/containerd/config.toml").unwrap();
        let config = node.run(["containerd", "config", "dump"]).unwrap();
        assert!(config.contains("runtimes.rtc]"), "{config}");
        assert!(config.contains("/run/containerd/rtc"), "{config}");
    }
}

#[test]
fn nodes_are_joined() {
    if skipped() {
        return;
    }
    let nodes = [bare(), bare(), bare()];
    let [one, two, three] = &nodes;
    Node::link("wire0", (one, "10.1.0.1/24"), (two, "10.1.0.2/24")).unwrap();
    one.run(["busybox", "ping", "-c", "1", "-W", "5", "10.1.0.2"]).unwrap();
    let wire = Node::bridge("lan0", &[(one, "10.2.0.1/24"), (two, "10.2.0.2/24"), (three, "10.2.0.3/24")]).unwrap();
    three.run(["busybox", "ping", "-c", "1", "-W", "5", "10.2.0.1"]).unwrap();
    three.run(["busybox", "ping", "-c", "1", "-W", "5", "10.2.0.2"]).unwrap();
    drop(wire);
    // The kernel takes a namespace's devices away some time after its last process has ended.
    let reaches = || three.exec(["busybox", "ping", "-c", "1", "-W", "1", "10.2.0.1"]).unwrap().status.success();
    let begun = Instant::now();
    while reaches() {
        assert!(begun.elapsed() < Duration::from_secs(10), "the bridge is still there");
    }
}

#[test]
fn a_directory_travels_between_nodes() {
    if skipped() {
        return;
    }
    let (one, two) = (bare(), bare());
    one.sh("mkdir -p /var/lib/cp; echo data >/var/lib/cp/file; chmod 600 /var/lib/cp/file").unwrap();
    one.copy_directory_to("/var/lib/cp", &two).unwrap();
    assert_eq!(two.read_text("/var/lib/cp/file").unwrap(), "data");
    assert_eq!(two.sh("stat -c %a /var/lib/cp/file").unwrap(), "600");
}
