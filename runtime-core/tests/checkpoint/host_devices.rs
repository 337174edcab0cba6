//! What the spec takes from the host beside mounts: network devices, and a class of cache and memory bandwidth.

use std::path::Path;
use std::process::Command;

use runtime_core::ContainerId;
use runtime_core::container::{CgroupDriver, Container, FindingKind, Report, RestoreCheck, Severity};
use serde_json::json;

use crate::scene::{Bundle, COUNT, ok};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("network devices are moved in again by a restore", moved_again),
    ("a restore without the host's devices is refused", refused),
];

const PAIR: &str = "link add rtcveth0 type veth peer name rtcveth1";

fn ip(args: &str) -> String {
    let output = Command::new("ip").args(args.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A device of the host's, with an address.
fn make_device() {
    ip(PAIR);
    ip("addr add 10.9.8.7/24 dev rtcveth0");
}

fn is_on_host() -> bool {
    Path::new("/sys/class/net/rtcveth0").exists()
}

/// The other end of the pair goes with the namespace, for which the kernel takes its time.
fn gone_with_its_namespace() {
    for _ in 0..500 {
        if !Path::new("/sys/class/net/rtcveth1").exists() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("the devices outlive the container");
}

fn bundle() -> Bundle {
    let mut bundle = Bundle::new(COUNT);
    bundle.spec["linux"]["netDevices"] = json!({"rtcveth0": {"name": "eth0"}});
    bundle
}

fn moved_again() {
    make_device();
    let mut bundle = bundle();
    let mut counter = bundle.start();
    assert_eq!(counter.next(), 0);
    let images = bundle.images("one");
    let last = counter.freeze_dry(images.clone(), 0);
    gone_with_its_namespace();

    make_device();
    let mut counter = bundle.restore("second", &images);
    counter.goes_on_after(last);
    assert!(!is_on_host(), "still on the host");
    let (_, shown) = counter.exec(&bundle, "ip -o addr show dev eth0");
    assert!(shown.contains("10.9.8.7/24") && shown.contains("eth0"), "{shown}");
    counter.kill();
    gone_with_its_namespace();

    // It goes back to the host when the restore fails.
    make_device();
    bundle.spec["hooks"] = json!({"createRuntime": [{"path": "/bin/false"}]});
    bundle.refused(&images);
    assert!(ip("-o addr show dev rtcveth0").contains("10.9.8.7/24"), "without its address");
}

fn look(bundle: &Bundle, images: &Path) -> Report {
    bundle.write_config();
    let id = ContainerId::parse("second").unwrap();
    let spec = serde_json::from_value(bundle.spec.clone()).unwrap();
    let asked = RestoreCheck {
        id: &id,
        image_dir: images,
        bundle: bundle.path(),
        spec: &spec,
        config: None,
        cgroup_driver: CgroupDriver::Cgroupfs,
        decrypt_key: None,
    };
    ok(Container::check_restore(&asked))
}

/// By the preflight and by the restore, for the same reason.
fn both_refuse(bundle: &Bundle, images: &Path, what: &str, why: &str) {
    let report = look(bundle, images);
    let found = report.findings.iter().find(|finding| finding.what == what);
    let found = found.unwrap_or_else(|| panic!("no finding of {what}: {report}"));
    assert_eq!((found.kind, found.severity), (FindingKind::Spec, Severity::Refuse), "{found}");
    assert!(found.why.contains(why), "{found}");
    let refused = bundle.refused(images);
    assert!(refused.contains(why), "{refused}");
}

fn refused() {
    let mut plain = Bundle::new(COUNT);
    let mut counter = plain.start();
    assert_eq!(counter.next(), 0);
    let images = plain.images("one");
    counter.freeze_dry(images.clone(), 0);
    let good = plain.spec.clone();

    plain.spec["linux"]["netDevices"] = json!({"rtcveth0": {"name": "eth0"}});
    both_refuse(&plain, &images, "linux.netDevices", "find network device rtcveth0");
    plain.spec = good.clone();
    plain.spec["linux"]["intelRdt"] = json!({"closID": "rtc-test"});
    both_refuse(&plain, &images, "linux.intelRdt", "resctrl");
    plain.spec = good;

    // Images that have a network namespace: its owner may have set what no table shows.
    let capabilities = &mut plain.spec["process"]["capabilities"];
    for set in ["bounding", "permitted", "effective"] {
        capabilities[set].as_array_mut().unwrap().push(json!("CAP_NET_ADMIN"));
    }
    let mut counter = plain.start();
    assert_eq!(counter.next(), 0);
    let images = plain.images("two");
    counter.freeze_dry(images.clone(), 0);
    make_device();
    plain.spec["linux"]["netDevices"] = json!({"rtcveth0": {"name": "eth0"}});
    both_refuse(&plain, &images, "linux.netDevices", "the images have one with devices of its own");
    assert!(is_on_host(), "moved");
}
