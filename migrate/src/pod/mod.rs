//! Pods of containerd's: checkpointed by the shim that has all of their containers, and restored through containerd, so that
//! it knows their tasks. What the directory has is in runtime-core's module `container::pod`; what is added here is
//! `containerd.json`, the standard streams that the tasks had.
//!
//! ```text
//!   containerd       this program                        shim
//!                    Pod.Checkpoint ──────────────────>  all containers together
//!   Create each <──  with criu_image_path ────────────>  nothing yet
//!   Start all   <──  at once ─────────────────────────>  restores all, and answers all
//! ```

mod checkpoint;
mod record;
mod restore;

pub use checkpoint::{PodCheckpoint, PodReport, checkpoint_pod};
pub use restore::{PodRestore, restore_pod};
