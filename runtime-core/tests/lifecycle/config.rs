//! The rest of the configuration, point by point.

use runtime_core::ErrorKind;
use serde_json::{Value, json};

use crate::bundle::{Bundle, chain, exec};
use crate::namespaces::user_namespace;

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("a_read_only_root_is_read_only", a_read_only_root_is_read_only),
    ("hostname_and_domainname_are_the_specs", hostname_and_domainname_are_the_specs),
    ("names_of_the_host_are_not_changed", names_of_the_host_are_not_changed),
    ("the_oom_score_is_the_specs", the_oom_score_is_the_specs),
    ("a_label_of_a_module_that_is_not_there_is_refused", a_label_of_a_module_that_is_not_there_is_refused),
    ("a_namespace_that_is_not_named_is_the_runtimes", a_namespace_that_is_not_named_is_the_runtimes),
    ("several_mappings_are_all_there", several_mappings_are_all_there),
    ("an_id_without_a_mapping_is_refused", an_id_without_a_mapping_is_refused),
    ("devices_are_as_the_spec_has_them", devices_are_as_the_spec_has_them),
    ("a_file_that_is_not_the_device_is_refused", a_file_that_is_not_the_device_is_refused),
    ("default_devices_and_links_are_there", default_devices_and_links_are_there),
    ("masked_paths_are_empty_and_read_only_paths_read_only", masked_paths_are_empty_and_read_only_paths_read_only),
    ("limits_are_in_the_cgroup", limits_are_in_the_cgroup),
];

fn a_read_only_root_is_read_only() {
    let script = "echo x > /made; echo x > /tmp/made && echo written; echo x > /dev/null && echo device";
    let mut bundle = Bundle::new(script);
    bundle.spec["root"]["readonly"] = true.into();
    bundle.spec["mounts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}));
    let (_, output) = bundle.run();
    assert_eq!(output, "sh: can't create /made: Read-only file system\nwritten\ndevice");
}

fn hostname_and_domainname_are_the_specs() {
    let mut bundle = Bundle::new("hostname; cat /proc/sys/kernel/domainname");
    bundle.spec["domainname"] = "example.org".into();
    assert_eq!(bundle.run(), (0, "inside\nexample.org".to_owned()));
}

fn names_of_the_host_are_not_changed() {
    for field in ["hostname", "domainname"] {
        let mut bundle = Bundle::new("true");
        bundle.spec["hostname"] = Value::Null;
        bundle.spec[field] = "elsewhere".into();
        bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "uts");
        let (kind, refused) = bundle.refusal();
        assert_eq!(kind, ErrorKind::InvalidArgument, "{refused}");
        assert!(refused.contains("UTS namespace"), "{refused}");
    }
}

fn the_oom_score_is_the_specs() {
    let mut bundle = Bundle::new("cat /proc/self/oom_score_adj; exec sleep 60");
    bundle.spec["process"]["oomScoreAdj"] = 321.into();
    let (container, running) = bundle.create().unwrap();
    container.start().unwrap();
    let mut process = bundle.spec["process"].clone();
    process["args"] = json!(["cat", "/proc/self/oom_score_adj"]);
    process["oomScoreAdj"] = 432.into();
    assert_eq!(exec(&container, process, false).unwrap().finish(), (0, "432".to_owned()));
    container.delete(true).unwrap();
    running.finish();
    let mut bundle = Bundle::new("cat /proc/self/oom_score_adj");
    bundle.spec["process"]["oomScoreAdj"] = 321.into();
    assert_eq!(bundle.run(), (0, "321".to_owned()));
    bundle.spec["process"]["oomScoreAdj"] = 1001.into();
    assert_eq!(bundle.refusal().0, ErrorKind::InvalidArgument);
}

fn a_label_of_a_module_that_is_not_there_is_refused() {
    let modules = std::fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    for (field, module) in [("apparmorProfile", "apparmor"), ("selinuxLabel", "selinux")] {
        if modules.split(',').any(|name| name == module) {
            println!("skipped {field}: this host has {module}");
            continue;
        }
        let mut bundle = Bundle::new("true");
        bundle.spec["process"][field] = "some:label".into();
        let (kind, refused) = bundle.refusal();
        assert_eq!(kind, ErrorKind::Unimplemented, "{refused}");
        assert!(refused.contains(field), "{refused}");
        // An empty one is none.
        bundle.spec["process"][field] = "".into();
        assert_eq!(bundle.run().0, 0);
    }
}

