//! A container whose memory goes ahead while it runs. It takes a kernel that tracks which memory is written to, which few hosts
//! have: these tests run in a virtual machine as well.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use test_fixtures::Node;

use crate::postcopy::{ID, assert_intact, start_memory};
use crate::relay::{Fate, Judge, Message, Relay};
use crate::skipped;
use crate::world::{Receiver, World, assert_gone, migrate, move_over, pid, remove, status, wait};

const PRECOPY: [&str; 2] = ["--mode", "precopy"];
const MIB: u64 = 1 << 20;
const SIZE: u64 = 48;
/// Emulated, a machine takes a while for everything: seconds for a dump and a restore alone, with whatever else its host does.
const DIRTY: u64 = 1;
const TARGET_MS: &str = "2500";

fn tracks_memory(node: &Node) -> bool {
    node.exec(["criu", "check", "--feature", "mem_dirty_track"]).unwrap().status.success()
}

#[test]
fn memory_goes_ahead() {
    if skipped() {
        return;
    }
    let World { one, two } = World::new();
    if !tracks_memory(&one) {
        eprintln!("skipped: this kernel does not track which memory is written to");
        return;
    }
    start_memory(&one, SIZE, DIRTY);
    let moved = move_over(&one, &two, ID, &[&PRECOPY[..], &["--downtime-target", TARGET_MS, "--json"]].concat());
    assert_intact(&two);
    assert_gone(&one, ID);
    let report: serde_json::Value = serde_json::from_str(&moved.text()).unwrap();
    eprintln!("{report}");
    assert_eq!((&report["way"], &report["stopped"]), (&"precopy".into(), &"converged".into()), "{report}");
    let rounds: Vec<u64> =
        report["rounds"].as_array().unwrap().iter().map(|round| round["bytes"].as_u64().unwrap()).collect();
    assert!(rounds.len() >= 2 && rounds[0] >= SIZE * MIB, "{rounds:?}");
    assert!(rounds.windows(2).all(|pair| pair[1] < pair[0]), "they do not get smaller: {rounds:?}");
    // A stop-copy has all of it.
    let last = report["checkpointBytes"].as_u64().unwrap();
    assert!(last < SIZE * MIB / 4, "{last} bytes while it stood still");

    for moment in [Moment::Link, Moment::Cli] {
        interrupted(&two, &one, moment);
    }
    remove(&two, ID);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    Link,
    Cli,
}

/// Somebody dies when the second round is to be sent. The container runs on, with nothing left of the rounds.
fn interrupted(from: &Node, to: &Node, victim: Moment) {
    eprintln!("-- {victim:?}");
    let before = pid(from, ID);
    let receiving = Receiver::start(to);
    let source = from.pid().to_string();
    let struck = AtomicBool::new(false);
    let judge: Judge = Arc::new(move |number, count| {
        // The layer's is the first, the first round's the second.
        if number != Message::TreeBegin as u64 || count < 2 || struck.swap(true, Ordering::SeqCst) {
            return Fate::Passes;
        }
        if victim == Moment::Link {
            return Fate::Lost;
        }
        let enter = ["--target", &source, "--pid", "--mount", "pkill", "-KILL", "-x", "rtc-migrate"];
        Command::new("nsenter").args(enter).output().unwrap();
        Fate::Passes
    });
    let relay = Relay::start(from, to, judge);
    let output = migrate(from, ID, &PRECOPY);
    assert_ne!(output.code(), 0, "{}", output.text());
    wait("it is brought to its end", || {
        for node in [to, from] {
            node.exec(["rtc", "migrate", "recover"]).unwrap();
        }
        [from, to].iter().all(|node| status(node).is_empty())
    });
    drop((relay, receiving));
    assert!(before.is_some() && pid(from, ID) == before, "{}", output.error_text());
    assert_intact(from);
    assert_gone(to, ID);
    let left = from.sh("ls /var/lib/rtc/migrate/default; pgrep -x criu || :").unwrap();
    assert_eq!(left, "");
}

/// Where the kernel cannot do it.
#[test]
fn without_tracking_it_is_refused_and_auto_says_so() {
    if skipped() {
        return;
    }
    let World { one, two } = World::new();
    if tracks_memory(&one) {
        return;
    }
    start_memory(&one, 8, DIRTY);
    // Nobody listens: it is refused before that is looked at.
    let refused = migrate(&one, ID, &PRECOPY);
    assert_ne!(refused.code(), 0);
    let why = refused.error_text();
    assert!(why.contains("pre-copy needs a kernel that tracks") && why.contains("CONFIG_MEM_SOFT_DIRTY"), "{why}");
    assert_eq!(status(&one), "");
    let moved = move_over(&one, &two, ID, &["--mode", "auto", "--downtime-target", "1", "--json"]);
    let said = moved.error_text();
    assert!(said.contains("no memory can be sent ahead") && said.contains("post-copy"), "{said}");
    let report: serde_json::Value = serde_json::from_str(&moved.text()).unwrap();
    assert_eq!(report["way"], "postcopy");
    assert!(report["warnings"][0].as_str().unwrap().contains("CONFIG_MEM_SOFT_DIRTY"), "{report}");
    remove(&two, ID);
}
