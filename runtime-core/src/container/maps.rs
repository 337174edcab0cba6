//! The id maps of a new user namespace (user_namespaces(7)): written by us, or by newuidmap(1) and newgidmap(1).
//!
//! A user may map one's own id and no other, and its group only where setgroups(2) is denied: a group may be there to
//! keep its members out. Further ids are given by /etc/subuid and /etc/subgid, and mapped by these two programs of
//! root's.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use oci_spec::runtime::{Linux, LinuxIdMapping};
use rustix::fs::StatVfsMountFlags;

use crate::rootfs::id_lines;
use crate::{ContainerId, Error, Pid, Result, program};

/// For a program that asks the system's databases, which may be across a network.
const DEADLINE: Duration = Duration::from_secs(10);

/// For a process in a new user namespace that waits for it.
pub(super) fn write(id: &ContainerId, linux: Option<&Linux>, pid: Pid) -> Result<()> {
    let uids = linux.and_then(|linux| linux.uid_mappings().as_ref());
    let gids = linux.and_then(|linux| linux.gid_mappings().as_ref());
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    if !uid.is_root() && is_own(gids, gid.as_raw()) {
        write_file(id, pid, "setgroups", "deny")?;
    }
    write_map(id, pid, &UIDS, uids)?;
    write_map(id, pid, &GIDS, gids)
}

/// Whether the namespace of a process lets it set its groups.
pub(super) fn may_set_groups(id: &ContainerId, pid: Pid) -> Result<bool> {
    let path = format!("/proc/{pid}/setgroups");
    match std::fs::read(&path) {
        Ok(text) => Ok(!text.starts_with(b"deny")),
        // A kernel without user namespaces.
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(err) => Err(Error::File { id: id.clone(), operation: "read", path: path.into(), err }),
    }
}

struct Kind {
    file: &'static str,
    program: &'static str,
    /// Where root lists what ids a user may map.
    list: &'static str,
}

const UIDS: Kind = Kind { file: "uid_map", program: "newuidmap", list: "/etc/subuid" };
const GIDS: Kind = Kind { file: "gid_map", program: "newgidmap", list: "/etc/subgid" };

fn is_own(maps: Option<&Vec<LinuxIdMapping>>, own: u32) -> bool {
    matches!(maps.map(Vec::as_slice), Some([map]) if map.size() == 1 && map.host_id() == own)
}

fn write_map(id: &ContainerId, pid: Pid, kind: &Kind, maps: Option<&Vec<LinuxIdMapping>>) -> Result<()> {
    let err = match write_file(id, pid, kind.file, &id_lines(maps)) {
        Err(Error::File { err, .. }) if err.kind() == std::io::ErrorKind::PermissionDenied => err,
        written => return written,
    };
    let mapped = match rustix::process::geteuid().is_root() {
        true => Err(IdMapsError::Outside(err)),
        false => run_program(pid, kind, maps.map(Vec::as_slice).unwrap_or_default()),
    };
    mapped.map_err(|err| Error::IdMaps { id: id.clone(), file: kind.file, err })
}

fn write_file(id: &ContainerId, pid: Pid, file: &str, text: &str) -> Result<()> {
    let path = format!("/proc/{pid}/{file}");
    std::fs::write(&path, text).map_err(|err| Error::File {
        id: id.clone(),
        operation: "write",
        path: path.into(),
        err,
    })
}

/// Why more ids than one's own could not be mapped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdMapsError {
    #[error("not all of these ids are mapped in our own user namespace")]
    Outside(#[source] std::io::Error),
    #[error(
        "{program} is not in $PATH, and no user may map other ids than one's own without it (Debian's package uidmap)"
    )]
    Missing { program: &'static str },
    #[error("execute {}", path.display())]
    Execute {
        path: PathBuf,
        #[source]
        err: std::io::Error,
    },
    /// `output` is the program's own word.
    #[error("failed to use {}: {output} ({hint})", path.display())]
    Failed { path: PathBuf, output: String, hint: String },
}