fn a_namespace_that_is_not_named_is_the_runtimes() {
    for (kind, file) in [("network", "net"), ("ipc", "ipc"), ("uts", "uts"), ("pid", "pid"), ("cgroup", "cgroup")] {
        let ours = std::fs::read_link(format!("/proc/self/ns/{file}")).unwrap().display().to_string();
        let mut bundle = Bundle::new(&format!("readlink /proc/self/ns/{file}"));
        bundle.spec["hostname"] = Value::Null;
        assert_ne!(bundle.run().1, ours, "{kind}");
        bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != kind);
        assert_eq!(bundle.run().1, ours, "{kind}");
    }
}

fn mapped() -> Bundle {
    let mut bundle = Bundle::new("cat /proc/self/uid_map /proc/self/gid_map; id -u; id -G; exec sleep 60");
    user_namespace(&mut bundle);
    bundle.spec["linux"]["uidMappings"] = json!([
        {"containerID": 0, "hostID": 100_000, "size": 10}, {"containerID": 10, "hostID": 200_000, "size": 5},
        {"containerID": 1000, "hostID": 300_000, "size": 1},
    ]);
    bundle.spec["linux"]["gidMappings"] = json!([
        {"containerID": 0, "hostID": 100_000, "size": 10}, {"containerID": 1000, "hostID": 300_000, "size": 2},
    ]);
    bundle
}

fn several_mappings_are_all_there() {
    let mut bundle = mapped();
    bundle.spec["process"]["user"] = json!({"uid": 1000, "gid": 1000, "additionalGids": [5, 1001]});
    bundle.spec["process"]["args"][2] = "cat /proc/self/uid_map /proc/self/gid_map; id -u; id -G".into();
    let (_, output) = bundle.run();
    let fields: Vec<_> = output.split_whitespace().collect();
    let expected = "0 100000 10 10 200000 5 1000 300000 1 0 100000 10 1000 300000 2 1000 1000 5 1001";
    assert_eq!(fields.join(" "), expected);
    // A further process, of a user of another range.
    let bundle = mapped();
    let (container, running) = bundle.create().unwrap_or_else(|err| panic!("{}", chain(&err)));
    container.start().unwrap();
    let process = json!({"user": {"uid": 12, "gid": 7}, "args": ["id", "-u"], "env": ["PATH=/bin"], "cwd": "/"});
    let executed = exec(&container, process, false).unwrap_or_else(|err| panic!("{}", chain(&err)));
    let pid = executed.started.child.pid;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    assert_eq!(executed.finish(), (0, "12".to_owned()));
    assert!(status.is_empty() || status.contains("Uid:\t200002\t"), "{status}");
    container.delete(true).unwrap();
    running.finish();
}

fn an_id_without_a_mapping_is_refused() {
    for (user, text) in [
        (json!({"uid": 20, "gid": 0}), "process.user.uid 20 has no mapping in linux.uidMappings"),
        (json!({"uid": 0, "gid": 20}), "process.user.gid 20 has no mapping in linux.gidMappings"),
        (json!({"uid": 0, "gid": 0, "additionalGids": [1, 500]}), "process.user.additionalGids 500 has no mapping"),
    ] {
        let mut bundle = mapped();
        bundle.spec["process"]["user"] = user;
        let (kind, refused) = bundle.refusal();
        assert_eq!(kind, ErrorKind::InvalidArgument, "{refused}");
        assert!(refused.contains(text), "{refused}");
    }
    let mut bundle = mapped();
    bundle.spec["linux"]["uidMappings"][1]["containerID"] = 5.into();
    assert!(bundle.refused().contains("apart from the ranges before it"));
}

