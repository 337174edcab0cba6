//! One function for each kind of bytes that come from containerd, or from a bundle, for the package `fuzz`. Only with the
//! feature `fuzzing`.

use containerd_shim_protos::api::CreateTaskRequest;
use protobuf::Message;

use crate::{bootstrap, io, journal, mount, options, service};

/// What `start` reads from its standard input.
pub fn bootstrap_params(bytes: &[u8]) {
    bootstrap::fuzz(bytes);
}

/// Options of Create and Checkpoint.
pub fn options(bytes: &[u8]) {
    options::fuzz(bytes);
}

/// A Create request.
pub fn create_request(bytes: &[u8]) {
    if let Ok(request) = CreateTaskRequest::parse_from_bytes(bytes) {
        service::fuzz(request);
    }
}

/// Where a stream comes from or goes to.
pub fn stdio_uri(bytes: &[u8]) {
    text(bytes, io::uri::fuzz);
}

/// Options of the mounts of a rootfs, one a line.
pub fn rootfs_mount(bytes: &[u8]) {
    text(bytes, mount::fuzz);
}

/// The exit in a bundle.
pub fn exit_journal(bytes: &[u8]) {
    text(bytes, |text| {
        let found = journal::parse(text);
        assert!(found.is_none_or(|(pid, _)| pid.as_raw() > 0), "{found:?}");
    });
}

fn text(bytes: &[u8], parse: impl FnOnce(&str)) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        parse(text);
    }
}
