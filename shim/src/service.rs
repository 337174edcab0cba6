//! containerd's Task service: decodes a request, calls, and encodes the answer.
//!
//! ttrpc drops a handler when its client goes away or its deadline passes. Everything that changes something therefore
//! runs in a tokio task of its own, which goes on to its end.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use containerd_shim_protos::api::Status;
use containerd_shim_protos::shim::oci::ProcessDetails;
use containerd_shim_protos::shim::shim as api;
use containerd_shim_protos::shim_async::{Task as TaskService, create_task};
use containerd_shim_protos::types::task::ProcessInfo;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::empty::Empty;
use protobuf::{EnumOrUnknown, Message, MessageField};
use runtime_core::{ContainerId, Signal};
use tracing::Instrument;
use ttrpc::r#async::TtrpcContext;

use crate::error::{Error, Result};
use crate::events::timestamp;
use crate::options::Options;
use crate::process::StdioPaths;
use crate::process::state::State;
use crate::sandbox::Sandbox;
use crate::task::{Create, ProcessRef, Task, checkpoint_options};
use crate::{idle, metrics, options};

const TASK_V2: &str = "containerd.task.v2.Task";
const TASK_V3: &str = "containerd.task.v3.Task";
const PROCESS_DETAILS: &str = "containerd.runc.v1.ProcessDetails";

#[derive(Clone, Debug)]
pub(crate) struct Service {
    sandbox: Arc<Sandbox>,
}

impl Service {
    pub(crate) fn new(sandbox: Arc<Sandbox>) -> Self {
        Self { sandbox }
    }

    /// The service under both of its names: the messages of version 2 and 3 are the same.
    pub(crate) fn register(self) -> HashMap<String, ttrpc::r#async::Service> {
        let service: Arc<dyn TaskService + Send + Sync> = Arc::new(self);
        let mut services = create_task(service.clone());
        if let Some(v3) = create_task(service).remove(TASK_V3) {
            services.insert(TASK_V2.to_owned(), v3);
        }
        services
    }

    fn task(&self, id: &str) -> Result<Arc<Task>> {
        self.sandbox.task(id)
    }
}

/// Runs an operation to its end, whatever becomes of the client.
pub(crate) async fn whole<T: Send + 'static>(
    span: tracing::Span,
    operation: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let logged = async move {
        let result = operation.await;
        if let Err(err) = &result {
            tracing::debug!("{}", crate::error::chain(err));
        }
        idle::active();
        result
    };
    tokio::spawn(logged.instrument(span)).await?
}

macro_rules! span {
    ($name:literal, $id:expr) => {
        span!($name, $id, "")
    };
    ($name:literal, $id:expr, $exec_id:expr) => {
        tracing::info_span!($name, id = %$id, exec_id = %$exec_id)
    };
}

#[async_trait]
impl TaskService for Service {
    async fn state(&self, _: &TtrpcContext, request: api::StateRequest) -> ttrpc::Result<api::StateResponse> {
        let task = self.task(&request.id)?;
        let process = task.process(&request.exec_id)?;
        let snapshot = process.snapshot();
        let (id, state) = match &process {
            ProcessRef::Init(_) => (task.id.as_str(), snapshot.state),
            ProcessRef::Exec(exec) => (exec.id.as_str(), exec.state_in(task.init.state())),
        };
        let stdio = process.stdio.clone();
        Ok(api::StateResponse {
            id: id.to_owned(),
            exec_id: request.exec_id,
            bundle: task.bundle.to_string_lossy().into_owned(),
            pid: snapshot.pid,
            status: EnumOrUnknown::new(status(state)),
            stdin: stdio.stdin,
            stdout: stdio.stdout,
            stderr: stdio.stderr,
            terminal: stdio.terminal,
            exit_status: snapshot.exit.map_or(0, |exit| exit.code),
            exited_at: MessageField::from_option(snapshot.exit.map(|exit| timestamp(exit.at))),
            ..api::StateResponse::default()
        })
    }

