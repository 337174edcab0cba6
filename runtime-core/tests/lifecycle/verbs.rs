//! The verbs in their order, and out of it.

use runtime_core::container::{Container, Status};
use runtime_core::{ContainerId, Error, ErrorKind, Signal};
use serde_json::json;

use crate::bundle::{Bundle, chain, exec};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("a_container_runs_and_its_exit_code_comes_back", a_container_runs_and_its_exit_code_comes_back),
    ("nothing_runs_before_the_start", nothing_runs_before_the_start),
    ("a_created_container_is_deleted", a_created_container_is_deleted),
    ("a_created_container_ends_of_a_signal", a_created_container_ends_of_a_signal),
    ("a_failure_after_the_terminal_is_told", a_failure_after_the_terminal_is_told),
    ("a_program_that_handles_no_signal_is_pid_1", a_program_that_handles_no_signal_is_pid_1),
    ("an_id_is_taken_until_it_is_deleted", an_id_is_taken_until_it_is_deleted),
    ("a_running_container_is_deleted_by_force_alone", a_running_container_is_deleted_by_force_alone),
    ("pause_and_resume", pause_and_resume),
    ("sigkill_ends_a_paused_container", sigkill_ends_a_paused_container),
    ("a_loaded_container_can_be_killed_and_deleted", a_loaded_container_can_be_killed_and_deleted),
    ("kill_reaches_the_handler_and_all_reaches_everybody", kill_reaches_the_handler_and_all_reaches_everybody),
    ("a_shared_pid_namespace_is_emptied", a_shared_pid_namespace_is_emptied),
    ("what_is_wrong_with_a_spec_has_a_kind", what_is_wrong_with_a_spec_has_a_kind),
    ("a_cgroup_in_use_is_refused", a_cgroup_in_use_is_refused),
];

fn a_container_runs_and_its_exit_code_comes_back() {
    let bundle = Bundle::new("echo $$ $HOME $(hostname); exit 42");
    assert_eq!(bundle.run(), (42, "1 /root inside".to_owned()));
}

fn nothing_runs_before_the_start() {
    let bundle = Bundle::new("echo ran > /tmp/ran; exec sleep 60");
    let (container, running) = bundle.create().unwrap();
    assert_eq!(container.status().unwrap(), Status::Created);
    let pid = std::fs::read_to_string(bundle.path().join("pid")).unwrap();
    assert_eq!(pid, running.started.child.pid.to_string());
    assert!(!bundle.path().join("rootfs/tmp/ran").exists());
    container.start().unwrap();
    assert_eq!(container.status().unwrap(), Status::Running);
    let again = container.start().unwrap_err();
    assert_eq!(again.kind(), ErrorKind::FailedPrecondition);
    assert!(again.to_string().starts_with("cannot start an already running container"), "{again}");
    container.kill(Signal::KILL, false).unwrap();
    assert_eq!(running.finish().0, 137);
    assert_eq!(container.status().unwrap(), Status::Stopped);
    assert_eq!(container.kill(Signal::TERM, false).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(container.pause().unwrap_err().kind(), ErrorKind::FailedPrecondition);
    container.delete(false).unwrap();
    bundle.assert_nothing_left();
}

fn a_created_container_is_deleted() {
    let bundle = Bundle::new("true");
    let (container, running) = bundle.create().unwrap();
    container.delete(false).unwrap();
    assert_eq!(running.finish().0, 137);
    assert_eq!(container.start().unwrap_err().kind(), ErrorKind::FailedPrecondition);
    bundle.assert_nothing_left();
}

/// Its init is PID 1 of a pid namespace, which the kernel spares what it does not handle.
fn a_created_container_ends_of_a_signal() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::new(2).unwrap(), 130), (Signal::new(1).unwrap(), 129)] {
        let bundle = Bundle::new("true");
        let (container, running) = bundle.create().unwrap();
        container.kill(signal, false).unwrap();
        assert_eq!(running.finish(), (code, String::new()));
        assert_eq!(container.status().unwrap(), Status::Stopped);
        container.delete(false).unwrap();
        bundle.assert_nothing_left();
    }
}

