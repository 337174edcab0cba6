//! Files whose change time does not tell whether they have changed: who has one mapped writes to it without a system call.
//! On disk file systems the first write to a page after each write-back is noticed and no other, on a tmpfs none is.

use std::collections::HashSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What is mapped shared and writable by these processes: paths within the container's root, without the slash. A process
/// that is gone has nothing mapped.
pub(crate) fn mapped_files(pids: &[u32]) -> HashSet<Vec<u8>> {
    let maps = pids.iter().filter_map(|pid| fs::read(format!("/proc/{pid}/maps")).ok());
    maps.flat_map(|maps| maps.split(|&byte| byte == b'\n').filter_map(shared_and_writable).collect::<Vec<_>>())
        .filter_map(|path| Some(path.strip_prefix("/").ok()?.as_os_str().as_bytes().to_vec()))
        .collect()
}

/// The path of a line of proc_pid_maps(5): `START-END rw-s OFFSET DEVICE INODE PATH`.
fn shared_and_writable(line: &[u8]) -> Option<PathBuf> {
    let mut fields = line.split(|&byte| byte == b' ').filter(|field| !field.is_empty());
    let permissions = fields.nth(1)?;
    (permissions.get(1) == Some(&b'w') && permissions.get(3) == Some(&b's')).then_some(())?;
    let slash = line.iter().position(|&byte| byte == b'/')?;
    Some(Path::new(std::ffi::OsStr::from_bytes(line.get(slash..)?)).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_written_back_counts() {
        let path = |line: &str| shared_and_writable(line.as_bytes());
        assert_eq!(path("7f0-7f1 rw-s 00000000 00:31 12   /var/lib/db file"), Some("/var/lib/db file".into()));
        assert_eq!(path("7f0-7f1 rw-p 00000000 00:31 12   /lib/libc.so"), None);
        assert_eq!(path("7f0-7f1 r--s 00000000 00:31 12   /var/lib/db"), None);
        assert_eq!(path("7f0-7f1 rw-s 00000000 00:00 0"), None);
        assert_eq!(path(""), None);
    }
}