    async fn create(
        &self,
        _: &TtrpcContext,
        request: api::CreateTaskRequest,
    ) -> ttrpc::Result<api::CreateTaskResponse> {
        let sandbox = self.sandbox.clone();
        let request = decode_create(request)?;
        let task = whole(span!("create", request.id), async move { sandbox.create(request).await }).await?;
        Ok(api::CreateTaskResponse { pid: task.init.pid(), ..api::CreateTaskResponse::default() })
    }

    async fn start(&self, _: &TtrpcContext, request: api::StartRequest) -> ttrpc::Result<api::StartResponse> {
        let task = self.task(&request.id)?;
        let span = span!("start", request.id, request.exec_id);
        let pid = whole(span, async move {
            match request.exec_id.as_str() {
                "" => task.start().await,
                exec_id => task.start_exec(exec_id).await,
            }
        })
        .await?;
        Ok(api::StartResponse { pid, ..api::StartResponse::default() })
    }

    async fn delete(&self, _: &TtrpcContext, request: api::DeleteRequest) -> ttrpc::Result<api::DeleteResponse> {
        let sandbox = self.sandbox.clone();
        let span = span!("delete", request.id, request.exec_id);
        let deleted = whole(span, async move {
            if !request.exec_id.is_empty() {
                return sandbox.task(&request.id)?.delete_exec(&request.exec_id).await;
            }
            let deleted = sandbox.made(&request.id).await?.delete().await?;
            sandbox.remove(&request.id);
            Ok(deleted)
        })
        .await?;
        Ok(api::DeleteResponse {
            pid: deleted.pid,
            exit_status: deleted.exit.code,
            exited_at: Some(timestamp(deleted.exit.at)).into(),
            ..api::DeleteResponse::default()
        })
    }

    async fn pids(&self, _: &TtrpcContext, request: api::PidsRequest) -> ttrpc::Result<api::PidsResponse> {
        let pids = self.task(&request.id)?.pids().await?;
        let mut processes = Vec::with_capacity(pids.len());
        for (pid, exec_id) in pids {
            let info = exec_id.map(process_details).transpose()?;
            let pid = pid.as_raw().unsigned_abs();
            processes.push(ProcessInfo { pid, info: MessageField::from_option(info), ..ProcessInfo::default() });
        }
        Ok(api::PidsResponse { processes, ..api::PidsResponse::default() })
    }

    async fn pause(&self, _: &TtrpcContext, request: api::PauseRequest) -> ttrpc::Result<Empty> {
        let task = self.task(&request.id)?;
        whole(span!("pause", request.id), task.pause()).await?;
        Ok(Empty::default())
    }

    async fn resume(&self, _: &TtrpcContext, request: api::ResumeRequest) -> ttrpc::Result<Empty> {
        let task = self.task(&request.id)?;
        whole(span!("resume", request.id), task.resume()).await?;
        Ok(Empty::default())
    }

    async fn kill(&self, _: &TtrpcContext, request: api::KillRequest) -> ttrpc::Result<Empty> {
        let task = self.task(&request.id)?;
        let number = i32::try_from(request.signal).ok();
        let signal = number.and_then(Signal::new).ok_or(Error::Signal(request.signal))?;
        let span = span!("kill", request.id, request.exec_id);
        whole(span, async move { task.kill(&request.exec_id, signal, request.all).await }).await?;
        Ok(Empty::default())
    }

    async fn exec(&self, _: &TtrpcContext, request: api::ExecProcessRequest) -> ttrpc::Result<Empty> {
        let task = self.task(&request.id)?;
        let spec = runtime_core::spec::parse_process(json_of(request.spec.as_ref())).map_err(|err| Error::Json {
            what: "process spec",
            id: request.id.clone(),
            err,
        })?;
        let stdio = StdioPaths {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        };
        let span = span!("exec", request.id, request.exec_id);
        whole(span, async move { task.add_exec(&request.exec_id, stdio, spec).await }).await?;
        Ok(Empty::default())
    }

    async fn resize_pty(&self, _: &TtrpcContext, request: api::ResizePtyRequest) -> ttrpc::Result<Empty> {
        self.task(&request.id)?.resize(&request.exec_id, request.width, request.height)?;
        Ok(Empty::default())
    }

    async fn close_io(&self, _: &TtrpcContext, request: api::CloseIORequest) -> ttrpc::Result<Empty> {
        self.task(&request.id)?.close_stdin(&request.exec_id)?;
        Ok(Empty::default())
    }

