//! Which files a sealed checkpoint has. It is one of them itself, so that nobody can take a file away, or put another one
//! there, without its key.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Bytes; a file has about a hundred.
pub(super) const LONGEST: u64 = 64 << 20;

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Table {
    /// What `rtc.json` said when the images were complete.
    pub(super) statement: Value,
    pub(super) files: Vec<Row>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) name: String,
    /// Bytes, as CRIU wrote them.
    pub(super) length: u64,
    /// Bytes of the sealed file.
    pub(super) stored: u64,
}

/// What a file may be called: nothing leads elsewhere, and nothing is hidden.
pub(super) fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !name.starts_with('.') && !name.is_empty() && name.len() <= 128 && name.bytes().all(plain)
}
