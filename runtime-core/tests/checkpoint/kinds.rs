//! What is checkpointed goes on where it was.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::Duration;

use runtime_core::Signal;
use runtime_core::container::{CheckpointOptions, Container, RestoreOptions, Status, Stdio};
use serde_json::{Value, json};

use crate::scene::{Bundle, COUNT, Counter, ok};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("a counter goes on where it was", counts),
    ("a paused container is checkpointed and stays paused", paused),
    ("cgroup mounts come back as those of the new cgroup", cgroup_mounts),
    ("a restored container is whole", whole),
    ("a mount below a recursive bind comes back", below_a_bind),
    ("a socket for sd_notify comes back", notify_socket),
    ("a spec in a file of another name is read there", spec_elsewhere),
    ("a session on a terminal gets the new one", terminal),
    ("a container without stdio", no_stdio),
    ("a network namespace by path is joined again", network_by_path),
    ("a network namespace of its own", own_network),
    ("rtc.json says what the checkpoint is", manifest),
];

fn counts() {
    let bundle = Bundle::new(COUNT);
    let mut counter = bundle.start();
    assert_eq!(counter.next(), 0);
    let made = counter.snapshot(bundle.images("one"));
    assert!(made.bytes > 4096 && made.frozen.is_some(), "{made:?}");
    assert_eq!(counter.container.status().unwrap(), Status::Running);
    let last = counter.goes_on_after(0);
    let last = counter.freeze_dry(bundle.images("two"), last);

    let mut counter = bundle.restore("second", &bundle.images("two"));
    let last = counter.goes_on_after(last);
    // And from the restored one.
    let last = counter.freeze_dry(bundle.images("three"), last);
    let mut counter = bundle.restore("third", &bundle.images("three"));
    counter.goes_on_after(last);
    counter.kill();

    // The images are as they were: the same once more.
    let mut counter = bundle.restore("fourth", &bundle.images("three"));
    counter.goes_on_after(last);
    counter.kill();
}

fn paused() {
    let bundle = Bundle::new(COUNT);
    let mut counter = bundle.start();
    assert_eq!(counter.next(), 0);
    ok(counter.container.pause());
    counter.snapshot(bundle.images("one"));
    assert_eq!(counter.container.status().unwrap(), Status::Paused);
    ok(counter.container.resume());
    let last = counter.goes_on_after(0);
    ok(counter.container.pause());
    let last = counter.freeze_dry(bundle.images("two"), last);
    let mut counter = bundle.restore("second", &bundle.images("two"));
    assert_eq!(counter.container.status().unwrap(), Status::Running);
    counter.goes_on_after(last);
    counter.kill();
}

fn cgroup_mounts() {
    for own_namespace in [true, false] {
        let mut bundle = Bundle::new(COUNT);
        bundle.mount(
            json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid"]}),
        );
        if !own_namespace {
            bundle.spec["linux"]["namespaces"]
                .as_array_mut()
                .unwrap()
                .retain(|namespace| namespace["type"] != "cgroup");
        }
        let mut counter = bundle.start();
        let last = counter.goes_on_after_first();
        let last = counter.freeze_dry(bundle.images("one"), last);
        // Another cgroup than the one that was checkpointed.
        bundle.spec["linux"]["cgroupsPath"] = json!("/rtc-checkpoint-other");
        let mut counter = bundle.restore("second", &bundle.images("one"));
        counter.goes_on_after(last);
        let pid = counter.container.pid().unwrap();
        let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        assert!(cgroups.contains("/rtc-checkpoint-other") && !cgroups.contains("/rtc-checkpoint-test"), "{cgroups}");
        let (code, files) = counter.exec(&bundle, "cat /proc/self/mountinfo");
        assert_eq!(code, 0);
        assert!(files.contains("/sys/fs/cgroup") && !files.contains("rtc-checkpoint-test"), "{files}");
        counter.kill();
    }
}

