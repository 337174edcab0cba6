//! The mounts.

use proto::criu::images::MntEntry;
use serde::Serialize;

use super::reader::{Needed, Reader, text};
use super::size::Listing;

const MNTS: u32 = 0x5556_3928;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// Where it is.
    pub path: String,
    /// `ext4`, `tmpfs` and the like.
    pub filesystem: String,
    pub source: String,
    /// What of the filesystem is mounted.
    pub root: String,
    /// CRIU's name for a mount that has to be given to it at the restore; `None` for one that is in the images.
    pub external: Option<String>,
}

pub(super) fn read(reader: &mut Reader<'_>, listing: &Listing) -> Vec<Mount> {
    let mut mounts = Vec::new();
    for table in &listing.mount_tables {
        reader.each(table, MNTS, Needed::Yes, |entry: MntEntry| mounts.push(Mount::new(&entry)));
    }
    mounts
}

impl Mount {
    fn new(entry: &MntEntry) -> Self {
        // CRIU writes paths relative to its own root: "./proc".
        let path = text(&entry.mountpoint);
        let path = path.strip_prefix('.').map_or_else(|| path.clone(), str::to_owned);
        let is_external = entry.ext_mount() || entry.ext_key.is_some();
        let key = || entry.ext_key.as_deref().map_or_else(|| text(&entry.root), text);
        Self {
            path: if path.is_empty() { "/".to_owned() } else { path },
            filesystem: filesystem(entry),
            source: text(&entry.source),
            root: text(&entry.root),
            external: is_external.then(key),
        }
    }
}

fn filesystem(entry: &MntEntry) -> String {
    /// By `fstype` (`mnt.proto`); 0 and 16 are those that CRIU names.
    const NAMES: [&str; 24] = [
        "",
        "proc",
        "sysfs",
        "devtmpfs",
        "binfmt_misc",
        "tmpfs",
        "devpts",
        "simfs",
        "pstore",
        "securityfs",
        "fusectl",
        "debugfs",
        "cgroup",
        "aufs",
        "mqueue",
        "fuse",
        "",
        "overlay",
        "autofs",
        "tracefs",
        "",
        "",
        "",
        "cgroup2",
    ];
    let named = usize::try_from(entry.fstype).ok().and_then(|number| NAMES.get(number)).copied().unwrap_or_default();
    match &entry.fsname {
        Some(name) => text(name),
        None if named.is_empty() => "unknown".to_owned(),
        None => named.to_owned(),
    }
}
