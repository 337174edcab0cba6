//! What is in CRIU's images, for those who look at a checkpoint with [`crate::container::Inspection`].

pub use criu::Error;
pub use criu::images::{
    Access, Address, Amount, Contents, File, Kind, Memory, Mount, OpenFile, Problem, Process, ProcessState, Protocol,
    SharedMemory, Size, SocketState, Thread, UnixKind,
};
