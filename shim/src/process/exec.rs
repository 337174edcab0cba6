//! A process that Exec has announced and Start will run.

use std::sync::Mutex;

use oci_spec::runtime::Process as Spec;

use super::state::State;
use super::{Process, StdioPaths};

#[derive(Debug)]
pub(crate) struct Exec {
    pub(crate) id: String,
    pub(crate) process: Process,
    /// Taken by Start.
    spec: Mutex<Option<Spec>>,
}

impl Exec {
    pub(crate) fn new(id: &str, stdio: StdioPaths, mut spec: Spec) -> Self {
        // The request decides, not the spec (as with containerd's shim).
        spec.set_terminal(Some(stdio.terminal));
        let process = Process::new(stdio, State::Created);
        Self { id: id.to_owned(), process, spec: Mutex::new(Some(spec)) }
    }

    /// `None` after the first call.
    pub(crate) fn take_spec(&self) -> Option<Spec> {
        self.spec.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }

    /// The state that containerd sees: a process in a paused container is paused.
    pub(crate) fn state_in(&self, container: State) -> State {
        match (self.process.state(), container) {
            (State::Running, State::Paused | State::Pausing) => container,
            (state, _) => state,
        }
    }
}
