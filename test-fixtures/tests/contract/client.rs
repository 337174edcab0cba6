//! A client that goes away in the middle of a call: the operation ends whole or is taken back whole, and the next call
//! sees which.
//!
//! Against our shim alone, by its socket: with a deadline that passes while a hook or CRIU holds the call up. What becomes
//! of a shim whose containerd gave it up while it was starting, because ctr was killed, is not tested here.

use std::thread::sleep;
use std::time::{Duration, Instant};

use containerd_shim_protos::api::Status;
use containerd_shim_protos::protobuf::MessageField;
use containerd_shim_protos::shim::oci::CheckpointOptions;
use containerd_shim_protos::shim::shim as api;
use containerd_shim_protos::shim_async::{Client, TaskClient};
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use test_fixtures::Image;
use ttrpc::Code;

use crate::host::{Check, Host, LONG};

pub(crate) const CHECKS: &[Check] = &[
    ("Create's deadline passes, and it ends whole", create_ends_whole),
    ("Create's deadline passes, and it is taken back whole", create_is_taken_back),
    ("the shim is killed in the middle of Create", shim_is_killed_in_create),
    ("Checkpoint's and Start's deadlines pass, and both end whole", checkpoint_and_restore_end_whole),
];

const BUNDLE: &str = "/tmp/bundle";
const IMAGES: &str = "/tmp/images";
/// How long the slow hook takes, in seconds, and a deadline that passes within it.
const HOOK: &str = "0.6";
const SHORT: Duration = Duration::from_millis(150);

/// A shim that was started by hand, as containerd does it, and a client of it.
struct Shim<'a> {
    host: &'a Host,
    runtime: tokio::runtime::Runtime,
    client: Client,
}

macro_rules! call {
    ($shim:expr, $method:ident, $within:expr, $request:expr) => {{
        let task = TaskClient::new($shim.client.clone());
        $shim.runtime.block_on(task.$method(ttrpc::context::with_duration($within), &$request))
    }};
}

impl<'a> Shim<'a> {
    /// Makes a bundle of busybox that runs `command`, with a slow hook of Create that ends with `hook_code` if asked.
    fn start(host: &'a Host, command: &str, hook_code: Option<u8>) -> Self {
        host.node.unpack(Image::Busybox, &format!("{BUNDLE}/rootfs")).unwrap();
        let hooks = hook_code.map_or("null".to_owned(), |code| {
            format!(
                r#"{{"createRuntime": [{{"path": "/bin/sh", "args": ["sh", "-c", "sleep {HOOK}; exit {code}"]}}]}}"#
            )
        });
        let program = format!(
            ".process.args = [\"sh\", \"-c\", \"{command}\"] | .process.terminal = false \
             | .process.env = [\"PATH=/bin\"] | .hooks = {hooks} \
             | .linux.cgroupsPath = \"/c1\" | .root = {{\"path\": \"rootfs\"}}"
        );
        host.node.sh(&format!("cd {BUNDLE} && ctr oci spec | jq '{program}' >config.json")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = Self::connect(host, &runtime);
        Self { host, runtime, client }
    }

    fn connect(host: &Host, runtime: &tokio::runtime::Runtime) -> Client {
        let flags = "-namespace default -address /run/containerd/containerd.sock -id c1";
        let events = "TTRPC_ADDRESS=/run/containerd/containerd.sock.ttrpc";
        let shim = host.lane.runtime.shim();
        host.node.sh(&format!("cd {BUNDLE} && {events} {shim} {flags} start >answer")).unwrap();
        let address = host.node.read_text(&format!("{BUNDLE}/address")).unwrap();
        let path = host.node.path(address.strip_prefix("unix://").unwrap());
        runtime.block_on(Client::connect(&format!("unix://{}", path.display()))).unwrap()
    }

    fn create(&self, within: Duration, checkpoint: &str) -> ttrpc::Result<api::CreateTaskResponse> {
        let request = api::CreateTaskRequest {
            id: "c1".into(),
            bundle: BUNDLE.into(),
            checkpoint: checkpoint.into(),
            ..Default::default()
        };
        call!(self, create, within, request)
    }

    fn start_task(&self, within: Duration) -> ttrpc::Result<api::StartResponse> {
        call!(self, start, within, api::StartRequest { id: "c1".into(), ..Default::default() })
    }

    fn checkpoint(&self, within: Duration) -> ttrpc::Result<()> {
        let options = CheckpointOptions { exit: true, ..Default::default() };
        let options = Any {
            type_url: "containerd.runc.v1.CheckpointOptions".into(),
            value: options.write_to_bytes().unwrap(),
            ..Default::default()
        };
        let request = api::CheckpointTaskRequest {
            id: "c1".into(),
            path: IMAGES.into(),
            options: MessageField::some(options),
            ..Default::default()
        };
        call!(self, checkpoint, within, request).map(drop)
    }

    fn status(&self) -> ttrpc::Result<Status> {
        let request = api::StateRequest { id: "c1".into(), ..Default::default() };
        call!(self, state, LONG, request).map(|state| state.status.unwrap())
    }

    /// Waits until the state is an answer that `done` accepts.
    #[track_caller]
    fn wait(&self, what: &str, done: impl Fn(&ttrpc::Result<Status>) -> bool) {
        let started = Instant::now();
        loop {
            let status = self.status();
            if done(&status) {
                return;
            }
            assert!(started.elapsed() < LONG, "not {what}: {status:?}");
            sleep(Duration::from_millis(10));
        }
    }

    #[track_caller]
    fn delete(&self) -> api::DeleteResponse {
        call!(self, delete, LONG, api::DeleteRequest { id: "c1".into(), ..Default::default() }).unwrap()
    }

    #[track_caller]
    fn kill(&self) {
        let request = api::KillRequest { id: "c1".into(), signal: 9, ..Default::default() };
        call!(self, kill, LONG, request).unwrap();
        self.wait("stopped", |status| status.as_ref().is_ok_and(|status| *status == Status::STOPPED));
    }

    #[track_caller]
    fn shut_down(&self) {
        call!(self, shutdown, LONG, api::ShutdownRequest { id: "c1".into(), ..Default::default() }).unwrap();
    }
}

impl Drop for Shim<'_> {
    fn drop(&mut self) {
        // After a failed check, this is for the next one: it makes its own.
        self.host.node.run(["rm", "-rf", BUNDLE, IMAGES]).ok();
    }
}

