//! What a spec may not ask for when a user other than root makes the container. Looks at nothing outside of the spec.

use oci_spec::runtime::{Linux, LinuxNamespaceType, Process, Spec};

use super::Error;
use super::check::given_path;
use super::ids::is_mapped;

/// # Errors
/// In runc's words.
pub(crate) fn check(spec: &Spec) -> Result<(), Error> {
    let linux = spec.linux().as_ref().ok_or(Error::Missing { field: "linux" })?;
    let user = linux.namespaces().iter().flatten().find(|namespace| namespace.typ() == LinuxNamespaceType::User);
    let Some(user) = user else {
        return Err(Error::Contradiction("rootless container requires user namespaces"));
    };
    if given_path(user.path()).is_none() {
        check_mounts(spec, linux)?;
    }
    spec.process().as_ref().map_or(Ok(()), check_process)
}

/// Without root's rights setgroups(2) is denied, or what it could give is not the caller's to give.
pub(crate) fn check_process(process: &Process) -> Result<(), Error> {
    match process.user().additional_gids().as_ref().is_some_and(|gids| !gids.is_empty()) {
        true => Err(Error::Contradiction("cannot set any additional groups in a rootless container")),
        false => Ok(()),
    }
}

/// An owner of a mount has to be one of the container's.
fn check_mounts(spec: &Spec, linux: &Linux) -> Result<(), Error> {
    let kinds = [("uid=", linux.uid_mappings(), "uidMappings"), ("gid=", linux.gid_mappings(), "gidMappings")];
    for option in spec.mounts().iter().flatten().flat_map(|mount| mount.options().iter().flatten()) {
        for (key, mappings, maps) in kinds {
            // What is no number is the file system's to judge.
            let Some(id) = option.strip_prefix(key).and_then(|id| id.parse().ok()) else { continue };
            if !is_mapped(id, mappings.as_deref().unwrap_or_default()) {
                return Err(Error::UnmappedOption { option: option.clone(), maps });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn refusal(edit: impl FnOnce(&mut Value)) -> Option<String> {
        let one = json!([{"containerID": 0, "hostID": 1000, "size": 1}]);
        let mut spec = json!({
            "ociVersion": "1.2.0",
            "process": {"user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/"},
            "root": {"path": "rootfs"},
            "mounts": [{"destination": "/dev/pts", "type": "devpts", "options": ["gid=0", "mode=0620", "uid=none"]}],
            "linux": {"namespaces": [{"type": "mount"}, {"type": "user"}], "uidMappings": one, "gidMappings": one},
        });
        edit(&mut spec);
        check(&serde_json::from_value(spec).unwrap()).err().map(|err| err.to_string())
    }

    #[test]
    fn what_only_root_can_give_is_refused() {
        assert_eq!(refusal(|_| ()), None);
        let said = refusal(|spec| spec["linux"]["namespaces"] = json!([{"type": "mount"}]));
        assert_eq!(said.as_deref(), Some("rootless container requires user namespaces"));
        let said = refusal(|spec| spec["process"]["user"]["additionalGids"] = json!([5]));
        assert_eq!(said.as_deref(), Some("cannot set any additional groups in a rootless container"));
        let said = refusal(|spec| spec["mounts"][0]["options"] = json!(["newinstance", "gid=5"]));
        assert_eq!(
            said.as_deref(),
            Some("cannot specify gid=5 mount option for rootless container: no mapping found in linux.gidMappings")
        );
    }

    #[test]
    fn the_ids_of_a_namespace_that_is_joined_are_not_in_the_spec() {
        let said = refusal(|spec| {
            spec["mounts"][0]["options"] = json!(["gid=5"]);
            spec["linux"]["namespaces"][1]["path"] = json!("/proc/1/ns/user");
        });
        assert_eq!(said, None);
    }
}
