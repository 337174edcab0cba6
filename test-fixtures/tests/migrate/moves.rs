//! What goes, goes whole.

use std::path::Path;

use test_fixtures::{Image, Node};

use crate::relay::{NEAR, Relay};
use crate::skipped;
use crate::world::{
    LONG, Receiver, World, all_passes, assert_counts_on, assert_gone, count, inside, move_over, pid, remove,
    start_counter, start_counter_with, status,
};

/// In the container: one file of each kind that a writable layer can hold.
const FILES: &str = "\
    mkdir -p /data/deep; cd /data; echo text >file; chmod 4751 file; chown 12:34 file; ln file deep/hard; \
    ln -s ../nowhere link; mkfifo fifo; mknod device c 1 3; touch -h -d @1000000 link; \
    dd if=/dev/urandom of=sparse bs=1024 count=100 seek=5000 2>/dev/null; truncate -s 9000k sparse; \
    rm /bin/yes; rm -r /etc; mkdir /etc; echo new >/etc/new; \
    chmod 700 deep; touch -d @2000000 deep file sparse";

/// In the container: all that is in those files, and what can be seen of them.
const LOOK: &str = "\
    cd /; find data etc | sort | while read f; do stat -c '%n %F %a %u:%g %s %Y %t:%T' \"$f\"; done; \
    find data etc -type f | sort | xargs sha256sum; readlink data/link; \
    test -e bin/yes || echo whiteout; test data/file -ef data/deep/hard && echo same; test $(stat -c %b data/sparse) -lt 2000 && echo sparse";

fn look(node: &Node, id: &str) -> String {
    node.run(["ctr", "task", "exec", "--exec-id", "look", id, "sh", "-c", LOOK]).unwrap()
}

#[test]
fn a_container_goes_to_another_node_and_back() {
    if skipped() {
        return;
    }
    let World { one, two } = World::new();
    // A node's first container makes directories that containerd keeps.
    start_counter(&one, "first");
    remove(&one, "first");
    let before_one = one.snapshot();
    start_counter(&one, "c1");
    one.run(["ctr", "task", "exec", "--exec-id", "make", "c1", "sh", "-c", FILES]).unwrap();
    let (files, start) = (look(&one, "c1"), inside(&one, "c1", "/count").unwrap());
    assert!(files.ends_with("same\nsparse"), "{files}");

    let verdict = move_over(&one, &two, "c1", &["--dry-run"]);
    assert!(verdict.text().contains("can be moved"), "{}", verdict.text());
    assert_gone(&two, "c1");
    let before = count(&one, "c1");

    // The image goes as well.
    let moved = move_over(&one, &two, "c1", &["--json"]);
    assert_counts_on(&two, "c1", before);
    assert_gone(&one, "c1");
    assert_eq!(look(&two, "c1"), files);
    let (process, now) = (start.split(' ').next(), inside(&two, "c1", "/count").unwrap());
    assert_eq!(now.split(' ').next(), process, "another process counts");
    let report: serde_json::Value = serde_json::from_str(&moved.text()).unwrap();
    assert_eq!(report["pid"].as_u64(), pid(&two, "c1").map(u64::from));
    assert!(report["imageBytes"].as_u64().unwrap() > 100_000, "{report}");
    assert!(report["pauseUs"].as_u64() >= report["restoreUs"].as_u64(), "{report}");
    eprintln!("moved with its image: pause {} us, total {} us", report["pauseUs"], report["totalUs"]);

    // All verbs work on it, and it goes on to be moved; the image is there.
    two.run(["ctr", "task", "pause", "c1"]).unwrap();
    two.run(["ctr", "task", "resume", "c1"]).unwrap();
    let before = count(&two, "c1");
    let moved = move_over(&two, &one, "c1", &["--json", "--compress"]);
    assert_counts_on(&one, "c1", before);
    assert_eq!(look(&one, "c1"), files);
    assert_gone(&two, "c1");
    let report: serde_json::Value = serde_json::from_str(&moved.text()).unwrap();
    assert_eq!(report["imageBytes"], 0);
    eprintln!("moved back: pause {} us, total {} us", report["pauseUs"], report["totalUs"]);

    // From here on nothing is made that stays.
    let containers = |node: &Node| node.run(["ctr", "container", "ls", "-q"]).unwrap();
    let before_two = two.snapshot();
    let before = count(&one, "c1");
    move_over(&one, &two, "c1", &["--keep-source"]);
    assert_counts_on(&two, "c1", before);
    assert_eq!((containers(&one).as_str(), status(&one).as_str()), ("c1", ""));
    remove(&one, "c1");
    let before = count(&two, "c1");
    move_over(&two, &one, "c1", &[]);
    assert_counts_on(&one, "c1", before);
    two.assert_no_leaks(&before_two);
    remove(&one, "c1");
    // The streams that were made for a container that came go with it; those of ctr's are ctr's.
    let left = one.snapshot().since(&before_one);
    let ctrs = |line: &String| line.starts_with("file /run/containerd/fifo/") && !line.contains("rtc-migrate");
    assert!(left.iter().all(ctrs), "{left:?}");
}

