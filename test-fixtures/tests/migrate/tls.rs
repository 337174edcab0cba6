//! A move over tls://, and who may not take part in one.

use test_fixtures::Node;
use test_fixtures::node::Running;

use crate::skipped;
use crate::world::{LONG, World, assert_counts_on, assert_gone, count, logged, remove, start_counter, status, wait};

/// Of the destination; the second is in no certificate.
const NAMED: &str = "10.8.0.2";
const UNNAMED: &str = "10.8.0.3";
const PORT: u16 = 7070;

/// An authority, with certificates for both nodes; and another, with one for the source.
const CERTIFICATES: &str = "\
    cd /run; issue() { echo subjectAltName=$3 >$1.ext; openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -keyout $1.key -subj /CN=$1 -out $1.csr; \
    openssl x509 -req -in $1.csr -CA $2.pem -CAkey $2.key -days 2 -out $1.pem -extfile $1.ext; }; \
    for ca in ca other; do openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -keyout $ca.key -subj /CN=$ca \
    -days 2 -out $ca.pem; done; \
    issue source ca DNS:source; issue stranger other DNS:source; issue destination ca IP:10.8.0.2";

fn nodes() -> World {
    let world = World::new();
    let World { one, two } = &world;
    Node::link("lan", (one, "10.8.0.1/24"), (two, &format!("{NAMED}/24"))).unwrap();
    two.sh(&format!("ip address add {UNNAMED}/24 dev lan")).unwrap();
    one.sh(CERTIFICATES).unwrap();
    // The defaults' place.
    two.sh("mkdir -p /etc/rtc/tls").unwrap();
    for (from, to) in [("destination.pem", "cert.pem"), ("destination.key", "key.pem"), ("ca.pem", "ca.pem")] {
        two.write(&format!("/etc/rtc/tls/{to}"), one.read(&format!("/run/{from}")).unwrap()).unwrap();
    }
    world
}

fn receive(node: &Node, before: &[&str]) -> Running {
    let target = format!("tls://0.0.0.0:{PORT}");
    let running = node.spawn([before, &["rtc", "migrate", "receive", "--listen", &target]].concat()).unwrap();
    wait("it listens", || node.run(["ss", "-Hltn"]).unwrap().contains(&format!(":{PORT} ")));
    running
}

fn move_to(from: &Node, address: &str, certificate: &str, options: &[&str]) -> test_fixtures::Output {
    let target = format!("tls://{address}:{PORT}");
    let (cert, key) = (format!("/run/{certificate}.pem"), format!("/run/{certificate}.key"));
    let files = ["--tls-cert", &cert, "--tls-key", &key, "--tls-ca", "/run/ca.pem"];
    from.exec_within(LONG, [&["rtc", "migrate", "c1", "--to", &target][..], &files, options].concat()).unwrap()
}

#[test]
fn a_container_goes_over_tls_to_whom_it_knows() {
    if skipped() {
        return;
    }
    let World { one, two } = &nodes();
    start_counter(one, "c1");
    let receiving = receive(two, &[]);
    let before = count(one, "c1");
    for (address, certificate, words) in [
        (UNNAMED, "source", "not valid for name"),
        (NAMED, "stranger", "takes no connection with this certificate"),
        (NAMED, "missing", "/run/missing.key"),
    ] {
        let refused = move_to(one, address, certificate, &[]);
        assert_ne!(refused.code(), 0);
        assert!(refused.error_text().contains(words), "{words:?} in {}", refused.error_text());
        assert_counts_on(one, "c1", before);
        assert_eq!(status(one), "");
    }
    // Nobody at all.
    let connect = format!("echo | openssl s_client -connect {NAMED}:{PORT} -CAfile /run/ca.pem 2>&1 || true");
    let anonymous = one.sh(&connect).unwrap();
    assert!(anonymous.contains("certificate required"), "{anonymous}");

    let moved = move_to(one, NAMED, "source", &[]);
    assert_eq!(moved.code(), 0, "{}\n{}", moved.error_text(), logged(two));
    assert_counts_on(two, "c1", before);
    assert_gone(one, "c1");
    drop(receiving);
    remove(two, "c1");
}

#[test]
fn a_cut_link_of_tls_is_noticed_and_a_service_managers_socket_taken() {
    if skipped() {
        return;
    }
    let World { one, two } = &nodes();
    start_counter(one, "c1");
    let _receiving = receive(two, &["systemd-socket-activate", "-l", &PORT.to_string()]);
    let before = count(one, "c1");
    let cut = std::thread::scope(|scope| {
        let moving = scope.spawn(|| move_to(one, NAMED, "source", &["--bandwidth-limit", "200k"]));
        wait("the destination works on it", || status(two).contains("under way"));
        let reset = format!("iptables -I INPUT -p tcp --dport {PORT} -j REJECT --reject-with tcp-reset");
        two.sh(&reset).unwrap();
        moving.join().unwrap()
    });
    assert_ne!(cut.code(), 0);
    assert!(cut.error_text().contains("the other side has hung up"), "{}", cut.error_text());
    assert_counts_on(one, "c1", before);
    wait("the destination has noticed", || status(two).is_empty());
    assert_gone(two, "c1");
    two.sh("iptables -F INPUT").unwrap();
    let moved = move_to(one, NAMED, "source", &[]);
    assert_eq!(moved.code(), 0, "{}", moved.error_text());
    assert_counts_on(two, "c1", before);
    remove(two, "c1");
}
