//! The objects of a shared IPC namespace: System V shared memory, semaphores and message queues.
//!
//! CRIU dumps them with each container that is in the namespace, and makes them anew at each restore, which fails where they
//! are already. So one of the members carries them: the one that has attached some of the memory, for CRIU attaches nothing
//! that it has not made itself; else the one whose namespace it is. The images of the others are emptied.
//!
//! Queues of POSIX it does not dump at all.

use std::fs;
use std::path::Path;

use super::error::PodError;
use super::manifest::Joined;
use super::members::Member;

/// CRIU's, each with its namespace's number.
const IMAGES: [&str; 3] = ["ipcns-shm-", "ipcns-msg-", "ipcns-sem-"];

/// Two magic numbers begin an image; one without entries has no more.
const EMPTY: u64 = 8;

/// For each member whether it carries the objects of its namespace.
///
/// # Errors
/// Several have attached memory, or one has queues.
pub(super) fn carriers(members: &[Member], joined: &[Vec<Joined>]) -> Result<Vec<bool>, PodError> {
    let mut carries = vec![true; members.len()];
    for (at, owner) in members.iter().enumerate() {
        queues(owner)?;
        let is_of = |joined: &Vec<Joined>| joined.iter().any(|joined| joined.kind == "ipc" && joined.of == owner.id);
        let group: Vec<usize> =
            (0..members.len()).filter(|other| *other == at || joined.get(*other).is_some_and(is_of)).collect();
        if group.len() < 2 {
            continue;
        }
        let attached = |at: &&usize| members.get(**at).is_some_and(Member::has_system_v_memory);
        let attached: Vec<usize> = group.iter().filter(attached).copied().collect();
        if attached.len() > 1 {
            let id = |at: &usize| members.get(*at).map(|member| member.id.clone());
            return Err(PodError::SystemVMemory { members: attached.iter().filter_map(id).collect() });
        }
        let carrier = attached.first().copied().unwrap_or(at);
        for other in group.into_iter().filter(|other| *other != carrier) {
            if let Some(carries) = carries.get_mut(other) {
                *carries = false;
            }
        }
    }
    Ok(carries)
}

fn queues(member: &Member) -> Result<(), PodError> {
    let path = format!("/proc/{}/root/dev/mqueue", member.pid);
    // Many have none; where it is no directory of queues, nothing is in it.
    let Ok(entries) = fs::read_dir(path) else { return Ok(()) };
    let names: Vec<String> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    if names.is_empty() { Ok(()) } else { Err(PodError::MessageQueues { member: member.id.clone(), names }) }
}

/// Leaves no objects in a member's images.
pub(super) fn empty(image_dir: &Path) -> Result<(), PodError> {
    let entries = fs::read_dir(image_dir).map_err(PodError::file("list", image_dir))?;
    for entry in entries {
        let entry = entry.map_err(PodError::file("list", image_dir))?;
        let path = entry.path();
        if IMAGES.iter().any(|prefix| entry.file_name().to_string_lossy().starts_with(prefix)) {
            let file = fs::OpenOptions::new().write(true).open(&path).map_err(PodError::file("open", &path))?;
            let bytes = file.metadata().map_err(PodError::file("look at", &path))?.len();
            file.set_len(bytes.min(EMPTY)).map_err(PodError::file("cut", &path))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_emptied_image_has_its_magic_numbers_alone() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in
            [("ipcns-shm-9.img", "12345678entry"), ("ipcns-sem-9.img", "12345678"), ("core-1.img", "12345678entry")]
        {
            fs::write(dir.path().join(name), text).unwrap();
        }
        empty(dir.path()).unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!((read("ipcns-shm-9.img").as_str(), read("ipcns-sem-9.img").as_str()), ("12345678", "12345678"));
        assert_eq!(read("core-1.img"), "12345678entry");
    }
}
