//! Real programs, from Debian's packages: what servers in containers are made of. Their files are unpacked and nothing of
//! them is run, so that no service of theirs starts on the host; what their packages would have set up is in [`FILES`].
//!
//! Cached as `$RTC_CACHE/images/programs-HASH` (see `cache`), an archive without what no container needs.

use std::path::PathBuf;
use std::process::Command;

use crate::tree::{complete, unpack};
use crate::{Result, cache};

const SUITE: &str = "forky";

/// Bumped when the way it is made changes, and not its packages.
const REVISION: &str = "1";

const PACKAGES: &[&str] = &["nginx", "postgresql-18", "python3", "redis-server"];

/// Nothing of it is read by a program.
const PRUNED: &[&str] = &[
    "usr/share/doc",
    "usr/share/i18n",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/man",
    "var/lib/apt",
    "var/lib/dpkg",
];

/// What lies above the packages' files, by path.
pub const FILES: &[(&str, &str)] = &[
    ("etc/passwd", "root:x:0:0:root:/root:/bin/sh\npostgres:x:105:105::/var/lib/postgresql:/bin/sh\n"),
    ("etc/group", "root:x:0:\ntty:x:5:\npostgres:x:105:\n"),
    ("etc/nginx/nginx.conf", include_str!("nginx.conf")),
    ("srv/postgres.sh", include_str!("postgres.sh")),
    ("srv/shared.py", include_str!("shared.py")),
    ("srv/server.py", include_str!("server.py")),
    ("srv/io_uring.py", include_str!("io_uring.py")),
];

/// The archive of the packages' files, made first when it is missing: about half a minute and 200 MB. Blocks, also while
/// another process makes it. `progress` is called before work that takes long.
///
/// # Errors
/// When debootstrap is missing or fails; nothing is left behind then.
pub fn ensure(progress: impl Fn(&str)) -> Result<PathBuf> {
    let words = [REVISION, SUITE].into_iter().chain(PACKAGES.iter().copied()).chain(PRUNED.iter().copied());
    let path = cache::directory().join("images").join(format!("programs-{}", cache::hash(words)));
    cache::ensure(&path, |partial| {
        progress(&format!("unpacking {} into {} (half a minute, once)", PACKAGES.join(", "), path.display()));
        let root = partial.with_extension("root");
        cache::remove(&root)?;
        let made = unpack(SUITE, PACKAGES, &root).and_then(|()| {
            for directory in PRUNED {
                cache::remove(&root.join(directory))?;
            }
            let mut tar = Command::new("tar");
            tar.args(["--create", "--sort=name", "--numeric-owner", "--exclude=./dev/*", "--file"]).arg(partial);
            complete("tar", tar.arg("--directory").arg(&root).arg("."))
        });
        cache::remove(&root)?;
        made
    })?;
    Ok(path)
}
