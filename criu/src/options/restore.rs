//! Restore.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use proto::criu::rpc::{self, CriuReqType};

use super::common::{Common, flag};
use crate::request::{Codec, Request, with_opts};

/// A descriptor that takes the place of one in the image.
#[derive(Debug)]
pub struct InheritFd {
    /// What it replaces: `pipe:[123]`, `socket:[123]`, a path without its leading slash, or a key given to `--external`
    /// at dump.
    pub key: String,
    pub fd: OwnedFd,
}

/// An existing namespace that the restored processes join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinNamespace {
    /// `net`, `uts`, `ipc`, `mnt`, `time`, `user` or `pid`.
    pub kind: String,
    /// A path, or a pid.
    pub path: String,
    /// For `user`: `UID,GID` to take.
    pub extra: Option<String>,
}

/// Make a process tree from its images.
#[derive(Debug)]
pub struct RestoreOptions {
    pub common: Common,
    pub inherit_fds: Vec<InheritFd>,
    pub join_namespaces: Vec<JoinNamespace>,
    pub lsm_profile: Option<String>,
    pub lsm_mount_context: Option<String>,
    /// The restored root process becomes a child of this process, not of CRIU.
    pub rst_sibling: bool,
}

/// A restored tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Its root; CRIU's pid namespace.
    pub pid: i32,
}

impl RestoreOptions {
    pub fn new(common: Common) -> Self {
        Self {
            common,
            inherit_fds: Vec::new(),
            join_namespaces: Vec::new(),
            lsm_profile: None,
            lsm_mount_context: None,
            rst_sibling: false,
        }
    }
}

impl Request for RestoreOptions {}

impl Codec for RestoreOptions {
    type Reply = Restored;
    const OPERATION: &'static str = "restore";

    fn kind(&self) -> CriuReqType {
        CriuReqType::Restore
    }

    fn encode(&self) -> rpc::CriuReq {
        let mut opts = self.common.encode();
        opts.inherit_fd = self
            .inherit_fds
            .iter()
            .map(|inherit| rpc::InheritFd { key: inherit.key.clone(), fd: inherit.fd.as_raw_fd() })
            .collect();
        opts.join_ns = self
            .join_namespaces
            .iter()
            .map(|ns| rpc::JoinNamespace { ns: ns.kind.clone(), ns_file: ns.path.clone(), extra_opt: ns.extra.clone() })
            .collect();
        opts.lsm_profile = self.lsm_profile.clone();
        opts.lsm_mount_context = self.lsm_mount_context.clone();
        opts.rst_sibling = flag(self.rst_sibling);
        with_opts(self.kind(), opts)
    }

    fn decode(response: rpc::CriuResp) -> Result<Restored, &'static str> {
        match response.restore {
            Some(restored) if restored.pid > 0 => Ok(Restored { pid: restored.pid }),
            _ => Err("pid of the restored process"),
        }
    }

    fn common(&self) -> Option<&Common> {
        Some(&self.common)
    }

    fn inherited(&self) -> Vec<BorrowedFd<'_>> {
        let mut fds = self.common.inherited();
        fds.extend(self.inherit_fds.iter().map(|inherit| inherit.fd.as_fd()));
        fds
    }
}
