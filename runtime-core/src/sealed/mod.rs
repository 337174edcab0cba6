//! Images at rest, compressed and encrypted: CRIU's files go through here on their way to the disk and back, and never lie
//! there as they are.
//!
//! ```text
//!   dump      CRIU ==write==> capture ==chunks==> encode ==> NAME.sealed     nothing is written a second time
//!   restore   CRIU <==read=== serve   <==chunk=== decode <== NAME.sealed     what is read is what is decoded
//!                  a FUSE file system that is mounted nowhere
//! ```
//! CRIU can be given no pipes or sockets for its images by RPC (its image streaming has no socket to connect to there), but
//! a directory by descriptor. That is one of a FUSE file system: `view` makes it with fsopen(2), and it is reachable by the
//! descriptor alone. It ends with it, and with this process.
//!
//! - `format`: what is in a sealed file, byte by byte. `encode`, `decode`: chunks in and out. `cipher`: the keys of files.
//! - `keys`: age's recipients and identities, for the checkpoint's own key.
//! - `table`: which files there are. `capture`, `serve`: the two file systems. `worker`: what the first one leaves to do.
//!
//! # What is authenticated
//! Each encrypted checkpoint has a key of its own, by chance, that is only stored for its recipients ([`KEY_FILE`], an age
//! file). From it each file has one, by its name and a salt. So a chunk is accepted in no other place, no other file and no
//! other checkpoint. The table has all names and sizes, and a copy of what `rtc.json` said when the images were complete.
//! Whoever knows a recipient can make another checkpoint for it, as with everything that is encrypted to a public key; what
//! he cannot do is to use a part of this one for it.
//!
//! Without encryption all of this has checksums, against damage alone.

mod capture;
mod cipher;
mod decode;
mod encode;
mod error;
mod format;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod keys;
mod options;
mod serve;
mod table;
#[cfg(test)]
mod tests;
mod view;
mod worker;

pub(crate) use capture::Capture;
pub use error::{Damage, SealError};
pub use keys::{InvalidRecipient, Recipient};
pub(crate) use options::Sealing;
pub use options::{Compression, InvalidCompression, SealOptions};
pub(crate) use serve::{Sealed, Serving};

/// Of a file that is sealed, behind its name.
pub(crate) const SUFFIX: &str = ".sealed";

/// The checkpoint's key, as an age file.
pub(crate) const KEY_FILE: &str = "rtc-key.age";

/// The table's name, as that of the other files.
const TABLE: &str = "rtc-table.json";
