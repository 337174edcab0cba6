//! Tasks: the running part of a container.

use std::path::Path;

use prost::Message as _;
use prost_types::Any;
use proto::containerd::runc::v1::Options;
use proto::containerd::services::containers::v1::Container;
use proto::containerd::services::tasks::v1::tasks_client::TasksClient;
use proto::containerd::services::tasks::v1::{
    CreateTaskRequest, DeleteTaskRequest, GetRequest, KillRequest, ListPidsRequest, StartRequest, WaitRequest,
};
use proto::containerd::v1::types::Process;

use super::{Containerd, failed, found, gone};
use crate::error::{Error, Result};

const SIGKILL: u32 = 9;

/// The options of a container with this runtime, in containerd's words.
const OPTIONS: &str = "containerd.runc.v1.Options";

/// For the creation of a task: the options of the container's record, and where to restore from.
pub(crate) fn options_with_images(container: &Container, images: &Path) -> Result<Any> {
    let recorded = container.runtime.as_ref().and_then(|runtime| runtime.options.clone());
    let mut any = recorded.unwrap_or_else(|| Any { type_url: OPTIONS.to_owned(), value: Vec::new() });
    if any.type_url.rsplit('/').next() != Some(OPTIONS) {
        let problem = format!("its runtime's options are {}, and not {OPTIONS}", any.type_url);
        return Err(Error::Unfit { id: container.id.clone(), problem });
    }
    let images = images.to_string_lossy().into_owned();
    // One encoded message after another is both in one (protobuf: "last one wins").
    any.value.extend(Options { criu_image_path: images, ..Options::default() }.encode_to_vec());
    Ok(any)
}

impl Containerd {
    pub(crate) async fn task(&self, id: &str) -> Result<Option<Process>> {
        let request = self.request(GetRequest { container_id: id.to_owned(), exec_id: String::new() });
        let answer = found(TasksClient::new(self.channel.clone()).get(request).await);
        let answer = answer.map_err(failed("get task", id))?;
        Ok(answer.and_then(|answer| answer.into_inner().process))
    }

    pub(crate) async fn pids(&self, id: &str) -> Result<Vec<u32>> {
        let request = self.request(ListPidsRequest { container_id: id.to_owned() });
        let answer = TasksClient::new(self.channel.clone()).list_pids(request).await;
        let processes = answer.map_err(failed("list processes of task", id))?.into_inner().processes;
        Ok(processes.into_iter().map(|process| process.pid).collect())
    }

    pub(crate) async fn create_task(&self, task: CreateTaskRequest) -> Result<()> {
        let id = task.container_id.clone();
        let answer = TasksClient::new(self.channel.clone()).create(self.request(task)).await;
        answer.map(drop).map_err(failed("create task", id))
    }

    pub(crate) async fn start_task(&self, id: &str) -> Result<u32> {
        let request = self.request(StartRequest { container_id: id.to_owned(), exec_id: String::new() });
        let answer = TasksClient::new(self.channel.clone()).start(request).await;
        Ok(answer.map_err(failed("start task", id))?.into_inner().pid)
    }

    /// Returns when it has exited.
    pub(crate) async fn wait_task(&self, id: &str) -> Result<()> {
        let request = self.request(WaitRequest { container_id: id.to_owned(), exec_id: String::new() });
        let answer = TasksClient::new(self.channel.clone()).wait(request).await;
        gone(answer).map_err(failed("wait for task", id))
    }

    /// No error if it is gone.
    pub(crate) async fn kill_task(&self, id: &str) -> Result<()> {
        let request = KillRequest { container_id: id.to_owned(), signal: SIGKILL, all: true, ..KillRequest::default() };
        let answer = TasksClient::new(self.channel.clone()).kill(self.request(request)).await;
        gone(answer).map_err(failed("kill task", id))
    }

    /// No error if it is gone.
    pub(crate) async fn delete_task(&self, id: &str) -> Result<()> {
        let request = self.request(DeleteTaskRequest { container_id: id.to_owned() });
        let answer = TasksClient::new(self.channel.clone()).delete(request).await;
        gone(answer).map_err(failed("delete task", id))
    }
}