/// The terminal goes first, and its hangup comes to the init.
fn a_failure_after_the_terminal_is_told() {
    let mut bundle = Bundle::new("exec sleep 60");
    bundle.terminal = true;
    bundle.spec["process"]["terminal"] = true.into();
    let (container, running) = bundle.create().unwrap();
    container.start().unwrap();
    let process = json!({"user": {"uid": 0, "gid": 0}, "args": ["missing"], "env": ["PATH=/bin"], "cwd": "/",
        "terminal": true});
    let err = exec(&container, process, true).map(drop).unwrap_err();
    assert!(chain(&err).contains("executable file not found in $PATH"), "{}", chain(&err));
    container.delete(true).unwrap();
    assert_eq!(running.finish().0, 137);
    bundle.spec["process"]["args"] = json!(["missing"]);
    let refused = bundle.refused();
    assert!(refused.contains("executable file not found in $PATH"), "{refused}");
}

/// What the init handles is not the program's: the kernel spares it the signal.
fn a_program_that_handles_no_signal_is_pid_1() {
    let bundle = Bundle::new("kill -TERM $$; exit 7");
    assert_eq!(bundle.run().0, 7);
}

fn an_id_is_taken_until_it_is_deleted() {
    let bundle = Bundle::new("true");
    let (container, running) = bundle.create().unwrap();
    let err = bundle.create().map(drop).unwrap_err();
    assert!(matches!(err, Error::AlreadyExists { .. }), "{err}");
    assert_eq!(container.status().unwrap(), Status::Created);
    container.delete(true).unwrap();
    drop(running.finish());
    assert_eq!(bundle.run().0, 0);
}

fn a_running_container_is_deleted_by_force_alone() {
    let bundle = Bundle::new("sleep 60 & sleep 60");
    let (container, running) = bundle.create().unwrap();
    container.start().unwrap();
    assert_eq!(container.delete(false).unwrap_err().kind(), ErrorKind::FailedPrecondition);
    container.delete(true).unwrap();
    assert_eq!(running.finish().0, 137);
    container.delete(true).unwrap();
    bundle.assert_nothing_left();
}

fn pause_and_resume() {
    let bundle = Bundle::new("sleep 60");
    let (container, running) = bundle.create().unwrap();
    container.start().unwrap();
    container.pause().unwrap();
    assert_eq!(container.status().unwrap(), Status::Paused);
    assert_eq!(container.pause().unwrap_err().kind(), ErrorKind::FailedPrecondition);
    let exec = crate::bundle::exec(&container, bundle.spec["process"].clone(), false).map(drop).unwrap_err();
    assert!(exec.to_string().starts_with("cannot exec in a paused container"), "{exec}");
    container.resume().unwrap();
    assert_eq!(container.status().unwrap(), Status::Running);
    assert_eq!(container.resume().unwrap_err().kind(), ErrorKind::FailedPrecondition);
    container.delete(true).unwrap();
    assert_eq!(running.finish().0, 137);
}

fn sigkill_ends_a_paused_container() {
    let bundle = Bundle::new("sleep 60");
    let (container, running) = bundle.create().unwrap();
    container.start().unwrap();
    container.pause().unwrap();
    container.kill(Signal::KILL, false).unwrap();
    assert_eq!(running.finish().0, 137);
    container.delete(false).unwrap();
    bundle.assert_nothing_left();
}

fn a_loaded_container_can_be_killed_and_deleted() {
    let bundle = Bundle::new("sleep 60");
    let (container, running) = bundle.create().unwrap();
    let id = ContainerId::parse("test").unwrap();
    assert_eq!(Container::load(&bundle.root(), &id).unwrap().status().unwrap(), Status::Created);
    container.start().unwrap();
    drop(container);
    let loaded = Container::load(&bundle.root(), &id).unwrap();
    assert_eq!(loaded.status().unwrap(), Status::Running);
    assert_eq!(loaded.pid(), Some(running.started.child.pid));
    assert_eq!(loaded.pids().unwrap(), [running.started.child.pid]);
    loaded.kill(Signal::KILL, true).unwrap();
    assert_eq!(running.finish().0, 137);
    let loaded = Container::load(&bundle.root(), &id).unwrap();
    assert_eq!(loaded.status().unwrap(), Status::Stopped);
    loaded.delete(false).unwrap();
    let gone = Container::load(&bundle.root(), &id).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    bundle.assert_nothing_left();
}

fn kill_reaches_the_handler_and_all_reaches_everybody() {
    let bundle = Bundle::new("trap 'echo caught; exit 3' TERM; echo up > /tmp/up; while true; do sleep 0.05; done");
    let (container, running) = bundle.create().unwrap();
    container.start().unwrap();
    crate::process::wait_for(&bundle.path().join("rootfs/tmp/up"));
    container.kill(Signal::TERM, true).unwrap();
    let (code, output) = running.finish();
    assert_eq!((code, output.lines().last()), (3, Some("caught")));
    container.delete(false).unwrap();
}

