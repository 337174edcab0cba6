//! A shim without containerd between: for calls that ctr does not make, or not with a deadline.

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
use ttrpc::context::Context;

use crate::host::{Host, LONG};

pub(crate) const BUNDLE: &str = "/tmp/bundle";
pub(crate) const IMAGES: &str = "/tmp/images";
/// How long the slow hook takes, in seconds.
const HOOK: &str = "0.6";

/// A shim that was started by hand, as containerd does it, and a client of it.
pub(crate) struct Shim<'a> {
    host: &'a Host,
    runtime: tokio::runtime::Runtime,
    address: String,
    client: Client,
}

/// How a client goes away in the middle of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lost {
    /// It does not wait any longer; the shim is told when that will be.
    Deadline,
    /// It would wait for ever, and its connection is closed.
    HangUp,
}

macro_rules! call {
    ($shim:expr, $method:ident, $within:expr, $request:expr) => {{
        let task = TaskClient::new($shim.client.clone());
        $shim.runtime.block_on(task.$method(ttrpc::context::with_duration($within), &$request))
    }};
}

impl<'a> Shim<'a> {
    /// Makes a bundle of busybox and the workload that runs `command`, with a slow hook of Create that ends with `hook_code` if asked.
    pub(crate) fn start(host: &'a Host, command: &str, hook_code: Option<u8>) -> Self {
        host.node.unpack(Image::Workload, &format!("{BUNDLE}/rootfs")).unwrap();
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
        let address = Self::start_serving(host);
        let runtime = runtime();
        let client = runtime.block_on(Client::connect(&address)).unwrap();
        Self { host, runtime, address, client }
    }

    fn start_serving(host: &Host) -> String {
        let flags = "-namespace default -address /run/containerd/containerd.sock -id c1";
        let events = "TTRPC_ADDRESS=/run/containerd/containerd.sock.ttrpc";
        let shim = host.lane.runtime.shim();
        host.node.sh(&format!("cd {BUNDLE} && {events} {shim} {flags} start >answer")).unwrap();
        let address = host.node.read_text(&format!("{BUNDLE}/address")).unwrap();
        let path = host.node.path(address.strip_prefix("unix://").unwrap());
        format!("unix://{}", path.display())
    }

    /// Makes a call on a connection of its own, and is lost after a while.
    #[track_caller]
    fn lose<T>(&self, how: Lost, after: Duration, call: impl AsyncFnOnce(TaskClient, Context) -> ttrpc::Result<T>) {
        let runtime = runtime();
        let answered = runtime.block_on(async {
            let task = TaskClient::new(Client::connect(&self.address).await.unwrap());
            match how {
                Lost::Deadline => call(task, ttrpc::context::with_duration(after)).await.is_ok(),
                Lost::HangUp => tokio::time::timeout(after, call(task, Context::default())).await.is_ok(),
            }
        });
        assert!(!answered, "it was to be lost before the answer came");
        // With it goes the connection.
        drop(runtime);
    }

    #[track_caller]
    pub(crate) fn lose_create(&self, how: Lost, after: Duration) {
        self.lose(how, after, async |task, context| task.create(context, &create_request("")).await);
    }

    #[track_caller]
    pub(crate) fn lose_start(&self, how: Lost, after: Duration) {
        self.lose(how, after, async |task, context| task.start(context, &start_request()).await);
    }

    #[track_caller]
    pub(crate) fn lose_checkpoint(&self, how: Lost, after: Duration) {
        self.lose(how, after, async |task, context| task.checkpoint(context, &checkpoint_request()).await);
    }

    pub(crate) fn create(&self, within: Duration, checkpoint: &str) -> ttrpc::Result<api::CreateTaskResponse> {
        call!(self, create, within, create_request(checkpoint))
    }

    /// With the fifos `STDIO/in` and `STDIO/out`.
    pub(crate) fn create_with(&self, stdio: &str, checkpoint: &str) -> ttrpc::Result<api::CreateTaskResponse> {
        let mut request = create_request(checkpoint);
        request.stdin = format!("{stdio}/in");
        request.stdout = format!("{stdio}/out");
        call!(self, create, LONG, request)
    }

    pub(crate) fn start_task(&self, within: Duration) -> ttrpc::Result<api::StartResponse> {
        call!(self, start, within, start_request())
    }

    pub(crate) fn checkpoint(&self, within: Duration) -> ttrpc::Result<()> {
        call!(self, checkpoint, within, checkpoint_request()).map(drop)
    }

    pub(crate) fn status(&self) -> ttrpc::Result<Status> {
        let request = api::StateRequest { id: "c1".into(), ..Default::default() };
        call!(self, state, LONG, request).map(|state| state.status.unwrap())
    }

    /// Waits until the state is an answer that `done` accepts.
    #[track_caller]
    pub(crate) fn wait(&self, what: &str, done: impl Fn(&ttrpc::Result<Status>) -> bool) {
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
    pub(crate) fn delete(&self) -> api::DeleteResponse {
        call!(self, delete, LONG, api::DeleteRequest { id: "c1".into(), ..Default::default() }).unwrap()
    }

    #[track_caller]
    pub(crate) fn kill(&self) {
        let request = api::KillRequest { id: "c1".into(), signal: 9, ..Default::default() };
        call!(self, kill, LONG, request).unwrap();
        self.wait("stopped", |status| status.as_ref().is_ok_and(|status| *status == Status::STOPPED));
    }

    #[track_caller]
    pub(crate) fn shut_down(&self) {
        call!(self, shutdown, LONG, api::ShutdownRequest { id: "c1".into(), ..Default::default() }).unwrap();
    }
}

impl Drop for Shim<'_> {
    fn drop(&mut self) {
        // After a failed check, this is for the next one: it makes its own.
        self.host.node.run(["rm", "-rf", BUNDLE, IMAGES]).ok();
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn create_request(checkpoint: &str) -> api::CreateTaskRequest {
    api::CreateTaskRequest {
        id: "c1".into(),
        bundle: BUNDLE.into(),
        checkpoint: checkpoint.into(),
        ..Default::default()
    }
}

fn start_request() -> api::StartRequest {
    api::StartRequest { id: "c1".into(), ..Default::default() }
}

/// That ends the container.
fn checkpoint_request() -> api::CheckpointTaskRequest {
    let options = CheckpointOptions { exit: true, ..Default::default() };
    let options = Any {
        type_url: "containerd.runc.v1.CheckpointOptions".into(),
        value: options.write_to_bytes().unwrap(),
        ..Default::default()
    };
    api::CheckpointTaskRequest {
        id: "c1".into(),
        path: IMAGES.into(),
        options: MessageField::some(options),
        ..Default::default()
    }
}

pub(crate) fn is(wanted: Status) -> impl Fn(&ttrpc::Result<Status>) -> bool {
    move |status| status.as_ref().is_ok_and(|status| *status == wanted)
}