#[test]
fn mounts_and_the_network_are_those_that_were_named() {
    if skipped() {
        return;
    }
    let World { one, two } = World::new();
    one.sh("mkdir -p /srv/here/data; echo source >/srv/here/data/which; ip netns add here").unwrap();
    two.sh("mkdir -p /srv/there/data; echo destination >/srv/there/data/which; ip netns add there").unwrap();
    let mount = "type=bind,src=/srv/here/data,dst=/data,options=rbind:ro";
    start_counter_with(&one, "c1", &["--mount", mount, "--with-ns", "network:/run/netns/here"]);
    let before = count(&one, "c1");
    move_over(&one, &two, "c1", &["--map-mount", "/srv/here:/srv/there", "--netns", "/run/netns/there"]);
    assert_counts_on(&two, "c1", before);
    let look = ["ctr", "task", "exec", "--exec-id", "look", "c1", "cat", "/data/which"];
    assert_eq!(two.run(look).unwrap(), "destination");
    let process = pid(&two, "c1").unwrap();
    let inode = |path: &str| two.run(["stat", "-L", "-c", "%i", path]).unwrap();
    assert_eq!(inode(&format!("/proc/{process}/ns/net")), inode("/run/netns/there"));
    remove(&two, "c1");
}

#[test]
fn a_node_is_drained() {
    if skipped() {
        return;
    }
    let World { one, two } = World::new();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../hack/migrate/drain.sh");
    one.copy_in(Path::new(script), "/run/drain.sh").unwrap();
    let ids = ["c1", "c2", "c3"];
    ids.iter().for_each(|id| start_counter(&one, id));
    // One that cannot go: it is named, and runs on.
    one.sh("mkdir /run/only-here").unwrap();
    start_counter_with(&one, "stays", &["--mount", "type=bind,src=/run/only-here,dst=/mnt,options=rbind"]);
    let before = ids.map(|id| count(&one, id));
    let staying = count(&one, "stays");
    let receiving = Receiver::start(&two);
    let relay = Relay::start(&one, &two, all_passes());
    let drain = ["/run/drain.sh".to_owned(), format!("unix://{NEAR}"), "2".to_owned()];
    let output = one.exec(&drain).unwrap();
    assert_eq!(output.code(), 1, "{}\n{}", output.text(), output.error_text());
    assert!(output.error_text().ends_with("these have stayed:\nstays"), "{}", output.error_text());
    for (id, before) in ids.iter().zip(before) {
        assert_counts_on(&two, id, before);
        assert_gone(&one, id);
    }
    assert_counts_on(&one, "stays", staying);
    remove(&one, "stays");
    assert_eq!(one.exec(&drain).unwrap().code(), 0, "there is nothing more to go");
    drop((relay, receiving));
    ids.iter().for_each(|id| remove(&two, id));
}

#[test]
fn a_terminal_goes_on_at_the_other_node() {
    if skipped() {
        return;
    }
    let World { one, two } = World::new();
    let run = ["ctr", "run", "--tty", "--runtime", "io.containerd.rtc.v2", Image::Workload.name(), "c1"];
    let mut here = one.spawn_tty([run.as_slice(), &["/bin/workload", "terminal"]].concat()).unwrap();
    here.expect("stdout terminal", LONG).unwrap();
    here.send("before\n").unwrap();
    here.expect("line before", LONG).unwrap();
    move_over(&one, &two, "c1", &[]);
    here.wait(LONG).unwrap();

    let mut there = two.spawn_tty(["ctr", "task", "attach", "c1"]).unwrap();
    there.resize(100, 30).unwrap();
    there.send("after\n").unwrap();
    there.expect("line after", LONG).unwrap();
    there.send("quit\n").unwrap();
    let (status, left) = there.wait(LONG).unwrap();
    assert!(status.success(), "{status}: {left}");
    two.run(["ctr", "container", "rm", "c1"]).unwrap();
    let fifos = two.run(["find", "/run/containerd/fifo", "-name", "rtc-migrate-*"]).unwrap();
    assert_eq!(fifos, "");
}
