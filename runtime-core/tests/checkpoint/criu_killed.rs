//! CRIU itself is killed, or stopped, in the middle of its work.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use runtime_core::container::{CheckpointOptions, Container, NetworkLock, RestoreOptions, Status};
use rustix::process::{Pid, Signal, kill_process};

use crate::preflight::with_perl;
use crate::scene::{Bundle, COUNT, Counter, chain, ok, pipes};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("a container runs on when criu is killed", killed),
    ("a container runs on when criu hangs", hangs),
    ("a lock of the network that is another's stays", lock_of_another),
    ("a restore whose criu is killed or hangs leaves nothing", restore),
];

/// A cgroup for a CRIU that does not move any more.
const STUCK: &str = "/sys/fs/cgroup/stuck";

/// Counts through a TCP connection with itself.
const TALKS: &str = "
    use Socket; $| = 1;
    socket(L, 2, 1, 0); bind(L, sockaddr_in(0, inet_aton('127.0.0.1'))); listen(L, 1);
    socket(C, 2, 1, 0); connect(C, getsockname(L)) or die; accept(S, L); close L;
    my $memory = 'x' x (4 << 20);
    for (my $i = 0; ; $i++) {
        syswrite(C, pack('N', $i)) == 4 or die \"write: $!\";
        sysread(S, my $b, 4) == 4 or die \"read: $!\";
        print unpack('N', $b), \"\\n\"; select undef, undef, undef, 0.02;
    }";

/// What happens to CRIU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Killed,
    /// It can go on when it is told to.
    Stopped,
    /// It cannot: in a cgroup that is frozen.
    Stuck,
}

/// In this CRIU has foreign registers in a process: nobody can cure that ("checkpoint/aftermath.rs").
const INJECTS: &str = "Parasite syscall_ip";
/// The last that it logs before it does so again to take its code out.
const TAKES_OUT: &str = "Dumping core";

/// Where CRIU is, by what it has logged: it has just begun, holds the processes, has locked the network, writes the memory by its code in
/// them (TCP sockets are in repair mode by then), and lets them go.
const BEGINS: &str = "Running on";
const HOLDS: &str = "Seized task";
const LOCKED: &str = "Lock network";
const WRITES: &str = "Transferring pages";
const LETS_GO: &str = "Unlock network";

fn talking() -> (Bundle, Counter) {
    let bundle = with_perl(TALKS);
    let mut counter = bundle.start();
    assert_eq!(counter.next(), 0);
    (bundle, counter)
}

/// The node's CRIU that has no CRIU for a parent.
fn criu() -> Option<Pid> {
    let named = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (name, rest) = stat.rsplit_once(") ")?;
        (name.ends_with("(criu") && !rest.starts_with('Z')).then(|| rest.split(' ').nth(1)?.parse::<i32>().ok())?
    };
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let found: Vec<(i32, i32)> = pids.filter_map(|pid| Some((pid, named(pid)?))).collect();
    let top = found.iter().find(|(_, parent)| !found.iter().any(|(pid, _)| pid == parent))?;
    Pid::from_raw(top.0)
}

/// Whether CRIU is still there, and neither puts its code into a process nor takes it out again.
fn curable(log: &str, moment: &str) -> bool {
    log.rfind(moment) > log.rfind(INJECTS) && (moment == LETS_GO || !log.contains(TAKES_OUT))
}