    async fn checkpoint(&self, _: &TtrpcContext, request: api::CheckpointTaskRequest) -> ttrpc::Result<Empty> {
        let task = self.task(&request.id)?;
        let options = options::checkpoint(request.options.as_ref())
            .map_err(|err| Error::Options { id: request.id.clone(), err })?;
        let options = checkpoint_options(&request.id, &request.path, &options)?;
        whole(span!("checkpoint", request.id), task.checkpoint(options)).await?;
        Ok(Empty::default())
    }

    async fn update(&self, _: &TtrpcContext, request: api::UpdateTaskRequest) -> ttrpc::Result<Empty> {
        let task = self.task(&request.id)?;
        let resources = serde_json::from_slice(json_of(request.resources.as_ref())).map_err(|err| Error::Json {
            what: "resources",
            id: request.id,
            err,
        })?;
        whole(span!("update", task.id), task.update(resources)).await?;
        Ok(Empty::default())
    }

    async fn wait(&self, _: &TtrpcContext, request: api::WaitRequest) -> ttrpc::Result<api::WaitResponse> {
        // Without the task: a waiting client does not keep a deleted container.
        let exited = self.task(&request.id)?.process(&request.exec_id)?.wait();
        let exit = exited.await;
        Ok(api::WaitResponse {
            exit_status: exit.code,
            exited_at: Some(timestamp(exit.at)).into(),
            ..api::WaitResponse::default()
        })
    }

    async fn stats(&self, _: &TtrpcContext, request: api::StatsRequest) -> ttrpc::Result<api::StatsResponse> {
        let stats = self.task(&request.id)?.stats().await?;
        let stats = metrics::encode(stats).map_err(Error::Encode)?;
        idle::active();
        Ok(api::StatsResponse { stats: Some(stats).into(), ..api::StatsResponse::default() })
    }

    async fn connect(&self, _: &TtrpcContext, request: api::ConnectRequest) -> ttrpc::Result<api::ConnectResponse> {
        Ok(api::ConnectResponse {
            shim_pid: std::process::id(),
            // containerd connects to a shim before it has a container.
            task_pid: self.task(&request.id).map_or(0, |task| task.init.pid()),
            ..api::ConnectResponse::default()
        })
    }

    async fn shutdown(&self, _: &TtrpcContext, _: api::ShutdownRequest) -> ttrpc::Result<Empty> {
        self.sandbox.shut_down();
        Ok(Empty::default())
    }
}

fn decode_create(request: api::CreateTaskRequest) -> Result<Create> {
    let options =
        Options::of_request(request.options.as_ref()).map_err(|err| Error::Options { id: request.id.clone(), err })?;
    // The one way to restore that needs no copy through containerd's content store.
    let checkpoint = if request.checkpoint.is_empty() { options.criu_image_path.clone() } else { request.checkpoint };
    Ok(Create {
        id: ContainerId::parse(&request.id)?,
        bundle: PathBuf::from(request.bundle),
        rootfs: request.rootfs,
        stdio: StdioPaths {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            terminal: request.terminal,
        },
        checkpoint,
        options,
    })
}

/// A request that options name no file in.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(mut request: api::CreateTaskRequest) {
    request.options.clear();
    if let Ok(create) = decode_create(request) {
        assert!(!create.id.as_str().contains('/'));
    }
}

/// An `Any` that carries JSON, as containerd sends what the OCI specification defines.
fn json_of(any: Option<&Any>) -> &[u8] {
    any.map_or(&[], |any| &any.value)
}

fn process_details(exec_id: String) -> Result<Any> {
    let details = ProcessDetails { exec_id, ..ProcessDetails::default() };
    let value = details.write_to_bytes().map_err(Error::Encode)?;
    Ok(Any { type_url: PROCESS_DETAILS.to_owned(), value, ..Any::default() })
}

fn status(state: State) -> Status {
    match state {
        State::Created | State::CreatedFromCheckpoint => Status::CREATED,
        State::Running => Status::RUNNING,
        State::Pausing => Status::PAUSING,
        State::Paused => Status::PAUSED,
        State::Stopped | State::Deleted => Status::STOPPED,
    }
}
