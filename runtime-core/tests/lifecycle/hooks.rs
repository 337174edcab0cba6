//! Hooks: their order, their moment, what they are told, and what their failure does.

use std::path::Path;

use runtime_core::ErrorKind;
use runtime_core::container::Status;
use serde_json::{Value, json};

use crate::bundle::{Bundle, chain};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("hooks_run_in_order", hooks_run_in_order),
    ("each_hook_is_told_the_state", each_hook_is_told_the_state),
    ("each_hook_runs_in_its_namespaces", each_hook_runs_in_its_namespaces),
    ("a_hook_has_its_arguments_and_environment_alone", a_hook_has_its_arguments_and_environment_alone),
    ("a_hook_without_an_environment_has_its_surroundings", a_hook_without_an_environment_has_its_surroundings),
    ("a_hook_that_hangs_ends_the_create", a_hook_that_hangs_ends_the_create),
    ("a_failed_hook_leaves_nothing", a_failed_hook_leaves_nothing),
    ("a_failed_start_container_hook_stops_the_container", a_failed_start_container_hook_stops_the_container),
    ("a_failed_poststart_hook_stops_the_container", a_failed_poststart_hook_stops_the_container),
    ("a_failed_poststop_hook_is_no_error", a_failed_poststop_hook_is_no_error),
    ("poststop_hooks_run_after_a_failed_create", poststop_hooks_run_after_a_failed_create),
    ("a_hook_that_cannot_be_is_refused", a_hook_that_cannot_be_is_refused),
];

const KINDS: [&str; 6] = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

fn shell(script: &str) -> Value {
    json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]})
}

/// One hook of each kind that runs `script` with $LOG, which is one file for all.
fn all(bundle: &Bundle, script: &str) -> Value {
    let log = bundle.path().join("rootfs/tmp/log");
    let hook = |kind: &str| {
        let path = if kind == "startContainer" { Path::new("/tmp/log") } else { &log };
        json!([shell(&format!("KIND={kind}; LOG={}; {script}", path.display()))])
    };
    Value::Object(KINDS.iter().map(|kind| ((*kind).to_owned(), hook(kind))).collect())
}

fn log(bundle: &Bundle) -> String {
    std::fs::read_to_string(bundle.path().join("rootfs/tmp/log")).unwrap_or_default()
}

fn hooks_run_in_order() {
    let mut bundle = Bundle::new("echo program >> /tmp/log");
    let log = bundle.path().join("rootfs/tmp/log");
    let hook = |name: &str, file: &str| {
        let script = format!("read -r state; echo {name} $(echo $state | grep -o '\"status\":\"[a-z]*\"') >> {file}");
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}])
    };
    let outside = log.to_str().unwrap();
    bundle.spec["hooks"] = json!({
        "prestart": hook("prestart", outside),
        "createRuntime": hook("createRuntime", outside),
        "createContainer": hook("createContainer", outside),
        "startContainer": hook("startContainer", "/tmp/log"),
        "poststart": hook("poststart", outside),
        "poststop": hook("poststop", outside),
    });
    assert_eq!(bundle.run().0, 0);
    let text = std::fs::read_to_string(&log).unwrap();
    let mut lines: Vec<_> = text.lines().collect();
    // The program and poststart run side by side.
    lines.retain(|line| *line != "program");
    assert_eq!(
        lines,
        [
            r#"prestart "status":"creating""#,
            r#"createRuntime "status":"creating""#,
            r#"createContainer "status":"creating""#,
            r#"startContainer "status":"created""#,
            r#"poststart "status":"running""#,
            r#"poststop "status":"stopped""#,
        ]
    );
}