/// Deals with CRIU once the log has the text. Whether it got there, and at a moment that can be cured.
fn strike(log: &Path, text: &str, fate: Fate) -> bool {
    let until = Instant::now() + Duration::from_secs(10);
    let criu = loop {
        match criu() {
            Some(pid) if fs::read_to_string(log).is_ok_and(|log| log.contains(text)) => break pid,
            _ if Instant::now() > until => return false,
            _ => {}
        }
    };
    if kill_process(criu, Signal::STOP).is_err() {
        return false;
    }
    // It runs on for a moment after the signal is sent.
    let stopped = || {
        fs::read_to_string(format!("/proc/{}/stat", criu.as_raw_nonzero())).map_or(true, |stat| stat.contains(") T "))
    };
    while !stopped() && Instant::now() < until {}
    if !curable(&fs::read_to_string(log).unwrap_or_default(), text) {
        kill_process(criu, Signal::CONT).ok();
        return false;
    }
    match fate {
        Fate::Killed => kill_process(criu, Signal::KILL).is_ok(),
        Fate::Stopped => true,
        Fate::Stuck => {
            let cgroup = Path::new(STUCK);
            fs::create_dir_all(cgroup).unwrap();
            fs::write(cgroup.join("cgroup.procs"), criu.as_raw_nonzero().to_string()).unwrap();
            fs::write(cgroup.join("cgroup.freeze"), "1").unwrap();
            true
        }
    }
}

