//! The class of cache and memory bandwidth of a container in the making.

use std::sync::atomic::{AtomicBool, Ordering};

use oci_spec::runtime::Linux;

use crate::resctrl::{self, Class};
use crate::{ContainerId, Error, Pid, Result};

/// `linux.intelRdt`, where the spec has it. Until the class has been made, what is at its path is somebody else's.
#[derive(Debug)]
pub(super) struct NewClass<'a> {
    id: &'a ContainerId,
    class: Option<Class>,
    made: AtomicBool,
}

impl<'a> NewClass<'a> {
    /// Changes nothing.
    pub(super) fn new(id: &'a ContainerId, linux: Option<&Linux>) -> Result<Self> {
        let class = linux.and_then(|linux| linux.intel_rdt().as_ref()).map(|spec| Class::new(id, spec)).transpose();
        Ok(Self { id, class: class.map_err(failed(id))?, made: AtomicBool::new(false) })
    }

    pub(super) fn get(&self) -> Option<&Class> {
        self.class.as_ref()
    }

    /// Leaves nothing behind when it fails.
    pub(super) fn create(&self) -> Result<()> {
        self.each(Class::create)?;
        self.made.store(true, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn join(&self, pid: Pid) -> Result<()> {
        self.each(|class| class.join(pid))
    }

    pub(super) fn undo(&self) -> Result<()> {
        if self.made.load(Ordering::Relaxed) { self.each(Class::remove) } else { Ok(()) }
    }

    fn each(&self, act: impl Fn(&Class) -> Result<(), resctrl::Error>) -> Result<()> {
        self.class.as_ref().map_or(Ok(()), act).map_err(failed(self.id))
    }
}

fn failed(id: &ContainerId) -> impl Fn(resctrl::Error) -> Error {
    let id = id.clone();
    move |err| Error::Resctrl { id: id.clone(), err }
}
