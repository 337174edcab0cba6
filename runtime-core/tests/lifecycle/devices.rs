//! Network devices of the host for a container, in a network namespace that stands for the host's.

use std::process::Command;

use runtime_core::ErrorKind;
use serde_json::json;

use crate::bundle::{Bundle, chain};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("a_network_device_is_moved_and_renamed", a_network_device_is_moved_and_renamed),
    ("a_network_device_goes_back_when_the_create_fails", a_network_device_goes_back_when_the_create_fails),
    ("a_network_device_that_cannot_be_is_refused", a_network_device_that_cannot_be_is_refused),
];

/// Runs `test` in a process of its own, whose host network is a veth pair.
fn with_devices(name: &str, test: impl FnOnce()) {
    const INSIDE: &str = "RTC_TEST_NETWORK";
    if std::env::var_os(INSIDE).is_some() {
        ip("link add rtcveth0 type veth peer name rtcveth1");
        ip("link set lo up");
        ip("addr add 10.9.8.7/24 dev rtcveth0");
        ip("addr add fd00::7/64 dev rtcveth0 nodad");
        ip("link set rtcveth0 up");
        return test();
    }
    if Command::new("ip").arg("-V").output().is_err() {
        println!("skipped {name}: needs iproute2");
        return;
    }
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

fn ip(args: &str) -> String {
    let output = Command::new("ip").args(args.split(' ')).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {args}: {text}");
    String::from_utf8(output.stdout).unwrap()
}

fn bundle(name: &str) -> Bundle {
    let mut bundle = Bundle::new("ip addr; echo > /tmp/up; exec sleep 60");
    bundle.spec["linux"]["netDevices"] = json!({"rtcveth0": {"name": name}});
    // The hooks find it there already, and up.
    let script = "read -r state; pid=$(echo $state | grep -o '\"pid\":[0-9]*' | cut -d: -f2); \
                  nsenter --target $pid --net ip -o addr";
    let log = bundle.path().join("log");
    let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", format!("{script} > {}", log.display())],
        "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"]});
    bundle.spec["hooks"] = json!({"createRuntime": [hook]});
    bundle
}

fn a_network_device_is_moved_and_renamed() {
    with_devices("a_network_device_is_moved_and_renamed", || {
        for name in ["eth0", ""] {
            let inside = if name.is_empty() { "rtcveth0" } else { name };
            let bundle = bundle(name);
            let (container, running) = bundle.create().unwrap_or_else(|err| panic!("{}", chain(&err)));
            assert!(!ip("link").contains("rtcveth0:"), "still on the host");
            container.start().unwrap();
            crate::process::wait_for(&bundle.path().join("rootfs/tmp/up"));
            let told = std::fs::read_to_string(bundle.path().join("log")).unwrap();
            assert!(told.contains(inside) && told.contains("10.9.8.7/24") && told.contains("fd00::7/64"), "{told}");
            container.delete(true).unwrap();
            let (_, output) = running.finish();
            assert!(output.contains(&format!("{inside}@")) && output.contains("10.9.8.7/24"), "{output}");
            assert!(output.contains("UP"), "{output}");
            bundle.assert_nothing_left();
            // A virtual device ends with its namespace, which the kernel takes its time for.
            for _ in 0..500 {
                if !ip("link").contains("rtcveth1") {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            ip("link add rtcveth0 type veth peer name rtcveth1");
            ip("addr add 10.9.8.7/24 dev rtcveth0");
            ip("addr add fd00::7/64 dev rtcveth0 nodad");
        }
    });
}

fn a_network_device_goes_back_when_the_create_fails() {
    with_devices("a_network_device_goes_back_when_the_create_fails", || {
        let before = ip("-o addr show dev rtcveth0");
        let mut bundle = bundle("eth0");
        bundle.spec["process"]["args"] = json!(["no-such-program"]);
        bundle.refused();
        let strip =
            |text: &str| text.lines().map(|line| line.split_once(": ").unwrap().1.to_owned()).collect::<Vec<_>>();
        let after = ip("-o addr show dev rtcveth0");
        let lasting = |lines: Vec<String>| lines.into_iter().filter(|line| line.contains("global")).collect::<Vec<_>>();
        assert_eq!(lasting(strip(&after)), lasting(strip(&before)));
        assert!(ip("link show rtcveth0").contains(",UP"), "not up");
    });
}

fn a_network_device_that_cannot_be_is_refused() {
    with_devices("a_network_device_that_cannot_be_is_refused", || {
        let cases = [
            (json!({"nosuch0": {}}), "no such device"),
            (json!({"rtcveth0": {"name": "lo"}}), "file exists"),
            (json!({"rtcveth0": {"name": "much-too-long-a-name"}}), "not the name of a network device"),
            (json!({"rtcveth0": {"name": "a/b"}}), "not the name of a network device"),
            (json!({"rtcveth0": {"name": "eth0"}, "rtcveth1": {"name": "eth0"}}), "twice"),
        ];
        for (devices, text) in cases {
            let mut bundle = Bundle::new("true");
            bundle.spec["linux"]["netDevices"] = devices;
            let (kind, refused) = bundle.refusal();
            assert_eq!(kind, ErrorKind::InvalidArgument, "{refused}");
            assert!(refused.to_lowercase().contains(text), "{refused}");
            assert!(ip("link").contains("rtcveth0"), "{refused}");
        }
        let mut bundle = bundle("eth0");
        bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "network");
        assert!(bundle.refused().contains("network namespace"));
    });
}
