//! What is known of a pod's members before they are touched.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use oci_spec::runtime::Spec;

use super::error::PodError;
use crate::container::checkpoint::annotations;
use crate::container::{Container, Status};
use crate::{Error, Pid, spec};

#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: String,
    pub(super) pid: Pid,
    pub(super) spec: Spec,
    mappings: Vec<Mapping>,
}

/// Memory that is shared and has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mapping {
    /// Device and inode, as /proc/PID/maps has them.
    file: (String, String),
    name: String,
}

impl Member {
    pub(super) fn look(container: &Arc<Container>) -> Result<Self, PodError> {
        let id = container.id().to_string();
        let failed = PodError::member(&id);
        let pid = match (container.status().map_err(&failed)?, container.pid()) {
            (Status::Running | Status::Paused, Some(pid)) => pid,
            (status, _) => return Err(PodError::WrongStatus { member: id, status }),
        };
        let annotated = annotations::read(&container.state.annotations);
        let annotated = annotated
            .map_err(|err| failed(Error::Checkpoint { id: container.id().clone(), operation: "checkpoint", err }))?;
        if annotated.seal.is_on() {
            return Err(PodError::Sealed { member: id });
        }
        let spec = spec::load_file(&container.state.config()).map_err(&failed)?;
        let mut mappings = Vec::new();
        for pid in container.pids().map_err(&failed)? {
            // One that has ended meanwhile has none.
            let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
            mappings.extend(maps.lines().filter_map(Mapping::parse));
        }
        Ok(Self { id, pid, spec, mappings })
    }

    /// The inode of its namespace; `None` where the kernel has none of this kind, or it is this process's own.
    pub(super) fn namespace(&self, kind: &str) -> Option<u64> {
        let inode = |pid: &str| fs::metadata(format!("/proc/{pid}/ns/{kind}")).ok().map(|metadata| metadata.ino());
        inode(&self.pid.to_string()).filter(|found| Some(*found) != inode("self"))
    }

    /// It has attached System V shared memory.
    pub(super) fn has_system_v_memory(&self) -> bool {
        self.mappings.iter().any(Mapping::is_system_v)
    }
}

impl Mapping {
    /// `START-END perms offset device inode    NAME`; those that are shared, and of a file.
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split_ascii_whitespace();
        let (perms, device, inode) = (fields.nth(1)?, fields.nth(1)?, fields.next()?);
        let name = fields.collect::<Vec<_>>().join(" ");
        (perms.ends_with('s') && !name.is_empty()).then(|| Self { file: (device.into(), inode.into()), name })
    }

    fn is_system_v(&self) -> bool {
        self.name.starts_with("/SYSV")
    }
}

/// # Errors
/// Members share memory that no name leads to.
pub(super) fn check_memory(members: &[Member]) -> Result<(), PodError> {
    let unnamed = |mapping: &&Mapping| mapping.name.ends_with(" (deleted)") && !mapping.is_system_v();
    for (at, member) in members.iter().enumerate() {
        for mapping in member.mappings.iter().filter(unnamed) {
            let has = |other: &&Member| other.mappings.iter().any(|its| its.file == mapping.file);
            if let Some(other) = members.iter().skip(at + 1).find(has) {
                let members = vec![member.id.clone(), other.id.clone()];
                return Err(PodError::Unnamed { members, name: mapping.name.clone() });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: &str, maps: &[&str]) -> Member {
        let pid = Pid::new(1).unwrap();
        let mappings = maps.iter().filter_map(|line| Mapping::parse(line)).collect();
        Member { id: id.into(), pid, spec: Spec::default(), mappings }
    }

    const DELETED: &str = "7f0-7f1 rw-s 00000000 00:2f 12                 /dev/shm/x (deleted)";

    #[test]
    fn shared_memory_without_a_name_is_refused() {
        let members = [member("a", &[DELETED]), member("b", &[]), member("c", &[DELETED])];
        let refused = check_memory(&members).unwrap_err();
        assert!(matches!(&refused, PodError::Unnamed { members, .. } if *members == ["a", "c"]), "{refused}");
        // One of its own, one with a name, and private ones.
        let named = DELETED.replace("12 ", "13 ").replace(" (deleted)", "");
        let private = DELETED.replace("rw-s", "rw-p");
        let members = [member("a", &[DELETED, &named, &private]), member("b", &[&named, &private])];
        check_memory(&members).unwrap();
    }

    #[test]
    fn system_v_memory_is_no_file() {
        let line = "7f0-7f1 rw-s 00000000 00:01 3                  /SYSV00000000 (deleted)";
        let members = [member("a", &[line]), member("b", &[line])];
        assert!(members.iter().all(Member::has_system_v_memory));
        check_memory(&members).unwrap();
    }
}
