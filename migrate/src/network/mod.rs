//! The network of a container that moves: its address, and what is sent to it meanwhile.
//!
//! - `hook`: an executable of the administrator's that moves the address, at named moments.
//! - `recorder`: keeps what arrives for a container that stands still; `segment`: of which the TCP segments are given to it.
//! - `gate`: shuts (`lock`) the destination's network namespace until the container's sockets are restored.
//!
//! All of this is for a container that has joined a network namespace by path. One of its own goes with the container, and that
//! of the host is not to be shut.

mod gate;
mod hook;
mod lock;
mod recorder;
mod segment;

use std::fs::File;
use std::io;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

pub(crate) use gate::{Gate, Opened};

pub(crate) use hook::{Hook, HookError, Moment};
pub(crate) use recorder::Recorder;
pub(crate) use segment::Segment;

/// In a thread of its own, which joins the namespace and ends in it.
fn inside<T: Send>(netns: &File, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, || {
            use std::os::fd::AsFd;
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
            work()
        })?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
