//! Code generated from the .proto files, and nothing else.

/// CRIU: its RPC, and the fields of its images that are read here.
pub mod criu {
    /// What `criu swrk` speaks (`criu/rpc.proto`).
    #[allow(missing_debug_implementations, unreachable_pub, clippy::all, reason = "generated")]
    pub mod rpc {
        include!(concat!(env!("OUT_DIR"), "/criu.rpc.rs"));
    }

    /// Entries of image files (`criu/images.proto`).
    #[allow(missing_debug_implementations, unreachable_pub, clippy::all, reason = "generated")]
    pub mod images {
        include!(concat!(env!("OUT_DIR"), "/criu.images.rs"));
    }
}
