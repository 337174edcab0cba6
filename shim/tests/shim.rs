//! The shim as containerd sees it from outside: `start`, the socket, the Task service and its end. Needs no root and no
//! container.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::shim::shim::{
    ConnectRequest, ConnectResponse, DeleteResponse, KillRequest, ShutdownRequest, StateRequest,
};
use containerd_shim_protos::shim_async::{Client, TaskClient};
use containerd_shim_protos::types::introspection::RuntimeInfo;
use protobuf::Message;
use tempfile::TempDir;
use ttrpc::Code;
use ttrpc::context::Context;

const SHIM: &str = env!("CARGO_BIN_EXE_containerd-shim-rtc-v2");

/// A bundle, and a directory for sockets beside it, as containerd 2.3 can name one.
struct Host {
    directory: TempDir,
}

impl Host {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn bundle(&self, id: &str, config: &str) -> PathBuf {
        let bundle = self.directory.path().join(id);
        std::fs::create_dir_all(&bundle).unwrap();
        std::fs::write(bundle.join("config.json"), config).unwrap();
        bundle
    }

    fn params(&self, id: &str) -> Vec<u8> {
        let params = BootstrapParams {
            instance_id: id.into(),
            namespace: "tests".into(),
            containerd_grpc_address: "/nowhere/containerd.sock".into(),
            containerd_ttrpc_address: "/nowhere/containerd.sock.ttrpc".into(),
            socket_dir: Some(self.sockets().to_str().unwrap().into()),
            ..BootstrapParams::default()
        };
        params.write_to_bytes().unwrap()
    }

    fn sockets(&self) -> PathBuf {
        self.directory.path().join("s")
    }

    fn start(&self, id: &str, bundle: &Path) -> BootstrapResult {
        let output = run(&["-namespace", "tests", "-id", id, "start"], bundle, &self.params(id));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stderr.is_empty(), "containerd reads stderr as part of the answer");
        BootstrapResult::parse_from_bytes(&output.stdout).unwrap()
    }
}

fn run(arguments: &[&str], directory: &Path, stdin: &[u8]) -> Output {
    let mut child = Command::new(SHIM)
        .args(arguments)
        .current_dir(directory)
        .env_remove("TTRPC_ADDRESS")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin).unwrap();
    child.wait_with_output().unwrap()
}

async fn connect(address: &str) -> Client {
    Client::connect(address).await.unwrap()
}

fn context() -> Context {
    ttrpc::context::with_duration(Duration::from_secs(10))
}

async fn shim_pid(client: &Client) -> u32 {
    let task = TaskClient::new(client.clone());
    task.connect(context(), &ConnectRequest::default()).await.unwrap().shim_pid
}

/// Ends the shim as containerd does and waits until it has gone.
async fn shut_down(client: Client) {
    let pid = shim_pid(&client).await;
    TaskClient::new(client).shutdown(context(), &ShutdownRequest::default()).await.unwrap();
    gone(pid).await;
}