fn whole() {
    let bundle = Bundle::new(COUNT);
    let mut counter = bundle.start();
    let last = counter.goes_on_after_first();
    let last = counter.freeze_dry(bundle.images("one"), last);
    let mut counter = bundle.restore("second", &bundle.images("one"));
    let last = counter.goes_on_after(last);
    let (code, text) = counter.exec(&bundle, "cat /etc/hosts /run/hosts; echo x > /data/x; cat /proc/keys; exit 7");
    assert_eq!((code, text.as_str()), (7, "127.0.0.1 localhost\n127.0.0.1 localhost\n"));
    assert!(bundle.path().join("data/x").exists());
    assert!(counter.container.pids().unwrap().contains(&counter.container.pid().unwrap()));
    ok(counter.container.pause());
    assert_eq!(counter.container.status().unwrap(), Status::Paused);
    ok(counter.container.resume());
    counter.goes_on_after(last);
    ok(counter.container.stats().map(drop));
    counter.kill();
    bundle.assert_no_state("second");
}

fn below_a_bind() {
    let bundle = Bundle::new(COUNT);
    let below = bundle.path().join("data/below");
    fs::create_dir(&below).unwrap();
    let mount = |args: &[&str]| assert!(Command::new("mount").args(args).arg(&below).status().unwrap().success());
    mount(&["-t", "tmpfs", "tmpfs"]);
    fs::write(below.join("file"), "kept\n").unwrap();
    let mut counter = bundle.start();
    let last = counter.goes_on_after_first();
    let last = counter.freeze_dry(bundle.images("one"), last);
    let mut counter = bundle.restore("second", &bundle.images("one"));
    counter.goes_on_after(last);
    let (_, text) = counter.exec(&bundle, "cat /data/below/file; echo more > /data/below/more");
    assert_eq!(text, "kept\n");
    assert!(below.join("more").exists(), "it is not the host's mount");
    counter.kill();
    assert!(Command::new("umount").arg(&below).status().unwrap().success());
}

/// Writes a line to a terminal, and reads until the answer has come.
pub(crate) fn talk(master: &OwnedFd, line: &str) -> String {
    let mut master = File::from(master.try_clone().unwrap());
    master.write_all(line.as_bytes()).unwrap();
    let (mut text, mut buffer) = (String::new(), [0; 256]);
    while !text.contains("kept") {
        let length = master.read(&mut buffer).unwrap();
        text += &String::from_utf8_lossy(&buffer[..length]);
    }
    text
}

fn notify_socket() {
    let bundle = Bundle::new(COUNT);
    let (stdio, output) = crate::scene::pipes();
    let mut options = bundle.options("first", stdio);
    options.notify_socket = true;
    let (container, started) = ok(Container::create(options));
    let socket = ok(container.bind_notify_socket()).expect("it was asked for");
    ok(container.start());
    let mut counter = Counter { container, started, output };
    assert_eq!(counter.next(), 0);
    let last = counter.freeze_dry(bundle.images("one"), 0);
    drop(socket);

    let mut counter = bundle.restore("second", &bundle.images("one"));
    counter.goes_on_after(last);
    let socket = ok(counter.container.bind_notify_socket()).expect("it comes from the checkpoint");
    let inside = format!("/proc/{}/root/run/notify/notify.sock", counter.container.pid().unwrap());
    std::os::unix::net::UnixDatagram::unbound().unwrap().send_to(b"READY=1", inside).unwrap();
    assert_eq!(socket.recv(&mut [0; 64]).unwrap(), 7);
    counter.kill();
}