fn devices_are_as_the_spec_has_them() {
    let mut bundle = Bundle::new("stat -c '%F %t:%T %a %u:%g' /dev/mine /dev/deep/disk /dev/pipe");
    bundle.spec["linux"]["devices"] = json!([
        {"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 33, "gid": 34},
        {"path": "/dev/deep/disk", "type": "b", "major": 250, "minor": 17},
        {"path": "/dev/pipe", "type": "p", "fileMode": 0o600},
    ]);
    let (_, output) = bundle.run();
    assert_eq!(output, "character special file 1:3 640 33:34\nblock special file fa:11 666 0:0\nfifo 0:0 600 0:0");
}

fn a_file_that_is_not_the_device_is_refused() {
    let mut bundle = Bundle::new("true");
    bundle.spec["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    std::fs::write(bundle.path().join("rootfs/dev/mine"), "").unwrap();
    bundle.spec["linux"]["devices"] = json!([{"path": "/dev/mine", "type": "c", "major": 1, "minor": 3}]);
    let (kind, refused) = bundle.refusal();
    assert_eq!(kind, ErrorKind::InvalidArgument, "{refused}");
    assert!(refused.contains("/dev/mine is not the device that it must be"), "{refused}");
}

fn default_devices_and_links_are_there() {
    let script = "for d in null zero full random urandom tty; do stat -c '%n %F %t:%T %a' /dev/$d; done; \
                  for l in fd stdin stdout stderr ptmx; do readlink /dev/$l; done; readlink /dev/core; test -e /dev/pts/ptmx && echo ptys";
    let (_, output) = Bundle::new(script).run();
    let device = |name: &str, number: &str| format!("/dev/{name} character special file {number} 666\n");
    let devices: String =
        [("null", "1:3"), ("zero", "1:5"), ("full", "1:7"), ("random", "1:8"), ("urandom", "1:9"), ("tty", "5:0")]
            .iter()
            .map(|(name, number)| device(name, number))
            .collect();
    let core = if std::path::Path::new("/proc/kcore").exists() { "/proc/kcore\n" } else { "" };
    let links = "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n";
    assert_eq!(output, format!("{devices}{links}{core}ptys"));
}

fn masked_paths_are_empty_and_read_only_paths_read_only() {
    let script = "cat /etc/passwd; ls /etc/secrets; echo x > /etc/secrets/y; echo x > /etc/fixed/z; cat /etc/fixed/a";
    let mut bundle = Bundle::new(script);
    let etc = bundle.path().join("rootfs/etc");
    std::fs::create_dir(etc.join("secrets")).unwrap();
    std::fs::write(etc.join("secrets/key"), "secret").unwrap();
    std::fs::create_dir(etc.join("fixed")).unwrap();
    std::fs::write(etc.join("fixed/a"), "text").unwrap();
    // What is not there needs no mask.
    bundle.spec["linux"]["maskedPaths"] = json!(["/etc/passwd", "/etc/secrets", "/no/such"]);
    bundle.spec["linux"]["readonlyPaths"] = json!(["/etc/fixed", "/no/such"]);
    let (_, output) = bundle.run();
    let expected = "sh: can't create /etc/secrets/y: Read-only file system\n\
                    sh: can't create /etc/fixed/z: Read-only file system\ntext";
    assert_eq!(output, expected);
    for field in ["maskedPaths", "readonlyPaths"] {
        let mut bundle = Bundle::new("true");
        bundle.spec["linux"][field] = json!(["etc"]);
        assert!(bundle.refused().contains("is not absolute"));
    }
}

/// Those whose controllers this host has; the others are refused by name, and nothing is left.
fn limits_are_in_the_cgroup() {
    let name = format!("rtc-test-{}-limits", std::process::id());
    let cases = [
        (json!({"cpu": {"quota": 50_000, "period": 100_000, "burst": 20_000}}), "cpu", "cpu.cfs_burst_us", "20000"),
        (json!({"cpu": {"idle": 1}}), "cpu", "cpu.idle", "1"),
        (json!({"pids": {"limit": 77}}), "pids", "pids.max", "77"),
        (json!({"memory": {"limit": 67_108_864}}), "memory", "memory.limit_in_bytes", "67108864"),
        (json!({"cpu": {"cpus": "0", "mems": "0"}}), "cpuset", "cpuset.cpus", "0"),
        (
            json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 2_097_152}]}),
            "hugetlb",
            "hugetlb.2MB.limit_in_bytes",
            "2097152",
        ),
        (json!({"rdma": {"mlx5_1": {"hcaHandles": 3}}}), "rdma", "rdma.max", ""),
    ];
    for (resources, controller, file, value) in cases {
        let mut bundle = Bundle::new("exec sleep 60");
        bundle.spec["linux"]["cgroupsPath"] = format!("/{name}").into();
        bundle.spec["linux"]["resources"] = resources.clone();
        match bundle.create() {
            Ok((container, running)) => {
                let path = format!("/sys/fs/cgroup/{controller}/{name}/{file}");
                match std::fs::read_to_string(&path) {
                    Ok(text) => assert_eq!(text.trim(), value, "{resources}"),
                    // On v2 the files have other names, which their own tests have.
                    Err(_) => assert!(std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists(), "no {path}"),
                }
                container.delete(true).unwrap();
                running.finish();
            }
            Err(err) => {
                assert_eq!(err.kind(), ErrorKind::Unimplemented, "{}", chain(&err));
                assert!(chain(&err).contains(controller), "{}", chain(&err));
                println!("{controller}: {}", chain(&err));
            }
        }
        bundle.assert_nothing_left();
    }
}
