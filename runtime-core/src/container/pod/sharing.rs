//! Which namespaces a pod's members share, and whose they are.

use oci_spec::runtime::LinuxNamespaceType;

use super::error::PodError;
use super::manifest::Joined;
use super::members::Member;
use crate::spec::given_path;

const KINDS: [(&str, LinuxNamespaceType, Option<&str>); 8] = [
    ("net", LinuxNamespaceType::Network, None),
    ("ipc", LinuxNamespaceType::Ipc, None),
    ("uts", LinuxNamespaceType::Uts, None),
    (
        "pid",
        LinuxNamespaceType::Pid,
        Some("a restore that is taken back would end processes under the CRIU of another"),
    ),
    ("user", LinuxNamespaceType::User, Some("CRIU restores it for each anew")),
    ("mnt", LinuxNamespaceType::Mount, Some("CRIU cannot join one")),
    ("cgroup", LinuxNamespaceType::Cgroup, Some("CRIU cannot join one")),
    ("time", LinuxNamespaceType::Time, Some("CRIU restores it for each anew")),
];

/// For each member, of whom it has joined what.
///
/// # Errors
/// They share one that CRIU cannot restore for several.
pub(super) fn find(members: &[Member]) -> Result<Vec<Vec<Joined>>, PodError> {
    let mut joined = vec![Vec::new(); members.len()];
    for (kind, typ, why_not) in KINDS {
        for group in groups(members, kind) {
            if let Some(why) = why_not {
                let members = group.iter().map(|(_, member)| member.id.clone()).collect();
                return Err(PodError::Shared { kind, members, why });
            }
            // Whoever made it; else it is somebody's outside, and the first one leads there.
            let owner = group.iter().find(|(_, member)| path(member, typ) == Some(None));
            let Some((of, leader)) = owner.or(group.first()) else { continue };
            for (at, member) in group.iter().filter(|(at, _)| at != of) {
                // A path of a process does not lead there any more when that has been restored.
                let of_process = path(member, typ).flatten().is_none_or(|path| path.starts_with("/proc"));
                if let Some(its) = joined.get_mut(*at).filter(|_| of_process) {
                    its.push(Joined { kind: kind.to_owned(), of: leader.id.clone() });
                }
            }
        }
    }
    Ok(joined)
}

/// Members that are in one namespace, if there are several.
fn groups<'a>(members: &'a [Member], kind: &str) -> Vec<Vec<(usize, &'a Member)>> {
    let mut groups: Vec<(u64, Vec<_>)> = Vec::new();
    for (at, member) in members.iter().enumerate() {
        let Some(inode) = member.namespace(kind) else { continue };
        match groups.iter_mut().find(|(other, _)| *other == inode) {
            Some((_, group)) => group.push((at, member)),
            None => groups.push((inode, vec![(at, member)])),
        }
    }
    groups.into_iter().map(|(_, group)| group).filter(|group| group.len() > 1).collect()
}

/// `Some(None)` for a namespace that the spec has made.
fn path(member: &Member, typ: LinuxNamespaceType) -> Option<Option<&std::path::Path>> {
    let namespaces = member.spec.linux().as_ref()?.namespaces().as_ref()?;
    namespaces.iter().find(|namespace| namespace.typ() == typ).map(|namespace| given_path(namespace.path()))
}