fn spec_elsewhere() {
    let bundle = Bundle::new(COUNT);
    let (stdio, output) = crate::scene::pipes();
    let mut options = bundle.options("first", stdio);
    let config = bundle.path().join("other.json");
    std::fs::rename(bundle.path().join("config.json"), &config).unwrap();
    options.config = Some(config);
    let (container, started) = ok(Container::create(options));
    ok(container.start());
    let mut counter = Counter { container, started, output };
    assert_eq!(counter.next(), 0);
    let last = counter.freeze_dry(bundle.images("one"), 0);

    let mut counter = bundle.restore("second", &bundle.images("one"));
    counter.goes_on_after(last);
    counter.kill();
}

fn terminal() {
    let mut bundle = Bundle::new("x=kept; while read line; do echo got $line $x; done");
    bundle.spec["process"]["terminal"] = json!(true);
    let (container, started) = ok(Container::create(bundle.options("first", Stdio::Terminal)));
    ok(container.start());
    assert!(talk(started.console.as_ref().unwrap(), "one\n").contains("got one kept"));
    ok(container.checkpoint(&CheckpointOptions::new(bundle.images("one"))));
    started.child.wait().unwrap();
    ok(container.delete(false));
    drop(started);

    let options = RestoreOptions::new(bundle.options("second", Stdio::Terminal), bundle.images("one"));
    let (container, started) = ok(Container::restore(options));
    assert!(talk(started.console.as_ref().unwrap(), "two\n").contains("got two kept"));
    ok(container.kill(Signal::KILL, false));
    started.child.wait().unwrap();
    ok(container.delete(false));
}

