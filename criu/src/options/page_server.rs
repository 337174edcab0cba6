//! The page server: receives the pages of a dump that runs elsewhere.

use std::os::fd::BorrowedFd;

use proto::criu::rpc::{self, CriuReqType};

use super::common::{Common, PageServer};
use crate::request::{Codec, Request, with_opts};

/// Start a page server that outlives the CRIU process that was asked.
#[derive(Debug)]
pub struct PageServerOptions {
    /// Its `page_server` is replaced by `listen`.
    pub common: Common,
    pub listen: PageServer,
    pub parent_img: Option<String>,
}

/// A page server that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageServerStarted {
    /// It is a daemon: when this process is a subreaper it becomes its child.
    pub pid: i32,
    pub port: u16,
}

impl PageServerOptions {
    pub fn new(common: Common, listen: PageServer) -> Self {
        Self { common, listen, parent_img: None }
    }
}

impl Request for PageServerOptions {}

impl Codec for PageServerOptions {
    type Reply = PageServerStarted;
    const OPERATION: &'static str = "page-server";

    fn kind(&self) -> CriuReqType {
        CriuReqType::PageServer
    }

    fn encode(&self) -> rpc::CriuReq {
        let mut opts = self.common.encode();
        opts.ps = Some(self.listen.encode());
        opts.parent_img = self.parent_img.clone();
        with_opts(self.kind(), opts)
    }

    fn decode(response: rpc::CriuResp) -> Result<PageServerStarted, &'static str> {
        let server = response.ps.ok_or("page server")?;
        let pid = server.pid.filter(|&pid| pid > 0).ok_or("pid of the page server")?;
        let port = server.port.and_then(|port| u16::try_from(port).ok()).ok_or("port of the page server")?;
        Ok(PageServerStarted { pid, port })
    }

    fn common(&self) -> Option<&Common> {
        Some(&self.common)
    }

    fn inherited(&self) -> Vec<BorrowedFd<'_>> {
        self.listen.inherited().into_iter().collect()
    }
}
