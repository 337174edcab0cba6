//! What the two sides tell one another (`proto/rtc/migration/v1/stream.proto`), in frames (`frame`).
//!
//! ```text
//!   source                                        destination
//!   Hello  versions, migration ─────────────────>
//!          <───────────────────────────── Welcome  version, kernel, CRIU
//!   Offer  record, image, task, sizes ──────────>  checks; journal: receiving
//!          <──────────────────────────────── Want  blobs that are not there
//!   (Blob data* BlobEnd)* ImageDone ────────────>  unpacks, makes the snapshot and the container record
//!          <─────────────────────────────── Ready
//!   TreeBegin LAYER (Entry data* EntryEnd?)* TreeEnd ─>   the container runs here meanwhile
//!          <──────────────────────────── TreeDone
//!   (TreeBegin ROUND … TreeEnd ─────────────────>   with pre-copy: its memory, and what of that has changed since
//!          <─────────────────────────── TreeDone)*
//!   (TreeBegin LAYER … Removed* TreeEnd ────────>   after rounds: what has changed meanwhile
//!          <─────────────────────────── TreeDone)?
//!   ── journal: dumping; the container stands still ──
//!   TreeBegin LAYER … Removed* TreeEnd ─────────>  what has changed since
//!          <──────────────────────────── TreeDone
//!   TreeBegin CHECKPOINT … TreeEnd ─────────────>
//!          <──────────────────────────── TreeDone
//!   ── journal: restoring ──
//!   Restore ────────────────────────────────────>  journal: starting; restores through containerd; journal: started
//!          <───────────────────────────── Started
//!   Packets* ───────────────────────────────────>  what has come to the source meanwhile
//!   ── journal: committed; the processes end ──
//!   Finish ─────────────────────────────────────>  forgets its journal
//!          <──────────────────────────── Finished
//! ```
//! With post-copy the memory comes after the start: it is not in the checkpoint, and between Restore and Finish there is
//! ```text
//!   Restore ────────────────────────────────────>  journal: starting; restores through containerd
//!          <────────────────────────── PagesWanted ┐
//!   Pages data* ────────────────────────────────>  │ at any time from here, for what the container touches, and the rest
//!          <───────────────────────────── Started  │ journal: arriving
//!   ── journal: leaving ──                         ┘
//!          <───────────────────────────── Arrived  journal: started
//!   ── journal: committed; the processes end ──
//! ```
//! To know which of the two it is to be, a source may want to know the speed of the connection. After Ready, before a tree:
//! ```text
//!   Probe data* ProbeEnd ───────────────────────>
//!          <─────────────────────────── ProbeDone
//! ```
//! Started is the decision with memory that follows, too. If the connection, or either side, dies between Started and Arrived, the container has
//! ended at the destination, as half a memory is none, and it does not run on at the source, as it has run elsewhere: it is lost.
//! The source hears so when it asks (Outcome LOST), and says Finish.
//!
//! At any time before Started the destination may say Failed: it has cleaned up then. At any time before Restore the source
//! may say Abort, or hang up, which is the same: the destination cleans up. A source that has lost the connection after
//! Restore asks on a new one: Hello, Welcome, Query, and the answer is an Outcome. When that is Started, Finish may follow as
//! above.
//!
//! Version 2 has post-copy and the probe: their messages, and the field of Restore that says which it is. Version 3 has
//! pre-copy: trees of rounds, and the writable layer more than twice.
//!
//! **Versions.** Each side speaks a range of versions, and the highest that both speak is used; if there is none, the
//! destination says Failed, with both ranges. Within a version fields may be added, which a reader skips that does not know
//! them. A message that it does not know is an error: nothing is skipped that the other side relies on.

use prost::Message as _;
use proto::stream::Message as Envelope;
use proto::stream::message::Kind;

use crate::error::{Error, Result};

/// The versions that this program speaks.
pub(crate) const LOWEST: u32 = 1;
pub(crate) const HIGHEST: u32 = 3;
/// The first with memory that follows.
pub(crate) const LAZY_PAGES: u32 = 2;
/// The first with memory that goes ahead.
pub(crate) const ROUNDS: u32 = 3;

/// The version to speak with somebody who speaks from `lowest` to `highest`.
pub(crate) fn common_version(lowest: u32, highest: u32) -> Result<u32> {
    let version = highest.min(HIGHEST);
    if version < lowest.max(LOWEST) {
        return Err(Error::Version { theirs: (lowest, highest), ours: (LOWEST, HIGHEST) });
    }
    Ok(version)
}

pub(crate) fn encode(kind: Kind) -> Vec<u8> {
    Envelope { kind: Some(kind) }.encode_to_vec()
}

pub(crate) fn decode(payload: &[u8]) -> Result<Kind> {
    let envelope = Envelope::decode(payload).map_err(Error::Message)?;
    envelope.kind.ok_or_else(|| Error::Unexpected {
        expected: "a message of this version",
        found: "one that is not known here".to_owned(),
    })
}

/// The error for a message at the wrong time.
pub(crate) fn unexpected(expected: &'static str, found: &Kind) -> Error {
    let text = format!("{found:?}");
    // The variant's name: what it carries is long.
    let name = text.split(['(', ' ']).next().unwrap_or_default().to_owned();
    Error::Unexpected { expected, found: name }
}

/// Receives a message of one kind.
macro_rules! awaited {
    ($link:expr, $kind:ident) => {
        match $link.message().await? {
            proto::stream::message::Kind::$kind(message) => Ok(message),
            other => Err($crate::wire::unexpected(stringify!($kind), &other)),
        }
    };
}
pub(crate) use awaited;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::stream::{Entry, Hello};

    use super::*;

    proptest! {
        #[test]
        fn a_message_survives_the_way(path in proptest::collection::vec(any::<u8>(), 0..64), size: u64, mode: u32) {
            let entry = Kind::Entry(Entry { path, size, mode, ..Entry::default() });
            prop_assert_eq!(decode(&encode(entry.clone())).unwrap(), entry);
        }

        #[test]
        fn garbage_does_no_harm(payload in proptest::collection::vec(any::<u8>(), 0..128)) {
            decode(&payload).ok();
        }
    }

    #[test]
    fn unknown_fields_are_skipped_and_unknown_messages_are_not() {
        // Field 99 of a Hello, and a message 99, each with one byte.
        let unknown = [0x9a, 0x06, 0x01, 0x07];
        let hello = Hello { lowest: 1, highest: 2, ..Hello::default() };
        let inner = [hello.encode_to_vec(), unknown.to_vec()].concat();
        let length = u8::try_from(inner.len()).unwrap();
        let message = [&[0x0a, length][..], &inner].concat();
        assert_eq!(decode(&message).unwrap(), Kind::Hello(hello));
        assert!(matches!(decode(&unknown), Err(Error::Unexpected { .. })));
    }

    #[test]
    fn the_highest_common_version_is_spoken() {
        assert_eq!(common_version(1, 1).unwrap(), 1);
        assert_eq!(common_version(1, 7).unwrap(), HIGHEST);
        let newer = common_version(HIGHEST + 1, 9).unwrap_err().to_string();
        assert!(newer.contains("4 to 9") && newer.contains("1 to 3"), "{newer}");
    }
}
