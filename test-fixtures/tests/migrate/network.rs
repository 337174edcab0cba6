//! The network goes as well: a client on a third node talks to a container while it is moved.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use test_fixtures::Node;
use test_fixtures::node::Running;
use test_fixtures::street::{NETNS, Street};

use crate::relay::{Fate, Judge, Message, Relay};
use crate::skipped;
use crate::world::{
    LONG, Receiver, World, all_passes, assert_counts_on, assert_gone, count, logged, migrate, move_over_with, remove,
    start_counter_with, status, wait,
};

/// A hook that writes down what it was called for, and fails at the moment that a file names.
const LOGGING: &str = "/run/hook";
const SCRIPT: &str = "#!/bin/sh\n\
    call=$(jq -r '.role + \"/\" + .moment + \" \" + .netns'); echo \"$call\" >>/run/hook.log\n\
    if [ \"${call%% *}\" = \"$(cat /run/hook-fails)\" ]; then echo no such street >&2; exit 7; fi\n";
const STOP: &str = "/run/stop-talking";

/// Ends all that talk; what they said last.
fn hush(street: &Street, talking: Vec<Running>) -> Vec<String> {
    street.client.write(STOP, "").unwrap();
    let end = |running: Running| {
        let output = running.wait(LONG).unwrap();
        assert_eq!(output.code(), 0, "{}\n{}", output.text(), output.error_text());
        output.text()
    };
    talking.into_iter().map(end).collect()
}

