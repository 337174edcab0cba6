//! The names of what a process makes on the host for a node or a machine, by which what a killed one left can be told and
//! removed: `rtc-KIND-PID-STARTED-NUMBER`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Nobody else's name. `kind` is a word.
pub(crate) fn name(kind: &str, number: u32) -> String {
    let owner = std::process::id();
    format!("rtc-{kind}-{owner}-{}-{number}", start_time(owner).unwrap_or(0))
}

/// Makes a directory of that name for files of the host, and removes those of dead owners. Of a node only logs and links
/// are left in it: what was mounted went with the node.
pub(crate) fn make_directory(name: &str) -> Result<PathBuf> {
    for orphan in subdirectories(&std::env::temp_dir()).iter().filter(|path| is_orphaned(path)) {
        // Another process may be at it too.
        fs::remove_dir_all(orphan).ok();
    }
    let path = std::env::temp_dir().join(name);
    fs::create_dir_all(&path).map_err(Error::path("create", &path))?;
    Ok(path)
}

/// Whether a directory is named as here, and its owner is gone.
pub(crate) fn is_orphaned(directory: &Path) -> bool {
    let name = directory.file_name().unwrap_or_default().to_string_lossy();
    let Some((_kind, owner)) = name.strip_prefix("rtc-").and_then(|rest| rest.split_once('-')) else { return false };
    let mut fields = owner.split('-').map(|field| field.parse::<u64>().ok());
    let (Some(Some(pid)), Some(started), Some(Some(_))) = (fields.next(), fields.next(), fields.next()) else {
        return false;
    };
    !u32::try_from(pid).is_ok_and(|pid| start_time(pid) == started)
}

/// The time when a process was started, in clock ticks since boot: with the pid it names a process for good.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Field 22; the second is the command in parentheses, which may hold anything.
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

pub(crate) fn subdirectories(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let directories = entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
    directories.map(|e| e.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_orphaned_with_its_owner() {
        let own = std::process::id();
        let started = start_time(own).unwrap();
        assert!(!is_orphaned(Path::new(&format!("/x/{}", name("node", 1)))));
        // The number is another process's by now.
        assert!(is_orphaned(Path::new(&format!("/x/rtc-vm-{own}-{}-1", started + 1))));
        for foreign in ["system.slice", "rtc-node-of-somebody-else", "rtc-mount-points-28826"] {
            assert!(!is_orphaned(&Path::new("/x").join(foreign)), "{foreign}");
        }
    }

    #[test]
    fn knows_its_own_start() {
        assert!(start_time(std::process::id()).is_some());
        assert!(start_time(u32::MAX).is_none());
    }
}
