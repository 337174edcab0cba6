//! A client that goes away in the middle of a call: the operation ends whole or is taken back whole, and the next call
//! sees which.
//!
//! Against our shim alone, by its socket, while a hook or CRIU holds the call up. For a ctr that is killed see `given_up`.

use std::thread::sleep;
use std::time::Duration;

use containerd_shim_protos::api::Status;
use ttrpc::Code;

use crate::by_socket::{BUNDLE, IMAGES, Lost, Shim, is};
use crate::host::{Check, Host, LONG};

pub(crate) const CHECKS: &[Check] = &[
    ("Create's deadline passes, and it ends whole", |host| create_ends_whole(host, Lost::Deadline)),
    ("Create's client hangs up, and it ends whole", |host| create_ends_whole(host, Lost::HangUp)),
    ("Create's deadline passes, and it is taken back whole", |host| create_is_taken_back(host, Lost::Deadline)),
    ("Create's client hangs up, and it is taken back whole", |host| create_is_taken_back(host, Lost::HangUp)),
    ("the shim is killed in the middle of Create", shim_is_killed_in_create),
    ("Checkpoint's and Start's deadlines pass, and both end whole", |host| {
        checkpoint_and_restore(host, Lost::Deadline)
    }),
    ("Checkpoint's and Start's clients hang up, and both end whole", |host| checkpoint_and_restore(host, Lost::HangUp)),
];

/// A deadline that passes within the slow hook.
const SHORT: Duration = Duration::from_millis(150);

fn code<T>(result: ttrpc::Result<T>) -> Option<Code> {
    match result {
        Err(ttrpc::Error::RpcStatus(status)) => Some(status.code()),
        Err(_) | Ok(_) => None,
    }
}

fn create_ends_whole(host: &Host, lost: Lost) {
    let shim = Shim::start(host, "sleep 7656", Some(0));
    shim.lose_create(lost, SHORT);
    // The id is taken while the first call is under way: nothing is made twice.
    assert_eq!(code(shim.create(LONG, "")), Some(Code::ALREADY_EXISTS));
    shim.wait("created", is(Status::CREATED));
    shim.start_task(LONG).unwrap();
    shim.kill();
    assert_eq!(shim.delete().exit_status, 137);
    shim.shut_down();
}

fn create_is_taken_back(host: &Host, lost: Lost) {
    let shim = Shim::start(host, "sleep 7656", Some(1));
    shim.lose_create(lost, SHORT);
    sleep(Duration::from_secs(1));
    assert_eq!(code(shim.status()), Some(Code::NOT_FOUND));
    // The whole answer, this time; the id was free again.
    let refused = format!("{:?}", shim.create(LONG, "").unwrap_err());
    assert!(refused.contains("hook"), "{refused}");
    assert_eq!(code(shim.status()), Some(Code::NOT_FOUND));
    shim.shut_down();
}

fn shim_is_killed_in_create(host: &Host) {
    let name = host.lane.runtime.shim();
    // In the hook, and at moments before it.
    for delay in [5, 10, 20, 40, 200] {
        let shim = Shim::start(host, "sleep 7656", Some(0));
        assert!(shim.create(Duration::from_millis(delay), "").is_err(), "the deadline was to pass");
        host.node.run(["pkill", "-KILL", "-f", name]).unwrap();
        // containerd runs `delete` when the shim's end has closed its connection.
        host.wait("the shim is gone", || host.node.exec(["pgrep", "-f", name]).unwrap().text().is_empty());
        let delete = format!("cd {BUNDLE} && {name} -namespace default -id c1 -bundle {BUNDLE} delete >deleted");
        host.node.sh(&delete).unwrap();
        host.wait("the hook has ended", || host.node.sh("pgrep -xfc 'sleep 0.6' || true").unwrap() == "0");
        let left =
            host.node.sh("find /run/containerd/rtc/default /sys/fs/cgroup -name c1; ls /run/containerd/s").unwrap();
        assert_eq!(left, "", "left after {delay} ms and delete");
    }
}

fn checkpoint_and_restore(host: &Host, lost: Lost) {
    let shim = Shim::start(host, "exec /bin/workload counter --file /count --interval-ms 1", None);
    shim.create(LONG, "").unwrap();
    shim.start_task(LONG).unwrap();
    let counted = || {
        let line = host.node.read_text(&format!("{BUNDLE}/rootfs/count")).ok()?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    host.wait("it counts", || counted().is_some_and(|count: u64| count > 20));
    host.node.run(["mkdir", "-p", IMAGES]).unwrap();
    shim.lose_checkpoint(lost, Duration::from_millis(5));
    shim.wait("dumped and gone", is(Status::STOPPED));
    let at = counted().unwrap();
    assert!(host.node.exists(&format!("{IMAGES}/rtc.json")));
    shim.delete();

    assert_eq!(shim.create(LONG, IMAGES).unwrap().pid, 0);
    shim.lose_start(lost, Duration::from_millis(5));
    shim.wait("restored", is(Status::RUNNING));
    host.wait("it counts on", || counted().is_some_and(|count: u64| count > at));
    assert!(counted().unwrap() < at + 100_000, "it goes on where it was");
    shim.kill();
    assert_eq!(shim.delete().exit_status, 137);
    shim.shut_down();
}