/// What CRIU and rtc have told the filters of the network namespace.
fn rules(node: &Node) -> String {
    let all = "nft list ruleset; iptables-save; ip6tables-save";
    let all = node.run(["nsenter", &format!("--net={NETNS}"), "sh", "-ec", all]).unwrap();
    let ours = |line: &&str| line.contains("CRIU") || line.contains("rtc") || line.contains("DROP");
    all.lines().filter(ours).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_client_elsewhere_notices_no_move() {
    if skipped() {
        return;
    }
    let street = Street::new().unwrap();
    street.start_echo("c1").unwrap();
    let _receiving = street.receive().unwrap();
    // One number at a time, and a stream of them.
    let talk = |options: &[&str]| street.talk(STOP.as_ref(), options).unwrap();
    let talking = vec![talk(&["--interval-ms", "1"]), talk(&["--interval-ms", "1", "--window", "50"])];
    for back in [false, true, false, true] {
        let (from, to) = if back { (&street.two, &street.one) } else { (&street.one, &street.two) };
        let output = from.exec_within(LONG, Street::command("c1", back)).unwrap();
        assert_eq!(output.code(), 0, "{}\n{}\n{}", output.error_text(), logged(from), logged(to));
        assert_gone(from, "c1");
        assert!(!from.exists(NETNS), "the hook has left the network namespace");
        assert_eq!(rules(to), "");
    }
    let said = hush(&street, talking);
    eprintln!("{}", said.join("\n--\n"));
    assert!(said.iter().all(|said| said.contains("talked")), "{said:?}");
    remove(&street.one, "c1");
}

/// A counter in a network namespace that both nodes have; the hook writes down what it is called for.
fn namespaces() -> World {
    let world = World::new();
    for node in [&world.one, &world.two] {
        node.sh("ip netns add web; ip -n web link set lo up").unwrap();
        node.write(LOGGING, SCRIPT).unwrap();
        node.sh(&format!("chmod +x {LOGGING}; touch /run/hook-fails /run/hook.log")).unwrap();
    }
    start_counter_with(&world.one, "c1", &["--with-ns", &format!("network:{NETNS}")]);
    world
}

/// The moments that a node's hook was called at since the last time, in their order.
fn called(node: &Node) -> Vec<String> {
    let log = node.read_text("/run/hook.log").unwrap();
    node.write("/run/hook.log", "").unwrap();
    let moments = log.lines().map(|line| {
        let (call, netns) = line.split_once(' ').unwrap();
        assert_eq!(netns, NETNS);
        call.split_once('/').unwrap().1.to_owned()
    });
    moments.collect()
}

#[track_caller]
fn assert_unlocked(World { one, two }: &World) {
    assert_eq!((rules(one).as_str(), rules(two).as_str()), ("", ""));
}

#[test]
fn the_hook_is_called_at_its_moments_and_may_refuse() {
    if skipped() {
        return;
    }
    let world = namespaces();
    let World { one, two } = &world;
    let options = ["--network-hook", LOGGING];
    let fails = [
        ("source/offer", one, vec!["offer"], vec![]),
        ("destination/prepare", two, vec!["offer"], vec!["prepare", "aborted"]),
        ("source/frozen", one, vec!["offer", "frozen", "aborted"], vec!["prepare", "aborted"]),
        ("destination/take-over", two, vec!["offer", "frozen", "aborted"], vec!["prepare", "take-over", "aborted"]),
    ];
    let receiving = Receiver::start_with(two, &options);
    let relay = Relay::start(one, two, all_passes());
    for (moment, node, source, destination) in fails {
        node.write("/run/hook-fails", moment).unwrap();
        let before = count(one, "c1");
        let output = migrate(one, "c1", &options);
        node.write("/run/hook-fails", "").unwrap();
        let (said, at) = (output.error_text(), moment.split_once('/').unwrap().1);
        assert_ne!(output.code(), 0, "{moment}");
        assert!(said.contains(&format!("{LOGGING} at {at}")) && said.contains("7: no such street"), "{said}");
        assert_counts_on(one, "c1", before);
        wait("the destination is done", || status(two).is_empty());
        assert_gone(two, "c1");
        assert_eq!(
            (called(one), called(two)),
            (source.iter().map(ToString::to_string).collect(), destination.iter().map(ToString::to_string).collect()),
            "{moment}"
        );
        assert_unlocked(&world);
    }
    drop((relay, receiving));

    // What fails when there is no way back is told.
    one.write("/run/hook-fails", "source/committed").unwrap();
    two.write("/run/hook-fails", "destination/started").unwrap();
    let before = count(one, "c1");
    let said = move_over_with(one, two, "c1", &options, &options).text();
    assert_counts_on(two, "c1", before);
    let failures = said.lines().filter(|line| line.starts_with("but ") && line.contains("no such street")).count();
    assert_eq!(failures, 2, "{said}");
    assert_eq!(
        (called(one).join(" ").as_str(), called(two).join(" ").as_str()),
        ("offer frozen committed", "prepare take-over started")
    );
    assert_unlocked(&world);
    assert_gone(one, "c1");
    remove(two, "c1");
}

/// Strikes once, when a message is about to pass.
fn strike(message: Message, nth: usize, blow: impl Fn() + Send + Sync + 'static) -> Judge {
    let struck = AtomicBool::new(false);
    Arc::new(move |number, before| {
        if number != message as u64 || before != nth || struck.swap(true, Ordering::SeqCst) {
            return Fate::Passes;
        }
        blow();
        Fate::Lost
    })
}

#[test]
fn no_lock_of_the_network_stays() {
    if skipped() {
        return;
    }
    let world = namespaces();
    let World { one, two } = &world;
    let receiving = Receiver::start(two);
    // The link is cut while it stands still; the destination dies while it may start it.
    for (message, nth) in [(Message::TreeDone, 2), (Message::Restore, 0)] {
        let before = count(one, "c1");
        let killed = two.pid().to_string();
        let relay = Relay::start(one, two, strike(message, nth, move || kill(&killed, "rtc-migrate")));
        assert_ne!(migrate(one, "c1", &[]).code(), 0);
        drop(relay);
        wait("nobody works on it", || !status(two).contains("under way"));
        two.exec(["rtc", "migrate", "recover"]).unwrap();
        assert_counts_on(one, "c1", before);
        assert_unlocked(&world);
    }
    let before = count(one, "c1");
    let relay = Relay::start(one, two, all_passes());
    assert_eq!(migrate(one, "c1", &[]).code(), 0);
    drop(relay);
    assert_counts_on(two, "c1", before);
    assert_unlocked(&world);
    // The shim dies with CRIU while the dump is held: containerd ends their container.
    start_counter_with(one, "c2", &["--with-ns", &format!("network:{NETNS}")]);
    let killed = one.pid().to_string();
    let relay = Relay::start(one, two, strike(Message::TreeDone, 2, move || kill(&killed, "criu|containerd-shim")));
    assert_ne!(migrate(one, "c2", &[]).code(), 0);
    drop(relay);
    wait("containerd has cleaned up, and with it the network is unlocked", || rules(one).is_empty());
    one.exec(["rtc", "migrate", "recover"]).unwrap();
    assert_unlocked(&world);
    drop(receiving);
    remove(one, "c2");
    remove(two, "c1");
}

/// In the node whose PID 1 this is.
fn kill(node: &str, name: &str) {
    let script = format!("pkill -KILL '{name}'");
    let line = ["--target", node, "--pid", "--mount", "sh", "-c", &script];
    std::process::Command::new("nsenter").args(line).status().unwrap();
}
