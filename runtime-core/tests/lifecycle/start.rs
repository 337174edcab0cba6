//! A container that one process creates and another starts, and the descriptors that a process is given.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use runtime_core::container::{Container, CreateOptions, ExecOptions, StartBy, Status};
use runtime_core::{ContainerId, ErrorKind, Signal};

use crate::bundle::{Bundle, chain, stdio};

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("any_process_starts_a_container_that_was_made_so", any_process_starts_a_container_that_was_made_so),
    ("a_container_in_the_making_is_creating", a_container_in_the_making_is_creating),
    ("an_init_that_is_killed_has_not_started", an_init_that_is_killed_has_not_started),
    ("a_failed_exec_is_told_to_the_starter", a_failed_exec_is_told_to_the_starter),
    ("a_starter_that_died_is_forgotten", a_starter_that_died_is_forgotten),
    ("of_many_starters_one_starts", of_many_starters_one_starts),
    ("a_created_container_of_another_is_deleted", a_created_container_of_another_is_deleted),
    ("preserved_descriptors_are_3_and_on_and_no_others_are", preserved_descriptors_are_3_and_on_and_no_others_are),
    ("hooks_get_no_preserved_descriptor", hooks_get_no_preserved_descriptor),
];

fn options(bundle: &Bundle) -> CreateOptions {
    CreateOptions { start_by: StartBy::Anyone, ..bundle.options("test", stdio(false).0) }
}

fn load(bundle: &Bundle) -> Container {
    Container::load(&bundle.root(), &ContainerId::parse("test").unwrap()).unwrap()
}

fn any_process_starts_a_container_that_was_made_so() {
    let bundle = Bundle::new("echo $$ $(ls /proc/self/fd); exit 42");
    let (stdio, output) = stdio(false);
    let (created, started) = Container::create(CreateOptions { stdio, ..options(&bundle) }).unwrap();
    assert_eq!(created.status().unwrap(), Status::Created);
    drop(created);
    let container = load(&bundle);
    assert_eq!(container.status().unwrap(), Status::Created);
    container.start().unwrap_or_else(|err| panic!("{}", chain(&err)));
    assert_eq!(started.child.wait().unwrap().code, 42);
    // Neither the start socket nor the starter's: stdio, and what `ls` has open.
    assert_eq!(std::io::read_to_string(output.unwrap()).unwrap(), "1 0 1 2 3\n");
    let err = container.start().unwrap_err();
    assert!(err.to_string().starts_with("cannot start a container that has stopped"), "{err}");
    container.delete(false).unwrap();
    bundle.assert_nothing_left();
}

/// With the init that has mounted its root, and not left the host's yet.
fn a_container_in_the_making_is_creating() {
    let mut bundle = Bundle::new("true");
    let (up, go) = (bundle.path().join("up"), bundle.path().join("go"));
    let wait = format!("> {}; until [ -e {} ]; do sleep 0.01; done", up.display(), go.display());
    bundle.spec["hooks"] = serde_json::json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", wait]}]});
    std::thread::scope(|scope| {
        let creator = scope.spawn(|| Container::create(options(&bundle)).unwrap());
        crate::process::wait_for(&up);
        let container = load(&bundle);
        assert_eq!(container.status().unwrap(), Status::Creating);
        let process = serde_json::json!({"user": {"uid": 0, "gid": 0}, "args": ["true"], "cwd": "/"});
        let exec = ExecOptions::new(serde_json::from_value(process).unwrap(), stdio(false).0);
        for refused in [container.start(), container.exec(exec).map(drop), container.delete(false), container.pause()] {
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::FailedPrecondition);
        }
        let said = container.start().unwrap_err().to_string();
        assert!(said.starts_with("cannot start a container in the creating state"), "{said}");
        std::fs::write(&go, "").unwrap();
        let (created, started) = creator.join().unwrap();
        assert_eq!(container.status().unwrap(), Status::Created);
        container.start().unwrap();
        assert_eq!(started.child.wait().unwrap().code, 0);
        created.delete(false).unwrap();
    });
    bundle.assert_nothing_left();
}

fn an_init_that_is_killed_has_not_started() {
    for start_by in [StartBy::Creator, StartBy::Anyone] {
        let mut bundle = Bundle::new("true");
        let hook = bundle.path().join("rootfs/tmp/hook");
        // Between the init's last word and its execve.
        bundle.spec["hooks"] = serde_json::json!({
            "startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "> /tmp/hook; sleep 60"], "env": ["PATH=/bin"]}],
            "poststart": [{"path": "/bin/false"}],
        });
        let (container, started) = Container::create(CreateOptions { start_by, ..options(&bundle) }).unwrap();
        let started = started.child;
        let err = std::thread::scope(|scope| {
            let starter = scope.spawn(|| container.start().unwrap_err());
            while !hook.exists() {
                std::thread::sleep(Duration::from_millis(1));
            }
            started.signal(Signal::KILL).unwrap();
            starter.join().unwrap()
        });
        assert!(chain(&err).contains("it died before it executed the program"), "{}", chain(&err));
        assert_eq!(started.wait().unwrap().code, 137);
        assert_eq!(container.status().unwrap(), Status::Stopped);
        container.delete(false).unwrap();
        bundle.assert_nothing_left();
    }
}