fn each_hook_is_told_the_state() {
    let mut bundle = Bundle::new("true");
    bundle.spec["annotations"] = json!({"org.example": "x"});
    bundle.spec["hooks"] = all(&bundle, "read -r state; echo \"$KIND $state\" >> $LOG");
    let (container, running) = bundle.create().unwrap_or_else(|err| panic!("{}", chain(&err)));
    let pid = running.started.child.pid.as_raw();
    container.start().unwrap();
    running.finish();
    container.delete(false).unwrap();
    let text = log(&bundle);
    // In a pid namespace of its own the hook sees the container's pid as that namespace counts it.
    for (kind, status, pid) in [
        ("prestart", "creating", Some(pid)),
        ("createRuntime", "creating", Some(pid)),
        ("createContainer", "creating", Some(1)),
        ("startContainer", "created", Some(1)),
        ("poststart", "running", Some(pid)),
        ("poststop", "stopped", None),
    ] {
        let told = text.lines().find_map(|line| line.strip_prefix(kind)).unwrap_or_else(|| panic!("no {kind}: {text}"));
        let mut expected = json!({"ociVersion": "1.2.0", "id": "test", "status": status, "bundle": bundle.path(),
            "annotations": {"org.example": "x"}});
        if let Some(pid) = pid {
            expected["pid"] = pid.into();
        }
        assert_eq!(serde_json::from_str::<Value>(told).unwrap(), expected, "{kind}");
    }
}

fn each_hook_runs_in_its_namespaces() {
    let mut bundle = Bundle::new("true");
    // The host has /usr, and the container's root has not; its network namespace is there before the first hook.
    bundle.spec["hooks"] = all(
        &bundle,
        "test -e /usr && root=host || root=container; echo $KIND $root $(readlink /proc/self/ns/net) >> $LOG",
    );
    let (container, running) = bundle.create().unwrap_or_else(|err| panic!("{}", chain(&err)));
    let net = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap().display().to_string();
    let (ours, theirs) = (net("self"), net(&running.started.child.pid.to_string()));
    container.start().unwrap();
    running.finish();
    container.delete(false).unwrap();
    let expected = [
        ("prestart", "host", &ours),
        ("createRuntime", "host", &ours),
        // Before pivot_root: the path is the host's, the namespaces are the container's.
        ("createContainer", "host", &theirs),
        ("startContainer", "container", &theirs),
        ("poststart", "host", &ours),
        ("poststop", "host", &ours),
    ];
    let text = log(&bundle);
    assert_eq!(text.lines().collect::<Vec<_>>(), expected.map(|(kind, root, net)| format!("{kind} {root} {net}")));
}

fn a_hook_has_its_arguments_and_environment_alone() {
    let mut bundle = Bundle::new("true");
    let file = bundle.path().join("out");
    let script = format!("/usr/bin/env > {}; echo \"$0 $1 $#\" >> {}", file.display(), file.display());
    let hook =
        json!({"path": "/bin/sh", "args": ["name", "-c", script, "zero", "one"], "env": ["ONLY=this", "EMPTY="]});
    bundle.spec["hooks"] = json!({"createRuntime": [hook]});
    assert_eq!(bundle.run().0, 0);
    let text = std::fs::read_to_string(&file).unwrap();
    let mut lines: Vec<_> =
        text.lines().filter(|line| !["PWD=", "SHLVL=", "_="].iter().any(|own| line.starts_with(own))).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["EMPTY=", "ONLY=this", "zero one 1"]);
}

/// The process's own for a startContainer hook; a createContainer hook begins in the root to be.
fn a_hook_without_an_environment_has_its_surroundings() {
    let mut bundle = Bundle::new("cat /tmp/made");
    bundle.spec["process"]["env"] = json!(["PATH=/bin", "MODE=blue"]);
    let make = json!({"path": "/bin/sh", "args": ["sh", "-c", "echo made > ./tmp/made"]});
    let tell = json!({"path": "/bin/sh", "args": ["sh", "-c", "echo $MODE $HOME >> /tmp/made"]});
    bundle.spec["hooks"] = json!({"createContainer": [make], "startContainer": [tell]});
    assert_eq!(bundle.run(), (0, "made\nblue /root".to_owned()));
}

fn a_hook_that_hangs_ends_the_create() {
    for kind in ["createRuntime", "createContainer"] {
        let mut bundle = Bundle::new("true");
        let mut hook = shell("exec sleep 60");
        hook["timeout"] = 1.into();
        bundle.spec["hooks"] = json!({kind: [hook]});
        let refused = bundle.refused();
        assert!(refused.contains(&format!("{kind} hook /bin/sh ran for more than 1 s")), "{refused}");
    }
}