fn run_program(pid: Pid, kind: &Kind, maps: &[LinuxIdMapping]) -> Result<(), IdMapsError> {
    let search = std::env::var_os("PATH").unwrap_or_default();
    let path = find(kind.program, &search).ok_or(IdMapsError::Missing { program: kind.program })?;
    let mut command = Command::new(&path);
    command.arg(pid.to_string());
    for map in maps {
        command.args([map.container_id(), map.host_id(), map.size()].map(|number| number.to_string()));
    }
    let ended = program::run(&mut command, b"", DEADLINE);
    let ended = ended.map_err(|err| IdMapsError::Execute { path: path.clone(), err })?;
    if ended.code == 0 {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ended.output).trim().to_owned();
    let output = if said.is_empty() { format!("it ended with {}", ended.code) } else { said };
    let hint = powerless(&path).unwrap_or_else(|| unlisted(kind));
    Err(IdMapsError::Failed { path, output, hint })
}

/// As execvp(3) finds it.
fn find(program: &str, search: &std::ffi::OsStr) -> Option<PathBuf> {
    let executable = |path: &PathBuf| {
        std::fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(search).filter(|dir| dir.is_absolute()).map(|dir| dir.join(program)).find(executable)
}

/// What keeps the program from root's rights, if that is what fails.
fn powerless(path: &Path) -> Option<String> {
    let shown = path.display();
    let found = std::fs::metadata(path).ok()?;
    let set_user_id = found.uid() == 0 && found.permissions().mode() & 0o4000 != 0;
    let capable = || rustix::fs::getxattr(path, "security.capability", &mut [0u8; 64][..]).is_ok();
    if !set_user_id && !capable() {
        return Some(format!("{shown} has no set-user-id bit of root's, and no file capabilities"));
    }
    if rustix::fs::statvfs(path).is_ok_and(|fs| fs.f_flag.contains(StatVfsMountFlags::NOSUID)) {
        return Some(format!("{shown} is on a file system that is mounted nosuid"));
    }
    let no_new_privileges = rustix::thread::no_new_privs().is_ok_and(|set| set);
    no_new_privileges.then(|| format!("the caller has no_new_privs set, which takes root's rights from {shown}"))
}

/// What else can be wrong: whether root gave this user any ids at all.
fn unlisted(kind: &Kind) -> String {
    let uid = rustix::process::getuid().as_raw();
    let name = user_name(uid);
    let list = std::fs::read_to_string(kind.list).unwrap_or_default();
    let given =
        list.lines().filter_map(|line| line.split(':').next()).any(|user| user == name || user == uid.to_string());
    let what = if given { "does not give all of these ids to" } else { "has no entry for" };
    format!("{} {what} user {name}", kind.list)
}

fn user_name(uid: u32) -> String {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| uid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maps(maps: &[(u32, u32, u32)]) -> Vec<LinuxIdMapping> {
        let json = maps
            .iter()
            .map(|(inside, outside, size)| serde_json::json!({"containerID": inside, "hostID": outside, "size": size}));
        serde_json::from_value(json.collect()).unwrap()
    }

    #[test]
    fn only_the_own_group_alone_has_setgroups_denied() {
        assert!(is_own(Some(&maps(&[(0, 1000, 1)])), 1000));
        for several in [&[(0, 1000, 2)][..], &[(0, 1001, 1)], &[(0, 1000, 1), (1, 100_000, 9)], &[]] {
            assert!(!is_own(Some(&maps(several)), 1000), "{several:?}");
        }
        assert!(!is_own(None, 1000));
    }

    #[test]
    fn the_program_is_the_first_executable_in_the_path() {
        let (empty, full) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let place = |dir: &tempfile::TempDir, mode| {
            let path = dir.path().join("newuidmap");
            std::fs::write(&path, "#!/bin/sh\n").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        place(&empty, 0o644);
        let found = place(&full, 0o755);
        let search = std::env::join_paths([Path::new("."), empty.path(), full.path()]).unwrap();
        assert_eq!(find("newuidmap", &search), Some(found.clone()));
        assert_eq!(find("newgidmap", &search), None);
        assert!(powerless(&found).unwrap().contains("set-user-id"));
    }
}