async fn gone(pid: u32) {
    // Not our child: gone, or a zombie of the machine's init.
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(Instant::now() < deadline, "shim {pid} does not end");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn code<T: std::fmt::Debug>(result: ttrpc::Result<T>) -> (Code, String) {
    match result.unwrap_err() {
        ttrpc::Error::RpcStatus(status) => (status.code(), status.message),
        other => panic!("no status: {other}"),
    }
}

#[tokio::test]
async fn a_shim_serves_both_versions_and_leaves_nothing_behind() {
    let host = Host::new();
    let bundle = host.bundle("web", "{}");
    let started = host.start("web", &bundle);
    assert_eq!((started.version, started.protocol.as_str()), (3, "ttrpc"));
    assert_eq!(std::fs::read_to_string(bundle.join("address")).unwrap(), started.address);

    let client = connect(&started.address).await;
    let task = TaskClient::new(client.clone());
    let unknown = task.state(context(), &StateRequest { id: "web".into(), ..StateRequest::default() }).await;
    assert_eq!(code(unknown), (Code::NOT_FOUND, "container not created: not found".into()));
    let unknown = task.kill(context(), &KillRequest { id: "web".into(), ..KillRequest::default() }).await;
    assert_eq!(code(unknown).0, Code::NOT_FOUND);

    let mut request = ttrpc::proto::Request::new();
    request.set_service("containerd.task.v2.Task".into());
    request.set_method("Connect".into());
    request.set_payload(ConnectRequest::default().write_to_bytes().unwrap());
    let response = client.request(request).await.unwrap();
    let answer = ConnectResponse::parse_from_bytes(&response.payload).unwrap();
    assert_eq!(answer.shim_pid, shim_pid(&client).await);

    shut_down(client).await;
    assert_eq!(std::fs::read_dir(host.sockets()).unwrap().count(), 0, "a socket is left");
}

#[tokio::test]
async fn a_pod_has_one_shim() {
    let host = Host::new();
    let grouped = r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod"}}"#;
    let pod = host.start("pod", &host.bundle("pod", grouped));
    let container = host.start("container", &host.bundle("container", grouped));
    let other = host.start("other", &host.bundle("other", "{}"));
    assert_eq!(container.address, pod.address);
    assert_ne!(other.address, pod.address);
    shut_down(connect(&pod.address).await).await;
    shut_down(connect(&other.address).await).await;
    assert_eq!(std::fs::read_dir(host.sockets()).unwrap().count(), 0, "a socket is left");
}

#[tokio::test]
async fn the_serving_process_has_a_group_of_its_own_and_a_readable_command_line() {
    let host = Host::new();
    let started = host.start("web", &host.bundle("web", "{}"));
    let client = connect(&started.address).await;
    let pid = shim_pid(&client).await;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let group = stat.rsplit(") ").next().unwrap().split(' ').nth(2).unwrap();
    assert_eq!(group, pid.to_string());
    let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(
        command.contains("containerd-shim-rtc-v2\0-namespace\0tests\0-id\0web\0-address\0/nowhere/"),
        "{command:?}"
    );
    shut_down(client).await;
}

/// Of a shim that has never had a container: its `delete` finds the socket by the address that `start` left in the bundle.
#[tokio::test]
async fn the_socket_of_a_shim_that_died_after_start_goes_with_delete() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: unmounting needs root");
        return;
    }
    let host = Host::new();
    let bundle = host.bundle("web", "{}");
    let started = host.start("web", &bundle);
    let pid = shim_pid(&connect(&started.address).await).await;
    let killed = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(killed, rustix::process::Signal::KILL).unwrap();
    gone(pid).await;
    assert_eq!(std::fs::read_dir(host.sockets()).unwrap().count(), 1, "the socket of a killed shim stays");
    for _ in 0..2 {
        let output = run(&["-namespace", "tests", "-id", "web", "delete"], &bundle, &[]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(std::fs::read_dir(host.sockets()).unwrap().count(), 0, "a socket is left");
    }
}

#[test]
fn start_without_a_config_is_refused_and_leaves_nothing() {
    let host = Host::new();
    let output = run(&["-namespace", "tests", "-id", "web", "start"], host.directory.path(), &host.params("web"));
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("config.json: No such file or directory"), "{text}");
    assert!(!host.sockets().exists());
}

#[test]
fn start_with_parameters_that_are_cut_off_is_refused_and_leaves_nothing() {
    let host = Host::new();
    let bundle = host.bundle("web", "{}");
    let params = host.params("web");
    let output = run(&["-namespace", "tests", "-id", "web", "start"], &bundle, &params[..params.len() - 1]);
    assert!(!output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("cut off"), "{text}");
    assert!(!host.sockets().exists() && !bundle.join("address").exists());
}

#[test]
fn delete_without_a_container_answers_as_killed() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: unmounting needs root");
        return;
    }
    let host = Host::new();
    let bundle = host.bundle("web", "{}");
    let bundle_flag = bundle.to_str().unwrap();
    let output = run(&["-namespace", "tests", "-id", "web", "-bundle", bundle_flag, "delete"], &bundle, &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(DeleteResponse::parse_from_bytes(&output.stdout).unwrap().exit_status, 137);
}

#[test]
fn containerd_is_told_what_this_is() {
    let host = Host::new();
    let info = run(&["-info"], host.directory.path(), &[]);
    assert_eq!(RuntimeInfo::parse_from_bytes(&info.stdout).unwrap().name, "io.containerd.rtc.v2");
    let version = run(&["-v"], host.directory.path(), &[]);
    assert!(String::from_utf8(version.stdout).unwrap().contains("Version:"));
    let refused = run(&["-id", "web", "start"], host.directory.path(), &[]);
    assert!(!refused.status.success());
}
