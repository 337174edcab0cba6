//! Requests that touch no process: version, features, CPU.

use std::os::fd::BorrowedFd;

use proto::criu::rpc::{self, CriuReqType};

use super::common::Common;
use crate::binary::Version;
use crate::request::{Codec, Request, with_opts};

/// Ask CRIU for its version.
#[derive(Clone, Copy, Debug, Default)]
pub struct VersionQuery;

/// Ask what CRIU on this kernel can do.
#[derive(Clone, Copy, Debug, Default)]
pub struct FeatureCheck;

/// What CRIU on this kernel can do; a feature that CRIU does not know is `false`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Tracking of changed pages, without which there is no pre-dump (`mem_dirty_track`, CONFIG_MEM_SOFT_DIRTY).
    pub mem_track: bool,
    /// Restore with pages on demand (userfaultfd with its non-cooperative mode).
    pub lazy_pages: bool,
    /// Detection of reused pids between pre-dumps (pidfd_open and pidfd_getfd).
    pub pidfd_store: bool,
}

/// Write the CPU's features as an image, or compare such an image with this CPU.
#[derive(Debug)]
pub struct CpuInfo {
    pub common: Common,
    pub action: CpuInfoAction,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuInfoAction {
    Dump,
    Check,
}

impl Request for VersionQuery {}

impl Codec for VersionQuery {
    type Reply = Version;
    const OPERATION: &'static str = "version";

    fn kind(&self) -> CriuReqType {
        CriuReqType::Version
    }

    fn encode(&self) -> rpc::CriuReq {
        rpc::CriuReq { r#type: self.kind() as i32, ..Default::default() }
    }

    fn decode(response: rpc::CriuResp) -> Result<Version, &'static str> {
        let version = response.version.ok_or("version")?;
        let part = |n: i32| u16::try_from(n).map_err(|_| "sensible version");
        Ok(Version {
            major: part(version.major_number)?,
            minor: part(version.minor_number)?,
            sublevel: part(version.sublevel.unwrap_or(0))?,
        })
    }

    fn common(&self) -> Option<&Common> {
        None
    }

    fn inherited(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }
}

impl Request for FeatureCheck {}

impl Codec for FeatureCheck {
    type Reply = Features;
    const OPERATION: &'static str = "feature-check";

    fn kind(&self) -> CriuReqType {
        CriuReqType::FeatureCheck
    }

    fn encode(&self) -> rpc::CriuReq {
        let all = rpc::CriuFeatures { mem_track: Some(true), lazy_pages: Some(true), pidfd_store: Some(true) };
        rpc::CriuReq { r#type: self.kind() as i32, features: Some(all), ..Default::default() }
    }

    fn decode(response: rpc::CriuResp) -> Result<Features, &'static str> {
        let features = response.features.ok_or("features")?;
        Ok(Features {
            mem_track: features.mem_track(),
            lazy_pages: features.lazy_pages(),
            pidfd_store: features.pidfd_store(),
        })
    }

    fn common(&self) -> Option<&Common> {
        None
    }

    fn inherited(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }
}

impl Request for CpuInfo {}

impl Codec for CpuInfo {
    type Reply = ();
    const OPERATION: &'static str = "cpuinfo";

    fn kind(&self) -> CriuReqType {
        match self.action {
            CpuInfoAction::Dump => CriuReqType::CpuinfoDump,
            CpuInfoAction::Check => CriuReqType::CpuinfoCheck,
        }
    }

    fn encode(&self) -> rpc::CriuReq {
        with_opts(self.kind(), self.common.encode())
    }

    fn decode(_: rpc::CriuResp) -> Result<(), &'static str> {
        Ok(())
    }

    fn common(&self) -> Option<&Common> {
        Some(&self.common)
    }

    fn inherited(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }
}
