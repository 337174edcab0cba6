//! Namespaces made and joined.

use serde_json::{Value, json};

use crate::bundle::{Bundle, chain, exec};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("loopback_is_up_in_a_new_network_namespace", loopback_is_up_in_a_new_network_namespace),
    ("a_pods_containers_share_namespaces", a_pods_containers_share_namespaces),
    ("a_user_namespace_maps_its_root", a_user_namespace_maps_its_root),
    ("a_user_namespace_is_joined", a_user_namespace_is_joined),
    ("a_time_namespace_has_its_offset", a_time_namespace_has_its_offset),
    ("a_path_of_another_kind_is_refused", a_path_of_another_kind_is_refused),
];

fn namespaces(bundle: &mut Bundle, edit: impl Fn(&str) -> Option<String>) {
    for namespace in bundle.spec["linux"]["namespaces"].as_array_mut().unwrap() {
        if let Some(path) = edit(namespace["type"].as_str().unwrap()) {
            namespace["path"] = path.into();
        }
    }
}

fn loopback_is_up_in_a_new_network_namespace() {
    let (_, output) = Bundle::new("ip link show lo").run();
    assert!(output.contains("LOOPBACK,UP"), "{output}");
}

fn a_pods_containers_share_namespaces() {
    let pod = Bundle::new("exec sleep 60");
    let (sandbox, running) = pod.create_as("pod").unwrap();
    sandbox.start().unwrap();
    let pid = running.started.child.pid;
    let mut bundle =
        Bundle::new("hostname; for ns in pid net ipc uts; do readlink /proc/self/ns/$ns; done; test $$ != 1");
    bundle.spec["hostname"] = Value::Null;
    namespaces(&mut bundle, |kind| {
        let file = if kind == "network" { "net" } else { kind };
        ["pid", "network", "ipc", "uts"].contains(&kind).then(|| format!("/proc/{pid}/ns/{file}"))
    });
    let expected = ["pid", "net", "ipc", "uts"]
        .map(|file| std::fs::read_link(format!("/proc/{pid}/ns/{file}")).unwrap().display().to_string())
        .join("\n");
    // Not run(): the sandbox is a child that is left.
    let (container, member) = bundle.create().unwrap_or_else(|err| panic!("{}", chain(&err)));
    container.start().unwrap();
    assert_eq!(member.finish(), (0, format!("inside\n{expected}")));
    container.delete(false).unwrap();
    sandbox.delete(true).unwrap();
    running.finish();
    bundle.assert_nothing_left();
    pod.assert_nothing_left();
}

fn user_namespace(bundle: &mut Bundle) {
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    bundle.spec["linux"]["uidMappings"] = map.clone();
    bundle.spec["linux"]["gidMappings"] = map;
    own(&bundle.path().join("rootfs"));
}

fn own(path: &std::path::Path) {
    for entry in std::fs::read_dir(path).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            own(&entry.path());
        }
        std::os::unix::fs::lchown(entry.path(), Some(100_000), Some(100_000)).unwrap();
    }
    std::os::unix::fs::chown(path, Some(100_000), Some(100_000)).unwrap();
}

fn a_user_namespace_maps_its_root() {
    let mut bundle = Bundle::new("id -u; cat /proc/self/uid_map; grep -E 'CapEff' /proc/self/status");
    user_namespace(&mut bundle);
    bundle.spec["process"]["rlimits"] = json!([{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]);
    let (code, output) = bundle.run();
    let fields: Vec<_> = output.split_whitespace().collect();
    assert_eq!((code, fields), (0, vec!["0", "0", "100000", "65536", "CapEff:", "0000000000000020"]));
}

fn a_user_namespace_is_joined() {
    let mut pod = Bundle::new("exec sleep 60");
    user_namespace(&mut pod);
    let (sandbox, running) = pod.create_as("pod").unwrap_or_else(|err| panic!("{}", chain(&err)));
    sandbox.start().unwrap();
    let pid = running.started.child.pid;
    // An exec joins it through the pidfd.
    let process = json!({"user": {"uid": 0, "gid": 0}, "args": ["sh", "-c", "id -u; cat /proc/self/uid_map"], "env": ["PATH=/bin"], "cwd": "/"});
    let (code, output) = exec(&sandbox, process, false).unwrap_or_else(|err| panic!("{}", chain(&err))).finish();
    assert_eq!((code, output.split_whitespace().collect::<Vec<_>>()), (0, vec!["0", "0", "100000", "65536"]));
    // Another container joins it by path, with the network namespace that it owns.
    let mut bundle = Bundle::new("id -u; cat /proc/self/uid_map; readlink /proc/self/ns/net");
    user_namespace(&mut bundle);
    namespaces(&mut bundle, |kind| match kind {
        "user" => Some(format!("/proc/{pid}/ns/user")),
        "network" => Some(format!("/proc/{pid}/ns/net")),
        _ => None,
    });
    let network = std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap().display().to_string();
    let (container, member) = bundle.create().unwrap_or_else(|err| panic!("{}", chain(&err)));
    container.start().unwrap();
    let (code, output) = member.finish();
    assert_eq!((code, output.split_whitespace().collect::<Vec<_>>()), (0, vec!["0", "0", "100000", "65536", &network]));
    container.delete(false).unwrap();
    sandbox.delete(true).unwrap();
    running.finish();
    pod.assert_nothing_left();
}

fn a_time_namespace_has_its_offset() {
    let mut bundle = Bundle::new("cat /proc/self/timens_offsets; exit 6");
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "time"}));
    bundle.spec["linux"]["timeOffsets"] = json!({"boottime": {"secs": 86_400, "nanosecs": 5}});
    let (code, output) = bundle.run();
    let fields: Vec<_> = output.split_whitespace().collect();
    assert_eq!((code, fields), (6, vec!["monotonic", "0", "0", "boottime", "86400", "5"]));
}

fn a_path_of_another_kind_is_refused() {
    let mut bundle = Bundle::new("true");
    namespaces(&mut bundle, |kind| (kind == "network").then(|| "/proc/self/ns/uts".to_owned()));
    let refused = bundle.refused();
    assert!(refused.contains("join network namespace /proc/self/ns/uts"), "{refused}");
}
