//! A synchronous client of CRIU's `swrk` mode: typed requests, notifications, descriptor passing, versions and features,
//! logs, and a look at image directories. It knows images and descriptors, not containers.
//!
//! ```text
//!   Criu::find ──> Criu ──start(request, spawn)──> Worker ──run(notify, limit)──> reply
//!                                                    │
//!                                                    └─ pid(): put it into a cgroup before `run`, and every process that
//!                                                       CRIU restores is born there
//! ```
//! A request is one of the option structs ([`DumpOptions`], [`PreDumpOptions`], [`RestoreOptions`], [`PageServerOptions`],
//! [`CpuInfo`], [`FeatureCheck`], [`VersionQuery`]); its reply is typed by it.
//!
//! [`LazyPages`] is the one command that is no request.
//!
//! Nothing here waits for any child but the one that [`Spawn`] returned.

mod advice;
mod binary;
mod channel;
mod descendants;
mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
pub mod images;
mod lazy;
mod log;
mod notify;
mod options;
mod pages;
mod request;
mod spawn;
mod stall;
mod sys;
mod worker;

pub use binary::{Criu, Feature, MINIMUM, Version};
pub use error::{Error, Failure, Result};
pub use lazy::{LazyPages, LazyPagesOptions};
pub use log::{LoggedLock, logged_mount_dir, logged_network_lock, logged_run_ids, logged_version};
pub use notify::{Answer, Notification, NotificationKind, Notify};
pub use options::{
    After, CgroupMode, CgroupRoot, Common, CpuInfo, CpuInfoAction, DumpOptions, ExtMount, FeatureCheck, Features,
    InheritFd, InvalidPageServer, JoinNamespace, Log, NetworkLock, PageServer, PageServerOptions, PageServerStarted,
    PreDumpMode, PreDumpOptions, RestoreOptions, Restored, Tls, Transport, VersionQuery,
};
pub use pages::{CLOSED, Layout, PageRange, PageRequest, UnknownRequest};
pub use request::Request;
pub use spawn::{Direct, Process, Spawn};
pub use worker::Worker;
