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

use crate::host::{Host, LONG};

pub(crate) const BUNDLE: &str = "/tmp/bundle";
pub(crate) const IMAGES: &str = "/tmp/images";
/// How long the slow hook takes, in seconds.
const HOOK: &str = "0.6";

/// A shim that was started by hand, as containerd does it, and a client of it.
pub(crate) struct Shim<'a> {
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
    pub(crate) fn start(host: &'a Host, command: &str, hook_code: Option<u8>) -> Self {
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

    pub(crate) fn create(&self, within: Duration, checkpoint: &str) -> ttrpc::Result<api::CreateTaskResponse> {
        let request = api::CreateTaskRequest {
            id: "c1".into(),
            bundle: BUNDLE.into(),
            checkpoint: checkpoint.into(),
            ..Default::default()
        };
        call!(self, create, within, request)
    }

    pub(crate) fn start_task(&self, within: Duration) -> ttrpc::Result<api::StartResponse> {
        call!(self, start, within, api::StartRequest { id: "c1".into(), ..Default::default() })
    }

    pub(crate) fn checkpoint(&self, within: Duration) -> ttrpc::Result<()> {
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

pub(crate) fn is(wanted: Status) -> impl Fn(&ttrpc::Result<Status>) -> bool {
    move |status| status.as_ref().is_ok_and(|status| *status == wanted)
}
