//! What makes an option struct a request.

use std::fmt;
use std::os::fd::BorrowedFd;

use proto::criu::rpc::{CriuOpts, CriuReq, CriuReqType, CriuResp};

use crate::options::Common;

/// A request to `criu swrk`; implemented by the option structs of this crate, and by no others.
pub trait Request: Codec {}

/// How a request is written and its reply is read.
pub trait Codec: fmt::Debug {
    type Reply;
    /// The operation in messages.
    const OPERATION: &'static str;

    /// The type of the request, and of its reply.
    fn kind(&self) -> CriuReqType;

    fn encode(&self) -> CriuReq;

    /// # Errors
    /// What the reply lacks.
    fn decode(response: CriuResp) -> Result<Self::Reply, &'static str>;

    /// `None` for requests that write no log.
    fn common(&self) -> Option<&Common>;

    /// Descriptors that the CRIU process must have, under their own numbers.
    fn inherited(&self) -> Vec<BorrowedFd<'_>>;
}

pub(crate) fn with_opts(kind: CriuReqType, opts: CriuOpts) -> CriuReq {
    CriuReq { r#type: kind as i32, opts: Some(opts), ..Default::default() }
}
