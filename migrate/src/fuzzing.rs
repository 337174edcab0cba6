//! What comes from the other side of a migration, for the package `fuzz`. Only with the feature `fuzzing`.

use crate::frame::{self, HEADER, Header, Kind, MAX};
use crate::wire;

/// A frame, as it comes and with the checksum that it should have: nobody guesses that.
pub fn migration_frame(bytes: &[u8]) {
    take(bytes);
    if let Some(whole) = frame::with_checksum(bytes) {
        take(&whole);
    }
}

fn take(bytes: &[u8]) {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER>() else { return };
    // What is no frame is an error, and no more; so below.
    let Ok(header) = Header::parse(*header) else { return };
    assert!(header.length <= MAX, "a header asks for {} bytes", header.length);
    let Some(payload) = rest.get(..header.length) else { return };
    let kind = header.kind;
    let Ok(payload) = header.open(payload.to_vec()) else { return };
    assert!(payload.len() <= MAX, "a payload of {} bytes", payload.len());
    match kind {
        Kind::Message => {
            if let Ok(message) = wire::decode(&payload) {
                let again = wire::decode(&wire::encode(message.clone())).ok();
                assert_eq!(again, Some(message), "a message is kept");
            }
        }
        Kind::Data => {
            if let Ok((offset, bytes)) = frame::split_data(payload.clone()) {
                assert_eq!(frame::data(offset, &bytes), payload, "data is kept");
            }
        }
        Kind::Alive => {}
    }
}