fn network_rules(counter: &Counter) -> String {
    let net = format!("--net=/proc/{}/ns/net", counter.container.pid().unwrap());
    let output = Command::new("nsenter").arg(net).args(["nft", "list", "ruleset"]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The dump fails, and the container is as it was.
fn dump_struck(
    bundle: &Bundle,
    counter: &mut Counter,
    mut last: u64,
    moment: &str,
    options: &CheckpointOptions,
    fate: Fate,
) -> u64 {
    let log = bundle.path().join("work/dump.log");
    for _ in 0..10 {
        fs::remove_dir_all(bundle.path().join("work")).ok();
        let container = &counter.container;
        let (struck, result) = thread::scope(|scope| {
            let striker = scope.spawn(|| strike(&log, moment, fate));
            let result = container.checkpoint(options);
            (striker.join().unwrap(), result)
        });
        let failed = result.as_ref().err().map(|err| chain(err));
        assert_eq!(counter.container.status().unwrap(), Status::Running, "{moment} {fate:?}: {failed:?}");
        let rules = network_rules(counter);
        assert!(!rules.contains("CRIU"), "{moment} {fate:?}: {rules}");
        last = counter.goes_on_after(last);
        // CRIU may have come through before it was struck.
        let Some(failed) = failed.filter(|_| struck) else {
            fs::remove_dir_all(&options.image_dir).ok();
            continue;
        };
        println!("{moment} {fate:?}: {failed}");
        assert!(!options.image_dir.exists(), "images left at {moment}");
        return last;
    }
    panic!("not struck at {moment}");
}

fn options(bundle: &Bundle, lock: NetworkLock) -> CheckpointOptions {
    let mut options = CheckpointOptions::new(bundle.images("struck"));
    options.work_dir = Some(bundle.path().join("work"));
    options.leave_running = true;
    options.criu.tcp_established = true;
    options.criu.network_lock = Some(lock);
    options
}

/// As another dump has it, of a container in the same network.
fn lock_of_another() {
    let bundle = Bundle::new(COUNT);
    let mut counter = bundle.start();
    assert_eq!(counter.next(), 0);
    let mut last = 0;
    // Before it has locked the network itself, and when it has done so in another way, or not at all.
    for (lock, moment) in
        [(NetworkLock::Iptables, BEGINS), (NetworkLock::Nftables, LOCKED), (NetworkLock::Skip, LOCKED)]
    {
        last = leaves_chain(&bundle, &mut counter, last, lock, moment);
    }
    counter.kill();
}

fn leaves_chain(bundle: &Bundle, counter: &mut Counter, last: u64, lock: NetworkLock, moment: &str) -> u64 {
    let net = format!("--net=/proc/{}/ns/net", counter.container.pid().unwrap());
    let options = options(bundle, lock);
    let log = bundle.path().join("work/dump.log");
    for _ in 0..10 {
        fs::remove_dir_all(bundle.path().join("work")).ok();
        // It may be there already.
        Command::new("nsenter").args([&net, "iptables", "-N", "CRIU"]).status().unwrap();
        let (struck, result) = thread::scope(|scope| {
            let striker = scope.spawn(|| strike(&log, moment, Fate::Killed));
            let result = counter.container.checkpoint(&options);
            (striker.join().unwrap(), result)
        });
        let locked = fs::read_to_string(&log).is_ok_and(|log| log.contains(LOCKED));
        if struck && locked == (moment == LOCKED) {
            assert!(result.is_err());
            let rules = network_rules(counter);
            assert!(rules.contains("chain CRIU") && !rules.contains("table inet CRIU"), "{lock:?}: {rules}");
            return counter.goes_on_after(last);
        }
        fs::remove_dir_all(&options.image_dir).ok();
    }
    panic!("not struck at {moment} with {lock:?}");
}

/// It can still be checkpointed and restored.
fn is_whole(bundle: &Bundle, mut counter: Counter, last: u64) {
    let last = counter.goes_on_after(last);
    let mut options = CheckpointOptions::new(bundle.images("whole"));
    options.criu.tcp_established = true;
    ok(counter.container.checkpoint(&options));
    let last = counter.gone(137, last);
    let mut counter = bundle.restore("second", &bundle.images("whole"));
    counter.goes_on_after(last);
    counter.kill();
}

fn killed() {
    let (bundle, mut counter) = talking();
    let mut last = 0;
    for lock in [NetworkLock::Nftables, NetworkLock::Iptables] {
        for moment in [HOLDS, LOCKED, LETS_GO] {
            last = dump_struck(&bundle, &mut counter, last, moment, &options(&bundle, lock), Fate::Killed);
        }
    }
    is_whole(&bundle, counter, last);

    // And with CRIU's code in a process.
    let bundle = Bundle::new(COUNT);
    let mut counter = bundle.start();
    assert_eq!(counter.next(), 0);
    last = dump_struck(&bundle, &mut counter, 0, WRITES, &options(&bundle, NetworkLock::Nftables), Fate::Killed);
    is_whole(&bundle, counter, last);
}

fn hangs() {
    let (bundle, mut counter) = talking();
    let mut last = 0;
    let fates: &[Fate] = if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        &[Fate::Stopped, Fate::Stuck]
    } else {
        &[Fate::Stopped]
    };
    for &fate in fates {
        for moment in [HOLDS, LOCKED, WRITES] {
            let mut options = options(&bundle, NetworkLock::Nftables);
            options.stall = Duration::from_millis(500);
            last = dump_struck(&bundle, &mut counter, last, moment, &options, fate);
            if fate == Fate::Stuck {
                fs::remove_dir(STUCK).unwrap();
            }
        }
    }
    is_whole(&bundle, counter, last);
}

fn restore() {
    let (bundle, counter) = talking();
    let images = bundle.images("one");
    let mut options = CheckpointOptions::new(images.clone());
    options.criu.tcp_established = true;
    ok(counter.container.checkpoint(&options));
    let last = counter.gone(137, 0);
    let log = bundle.path().join("work/restore.log");
    for (moment, fate) in [("Restoring", Fate::Killed), ("pie: ", Fate::Killed), ("Restoring", Fate::Stopped)] {
        fs::remove_dir_all(bundle.path().join("work")).ok();
        let before = fs::read_dir(&images).unwrap().count();
        let (stdio, _output) = pipes();
        let mut options = RestoreOptions::new(bundle.options("struck", stdio), images.clone());
        options.work_dir = Some(bundle.path().join("work"));
        options.stall = Duration::from_millis(500);
        let result = thread::scope(|scope| {
            scope.spawn(|| strike(&log, moment, fate));
            Container::restore(options)
        });
        match result {
            Ok(_) => panic!("{moment} {fate:?}: restored"),
            Err(err) => println!("{moment} {fate:?}: {}", chain(&err)),
        }
        bundle.assert_no_state("struck");
        assert_eq!(fs::read_dir(&images).unwrap().count(), before);
    }
    let mut counter = bundle.restore("second", &images);
    counter.goes_on_after(last);
    counter.kill();
}
