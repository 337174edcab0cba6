//! TCP: what listens and what is connected, with a client outside that counts.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use runtime_core::container::{CheckpointOptions, Container, NetworkLock, RestoreOptions};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde_json::{Value, json};

use crate::scene::{Bundle, COUNT, Counter, chain, ok, pipes};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("a connection goes on in a network namespace by path", by_path),
    ("connections go on in a network namespace of its own", own),
];

const ECHO: &str = "workload echo --listen 0.0.0.0:7000";
const ADDRESS: &str = "10.77.0.2:7000";

/// Sends numbers and checks each that comes back, from before the dump until after the restore.
struct Client {
    thread: JoinHandle<()>,
    answered: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Client {
    fn connect() -> Self {
        let mut stream = connect();
        stream.set_nodelay(true).unwrap();
        let answered = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (count, stopped) = (answered.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            for number in 1u64.. {
                stream.write_all(&number.to_be_bytes()).unwrap();
                let mut answer = [0; 8];
                stream.read_exact(&mut answer).unwrap();
                assert_eq!(u64::from_be_bytes(answer), number);
                count.store(number, Ordering::Relaxed);
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                sleep(Duration::from_millis(1));
            }
        });
        let client = Self { thread, answered, stop };
        client.goes_on();
        client
    }

    fn count(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    #[track_caller]
    fn goes_on(&self) {
        let (before, until) = (self.count(), Instant::now() + Duration::from_secs(20));
        while self.count() < before + 20 {
            assert!(Instant::now() < until && !self.thread.is_finished(), "no answer after {}", self.count());
            sleep(Duration::from_millis(2));
        }
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

#[track_caller]
fn connect() -> TcpStream {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        match TcpStream::connect_timeout(&ADDRESS.parse().unwrap(), Duration::from_secs(2)) {
            Ok(stream) => return stream,
            Err(err) => assert!(Instant::now() < until, "{err}"),
        }
        sleep(Duration::from_millis(10));
    }
}

fn sh(script: &str) {
    assert!(Command::new("sh").args(["-ec", script]).status().unwrap().success(), "{script}");
}

fn network(bundle: &mut Bundle) -> &mut Value {
    let namespaces = bundle.spec["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.iter_mut().find(|namespace| namespace["type"] == "network").unwrap()
}

/// Without the option CRIU refuses; with it the dump ends the container.
fn dump(bundle: &Bundle, counter: Counter, lock: Option<NetworkLock>) {
    let mut options = CheckpointOptions::new(bundle.images("one"));
    let refused = chain(&counter.container.checkpoint(&options).unwrap_err());
    assert!(refused.contains("tcp"), "{refused}");
    options.criu.tcp_established = true;
    options.criu.network_lock = lock;
    ok(counter.container.checkpoint(&options));
    counter.started.child.wait().unwrap();
    ok(counter.container.delete(false));
}

/// Whose rules are there that drop the packets of the connections.
fn lock() -> Option<NetworkLock> {
    let rules = Command::new("ip").args(["netns", "exec", "web", "nft", "list", "ruleset"]).output().unwrap();
    assert!(rules.status.success());
    match String::from_utf8_lossy(&rules.stdout) {
        rules if rules.contains("table inet CRIU") => Some(NetworkLock::Nftables),
        rules if rules.contains("jump CRIU") => Some(NetworkLock::Iptables),
        _ => None,
    }
}

fn by_path() {
    sh("ip netns add web; ip link add vh type veth peer name vc; ip link set vc netns web; \
        ip address add 10.77.0.1/24 dev vh; ip link set vh up; ip netns exec web ip address add 10.77.0.2/24 dev vc; \
        ip netns exec web ip link set vc up");
    let mut bundle = Bundle::new(ECHO);
    network(&mut bundle)["path"] = json!("/run/netns/web");
    let counter = bundle.start();
    let client = Client::connect();
    dump(&bundle, counter, Some(NetworkLock::Nftables));
    // Until the restore nobody is to answer the client.
    assert_eq!(lock(), Some(NetworkLock::Nftables));
    let counter = bundle.restore("second", &bundle.images("one"));
    assert_eq!(lock(), None);
    client.goes_on();
    client.end();
    // It listens, too. And this connection is closed by what is told at the restore.
    let mut stream = connect();
    let mut options = CheckpointOptions::new(bundle.images("two"));
    options.criu.tcp_established = true;
    options.criu.network_lock = Some(NetworkLock::Skip);
    ok(counter.container.checkpoint(&options));
    assert_eq!(lock(), None);
    counter.started.child.wait().unwrap();
    ok(counter.container.delete(false));
    let (stdio, output) = pipes();
    let mut options = RestoreOptions::new(bundle.options("third", stdio), bundle.images("two"));
    options.criu.tcp_close = true;
    let (container, started) = ok(Container::restore(options));
    let counter = Counter { container, started, output };
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(b"anybody?").ok();
    assert!(!matches!(stream.read(&mut [0; 8]), Ok(1..)), "the connection was restored");
    drop(connect());
    counter.kill();
    in_flight(&mut bundle);
    sh("ip link delete vh; ip netns delete web; umount /run/netns; rmdir /run/netns");
}

/// Accepted by the kernel, and never by the process.
fn in_flight(bundle: &mut Bundle) {
    let listen = || {
        let namespace = std::fs::File::open("/run/netns/web").unwrap();
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        TcpListener::bind(ADDRESS).unwrap()
    };
    let listener = std::thread::spawn(listen).join().unwrap();
    bundle.spec["process"]["args"] = json!(["sh", "-c", COUNT]);
    let (stdio, output) = pipes();
    let mut options = bundle.options("listener", stdio);
    options.preserve_fds = vec![listener.into()];
    let (container, started) = ok(Container::create(options));
    ok(container.start());
    let mut counter = Counter { container, started, output };
    assert_eq!(counter.next(), 0);
    let waiting = connect();
    let mut options = CheckpointOptions::new(bundle.images("three"));
    options.leave_running = true;
    options.criu.tcp_established = true;
    let refused = chain(&counter.container.checkpoint(&options).unwrap_err());
    assert!(refused.contains("In-flight"), "{refused}");
    options.criu.tcp_skip_in_flight = true;
    ok(counter.container.checkpoint(&options));
    drop(waiting);
    counter.kill();
}

fn own() {
    sh("ip link add br0 type bridge; ip address add 10.77.0.1/24 dev br0; ip link set br0 up");
    let talk = "workload talk --connect 127.0.0.1:7000 --interval-ms 1";
    let script = format!("{ECHO} --ready /run/r & until [ -e /run/r ]; do usleep 2000; done; {talk} & wait");
    let bundle = Bundle::new(&script);
    let (stdio, output) = pipes();
    let (container, started) = ok(Container::create(bundle.options("first", stdio)));
    let pid = container.pid().unwrap();
    sh(&format!(
        "ip link add vh master br0 type veth peer name vc netns {pid}; ip link set vh up; \
         nsenter --net=/proc/{pid}/ns/net sh -ec 'ip address add 10.77.0.2/24 dev vc; ip link set vc up'"
    ));
    ok(container.start());
    let counter = Counter { container, started, output };
    let client = Client::connect();
    dump(&bundle, counter, None);
    // The old pair goes with its namespace, in the kernel's own time.
    sh("while ip link show vh; do sleep 0.01; done >/dev/null 2>&1");
    let (stdio, output) = pipes();
    let mut options = RestoreOptions::new(bundle.options("second", stdio), bundle.images("one"));
    options.external = vec!["veth[vc]:vh@br0".parse().unwrap()];
    let (container, started) = ok(Container::restore(options));
    sh("ip link set vh up");
    client.goes_on();
    client.end();
    drop(connect());
    // The one inside, over the loopback device, has lost nothing either: it ends at the first wrong number.
    assert_eq!(container.pids().unwrap().len(), 3);
    Counter { container, started, output }.kill();
    sh("ip link delete br0");
}
