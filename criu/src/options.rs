//! The requests and what they may say, in the field's words (`criu_opts` in `criu/rpc.proto`).
//!
//! Options own their descriptors; CRIU opens the directories through `/proc/PID/fd` of this process, so that it must see
//! this process under the pid that `SO_PEERCRED` says.

mod common;
mod dump;
mod page_server;
mod query;
mod restore;

pub use common::{
    CgroupMode, CgroupRoot, Common, ExtMount, InvalidPageServer, Log, NetworkLock, PageServer, Tls, Transport,
};
pub use dump::{After, DumpOptions, PreDumpMode, PreDumpOptions};
pub use page_server::{PageServerOptions, PageServerStarted};
pub use query::{CpuInfo, CpuInfoAction, FeatureCheck, Features, VersionQuery};
pub use restore::{InheritFd, JoinNamespace, RestoreOptions, Restored};
