//! Exits: each child is waited for on its own pidfd. SIGCHLD serves only for orphans that came to the shim as a
//! subreaper.

use std::sync::Arc;

use runtime_core::children::{Child, Exit, sweep_orphans};
use tokio::io::Interest;
use tokio::signal::unix::{SignalKind, signal};

use crate::io::{Watched, watch};

/// A child registered with the event loop before anybody waits.
#[derive(Debug)]
pub(crate) struct Reaped {
    child: Arc<Child>,
    exited: Watched,
}

impl Reaped {
    /// # Errors
    /// dup(2)'s or epoll_ctl(2)'s, for want of descriptors or memory.
    pub(crate) fn new(child: Arc<Child>) -> std::io::Result<Self> {
        let exited = watch(child.pidfd().try_clone_to_owned()?, Interest::READABLE)?;
        Ok(Self { child, exited })
    }

    /// Resolves when the child has exited and is reaped.
    ///
    /// # Errors
    /// waitid(2)'s, which cannot happen to the owner of a child.
    pub(crate) async fn exit(self) -> std::io::Result<Exit> {
        loop {
            let mut ready = self.exited.readable().await?;
            if let Some(exit) = self.child.try_reap()? {
                crate::idle::active();
                return Ok(exit);
            }
            ready.clear_ready();
        }
    }
}

/// Reaps inherited orphans for as long as the shim runs.
///
/// # Errors
/// The signal handler could not be installed.
pub(crate) fn adopt_orphans() -> std::io::Result<()> {
    let mut children = signal(SignalKind::child())?;
    tokio::spawn(async move {
        while children.recv().await.is_some() {
            let reaped = sweep_orphans();
            if reaped > 0 {
                tracing::debug!(reaped, "orphans reaped");
            }
        }
    });
    Ok(())
}
