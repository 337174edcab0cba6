//! Dump and pre-dump.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use proto::criu::rpc::{self, CriuReqType};

use super::common::{Common, flag};
use crate::request::{Codec, Request, with_opts};

/// What becomes of the processes after a successful dump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum After {
    #[default]
    Kill,
    Run,
    Stop,
}

/// Write the images of a process tree.
#[derive(Debug)]
pub struct DumpOptions {
    pub common: Common,
    /// The root of the tree; CRIU's pid namespace.
    pub pid: i32,
    pub after: After,
    /// Directory of the previous pre-dump, relative to the images' directory.
    pub parent_img: Option<String>,
    pub track_mem: bool,
    pub tcp_skip_in_flight: bool,
    /// Path of a freezer cgroup that holds the tree: CRIU freezes that instead of each process by ptrace.
    pub freeze_cgroup: Option<String>,
    /// A unix socket in which CRIU keeps pidfds between pre-dumps, to find reused pids.
    pub pidfd_store: Option<OwnedFd>,
}

/// How a pre-dump reads memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreDumpMode {
    Splice,
    VmRead,
}

/// Write the memory of a process tree that runs on.
#[derive(Debug)]
pub struct PreDumpOptions {
    pub common: Common,
    pub pid: i32,
    pub parent_img: Option<String>,
    pub freeze_cgroup: Option<String>,
    pub mode: Option<PreDumpMode>,
    pub pidfd_store: Option<OwnedFd>,
}

impl DumpOptions {
    pub fn new(common: Common, pid: i32) -> Self {
        Self {
            common,
            pid,
            after: After::default(),
            parent_img: None,
            track_mem: false,
            tcp_skip_in_flight: false,
            freeze_cgroup: None,
            pidfd_store: None,
        }
    }
}

impl PreDumpOptions {
    pub fn new(common: Common, pid: i32) -> Self {
        Self { common, pid, parent_img: None, freeze_cgroup: None, mode: None, pidfd_store: None }
    }
}

impl Request for DumpOptions {}

impl Codec for DumpOptions {
    type Reply = ();
    const OPERATION: &'static str = "dump";

    fn kind(&self) -> CriuReqType {
        CriuReqType::Dump
    }

    fn encode(&self) -> rpc::CriuReq {
        let mut opts = self.common.encode();
        opts.pid = Some(self.pid);
        opts.leave_running = flag(self.after == After::Run);
        opts.leave_stopped = flag(self.after == After::Stop);
        opts.parent_img = self.parent_img.clone();
        opts.track_mem = flag(self.track_mem);
        opts.tcp_skip_in_flight = flag(self.tcp_skip_in_flight);
        opts.freeze_cgroup = self.freeze_cgroup.clone();
        opts.pidfd_store_sk = self.pidfd_store.as_ref().map(AsRawFd::as_raw_fd);
        with_opts(self.kind(), opts)
    }

    fn decode(_: rpc::CriuResp) -> Result<(), &'static str> {
        Ok(())
    }

    fn common(&self) -> Option<&Common> {
        Some(&self.common)
    }

    fn inherited(&self) -> Vec<BorrowedFd<'_>> {
        self.common.inherited()
    }
}

impl Request for PreDumpOptions {}

impl Codec for PreDumpOptions {
    type Reply = ();
    const OPERATION: &'static str = "pre-dump";

    fn kind(&self) -> CriuReqType {
        // Not PRE_DUMP, after which CRIU waits for the next one and has to be ended by force.
        CriuReqType::SinglePreDump
    }

    fn encode(&self) -> rpc::CriuReq {
        let mut opts = self.common.encode();
        opts.pid = Some(self.pid);
        opts.track_mem = Some(true);
        opts.parent_img = self.parent_img.clone();
        opts.freeze_cgroup = self.freeze_cgroup.clone();
        opts.pre_dump_mode = self.mode.map(|mode| match mode {
            PreDumpMode::Splice => rpc::CriuPreDumpMode::Splice,
            PreDumpMode::VmRead => rpc::CriuPreDumpMode::VmRead,
        } as i32);
        opts.pidfd_store_sk = self.pidfd_store.as_ref().map(AsRawFd::as_raw_fd);
        with_opts(self.kind(), opts)
    }

    fn decode(_: rpc::CriuResp) -> Result<(), &'static str> {
        Ok(())
    }

    fn common(&self) -> Option<&Common> {
        Some(&self.common)
    }

    fn inherited(&self) -> Vec<BorrowedFd<'_>> {
        self.common.inherited()
    }
}
