//! The events of a task's life, as containerd documents them for shims.

use std::time::{Duration, SystemTime};

use containerd_shim_protos::events::task::{
    TaskCheckpointed, TaskCreate, TaskDelete, TaskExecAdded, TaskExecStarted, TaskExit, TaskIO, TaskOOM, TaskPaused,
    TaskResumed, TaskStart,
};
use containerd_shim_protos::topics;
use containerd_shim_protos::types::mount::Mount;
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::timestamp::Timestamp;
use runtime_core::children::Exit;
use runtime_core::container::Checkpointed;

use crate::process::StdioPaths;

/// Fields of [`TaskCheckpointed`] beside containerd's own: the bytes of the images; in microseconds how long it took, and how
/// long the processes stood still.
const BYTES: u32 = 1001;
const TOTAL: u32 = 1002;
const FROZEN: u32 = 1003;

/// One event, encoded: its topic, and the message as containerd expects it in an envelope.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    pub(crate) topic: &'static str,
    pub(crate) message: Any,
}

impl Event {
    fn new(topic: &'static str, type_url: &str, message: &impl Message) -> Self {
        let value = message.write_to_bytes().expect("proto3 messages always encode");
        Self { topic, message: Any { type_url: type_url.to_owned(), value, ..Any::default() } }
    }

    pub(crate) fn create(
        id: &str,
        bundle: &str,
        rootfs: &[Mount],
        stdio: &StdioPaths,
        checkpoint: &str,
        pid: u32,
    ) -> Self {
        let io = TaskIO {
            stdin: stdio.stdin.clone(),
            stdout: stdio.stdout.clone(),
            stderr: stdio.stderr.clone(),
            terminal: stdio.terminal,
            ..TaskIO::default()
        };
        let message = TaskCreate {
            container_id: id.to_owned(),
            bundle: bundle.to_owned(),
            rootfs: rootfs.to_vec(),
            io: Some(io).into(),
            checkpoint: checkpoint.to_owned(),
            pid,
            ..TaskCreate::default()
        };
        Self::new(topics::TASK_CREATE_EVENT_TOPIC, "containerd.events.TaskCreate", &message)
    }

    pub(crate) fn start(id: &str, pid: u32) -> Self {
        let message = TaskStart { container_id: id.to_owned(), pid, ..TaskStart::default() };
        Self::new(topics::TASK_START_EVENT_TOPIC, "containerd.events.TaskStart", &message)
    }

    pub(crate) fn exec_added(id: &str, exec_id: &str) -> Self {
        let message =
            TaskExecAdded { container_id: id.to_owned(), exec_id: exec_id.to_owned(), ..TaskExecAdded::default() };
        Self::new(topics::TASK_EXEC_ADDED_EVENT_TOPIC, "containerd.events.TaskExecAdded", &message)
    }

    pub(crate) fn exec_started(id: &str, exec_id: &str, pid: u32) -> Self {
        let message = TaskExecStarted {
            container_id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            pid,
            ..TaskExecStarted::default()
        };
        Self::new(topics::TASK_EXEC_STARTED_EVENT_TOPIC, "containerd.events.TaskExecStarted", &message)
    }

    /// `process` is the container's id for its init, or the exec id.
    pub(crate) fn exit(id: &str, process: &str, pid: u32, exit: Exit) -> Self {
        let message = TaskExit {
            container_id: id.to_owned(),
            id: process.to_owned(),
            pid,
            exit_status: exit.code,
            exited_at: Some(timestamp(exit.at)).into(),
            ..TaskExit::default()
        };
        Self::new(topics::TASK_EXIT_EVENT_TOPIC, "containerd.events.TaskExit", &message)
    }

    pub(crate) fn delete(id: &str, pid: u32, exit: Exit) -> Self {
        let message = TaskDelete {
            container_id: id.to_owned(),
            pid,
            exit_status: exit.code,
            exited_at: Some(timestamp(exit.at)).into(),
            ..TaskDelete::default()
        };
        Self::new(topics::TASK_DELETE_EVENT_TOPIC, "containerd.events.TaskDelete", &message)
    }

    pub(crate) fn oom(id: &str) -> Self {
        let message = TaskOOM { container_id: id.to_owned(), ..TaskOOM::default() };
        Self::new(topics::TASK_OOM_EVENT_TOPIC, "containerd.events.TaskOOM", &message)
    }

    pub(crate) fn paused(id: &str) -> Self {
        let message = TaskPaused { container_id: id.to_owned(), ..TaskPaused::default() };
        Self::new(topics::TASK_PAUSED_EVENT_TOPIC, "containerd.events.TaskPaused", &message)
    }

    pub(crate) fn resumed(id: &str) -> Self {
        let message = TaskResumed { container_id: id.to_owned(), ..TaskResumed::default() };
        Self::new(topics::TASK_RESUMED_EVENT_TOPIC, "containerd.events.TaskResumed", &message)
    }

    /// With figures, in fields that containerd's message does not have: whoever knows it alone passes over them.
    pub(crate) fn checkpointed(id: &str, path: &str, made: &Checkpointed) -> Self {
        let mut message = TaskCheckpointed {
            container_id: id.to_owned(),
            checkpoint: path.to_owned(),
            ..TaskCheckpointed::default()
        };
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let fields = message.special_fields.mut_unknown_fields();
        fields.add_varint(BYTES, made.bytes);
        fields.add_varint(TOTAL, micros(made.total));
        if let Some(frozen) = made.frozen {
            fields.add_varint(FROZEN, micros(frozen));
        }
        Self::new(topics::TASK_CHECKPOINTED_EVENT_TOPIC, "containerd.events.TaskCheckpointed", &message)
    }
}

pub(crate) fn timestamp(at: SystemTime) -> Timestamp {
    Timestamp::from(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_of_a_checkpoint_are_beside_what_containerd_reads() {
        let made =
            Checkpointed { bytes: 4096, total: Duration::from_millis(30), frozen: Some(Duration::from_micros(7)) };
        let event = Event::checkpointed("web", "/images", &made);
        let message = TaskCheckpointed::parse_from_bytes(&event.message.value).unwrap();
        assert_eq!((message.container_id.as_str(), message.checkpoint.as_str()), ("web", "/images"));
        let mut figures: Vec<_> = message.special_fields.unknown_fields().iter().collect();
        // They are kept in no order.
        figures.sort_unstable_by_key(|(number, _)| *number);
        let varint = protobuf::UnknownValueRef::Varint;
        assert_eq!(figures, [(BYTES, varint(4096)), (TOTAL, varint(30_000)), (FROZEN, varint(7))]);
    }
}
