//! What the user's process is given.

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::bundle::Bundle;

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("user_groups_umask_and_home", user_groups_umask_and_home),
    ("capabilities_are_the_specs", capabilities_are_the_specs),
    ("ambient_capabilities_reach_another_user", ambient_capabilities_reach_another_user),
    ("an_ambient_capability_that_cannot_be_is_left_out", an_ambient_capability_that_cannot_be_is_left_out),
    ("rlimits_are_set_or_named", rlimits_are_set_or_named),
    ("the_callers_cpus_do_not_bind_the_container", the_callers_cpus_do_not_bind_the_container),
    ("scheduling_and_personality_are_the_specs", scheduling_and_personality_are_the_specs),
    ("a_deadline_and_cpus_of_its_own_are_refused", a_deadline_and_cpus_of_its_own_are_refused),
    ("the_memory_policy_is_the_specs", the_memory_policy_is_the_specs),
    ("the_working_directory_is_made", the_working_directory_is_made),
    ("no_descriptor_leaks", no_descriptor_leaks),
    ("signals_are_at_their_defaults", signals_are_at_their_defaults),
    ("a_terminal_controls_the_session", a_terminal_controls_the_session),
    ("a_missing_program_is_found_at_create", a_missing_program_is_found_at_create),
    ("a_file_that_is_no_program_fails_the_start", a_file_that_is_no_program_fails_the_start),
];

pub(crate) fn wait_for(path: &Path) {
    for _ in 0..500 {
        if path.exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{} did not appear", path.display());
}

fn user_groups_umask_and_home() {
    let mut bundle = Bundle::new("id -u; id -g; id -G; umask; echo $HOME");
    bundle.spec["process"]["user"] = json!({"uid": 33, "gid": 34, "additionalGids": [35, 36], "umask": 0o27});
    assert_eq!(bundle.run(), (0, "33\n34\n34 35 36\n0027\n/srv".to_owned()));
}

fn capabilities_are_the_specs() {
    let mut bundle = Bundle::new("grep -E 'Cap|NoNew' /proc/self/status");
    bundle.spec["process"]["capabilities"] = json!({
        "bounding": ["CAP_KILL", "CAP_CHOWN"], "permitted": ["CAP_KILL", "CAP_CHOWN"], "effective": ["CAP_KILL", "CAP_CHOWN"],
    });
    let (code, output) = bundle.run();
    assert_eq!(code, 0, "{output}");
    let fields: Vec<_> = output.split_whitespace().collect();
    let caps = "0000000000000021";
    let none = "0000000000000000";
    assert_eq!(
        fields,
        ["CapInh:", none, "CapPrm:", caps, "CapEff:", caps, "CapBnd:", caps, "CapAmb:", none, "NoNewPrivs:", "1"]
    );
}

fn ambient_capabilities_reach_another_user() {
    let mut bundle = Bundle::new("grep -E 'CapEff' /proc/self/status");
    let kill = json!(["CAP_KILL"]);
    bundle.spec["process"]["capabilities"] =
        json!({"bounding": kill, "permitted": kill, "effective": kill, "inheritable": kill, "ambient": kill});
    bundle.spec["process"]["user"] = json!({"uid": 33, "gid": 33});
    assert_eq!(bundle.run(), (0, "CapEff:\t0000000000000020".to_owned()));
}

fn an_ambient_capability_that_cannot_be_is_left_out() {
    let mut bundle = Bundle::new("grep -E 'CapAmb' /proc/self/status");
    let (kill, both) = (json!(["CAP_KILL"]), json!(["CAP_KILL", "CAP_CHOWN"]));
    bundle.spec["process"]["capabilities"] =
        json!({"bounding": both, "permitted": both, "effective": both, "inheritable": kill, "ambient": both});
    assert_eq!(bundle.run(), (0, "CapAmb:\t0000000000000020".to_owned()));
}

fn the_callers_cpus_do_not_bind_the_container() {
    let bundle = Bundle::new("grep Cpus_allowed_list /proc/self/status");
    let all = bundle.run();
    let ours = rustix::thread::sched_getaffinity(None).unwrap();
    let first = (0..rustix::thread::CpuSet::MAX_CPU).find(|cpu| ours.is_set(*cpu)).unwrap();
    let mut one = rustix::thread::CpuSet::new();
    one.set(first);
    rustix::thread::sched_setaffinity(None, &one).unwrap();
    let bound = bundle.run();
    rustix::thread::sched_setaffinity(None, &ours).unwrap();
    assert_eq!(bound, all);
}

fn rlimits_are_set_or_named() {
    let mut bundle = Bundle::new("ulimit -Sn; ulimit -Hn; ulimit -Hc");
    bundle.spec["process"]["rlimits"] = json!([
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ]);
    assert_eq!(bundle.run(), (0, "100\n200\n0".to_owned()));
    // Raised as far as the machine lets us, and never a failure for lack of CAP_SYS_RESOURCE.
    bundle.spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 900_000, "hard": 900_000}]);
    let (code, output) = bundle.run();
    assert_eq!(code, 0);
    assert!(output.lines().next().unwrap().parse::<u32>().unwrap() > 200, "{output}");
}

