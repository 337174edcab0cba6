//! What cannot go is refused before it stands still, and stays as it was.

use std::time::Instant;

use test_fixtures::{Image, Node};

use crate::relay::Relay;
use crate::skipped;
use crate::world::{
    Receiver, World, all_passes, assert_counts_on, assert_gone, count, migrate, remove, start_counter, status,
};

/// Of a busy host; an idle one takes a tenth.
const QUICK: u128 = 10_000;

#[track_caller]
fn refuses(from: &Node, id: &str, options: &[&str], words: &[&str]) {
    let before = count(from, id);
    let begun = Instant::now();
    let output = migrate(from, id, options);
    let (took, text) = (begun.elapsed().as_millis(), output.error_text());
    assert_ne!(output.code(), 0, "{words:?}: {}", output.text());
    assert!(words.iter().all(|word| text.contains(word)), "{words:?} in: {text}");
    assert!(took < QUICK, "{took} ms for: {text}");
    if before > 0 {
        assert_counts_on(from, id, before);
    }
    assert_eq!(status(from), "");
}

#[test]
fn what_cannot_go_is_refused() {
    if skipped() {
        return;
    }
    let World { one, two } = World::new();
    start_counter(&one, "c1");
    let bind = "type=bind,src=/run/only-here,dst=/mnt,options=rbind";
    one.sh("mkdir /run/only-here").unwrap();
    let sleeper = ["ctr", "run", "-d", "--mount", bind, "--runtime", "io.containerd.rtc.v2"];
    one.run([&sleeper[..], &[Image::Workload.name(), "c2", "/bin/workload", "sleep"]].concat()).unwrap();
    one.run(["ctr", "run", "-d", Image::Workload.name(), "runc", "/bin/workload", "sleep"]).unwrap();

    let _relay = Relay::start(&one, &two, all_passes());
    refuses(&one, "c1", &[], &["the other side has hung up"]);
    let _receiving = Receiver::start(&two);
    refuses(&one, "nothing", &[], &["nothing", "no such container"]);
    refuses(&one, "runc", &[], &["io.containerd.runc.v2 has no migration service"]);
    refuses(&one, "c1", &["--netns", "/run/netns/x"], &["--netns"]);
    refuses(&one, "c1", &["--map-mount", "/a:/b"], &["--map-mount", "/a"]);
    refuses(&one, "c2", &[], &["/run/only-here", "is not there"]);
    one.run(["ctr", "task", "pause", "c1"]).unwrap();
    refuses(&one, "c1", &[], &["paused"]);
    one.run(["ctr", "task", "resume", "c1"]).unwrap();

    // A container, or a snapshot, of that name.
    two.import("default", &Image::Busybox).unwrap();
    two.run(["ctr", "container", "create", Image::Busybox.name(), "c1"]).unwrap();
    refuses(&one, "c1", &[], &["there is a container c1 already"]);
    remove(&two, "c1");
    // Another image of that name.
    two.import_as("default", &Image::Busybox, Image::Workload.name()).unwrap();
    refuses(&one, "c1", &[], &[Image::Workload.name(), "another one"]);
    two.run(["ctr", "image", "rm", "--sync", Image::Workload.name()]).unwrap();
    // No CRIU.
    let criu = two.run(["sh", "-c", "command -v criu"]).unwrap();
    two.run(["mv", &criu, "/run/criu"]).unwrap();
    refuses(&one, "c1", &[], &["no CRIU"]);
    two.run(["mv", "/run/criu", &criu]).unwrap();
    // No space, for the images and for the layer.
    two.sh("mkdir -p /var/lib/rtc/migrate; mount -t tmpfs -o size=64k full /var/lib/rtc/migrate").unwrap();
    refuses(&one, "c1", &[], &["no space", "/var/lib/rtc/migrate"]);
    two.sh("umount /var/lib/rtc/migrate").unwrap();

    assert_gone(&two, "c1");
    for id in ["c1", "c2", "runc"] {
        remove(&one, id);
    }
}
