//! Whoever dies, and whenever: one copy lives, with nothing lost and nothing doubled, and nothing is left of the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use test_fixtures::Node;

use crate::relay::{Fate, Judge, Message, Relay};
use crate::skipped;
use crate::world::{
    Receiver, World, assert_counts_on, assert_gone, count, logged, migrate, pid, remove, start_counter, status, wait,
};

/// Who dies, at the moment when a message is about to pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Link,
    SourceCli,
    DestinationCli,
}

/// The message, how many of its kind have passed before, and where the container is afterwards.
type Moment = (Message, usize, Side);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    One,
    Two,
}

const MOMENTS: [Moment; 10] = [
    (Message::Offer, 0, Side::One),
    (Message::Want, 0, Side::One),
    (Message::Ready, 0, Side::One),
    (Message::TreeDone, 0, Side::One),
    // It stands still from here.
    (Message::TreeBegin, 1, Side::One),
    (Message::TreeDone, 2, Side::One),
    (Message::Restore, 0, Side::One),
    // And runs at the destination from here.
    (Message::Started, 0, Side::Two),
    (Message::Finish, 0, Side::Two),
    (Message::Finished, 0, Side::Two),
];

/// Strikes once.
fn strike(at: Moment, victim: Victim, one: u32, two: u32) -> Judge {
    let struck = Arc::new(AtomicBool::new(false));
    Arc::new(move |number, before| {
        let (message, nth, _) = at;
        if number != message as u64 || before != nth || struck.swap(true, Ordering::SeqCst) {
            return Fate::Passes;
        }
        match victim {
            Victim::Link => return Fate::Lost,
            Victim::SourceCli => kill(one),
            Victim::DestinationCli => kill(two),
        }
        Fate::Lost
    })
}

/// `rtc-migrate` in the node whose PID 1 this is.
fn kill(node: u32) {
    let script = "pkill -KILL -x rtc-migrate";
    let namespaces = ["--target", &node.to_string(), "--pid", "--mount"].map(str::to_owned);
    std::process::Command::new("nsenter").args(namespaces).args(["sh", "-c", script]).status().unwrap();
}

fn run_case(one: &Node, two: &Node, at: Moment, victim: Victim) {
    eprintln!("-- {victim:?} at {at:?}");
    let id = "c1";
    start_counter(one, id);
    let receiving = Receiver::start(two);
    let relay = Relay::start(one, two, strike(at, victim, one.pid(), two.pid()));
    let before = count(one, id);
    let output = migrate(one, id, &[]);
    // What has been left behind is brought to its end by these two, whatever it is.
    let recovered = [one, two].map(|node| {
        wait("nobody works on it", || !status(node).contains("under way"));
        node.exec(["rtc", "migrate", "recover"]).unwrap().text()
    });
    let said = format!("{}\n{recovered:?}", output.error_text());
    let (here, there) = match at.2 {
        Side::One => (one, two),
        Side::Two => (two, one),
    };
    assert!(pid(here, id).is_some(), "{victim:?} at {at:?}: it does not run where it should: {said}\n{}", logged(here));
    assert_counts_on(here, id, before);
    if at.2 == Side::Two && victim != Victim::SourceCli {
        assert_eq!(output.code(), 0, "{said}");
    }
    assert_gone(there, id);
    assert_eq!(status(here), "", "{said}");
    drop(relay);
    drop(receiving);
    remove(here, id);
}

fn run_all(victim: Victim) {
    if skipped() {
        return;
    }
    let World { one, two } = World::new();
    for at in MOMENTS {
        run_case(&one, &two, at, victim);
    }
}

#[test]
fn the_link_is_cut() {
    run_all(Victim::Link);
}

#[test]
fn the_source_is_killed() {
    run_all(Victim::SourceCli);
}

#[test]
fn the_destination_is_killed() {
    run_all(Victim::DestinationCli);
}
