//! Further processes in a running container.

use runtime_core::container::ExecOptions;
use runtime_core::{ErrorKind, Signal};
use serde_json::{Value, json};

use crate::bundle::{Bundle, chain, exec, stdio};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("an_exec_is_in_the_containers_namespaces", an_exec_is_in_the_containers_namespaces),
    ("an_exec_has_its_own_user_and_directory", an_exec_has_its_own_user_and_directory),
    ("an_exec_on_a_terminal", an_exec_on_a_terminal),
    ("an_exec_of_a_missing_program", an_exec_of_a_missing_program),
    ("an_exec_that_fails_at_the_last_leaves_no_pid_file", an_exec_that_fails_at_the_last_leaves_no_pid_file),
    ("an_exec_in_a_stopped_container", an_exec_in_a_stopped_container),
];

fn process(script: &str) -> Value {
    json!({"user": {"uid": 0, "gid": 0}, "args": ["sh", "-c", script], "env": ["PATH=/bin"], "cwd": "/"})
}

fn with_container(test: impl FnOnce(&runtime_core::container::Container)) {
    let bundle = Bundle::new("exec sleep 60");
    let (container, running) = bundle.create().unwrap();
    container.start().unwrap();
    test(&container);
    container.kill(Signal::KILL, false).unwrap();
    running.finish();
    container.delete(false).unwrap();
    bundle.assert_nothing_left();
}

fn an_exec_is_in_the_containers_namespaces() {
    with_container(|container| {
        let script = "for ns in pid net ipc uts mnt cgroup; do test $(readlink /proc/1/ns/$ns) = $(readlink /proc/self/ns/$ns) || echo $ns; done; hostname; cat /bin/sh > /dev/null && exit 5";
        let (code, output) =
            exec(container, process(script), false).unwrap_or_else(|err| panic!("{}", chain(&err))).finish();
        assert_eq!((code, output.as_str()), (5, "inside"));
        let running = exec(container, process("sleep 60"), false).unwrap();
        assert_eq!(container.pids().unwrap().len(), 2);
        container.kill(Signal::KILL, true).unwrap();
        assert_eq!(running.finish().0, 137);
    });
}

fn an_exec_has_its_own_user_and_directory() {
    with_container(|container| {
        let mut process = process("id -u; pwd; echo $HOME; grep CapEff /proc/self/status");
        process["user"] = json!({"uid": 33, "gid": 33});
        process["cwd"] = "/tmp".into();
        process["capabilities"] = json!({});
        let (code, output) = exec(container, process, false).unwrap().finish();
        assert_eq!((code, output.as_str()), (0, "33\n/tmp\n/srv\nCapEff:\t0000000000000000"));
    });
}

fn an_exec_on_a_terminal() {
    with_container(|container| {
        let mut process = process("tty; stty size; echo hi > /dev/tty");
        process["terminal"] = true.into();
        process["consoleSize"] = json!({"height": 24, "width": 80});
        let (code, output) = exec(container, process, true).unwrap_or_else(|err| panic!("{}", chain(&err))).finish();
        assert_eq!((code, output.as_str()), (0, "/dev/pts/0\n24 80\nhi"));
    });
}

fn an_exec_of_a_missing_program() {
    with_container(|container| {
        let mut process = process("");
        process["args"] = json!(["foo"]);
        let err = exec(container, process, false).map(drop).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidArgument);
        assert!(chain(&err).ends_with(r#"exec: "foo": executable file not found in $PATH"#), "{}", chain(&err));
        assert_eq!(container.pids().unwrap().len(), 1);
    });
}

/// The program is there, but what would interpret it is not: only execve(2) sees that.
fn an_exec_that_fails_at_the_last_leaves_no_pid_file() {
    with_container(|container| {
        let script = "printf '#!/nowhere' >/tmp/script; chmod +x /tmp/script";
        assert_eq!(exec(container, process(script), false).unwrap().finish().0, 0);
        let mut process = process("");
        process["args"] = json!(["/tmp/script"]);
        let directory = tempfile::tempdir().unwrap();
        let mut options = ExecOptions::new(serde_json::from_value(process).unwrap(), stdio(false).0);
        options.pid_file = Some(directory.path().join("pid"));
        assert!(container.exec(options).is_err());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    });
}

fn an_exec_in_a_stopped_container() {
    let bundle = Bundle::new("true");
    let (container, running) = bundle.create().unwrap();
    container.start().unwrap();
    running.finish();
    let err = exec(&container, process("true"), false).map(drop).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::FailedPrecondition);
    assert!(err.to_string().starts_with("cannot exec in a stopped container"), "{err}");
    container.delete(false).unwrap();
}
