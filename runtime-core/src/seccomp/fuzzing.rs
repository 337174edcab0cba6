//! Profiles and compiled filters, for [`crate::fuzzing`].

use std::fs::File;

use oci_spec::runtime::LinuxSeccomp;

use super::{Filter, cache, compile, listener};

pub(crate) fn profile(profile: &LinuxSeccomp) {
    let listener = listener::of(profile).is_ok_and(|listener| listener.is_some());
    compile::flags(profile, listener);
    if let Ok(program) = compile::program(profile) {
        assert!(!program.is_empty() && program.len() <= 4096 * 8 && program.len().is_multiple_of(8));
    }
}

/// A filter of the cache, and one as it travels.
pub(crate) fn compiled(file: File, bytes: &[u8]) {
    assert_eq!(cache::parse(file, &[0; 32]), None, "nobody knows the checksum");
    if let Ok(filter) = serde_json::from_slice::<Filter>(bytes) {
        let again = serde_json::to_vec(&filter).and_then(|json| serde_json::from_slice::<Filter>(&json));
        assert_eq!(again.ok(), Some(filter));
    }
}
