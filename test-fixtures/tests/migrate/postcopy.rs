//! A container that runs at the destination while its memory follows: with it, and with neither side and nothing left behind
//! if it cannot come.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use test_fixtures::{Image, Node};

use crate::relay::{Fate, Judge, Message, Relay};
use crate::skipped;
use crate::world::{Receiver, World, assert_gone, logged, migrate, move_over, pid, remove, status, wait};

const POSTCOPY: [&str; 2] = ["--mode", "postcopy"];
pub(crate) const ID: &str = "c1";

/// A container with memory that it writes to all the time, so much in a second, and whose every page it can check.
pub(crate) fn start_memory(node: &Node, mib: u64, dirty_mib: u64) {
    let log = format!("file://{LOG}");
    let (size, rate) = (mib.to_string(), dirty_mib.to_string());
    let run = ["ctr", "run", "-d", "--runtime", "io.containerd.rtc.v2", "--log-uri", &log, Image::Workload.name(), ID];
    let memory = ["/bin/workload", "memory", "--mib", &size, "--dirty-mib-per-s", &rate];
    node.run([&run[..], &memory].concat()).unwrap();
    wait("its memory is filled", || said(node).contains("ready"));
}

const LOG: &str = "/run/memory.log";

fn said(node: &Node) -> String {
    node.read_text(LOG).unwrap_or_default()
}

/// Every page is what it should be.
#[track_caller]
pub(crate) fn assert_intact(node: &Node) {
    let looked = || said(node).matches("intact").count() + said(node).matches("damaged").count();
    let before = looked();
    node.run(["ctr", "task", "kill", "--signal", "SIGUSR1", ID]).unwrap();
    wait("it has looked at its memory", || looked() > before);
    assert!(!said(node).contains("damaged"), "{}", said(node));
}

#[test]
fn memory_follows_the_container() {
    if skipped() {
        return;
    }
    let World { one, two } = World::new();
    start_memory(&one, 64, 20);
    let moved = move_over(&one, &two, ID, &[&POSTCOPY[..], &["--json"]].concat());
    assert_intact(&two);
    assert_gone(&one, ID);
    let report: serde_json::Value = serde_json::from_str(&moved.text()).unwrap();
    assert!(report["memoryBytes"].as_u64().unwrap() >= 64 << 20, "{report}");
    assert!(report["checkpointBytes"].as_u64().unwrap() < 8 << 20, "{report}");
    assert_eq!(report["way"], "postcopy");
    eprintln!("{report}");

    // It is a container like any other then, and goes back; which way, depends on how long it may stand still.
    let moved = move_over(&two, &one, ID, &["--mode", "auto", "--downtime-target", "1", "--compress"]);
    assert!(moved.text().contains("could have been lost"), "{}", moved.text());
    assert_intact(&one);
    assert_gone(&two, ID);
    let moved = move_over(&one, &two, ID, &["--mode", "auto", "--downtime-target", "60000", "--json"]);
    assert_intact(&two);
    let report: serde_json::Value = serde_json::from_str(&moved.text()).unwrap();
    assert_eq!((&report["way"], &report["memoryBytes"]), (&"stop-copy".into(), &0.into()));
    assert!(report["predictedUs"].as_u64().unwrap() > 0 && report["bytesPerSecond"].as_u64().unwrap() > 0, "{report}");
    remove(&two, ID);
}

/// Who dies while the memory follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Nobody,
    Link,
    /// With the last word of the destination's, that all memory is there.
    LinkAtTheEnd,
    Cli(Side),
    Shim(Side),
    Criu(Side),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Source,
    Destination,
}