fn a_failed_hook_leaves_nothing() {
    let mut bundle = Bundle::new("true");
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", "echo no reason given; exit 3"]}]);
        bundle.spec["hooks"] = json!({kind: hook});
        let refused = bundle.refused();
        assert!(refused.contains(&format!("{kind} hook /bin/sh ended with 3: no reason given")), "{refused}");
    }
}

fn a_failed_start_container_hook_stops_the_container() {
    let mut bundle = Bundle::new("echo ran");
    bundle.spec["hooks"] = json!({
        "startContainer": [shell("echo no reason given; exit 3")],
        "poststart": [shell(&format!("echo poststart >> {}/log", bundle.path().display()))],
        "poststop": [shell(&format!("echo poststop >> {}/log", bundle.path().display()))],
    });
    let (container, running) = bundle.create().unwrap();
    let err = container.start().unwrap_err();
    assert!(chain(&err).contains("startContainer hook /bin/sh ended with 3: no reason given"), "{}", chain(&err));
    let (code, output) = running.finish();
    assert_eq!((code, output.as_str()), (1, ""));
    assert_eq!(container.status().unwrap(), Status::Stopped);
    container.delete(false).unwrap();
    assert_eq!(std::fs::read_to_string(bundle.path().join("log")).unwrap(), "poststop\n");
    bundle.assert_nothing_left();
}

fn a_failed_poststart_hook_stops_the_container() {
    let mut bundle = Bundle::new("exec sleep 60");
    bundle.spec["hooks"] = json!({
        "poststart": [shell("exit 4")],
        "poststop": [shell(&format!("echo poststop >> {}/log", bundle.path().display()))],
    });
    let (container, running) = bundle.create().unwrap();
    let err = container.start().unwrap_err();
    assert!(chain(&err).contains("poststart hook /bin/sh ended with 4"), "{}", chain(&err));
    assert_eq!(running.finish().0, 137);
    assert_eq!(container.status().unwrap(), Status::Stopped);
    container.delete(false).unwrap();
    assert_eq!(std::fs::read_to_string(bundle.path().join("log")).unwrap(), "poststop\n");
    bundle.assert_nothing_left();
}

fn a_failed_poststop_hook_is_no_error() {
    let mut bundle = Bundle::new("exit 5");
    let second = shell(&format!("echo second >> {}/log", bundle.path().display()));
    bundle.spec["hooks"] = json!({"poststop": [shell("exit 4"), second]});
    assert_eq!(bundle.run().0, 5);
    assert_eq!(std::fs::read_to_string(bundle.path().join("log")).unwrap(), "second\n");
}

fn poststop_hooks_run_after_a_failed_create() {
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let mut bundle = Bundle::new("true");
        let poststop = shell(&format!("cat >> {}/log", bundle.path().display()));
        bundle.spec["hooks"] = json!({kind: [shell("exit 3")], "poststop": [poststop]});
        bundle.refused();
        let told: Value = serde_json::from_slice(&std::fs::read(bundle.path().join("log")).unwrap()).unwrap();
        let expected = json!({"ociVersion": "1.2.0", "id": "test", "status": "stopped", "bundle": bundle.path()});
        assert_eq!(told, expected, "{kind}");
    }
}

fn a_hook_that_cannot_be_is_refused() {
    for kind in KINDS {
        for (hook, text) in [
            (json!({"path": "bin/sh"}), "hooks.path \"bin/sh\" is not an absolute path"),
            (json!({"path": "/bin/sh", "timeout": 0}), "hooks.timeout \"0\" is not greater than zero"),
            (json!({"path": "/bin/sh", "timeout": -1}), "hooks.timeout \"-1\" is not greater than zero"),
        ] {
            let mut bundle = Bundle::new("true");
            bundle.spec["hooks"] = json!({kind: [hook]});
            let (found, refused) = bundle.refusal();
            assert_eq!(found, ErrorKind::InvalidArgument, "{refused}");
            assert!(refused.contains(text), "{kind}: {refused}");
        }
    }
}
