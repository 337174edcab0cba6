//! Pods: the containers of this shim, checkpointed and restored together.
//!
//! - `service`: `rtc.pod.v1.Pod` on the shim's socket. What its call means stands in `proto/rtc/pod/v1/pod.proto`.
//! - `checkpoint`: what it does.
//! - `restores`: pods that are being restored, where the Starts of their containers meet.

mod checkpoint;
mod restores;
mod service;

pub(crate) use restores::Restores;
pub(crate) use service::PodService;
