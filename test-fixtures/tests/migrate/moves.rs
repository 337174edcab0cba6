//! What goes, goes whole.

use test_fixtures::Node;

use crate::skipped;
use crate::world::{
    World, assert_counts_on, assert_gone, count, inside, move_over, pid, remove, start_counter, status,
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
    // The streams of a container that came belong to whoever attaches to it, and stay for them.
    let left = one.snapshot().since(&before_one);
    assert!(left.iter().all(|line| line.starts_with("file /run/containerd/fifo/")), "{left:?}");
}
