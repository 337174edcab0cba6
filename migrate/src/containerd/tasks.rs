//! Tasks: the running part of a container.

use proto::containerd::services::tasks::v1::tasks_client::TasksClient;
use proto::containerd::services::tasks::v1::{
    CreateTaskRequest, DeleteTaskRequest, GetRequest, KillRequest, ListPidsRequest, StartRequest, WaitRequest,
};
use proto::containerd::v1::types::Process;

use super::{Containerd, failed, found, gone};
use crate::error::Result;

const SIGKILL: u32 = 9;

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
