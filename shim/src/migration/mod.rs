//! The source's side of a live migration, for who moves a container: `rtc.migration.v1.Migration` on the shim's socket.
//! What its calls mean stands in `proto/rtc/migration/v1/migration.proto`.
//!
//! - `service`: decodes, calls, encodes.
//! - `hold`: a dump that waits for the decision, and its state machine.

mod hold;
mod service;

pub(crate) use hold::{End, Hold, Phase};
pub(crate) use service::MigrationService;
