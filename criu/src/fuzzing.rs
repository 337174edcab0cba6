//! What comes from CRIU, and the images that come from anywhere, for the package `fuzz`. Only with the feature `fuzzing`.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;

use proto::criu::rpc::CriuResp;
use rustix::fs::{MemfdFlags, memfd_create};

use crate::options::{
    CpuInfo, DumpOptions, FeatureCheck, PageServer, PageServerOptions, PreDumpOptions, RestoreOptions, VersionQuery,
};
use crate::request::Codec;
use crate::{Layout, NotificationKind, PageRequest, channel, images, log};

/// An image file.
pub fn criu_images(bytes: &[u8]) {
    let Ok(file) = memfd_create("image", MemfdFlags::CLOEXEC) else { return };
    let mut file = File::from(file);
    if file.write_all(bytes).is_ok() {
        images::fuzz(Path::new("/proc/self/fd"), &file.as_raw_fd().to_string());
    }
}

/// A message of CRIU's, as an answer to each kind of request, and as a notification.
pub fn criu_messages(bytes: &[u8]) {
    let Ok(response) = channel::decode("fuzz", bytes) else { return };
    as_reply::<DumpOptions>(&response);
    as_reply::<PreDumpOptions>(&response);
    as_reply::<RestoreOptions>(&response);
    as_reply::<VersionQuery>(&response);
    as_reply::<FeatureCheck>(&response);
    as_reply::<CpuInfo>(&response);
    as_reply::<PageServerOptions>(&response);
    if let Some(notified) = response.notify {
        let kind = NotificationKind::parse(notified.script());
        assert_eq!(kind.as_str(), notified.script(), "a name is kept");
        // What it lacks is an error, and no more.
        kind.with(notified.pid, None).ok();
    }
}

fn as_reply<R: Codec>(response: &CriuResp) {
    // What it lacks is an error, and no more.
    R::decode(response.clone()).ok();
}

/// A log, with what the containers' processes made CRIU write into it.
pub fn criu_log(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let failure = log::from_text(&text);
    if let Some(line) = failure.line {
        assert!(text.contains(&line), "a line that is not there: {line:?}");
    }
    if let Some(version) = log::version_of(&text) {
        assert!(!version.contains(|c: char| c.is_ascii_whitespace()), "{version:?}");
    }
}

/// `--page-server`'s address.
pub fn page_server(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        // What is no address is an error, and no more.
        text.parse::<PageServer>().ok();
    }
}

/// What `criu lazy-pages` asks for.
pub fn page_requests(bytes: &[u8]) {
    let Some(first) = bytes.first_chunk() else { return };
    let layout = Layout::of_first(first);
    for request in bytes.chunks_exact(layout.length()) {
        // What is no request is an error, and no more.
        if let Ok(PageRequest::Get(range)) = layout.decode(request) {
            assert!(range.pages > 0 && range.pages <= u64::from(u16::MAX), "{range:?}");
            assert_eq!(layout.answer(range).len(), layout.length(), "an answer begins as a request does");
        }
    }
}
