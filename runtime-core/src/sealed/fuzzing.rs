//! Sealed files of anybody's, for [`crate::fuzzing`].

use std::fs::File;

use super::decode::{Decoder, Scratch};

/// Not encrypted: whoever has no key gets no further than the index.
pub(crate) fn image(file: File) {
    let Ok(mut scratch) = Scratch::new() else { return };
    let Ok(decoder) = Decoder::open(file, "pages-1.img", None) else { return };
    if decoder.verify(&mut scratch).is_ok()
        && let Ok(bytes) = decoder.read(1 << 30, &mut scratch)
    {
        assert_eq!(bytes.len() as u64, decoder.length(), "it has another length than it says");
    }
}
