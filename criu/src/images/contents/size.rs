//! The files of an image directory, by the kinds of images.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Serialize;

use super::super::Error;

/// CRIU has about seventy.
const MOST_KINDS: usize = 256;
/// Where the files of further kinds are counted.
const OTHERS: &str = "others";

/// Names that are looked for by their beginning.
const MOST_NAMES: usize = 1 << 20;

/// The files of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Size {
    /// The files' name without number and ending, such as `pages`.
    pub kind: String,
    pub files: u64,
    pub bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) bytes: u64,
    kinds: BTreeMap<String, (u64, u64)>,
    /// Those that the directory itself has to be asked for.
    pub(super) memory_maps: Vec<String>,
    pub(super) mount_tables: Vec<String>,
}

pub(super) fn list(dir: &Path) -> Result<Listing, Error> {
    list_without(dir, "")
}

/// The suffix does not count to a name.
pub(super) fn list_without(dir: &Path, suffix: &str) -> Result<Listing, Error> {
    let failed = |err| Error::Io { action: "list", file: dir.display().to_string(), err };
    let mut listing = Listing::default();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let metadata = entry.metadata().map_err(failed)?;
        if !metadata.is_file() {
            continue;
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        listing.add(name.strip_suffix(suffix).unwrap_or(&name), metadata.len());
    }
    listing.memory_maps.sort();
    listing.mount_tables.sort();
    Ok(listing)
}

impl Listing {
    fn add(&mut self, name: &str, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        let mut kind = kind(name);
        if self.kinds.len() >= MOST_KINDS && !self.kinds.contains_key(kind) {
            kind = OTHERS;
        }
        let (files, sum) = self.kinds.entry(kind.to_owned()).or_default();
        *files += 1;
        *sum = sum.saturating_add(bytes);
        let names = match kind {
            "pagemap" => &mut self.memory_maps,
            "mountpoints" => &mut self.mount_tables,
            _ => return,
        };
        if names.len() < MOST_NAMES {
            names.push(name.to_owned());
        }
    }

    pub(super) fn has_images(&self) -> bool {
        ["inventory", "pstree", "core", "pagemap"].iter().any(|kind| self.kinds.contains_key(*kind))
    }

    /// The images of one dump end with the tree; those of a pre-dump have none.
    pub(super) fn is_pre_dump(&self) -> bool {
        !["pstree", "core", "files"].iter().any(|kind| self.kinds.contains_key(*kind))
    }

    /// The largest first.
    pub(super) fn into_sizes(self) -> Vec<Size> {
        let sizes = self.kinds.into_iter().map(|(kind, (files, bytes))| Size { kind, files, bytes });
        let mut sizes: Vec<_> = sizes.collect();
        sizes.sort_by(|a, b| b.bytes.cmp(&a.bytes).then_with(|| a.kind.cmp(&b.kind)));
        sizes
    }
}

/// `pagemap-shmem` of `pagemap-shmem-7.img`; the whole name of what is no image.
fn kind(name: &str) -> &str {
    let Some(stem) = name.strip_suffix(".img") else { return name };
    let stem = stem.split('.').next().unwrap_or(stem);
    let end = stem.char_indices().find(|(at, c)| *c == '-' && stem[at + 1..].starts_with(|c: char| c.is_ascii_digit()));
    end.map_or(stem, |(at, _)| &stem[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_have_kinds() {
        for (name, expected) in [
            ("pages-1.img", "pages"),
            ("pagemap-shmem-12.img", "pagemap-shmem"),
            ("tmpfs-dev-54.tar.gz.img", "tmpfs-dev"),
            ("ipcns-var-9.img", "ipcns-var"),
            ("files.img", "files"),
            ("rtc.json", "rtc.json"),
        ] {
            assert_eq!(kind(name), expected);
        }
    }

    #[test]
    fn kinds_without_number_are_counted_together() {
        let mut listing = Listing::default();
        (0..10 * MOST_KINDS).for_each(|number| listing.add(&format!("junk{number}"), 1));
        listing.add("pages-1.img", 5000);
        let sizes = listing.into_sizes();
        assert_eq!((sizes.len(), sizes[0].kind.as_str()), (MOST_KINDS + 1, OTHERS));
    }
}
