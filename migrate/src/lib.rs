//! Live migration: moves a running container from one node's containerd to another's. Beside it, what else of the command line
//! needs containerd: the checkpoint and the restore of a pod.
//!
//! - `source`, `destination`: the two sides, step by step. `journal`: what each has on disk, for a recovery.
//! - `wire`, `frame`, `link`: what they tell one another, its form, and the connection. `target`: where the other side is, and
//!   `listen`: where it listens. `tls`: how the two know one another.
//! - `containerd`: the client of its API. `shim`: the client of the migration service of the container's shim.
//! - `progress`: what a move tells while it is under way, `report`: and at its end.
//! - `probe`: how fast the connection is.
//! - `image`: which blobs an image has. `tree`: directories, such as a writable layer, sent and received.
//! - `pod`: checkpoint and restore of a pod, through containerd.
//! - `spec`: what of the container's specification differs at the destination. `network`: how its address follows it.

mod containerd;
mod destination;
mod error;
mod frame;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod image;
mod journal;
mod link;
mod listen;
mod network;
mod node;
mod pod;
mod probe;
mod progress;
mod recover;
mod report;
mod shim;
mod source;
mod spec;
mod stdio;
mod target;
mod tls;
mod tree;
mod wire;

pub use containerd::Address;
pub use destination::{Receive, receive};
pub use error::{Error, Result};
pub use link::Pace;
pub use pod::{PodCheckpoint, PodReport, PodRestore, checkpoint_pod, restore_pod};
pub use progress::{Event, Observer, Phase, Progress};
pub use recover::{Verdict, recover, status};
pub use report::Report;
pub use source::{Migrate, Mode, Round, Stopped, Way, migrate};
pub use spec::MapMount;
pub use target::Target;
pub use tls::TlsFiles;
