//! A pod: containers that share namespaces, memory and connections, checkpointed and restored together.
//!
//! ```text
//!   DIR/pod.json      which members there are, what they share, and with whom
//!   DIR/ID/           each member's own checkpoint, with its rtc.json
//!   DIR/shm/          what was in the /dev/shm that they share
//! ```
//! A checkpoint. Each member is dumped by a CRIU of its own, in a thread of its caller's; at two places they wait for one
//! another:
//! ```text
//!   freeze ──> all frozen ──> dump ──> all dumped ──> end, or run on
//!              │ /dev/shm is copied    │ pod.json
//! ```
//! Until all are dumped any failure lets all run on, and leaves nothing in DIR.
//!
//! A restore. The members wait for one another at three places; CRIU's `post-restore` is the second, before it unlocks the
//! network and lets the processes go:
//! ```text
//!   all there ──> namespaces of those that are joined first ──> restore ──> all restored ──> run ──> all run
//!   │ /dev/shm is put back
//! ```
//! Until all are restored any failure ends all. After that a CRIU can still fail to let its processes go; the others have run
//! for some milliseconds then, and are ended too.
//!
//! - `meeting`: where they wait. `checkpoint`, `restore`: the verbs. `manifest`: pod.json.
//! - `members`: what is known of each before it is touched. `sharing`: their namespaces. `ipc`: who carries the objects of an
//!   IPC namespace. `memory`: the shared /dev/shm, and `tree`: how it is copied.

mod checkpoint;
mod error;
mod ipc;
mod manifest;
mod meeting;
mod members;
mod memory;
mod restore;
mod sharing;
mod tree;

pub use checkpoint::{PodCheckpointed, PodDump};
pub use error::PodError;
pub use manifest::{Joined, PodManifest, PodMember, SharedMemory};
pub use restore::PodRestore;