fn scheduling_and_personality_are_the_specs() {
    // 41 is the policy in /proc/PID/stat, 19 the nice value (proc_pid_stat(5)).
    let look = "uname -m; cut -d' ' -f19,41 /proc/self/stat; ionice; grep Cpus_allowed_list /proc/self/status";
    let mut bundle = Bundle::new(&format!("{look}; echo > /tmp/up; exec sleep 60"));
    bundle.spec["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 7});
    bundle.spec["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 6});
    bundle.spec["linux"]["personality"] = json!({"domain": "LINUX32"});
    bundle.spec["process"]["execCPUAffinity"] = json!({"initial": "0", "final": "1"});
    let (container, running) = bundle.create().unwrap_or_else(|err| panic!("{}", crate::bundle::chain(&err)));
    container.start().unwrap();
    wait_for(&bundle.path().join("rootfs/tmp/up"));
    let machine = if cfg!(target_arch = "x86_64") { "i686" } else { "armv8l" };
    let expected = format!("{machine}\n7 3\nbest-effort: prio 6\nCpus_allowed_list:\t");
    let process = |affinity| {
        let mut process =
            json!({"user": {"uid": 0, "gid": 0}, "args": ["sh", "-c", look], "env": ["PATH=/bin"], "cwd": "/"});
        if affinity != json!(null) {
            process["execCPUAffinity"] = affinity;
        }
        process
    };
    let exec = |affinity| crate::bundle::exec(&container, process(affinity), false);
    let affine =
        exec(json!({"initial": "0", "final": "0"})).unwrap_or_else(|err| panic!("{}", crate::bundle::chain(&err)));
    assert_eq!(affine.finish(), (0, format!("{expected}0")));
    // As runc has it: a process that names none has the container's, and the initial CPUs stay where no final ones are named.
    for (affinity, cpus) in
        [(json!(null), "1"), (json!({"initial": "1"}), "1"), (json!({"initial": "1", "final": "0"}), "0")]
    {
        let executed = exec(affinity).unwrap_or_else(|err| panic!("{}", crate::bundle::chain(&err)));
        assert_eq!(executed.finish(), (0, format!("{expected}{cpus}")));
    }
    let nothing = exec(json!({"initial": "900-1000"})).map(drop).unwrap_err();
    assert_eq!(nothing.kind(), runtime_core::ErrorKind::InvalidArgument, "{nothing}");
    let missing = exec(json!({"final": "900-1000"})).map(drop).unwrap_err();
    assert_eq!(missing.kind(), runtime_core::ErrorKind::InvalidArgument, "{missing}");
    container.delete(true).unwrap();
    let (_, output) = running.finish();
    assert!(output.starts_with(&expected), "{output}");
    bundle.assert_nothing_left();
}

/// The kernel wants such a process on all of its CPUs. Where the cgroups have no cpuset, that is what is refused.
fn a_deadline_and_cpus_of_its_own_are_refused() {
    let mut bundle = Bundle::new("true");
    bundle.spec["linux"]["resources"]["cpu"]["cpus"] = "0".into();
    bundle.spec["process"]["scheduler"] =
        json!({"policy": "SCHED_DEADLINE", "runtime": 42_000, "deadline": 1_000_000, "period": 1_000_000});
    let refused = bundle.refused();
    assert!(["AllowedCPUs", "cpuset"].iter().any(|word| refused.contains(word)), "{refused}");
}

fn the_memory_policy_is_the_specs() {
    // The policy of the process, which its mappings show (proc_pid_numa_maps(5)).
    let look = "cut -d' ' -f2 /proc/self/numa_maps | sort -u";
    for (policy, shown) in [
        (json!({"mode": "MPOL_BIND", "nodes": "0"}), "bind:0"),
        (json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}), "bind=static:0"),
        (json!({"mode": "MPOL_INTERLEAVE", "nodes": "0"}), "interleave:0"),
        (json!({"mode": "MPOL_PREFERRED", "nodes": "0"}), "prefer:0"),
        (json!({"mode": "MPOL_PREFERRED_MANY", "nodes": "0"}), "prefer"),
        (json!({"mode": "MPOL_LOCAL"}), "local"),
        (json!({"mode": "MPOL_DEFAULT"}), "default"),
    ] {
        let mut bundle = Bundle::new(&format!("{look}; echo > /tmp/up; exec sleep 60"));
        bundle.spec["linux"]["memoryPolicy"] = policy.clone();
        let (container, running) = bundle.create().unwrap_or_else(|err| panic!("{}", crate::bundle::chain(&err)));
        container.start().unwrap();
        wait_for(&bundle.path().join("rootfs/tmp/up"));
        let mut process = bundle.spec["process"].clone();
        process["args"] = json!(["sh", "-c", look]);
        let (_, executed) = crate::bundle::exec(&container, process, false).unwrap().finish();
        container.delete(true).unwrap();
        let (_, output) = running.finish();
        // The stack alone was there before the policy.
        for output in [output, executed] {
            assert!(output.lines().any(|line| line.starts_with(shown)), "{policy}: {output}");
        }
    }
}