fn is(wanted: Status) -> impl Fn(&ttrpc::Result<Status>) -> bool {
    move |status| status.as_ref().is_ok_and(|status| *status == wanted)
}

fn code<T>(result: ttrpc::Result<T>) -> Option<Code> {
    match result {
        Err(ttrpc::Error::RpcStatus(status)) => Some(status.code()),
        Err(_) | Ok(_) => None,
    }
}

fn create_ends_whole(host: &Host) {
    let shim = Shim::start(host, "sleep 7656", Some(0));
    assert!(shim.create(SHORT, "").is_err(), "the deadline was to pass");
    // The id is taken while the first call is under way: nothing is made twice.
    assert_eq!(code(shim.create(LONG, "")), Some(Code::ALREADY_EXISTS));
    shim.wait("created", is(Status::CREATED));
    shim.start_task(LONG).unwrap();
    shim.kill();
    assert_eq!(shim.delete().exit_status, 137);
    shim.shut_down();
}

fn create_is_taken_back(host: &Host) {
    let shim = Shim::start(host, "sleep 7656", Some(1));
    assert!(shim.create(SHORT, "").is_err(), "the deadline was to pass");
    sleep(Duration::from_secs(1));
    assert_eq!(code(shim.status()), Some(Code::NOT_FOUND));
    // The whole answer, this time; the id was free again.
    let refused = format!("{:?}", shim.create(LONG, "").unwrap_err());
    assert!(refused.contains("hook"), "{refused}");
    assert_eq!(code(shim.status()), Some(Code::NOT_FOUND));
    shim.shut_down();
}

fn shim_is_killed_in_create(host: &Host) {
    let name = host.lane.runtime.shim();
    // In the hook, and at moments before it.
    for delay in [5, 10, 20, 40, 200] {
        let shim = Shim::start(host, "sleep 7656", Some(0));
        assert!(shim.create(Duration::from_millis(delay), "").is_err(), "the deadline was to pass");
        host.node.run(["pkill", "-KILL", "-f", name]).unwrap();
        let delete = format!("cd {BUNDLE} && {name} -namespace default -id c1 -bundle {BUNDLE} delete >deleted");
        host.node.sh(&delete).unwrap();
        host.wait("the hook has ended", || host.node.sh("pgrep -xfc 'sleep 0.6' || true").unwrap() == "0");
        let left =
            host.node.sh("find /run/containerd/rtc/default /sys/fs/cgroup -name c1; ls /run/containerd/s").unwrap();
        assert_eq!(left, "", "left after {delay} ms and delete");
    }
}

fn checkpoint_and_restore_end_whole(host: &Host) {
    let count = "n=0; while :; do n=$((n+1)); echo $n >/count; usleep 1000; done";
    let shim = Shim::start(host, count, None);
    shim.create(LONG, "").unwrap();
    shim.start_task(LONG).unwrap();
    let counted = || host.node.read_text(&format!("{BUNDLE}/rootfs/count")).ok().and_then(|text| text.parse().ok());
    host.wait("it counts", || counted().is_some_and(|count: u64| count > 20));
    host.node.run(["mkdir", "-p", IMAGES]).unwrap();
    assert!(shim.checkpoint(Duration::from_millis(5)).is_err(), "the deadline was to pass");
    shim.wait("dumped and gone", is(Status::STOPPED));
    let at = counted().unwrap();
    assert!(host.node.exists(&format!("{IMAGES}/rtc.json")));
    shim.delete();

    assert_eq!(shim.create(LONG, IMAGES).unwrap().pid, 0);
    assert!(shim.start_task(Duration::from_millis(5)).is_err(), "the deadline was to pass");
    shim.wait("restored", is(Status::RUNNING));
    host.wait("it counts on", || counted().is_some_and(|count: u64| count > at));
    assert!(counted().unwrap() < at + 100_000, "it goes on where it was");
    shim.kill();
    assert_eq!(shim.delete().exit_status, 137);
    shim.shut_down();
}