/// In the node whose PID 1 this is; what it says.
fn inside(node: u32, script: &str) -> String {
    let namespaces = ["--target", &node.to_string(), "--pid", "--mount", "--net"].map(str::to_owned);
    let output = std::process::Command::new("nsenter").args(namespaces).args(["sh", "-c", script]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Strikes once, when the container has started at the destination and asks for memory. What both sides have on disk then is
/// put into `seen`.
fn strike(victim: Victim, nodes: [u32; 2], seen: Arc<Mutex<String>>) -> Judge {
    let (started, struck) = (AtomicBool::new(false), AtomicBool::new(false));
    Arc::new(move |number, _| {
        if number == Message::Started as u64 {
            started.store(true, Ordering::SeqCst);
        }
        let moment = if victim == Victim::LinkAtTheEnd { Message::Arrived } else { Message::PagesWanted };
        let now = number == moment as u64 && started.load(Ordering::SeqCst);
        if !now || struck.swap(true, Ordering::SeqCst) {
            return Fate::Passes;
        }
        let of = |side: Side| nodes[usize::from(side == Side::Destination)];
        match victim {
            // The source may be still writing down that it has left.
            Victim::Nobody => {
                std::thread::sleep(std::time::Duration::from_millis(200));
                *seen.lock().unwrap() = nodes.map(|node| inside(node, "rtc migrate status")).concat();
            }
            Victim::Link | Victim::LinkAtTheEnd => return Fate::Lost,
            Victim::Cli(side) => drop(inside(of(side), "pkill -KILL -x rtc-migrate")),
            Victim::Shim(side) => drop(inside(of(side), "pkill -KILL -f '^[^ ]*containerd-shim-rtc-v2'")),
            Victim::Criu(side) => drop(inside(of(side), "pkill -KILL -x criu")),
        }
        Fate::Passes
    })
}

fn run_case(one: &Node, two: &Node, victim: Victim) {
    eprintln!("-- {victim:?}");
    start_memory(one, 32, 20);
    let receiving = Receiver::start(two);
    let seen = Arc::default();
    let relay = Relay::start(one, two, strike(victim, [one.pid(), two.pid()], Arc::clone(&seen)));
    let output = migrate(one, ID, &POSTCOPY);
    let said = RefCell::new(output.error_text());
    // What has been left behind is brought to its end by these, whatever it is: the destination knows first.
    wait("it is brought to its end", || {
        for node in [two, one, two] {
            said.borrow_mut().push_str(&node.exec(["rtc", "migrate", "recover"]).unwrap().text());
        }
        [one, two].iter().all(|node| status(node).is_empty())
    });
    let said = said.into_inner();
    drop(relay);
    drop(receiving);
    match victim {
        // CRIU is not needed any more at the source: who is frozen there stays so without it.
        Victim::Nobody | Victim::LinkAtTheEnd | Victim::Criu(Side::Source) => {
            assert_eq!(output.code(), 0, "{said}\n{}", logged(one));
            assert_intact(two);
            assert_gone(one, ID);
            remove(two, ID);
        }
        _ => {
            assert_ne!(output.code(), 0, "{said}");
            assert!(said.contains("lost"), "{said}");
            assert_eq!((pid(one, ID), pid(two, ID)), (None, None), "{said}");
            assert_gone(two, ID);
            // Its files can be had again.
            assert_eq!(one.run(["ctr", "container", "ls", "-q"]).unwrap(), ID, "{said}");
            remove(one, ID);
        }
    }
    for node in [one, two] {
        assert_eq!(node.run(["ctr", "task", "ls", "-q"]).unwrap(), "", "{said}");
        assert_eq!(inside(node.pid(), "pgrep -x criu; pgrep -x workload"), "", "{said}");
    }
    if victim == Victim::Nobody {
        let seen = seen.lock().unwrap();
        assert_eq!(seen.matches("memory follows").count(), 2, "{seen}");
    }
}

fn run_all(victims: &[Victim]) {
    if skipped() {
        return;
    }
    let World { one, two } = World::new();
    victims.iter().for_each(|victim| run_case(&one, &two, *victim));
}

#[test]
fn memory_that_cannot_follow_is_lost_on_both_sides() {
    use Side::{Destination, Source};
    run_all(&[Victim::Nobody, Victim::Link, Victim::LinkAtTheEnd, Victim::Cli(Source), Victim::Cli(Destination)]);
}

#[test]
fn a_shim_or_criu_dies_while_memory_follows() {
    use Side::{Destination, Source};
    run_all(&[Victim::Criu(Source), Victim::Criu(Destination), Victim::Shim(Source), Victim::Shim(Destination)]);
}
