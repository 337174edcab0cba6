//! A client of a node's containerd, for what ctr cannot do: a checkpoint with all its options, and a task that is restored
//! from a directory.

use std::future::Future;
use std::time::Duration;

use prost::Message;
use proto::containerd::runc::v1::{CheckpointOptions, Options};
use proto::containerd::services::containers::v1::containers_client::ContainersClient;
use proto::containerd::services::containers::v1::{Container, CreateContainerRequest, GetContainerRequest};
use proto::containerd::services::snapshots::v1::snapshots_client::SnapshotsClient;
use proto::containerd::services::snapshots::v1::{MountsRequest, PrepareSnapshotRequest, StatSnapshotRequest};
use proto::containerd::services::tasks::v1::tasks_client::TasksClient;
use proto::containerd::services::tasks::v1::{
    CheckpointTaskRequest, CreateTaskRequest, DeleteTaskRequest, StartRequest,
};
use proto::containerd::types::Mount;
use test_fixtures::Node;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

const SOCKET: &str = "/run/containerd/containerd.sock";
const SNAPSHOTTER: &str = "overlayfs";
/// No call takes longer.
const DEADLINE: Duration = Duration::from_secs(120);

pub(crate) struct Containerd {
    runtime: tokio::runtime::Runtime,
    channel: Channel,
}

/// Where a task's streams lead to, as paths in the node.
#[derive(Clone, Debug)]
pub(crate) struct Streams {
    pub(crate) stdin: String,
    pub(crate) stdout: String,
    /// Nowhere, on a terminal.
    pub(crate) stderr: String,
    pub(crate) terminal: bool,
}

impl Containerd {
    pub(crate) fn connect(node: &Node) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let channel = runtime.block_on(cri_client::channel(&node.path(SOCKET))).unwrap();
        Self { runtime, channel }
    }

    fn wait<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Status> {
        let answer = self.runtime.block_on(async { tokio::time::timeout(DEADLINE, call).await });
        answer
            .map_err(|_| Status::deadline_exceeded(format!("no answer within {DEADLINE:?}")))?
            .map(Response::into_inner)
    }

    pub(crate) fn container(&self, id: &str) -> Result<Container, Status> {
        let request = request(GetContainerRequest { id: id.to_owned() });
        let answer = self.wait(ContainersClient::new(self.channel.clone()).get(request))?;
        answer.container.ok_or_else(|| Status::not_found("an answer without a container"))
    }

    /// Makes the record of another node's container here, and its writable layer, empty.
    pub(crate) fn take_over(&self, container: Container, parent: String) -> Result<(), Status> {
        let key = container.snapshot_key.clone();
        let prepare = PrepareSnapshotRequest { snapshotter: SNAPSHOTTER.to_owned(), key, parent, ..Default::default() };
        self.wait(SnapshotsClient::new(self.channel.clone()).prepare(request(prepare)))?;
        let create = CreateContainerRequest { container: Some(container) };
        self.wait(ContainersClient::new(self.channel.clone()).create(request(create))).map(drop)
    }

    /// The name of what is below a container's writable layer; that of its image.
    pub(crate) fn parent(&self, id: &str) -> Result<String, Status> {
        let stat = StatSnapshotRequest { snapshotter: SNAPSHOTTER.to_owned(), key: id.to_owned() };
        let answer = self.wait(SnapshotsClient::new(self.channel.clone()).stat(request(stat)))?;
        answer.info.map(|info| info.parent).ok_or_else(|| Status::not_found("an answer without a snapshot"))
    }

    fn mounts(&self, id: &str) -> Result<Vec<Mount>, Status> {
        let mounts = MountsRequest { snapshotter: SNAPSHOTTER.to_owned(), key: id.to_owned() };
        self.wait(SnapshotsClient::new(self.channel.clone()).mounts(request(mounts))).map(|answer| answer.mounts)
    }

    /// The directory of what a container has written, in the node.
    pub(crate) fn writable_layer(&self, id: &str) -> Result<String, Status> {
        let mounts = self.mounts(id)?;
        let options = mounts.iter().flat_map(|mount| &mount.options);
        let upper = options.filter_map(|option| option.strip_prefix("upperdir=")).next();
        upper.map(str::to_owned).ok_or_else(|| Status::not_found("an overlay without a writable layer"))
    }

    pub(crate) fn checkpoint(&self, id: &str, options: &CheckpointOptions) -> Result<(), Status> {
        let options = any("containerd.runc.v1.CheckpointOptions", options);
        let checkpoint = CheckpointTaskRequest { container_id: id.to_owned(), options: Some(options) };
        self.wait(TasksClient::new(self.channel.clone()).checkpoint(request(checkpoint))).map(drop)
    }

    pub(crate) fn delete_task(&self, id: &str) -> Result<(), Status> {
        let delete = DeleteTaskRequest { container_id: id.to_owned() };
        self.wait(TasksClient::new(self.channel.clone()).delete(request(delete))).map(drop)
    }

    /// Creates and starts a task, from a checkpoint's directory or anew; its pid.
    pub(crate) fn start_task(&self, id: &str, streams: &Streams, from: Option<(&str, &str)>) -> Result<u32, Status> {
        let options =
            from.map(|(images, work)| Options { criu_image_path: images.to_owned(), criu_work_path: work.to_owned() });
        let create = CreateTaskRequest {
            container_id: id.to_owned(),
            rootfs: self.mounts(id)?,
            stdin: streams.stdin.clone(),
            stdout: streams.stdout.clone(),
            stderr: streams.stderr.clone(),
            terminal: streams.terminal,
            options: options.map(|options| any("containerd.runc.v1.Options", &options)),
        };
        self.wait(TasksClient::new(self.channel.clone()).create(request(create)))?;
        let start = StartRequest { container_id: id.to_owned(), exec_id: String::new() };
        self.wait(TasksClient::new(self.channel.clone()).start(request(start))).map(|answer| answer.pid)
    }
}

fn any(name: &str, message: &impl Message) -> prost_types::Any {
    prost_types::Any { type_url: name.to_owned(), value: message.encode_to_vec() }
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", "default".parse().unwrap());
    request
}
