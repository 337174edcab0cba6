//! The manifest, and the kernel's tables that a checkpoint is made from, for [`crate::fuzzing`].

use std::path::Path;

use super::manifest::Manifest;
use super::{host, mountinfo, network, stdio};

pub(crate) fn manifest(json: &[u8]) {
    let Ok(manifest) = Manifest::parse(json, Path::new("rtc.json")) else { return };
    let again = serde_json::to_vec(&manifest).map(|json| Manifest::parse(&json, Path::new("rtc.json")));
    assert!(again.is_ok_and(|again| again.is_ok_and(|again| again == manifest)), "it is not what was written");
    manifest.has_mount(Path::new("/data"));
}

pub(crate) fn mountinfo(bytes: &[u8]) {
    let mounts = mountinfo::parse(bytes);
    assert!(mounts.len() <= bytes.split(|byte| *byte == b'\n').count());
}

pub(crate) fn stat(text: &str) {
    crate::stat::parent(text);
}

/// `cpuinfo`, `net/dev` and `fdinfo`.
pub(crate) fn tables(text: &str) {
    assert!(host::features(text).iter().all(|name| !name.contains(|c: char| c.is_ascii_whitespace())));
    assert!(network::devices(text).all(|name| !name.contains(':')));
    stdio::parse_position(text);
}