fn a_failed_exec_is_told_to_the_starter() {
    let mut bundle = Bundle::new("true");
    let broken = bundle.path().join("rootfs/bin/broken");
    std::fs::write(&broken, "#!/does/not/exist\n").unwrap();
    std::fs::set_permissions(&broken, std::fs::Permissions::from_mode(0o755)).unwrap();
    bundle.spec["process"]["args"] = serde_json::json!(["/bin/broken"]);
    let (created, started) = Container::create(options(&bundle)).unwrap();
    let err = load(&bundle).start().unwrap_err();
    assert!(chain(&err).contains("exec /bin/broken: no such file or directory"), "{}", chain(&err));
    assert_eq!(err.kind(), ErrorKind::InvalidArgument);
    assert_eq!(started.child.wait().unwrap().code, 1);
    created.delete(false).unwrap();
    bundle.assert_nothing_left();
}

/// Sends what it is told to and ends without listening.
fn a_starter_that_died_is_forgotten() {
    let bundle = Bundle::new("exit 3");
    let (container, started) = Container::create(options(&bundle)).unwrap();
    let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
    let path = bundle.root().join("test/start.sock");
    socket.send_to(b"", &path).unwrap();
    socket.send_to(&[1, 0, 0, 0, b'x'], &path).unwrap();
    assert_eq!(container.status().unwrap(), Status::Created);
    container.start().unwrap();
    assert_eq!(started.child.wait().unwrap().code, 3);
    container.delete(false).unwrap();
    bundle.assert_nothing_left();
}

fn of_many_starters_one_starts() {
    let bundle = Bundle::new("sleep 60");
    let (created, started) = Container::create(options(&bundle)).unwrap();
    let results: Vec<_> = std::thread::scope(|scope| {
        let starters: Vec<_> = (0..8).map(|_| scope.spawn(|| load(&bundle).start())).collect();
        starters.into_iter().map(|starter| starter.join().unwrap()).collect()
    });
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
    for err in results.into_iter().filter_map(Result::err) {
        assert_eq!(err.kind(), ErrorKind::FailedPrecondition, "{}", chain(&err));
    }
    created.delete(true).unwrap();
    assert_eq!(started.child.wait().unwrap().code, 137);
    bundle.assert_nothing_left();
}

fn a_created_container_of_another_is_deleted() {
    let bundle = Bundle::new("true");
    let (created, started) = Container::create(options(&bundle)).unwrap();
    drop(created);
    load(&bundle).delete(false).unwrap();
    assert_eq!(started.child.wait().unwrap().code, 137);
    bundle.assert_nothing_left();
}

fn pipe_with(text: &str) -> OwnedFd {
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(text.as_bytes()).unwrap();
    reader.into()
}

/// 0 to 2, the preserved ones, and what `ls` itself has open.
const LIST: &str = "cat <&3; cat <&4; cat <&5; cat <&6; cat <&7; cat <&8; echo; echo $(ls /proc/self/fd)";

fn preserved_descriptors_are_3_and_on_and_no_others_are() {
    let pipes = || "abcdef".chars().map(|letter| pipe_with(&letter.to_string())).collect::<Vec<_>>();
    for start_by in [StartBy::Creator, StartBy::Anyone] {
        let bundle = Bundle::new(&format!("{LIST}; sleep 60"));
        let (stdio, output) = stdio(false);
        let options = CreateOptions { start_by, preserve_fds: pipes(), stdio, ..options(&bundle) };
        let (container, started) = Container::create(options).unwrap_or_else(|err| panic!("{}", chain(&err)));
        container.start().unwrap();
        let expected = "abcdef\n0 1 2 3 4 5 6 7 8 9\n";
        let mut output = output.unwrap();
        assert_eq!(read(&mut output, expected.len()), expected);

        // A further process: the same, with the mount namespace's descriptor in between.
        let mut process = bundle.spec["process"].clone();
        process["args"] = serde_json::json!(["sh", "-c", LIST]);
        let (stdio, output) = crate::bundle::stdio(false);
        let options =
            ExecOptions { preserve_fds: pipes(), ..ExecOptions::new(serde_json::from_value(process).unwrap(), stdio) };
        let further = container.exec(options).unwrap();
        assert_eq!(further.child.wait().unwrap().code, 0);
        assert_eq!(read(&mut output.unwrap(), expected.len()), expected);
        container.delete(true).unwrap();
        started.child.wait().unwrap();
        bundle.assert_nothing_left();
    }
}

fn read(output: &mut std::fs::File, length: usize) -> String {
    let mut text = vec![0; length];
    output.read_exact(&mut text).unwrap();
    String::from_utf8(text).unwrap()
}

fn hooks_get_no_preserved_descriptor() {
    let mut bundle = Bundle::new("cat <&3");
    let script = "echo $(ls /proc/self/fd) > /tmp/hook";
    bundle.spec["hooks"] = serde_json::json!({"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin"]}]});
    let (stdio, output) = stdio(false);
    let preserve_fds = vec![pipe_with("kept")];
    let options = CreateOptions { preserve_fds, stdio, ..options(&bundle) };
    let (container, started) = Container::create(options).unwrap();
    container.start().unwrap();
    assert_eq!(started.child.wait().unwrap().code, 0);
    assert_eq!(std::io::read_to_string(output.unwrap()).unwrap(), "kept");
    assert_eq!(std::fs::read_to_string(bundle.path().join("rootfs/tmp/hook")).unwrap(), "0 1 2 3\n");
    container.delete(false).unwrap();
    bundle.assert_nothing_left();
}
