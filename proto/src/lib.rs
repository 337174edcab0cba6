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

/// The shim's migration service (`rtc/migration/v1/migration.proto`).
#[cfg(feature = "migration")]
#[allow(
    missing_debug_implementations,
    nonstandard_style,
    rust_2018_idioms,
    unreachable_pub,
    unused,
    clippy::all,
    rustdoc::all,
    reason = "generated"
)]
pub mod migration {
    pub mod migration {
        include!(concat!(env!("OUT_DIR"), "/migration/migration.rs"));
    }

    pub mod migration_ttrpc {
        include!(concat!(env!("OUT_DIR"), "/migration/migration_ttrpc.rs"));
    }
}

/// The shim's service for pods (`rtc/pod/v1/pod.proto`).
#[cfg(feature = "pod")]
#[allow(
    missing_debug_implementations,
    nonstandard_style,
    rust_2018_idioms,
    unreachable_pub,
    unused,
    clippy::all,
    rustdoc::all,
    reason = "generated"
)]
pub mod pod {
    pub mod pod {
        include!(concat!(env!("OUT_DIR"), "/pod/pod.rs"));
    }

    pub mod pod_ttrpc {
        include!(concat!(env!("OUT_DIR"), "/pod/pod_ttrpc.rs"));
    }
}

/// What the two sides of a migration tell one another (`rtc/migration/v1/stream.proto`).
#[cfg(feature = "stream")]
#[allow(missing_debug_implementations, unreachable_pub, clippy::all, rustdoc::all, reason = "generated")]
pub mod stream {
    include!(concat!(env!("OUT_DIR"), "/rtc.migration.v1.rs"));
}

/// The part of containerd's gRPC API that a migration uses (`containerd/`).
#[cfg(feature = "containerd")]
#[allow(missing_debug_implementations, unreachable_pub, clippy::all, rustdoc::all, reason = "generated")]
pub mod containerd {
    pub mod types {
        include!(concat!(env!("OUT_DIR"), "/containerd.types.rs"));
    }

    pub mod runc {
        pub mod v1 {
            include!(concat!(env!("OUT_DIR"), "/containerd.runc.v1.rs"));
        }
    }

    pub mod v1 {
        pub mod types {
            include!(concat!(env!("OUT_DIR"), "/containerd.v1.types.rs"));
        }
    }

    pub mod services {
        pub mod containers {
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/containerd.services.containers.v1.rs"));
            }
        }

        pub mod content {
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/containerd.services.content.v1.rs"));
            }
        }

        pub mod diff {
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/containerd.services.diff.v1.rs"));
            }
        }

        pub mod images {
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/containerd.services.images.v1.rs"));
            }
        }

        pub mod leases {
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/containerd.services.leases.v1.rs"));
            }
        }

        pub mod snapshots {
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/containerd.services.snapshots.v1.rs"));
            }
        }

        pub mod tasks {
            pub mod v1 {
                include!(concat!(env!("OUT_DIR"), "/containerd.services.tasks.v1.rs"));
            }
        }
    }
}
