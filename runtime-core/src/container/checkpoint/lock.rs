//! Which lock of the network CRIU uses.
//!
//! It matters when CRIU was killed: the chain of iptables has one name for every CRIU, and may be that of another dump in the
//! same network. One that locks otherwise has none to be removed. What is known is left in the work directory, for whoever
//! deletes a container whose checkpoint was killed whole.

use std::fs;
use std::path::{Path, PathBuf};

use super::annotations::parse_network_lock;
use super::error::CheckpointError;
use super::options::NetworkLock;
use super::preflight::settings;

/// In the work directory.
const FILE: &str = "network-lock";

/// As CRIU is going to have it: its own files are below the request, and the container's configuration is above. `None` if
/// nobody says, and it is what CRIU was built with.
pub(super) fn find(told: Option<NetworkLock>, config: Option<&Path>) -> Option<NetworkLock> {
    let of_file = |path: &Path| last(&fs::read_to_string(path).ok()?);
    config.and_then(of_file).or(told).or_else(|| settings::default_files().iter().rev().find_map(|path| of_file(path)))
}

fn last(text: &str) -> Option<NetworkLock> {
    let told = settings::told(text).filter(|(option, _)| *option == "network-lock");
    told.filter_map(|(_, value)| parse_network_lock(value?.trim_matches('"')).ok()).last()
}

pub(super) fn leave(lock: Option<NetworkLock>, work: &Path) -> Result<(), CheckpointError> {
    let Some(lock) = lock else { return Ok(()) };
    let path = work.join(FILE);
    fs::write(&path, name(lock)).map_err(CheckpointError::file("write", path))
}

/// `None` if nobody left it.
pub(super) fn left(work: &Path) -> Option<NetworkLock> {
    parse_network_lock(&fs::read_to_string(PathBuf::from(work).join(FILE)).ok()?).ok()
}

fn name(lock: NetworkLock) -> &'static str {
    match lock {
        NetworkLock::Iptables => "iptables",
        NetworkLock::Nftables => "nftables",
        NetworkLock::Skip => "skip",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_over_the_request_and_its_last_word_counts() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "network-lock iptables\n--network-lock=skip # why\n").unwrap();
        let (config, request) = (Some(file.path()), Some(NetworkLock::Nftables));
        assert_eq!(find(request, config), Some(NetworkLock::Skip));
        fs::write(file.path(), "tcp-established\n").unwrap();
        assert_eq!(find(request, config), request);
    }

    #[test]
    fn what_is_left_is_found() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(left(dir.path()), None);
        for lock in [NetworkLock::Iptables, NetworkLock::Nftables, NetworkLock::Skip] {
            leave(Some(lock), dir.path()).unwrap();
            assert_eq!(left(dir.path()), Some(lock));
        }
    }
}