fn the_working_directory_is_made() {
    let mut bundle = Bundle::new("pwd");
    bundle.spec["process"]["cwd"] = "/srv/deep/er".into();
    assert_eq!(bundle.run(), (0, "/srv/deep/er".to_owned()));
    bundle.spec["process"]["cwd"] = "/etc/passwd".into();
    let refused = bundle.refused();
    assert!(refused.contains("cwd"), "{refused}");
}

fn no_descriptor_leaks() {
    let leak = std::fs::File::open("/").unwrap();
    rustix_keep(&leak);
    assert_eq!(Bundle::new("ls /proc/self/fd").run(), (0, "0\n1\n2\n3".to_owned()));
}

/// The listing's own descriptor is the 3; this one is inheritable, as a careless library's would be.
fn rustix_keep(file: &std::fs::File) {
    let flags = rustix::io::fcntl_getfd(file).unwrap();
    rustix::io::fcntl_setfd(file, flags - rustix::io::FdFlags::CLOEXEC).unwrap();
}

fn signals_are_at_their_defaults() {
    let (_, output) = Bundle::new("exec grep -E 'Sig(Blk|Ign)' /proc/self/status").run();
    assert_eq!(output, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000");
}

fn a_terminal_controls_the_session() {
    let mut bundle = Bundle::new("tty; stty size; echo hi > /dev/tty; readlink /proc/self/fd/0");
    bundle.terminal = true;
    bundle.spec["process"]["terminal"] = true.into();
    bundle.spec["process"]["consoleSize"] = json!({"height": 41, "width": 101});
    assert_eq!(bundle.run(), (0, "/dev/pts/0\n41 101\nhi\n/dev/pts/0".to_owned()));
}

fn a_missing_program_is_found_at_create() {
    let mut bundle = Bundle::new("");
    bundle.spec["process"]["args"] = json!(["foo"]);
    let refused = bundle.refused();
    assert!(refused.ends_with(r#"exec: "foo": executable file not found in $PATH"#), "{refused}");
    bundle.spec["process"]["args"] = json!(["/foo"]);
    let refused = bundle.refused();
    assert!(refused.ends_with(r#"exec: "/foo": stat /foo: no such file or directory"#), "{refused}");
    bundle.spec["process"]["args"] = json!(["/etc/passwd"]);
    let refused = bundle.refused();
    assert!(refused.ends_with(r#"exec: "/etc/passwd": permission denied"#), "{refused}");
}

fn a_file_that_is_no_program_fails_the_start() {
    let mut bundle = Bundle::new("");
    let path = bundle.path().join("rootfs/bin/broken");
    std::fs::write(&path, [0x7f, b'E', b'L', b'F', 0, 0]).unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    bundle.spec["process"]["args"] = json!(["broken"]);
    let (container, running) = bundle.create().unwrap();
    let err = container.start().unwrap_err();
    assert!(
        crate::bundle::chain(&err).contains("exec /bin/broken: exec format error"),
        "{}",
        crate::bundle::chain(&err)
    );
    assert_eq!(err.kind(), runtime_core::ErrorKind::InvalidArgument);
    assert_eq!(running.finish().0, 1);
    container.delete(false).unwrap();
    bundle.assert_nothing_left();
}