fn a_shared_pid_namespace_is_emptied() {
    let mut bundle = Bundle::new("sleep 61 & echo up > /tmp/up; exit 0");
    bundle.spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "pid");
    let (container, running) = bundle.create().unwrap();
    container.start().unwrap();
    let pid = running.started.child.pid;
    assert_eq!(running.started.child.wait().unwrap().code, 0);
    assert!(container.pids().unwrap().iter().all(|left| *left != pid));
    assert_eq!(container.pids().unwrap().len(), 1);
    container.delete(false).unwrap();
    drop(running.finish());
}

fn what_is_wrong_with_a_spec_has_a_kind() {
    let mount = |mount| ("/mounts/-", mount);
    let cases = [
        (
            mount(json!({"destination": "/m", "type": "bind", "source": "/no/such"})),
            ErrorKind::InvalidArgument,
            "no such file",
        ),
        (mount(json!({"destination": "/m", "type": "nosuchfs"})), ErrorKind::Unimplemented, "nosuchfs"),
        (
            mount(json!({"destination": "/m", "type": "tmpfs", "options": ["nosuch=1"]})),
            ErrorKind::InvalidArgument,
            "nosuch",
        ),
        (mount(json!({"destination": "/proc/version", "type": "tmpfs"})), ErrorKind::InvalidArgument, "inside /proc"),
        (("/root/path", json!("no/such")), ErrorKind::InvalidArgument, "no/such"),
        (
            ("/linux/resources", json!({"devices": [{"allow": true, "type": "p", "access": "r"}]})),
            ErrorKind::InvalidArgument,
            "fifo",
        ),
        (
            ("/linux/personality", json!({"domain": "LINUX", "flags": ["X"]})),
            ErrorKind::Unimplemented,
            "linux.personality.flags",
        ),
        (("/linux/intelRdt", json!({"closID": "x"})), ErrorKind::Unimplemented, "linux.intelRdt"),
        (
            ("/linux/memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": "x"})),
            ErrorKind::InvalidArgument,
            "linux.memoryPolicy",
        ),
        (("/linux/memoryPolicy", json!({"mode": "MPOL_BIND"})), ErrorKind::InvalidArgument, "linux.memoryPolicy"),
        (("/ociVersion", json!("2.0.0")), ErrorKind::InvalidArgument, "major version"),
        (("/ociVersion", json!("one")), ErrorKind::InvalidArgument, "ociVersion"),
        (("/annotations", json!({"": "x"})), ErrorKind::InvalidArgument, "annotations"),
        (("/process/scheduler", json!({"policy": "SCHED_OTHER", "nice": 20})), ErrorKind::InvalidArgument, "nice"),
        (
            ("/process/scheduler", json!({"policy": "SCHED_OTHER", "priority": 1})),
            ErrorKind::InvalidArgument,
            "SCHED_FIFO",
        ),
        (
            ("/process/scheduler", json!({"policy": "SCHED_BATCH", "runtime": 1})),
            ErrorKind::InvalidArgument,
            "SCHED_DEADLINE",
        ),
        (
            ("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 9})),
            ErrorKind::InvalidArgument,
            "priority",
        ),
        (("/process/scheduler", json!({"policy": "SCHED_ISO"})), ErrorKind::InvalidArgument, "scheduler"),
        (("/process/execCPUAffinity", json!({"final": "3-1"})), ErrorKind::InvalidArgument, "execCPUAffinity"),
    ];
    for ((pointer, value), kind, text) in cases {
        let mut bundle = Bundle::new("true");
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        match bundle.spec.pointer_mut(parent).unwrap() {
            serde_json::Value::Array(list) => list.push(value),
            object => object[key] = value,
        }
        let (found, message) = bundle.refusal();
        assert_eq!(found, kind, "{pointer}: {message}");
        assert!(message.contains(text), "{pointer}: {message}");
    }
}

fn a_cgroup_in_use_is_refused() {
    let mut bundle = Bundle::new("exec sleep 60");
    bundle.spec["linux"]["cgroupsPath"] = format!("/rtc-test-{}", std::process::id()).into();
    let (container, running) = bundle.create().unwrap();
    let err = bundle.create_as("other").map(drop).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::FailedPrecondition, "{err}");
    container.delete(true).unwrap();
    running.finish();
    bundle.assert_nothing_left();
}