fn no_stdio() {
    let bundle =
        Bundle::new("i=0; while :; do echo $i > /data/new; mv /data/new /data/n; i=$((i+1)); sleep 0.02; done");
    let null = || -> OwnedFd { OpenOptions::new().read(true).write(true).open("/dev/null").unwrap().into() };
    let stdio = || Stdio::Fds { stdin: null(), stdout: null(), stderr: null() };
    let count = || -> Option<u64> { fs::read_to_string(bundle.path().join("data/n")).ok()?.trim().parse().ok() };
    let reaches = |number: u64| {
        let until = std::time::Instant::now() + Duration::from_secs(10);
        while count().is_none_or(|count| count < number) {
            assert!(std::time::Instant::now() < until, "it does not count");
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    let (container, started) = ok(Container::create(bundle.options("first", stdio())));
    ok(container.start());
    reaches(3);
    ok(container.checkpoint(&CheckpointOptions::new(bundle.images("one"))));
    started.child.wait().unwrap();
    ok(container.delete(false));
    let last = count().unwrap();
    fs::remove_file(bundle.path().join("data/n")).unwrap();
    let options = RestoreOptions::new(bundle.options("second", stdio()), bundle.images("one"));
    let (container, started) = ok(Container::restore(options));
    reaches(last + 1);
    assert!(count().unwrap() < last + 100, "it began anew or jumped");
    ok(container.kill(Signal::KILL, false));
    started.child.wait().unwrap();
    ok(container.delete(false));
}

fn ip(args: &[&str]) {
    assert!(Command::new("ip").args(args).status().unwrap().success(), "ip {args:?}");
}

fn network_by_path() {
    let mut bundle = Bundle::new(COUNT);
    let join = |bundle: &mut Bundle, name: &str| {
        let namespaces = bundle.spec["linux"]["namespaces"].as_array_mut().unwrap();
        let network: &mut Value = namespaces.iter_mut().find(|namespace| namespace["type"] == "network").unwrap();
        network["path"] = json!(format!("/run/netns/{name}"));
    };
    ip(&["netns", "add", "here"]);
    ip(&["netns", "add", "there"]);
    join(&mut bundle, "here");
    let mut counter = bundle.start();
    let last = counter.goes_on_after_first();
    let last = counter.freeze_dry(bundle.images("one"), last);
    join(&mut bundle, "there");
    let mut counter = bundle.restore("second", &bundle.images("one"));
    counter.goes_on_after(last);
    let pid = counter.container.pid().unwrap();
    let inode = |path: &str| fs::metadata(path).unwrap().ino();
    assert_eq!(inode("/run/netns/there"), inode(&format!("/proc/{pid}/ns/net")));
    counter.kill();

    let namespaces = bundle.spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.iter_mut().for_each(|namespace| drop(namespace.as_object_mut().unwrap().remove("path")));
    let refused = bundle.refused(&bundle.images("one"));
    assert!(refused.contains("the checkpoint needs an external net namespace"), "{refused}");
    ip(&["netns", "delete", "here"]);
    ip(&["netns", "delete", "there"]);
    // `ip` has made it a mount point for itself.
    assert!(Command::new("umount").arg("/run/netns").status().unwrap().success());
    fs::remove_dir("/run/netns").unwrap();
}

/// An empty one is made anew, one that may hold something is carried. Its loopback device is up in either.
fn own_network() {
    for may_configure in [false, true] {
        let mut bundle = Bundle::new(COUNT);
        if may_configure {
            for set in ["bounding", "permitted", "effective"] {
                bundle.spec["process"]["capabilities"][set].as_array_mut().unwrap().push(json!("CAP_NET_ADMIN"));
            }
        }
        let mut counter = bundle.start();
        let last = counter.goes_on_after_first();
        if may_configure {
            assert_eq!(counter.exec(&bundle, "ip address add 10.9.8.7/32 dev lo").0, 0);
        }
        let last = counter.freeze_dry(bundle.images("one"), last);
        let carried = fs::read_dir(bundle.images("one")).unwrap().flatten();
        let carried = carried.into_iter().any(|file| file.file_name().to_string_lossy().starts_with("netdev-"));
        assert_eq!(carried, may_configure);
        let mut counter = bundle.restore("second", &bundle.images("one"));
        counter.goes_on_after(last);
        let (_, text) = counter.exec(&bundle, "ip address show dev lo");
        assert!(text.contains("127.0.0.1/8") && text.contains("UP"), "{text}");
        assert_eq!(text.contains("10.9.8.7"), may_configure, "{text}");
        counter.kill();
    }
}

fn manifest() {
    let bundle = Bundle::new(COUNT);
    let mut counter = bundle.start();
    counter.goes_on_after_first();
    let images = bundle.images("one");
    let mut options = CheckpointOptions::new(images.clone());
    options.leave_running = true;
    options.criu.file_locks = true;
    ok(counter.container.checkpoint(&options));
    let manifest: Value = serde_json::from_slice(&fs::read(images.join("rtc.json")).unwrap()).unwrap();
    assert_eq!(manifest["version"], 1);
    assert_eq!(manifest["options"]["fileLocks"], true);
    assert_eq!(manifest["leftRunning"], true);
    assert!(manifest["criu"].as_str().unwrap().starts_with(|c: char| c.is_ascii_digit()), "{manifest}");
    assert!(manifest["timings"]["frozen"].as_u64().unwrap() > 0);
    let files = manifest["files"].as_array().unwrap();
    assert!(files.iter().any(|file| file["name"] == "core-1.img" && file["xxh3"].is_string()), "{files:?}");
    assert!(manifest["specDigest"].as_str().unwrap().starts_with("sha256:"));
    let mounts: Vec<&str> = manifest["externalMounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mount| mount["mountPoint"].as_str().unwrap())
        .collect();
    for expected in ["/data", "/etc/hosts", "/run/hosts", "/proc/keys"] {
        assert!(mounts.contains(&expected), "{expected} in {mounts:?}");
    }
    let descriptors: Vec<String> = serde_json::from_slice(&fs::read(images.join("descriptors.json")).unwrap()).unwrap();
    assert!(descriptors.len() == 3 && descriptors[1].starts_with("pipe:["), "{descriptors:?}");
    counter.kill();
}

impl Counter {
    /// From the beginning.
    fn goes_on_after_first(&mut self) -> u64 {
        assert_eq!(self.next(), 0);
        self.goes_on_after(0)
    }
}
