//! What a user other than root may not do is left out of a specification, or done in another way.

use std::path::Path;

use oci_spec::runtime::{
    LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespaceBuilder, LinuxNamespaceType, Mount, Spec,
};

/// `uid` and `gid` become root in a user namespace of the container's own. The network is the host's: only root can
/// connect another one.
pub(super) fn convert(spec: &mut Spec, uid: u32, gid: u32) {
    if let Some(linux) = spec.linux_mut() {
        let dropped = [LinuxNamespaceType::Network, LinuxNamespaceType::User];
        let mut namespaces = linux.namespaces().clone().unwrap_or_default();
        namespaces.retain(|namespace| !dropped.contains(&namespace.typ()));
        namespaces.extend(LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::User).build().ok());
        linux.set_namespaces(Some(namespaces));
        linux.set_uid_mappings(Some(root_is(uid)));
        linux.set_gid_mappings(Some(root_is(gid)));
        linux.set_resources(None);
    }
    if let Some(mounts) = spec.mounts_mut() {
        mounts.iter_mut().for_each(convert_mount);
    }
}

fn root_is(id: u32) -> Vec<LinuxIdMapping> {
    LinuxIdMappingBuilder::default().container_id(0_u32).host_id(id).size(1_u32).build().into_iter().collect()
}

fn convert_mount(mount: &mut Mount) {
    if mount.destination() == Path::new("/sys") {
        // A new sysfs belongs to a network namespace of one's own.
        mount.set_typ(Some("none".to_owned()));
        mount.set_source(Some("/sys".into()));
        mount.set_options(Some(["rbind", "nosuid", "noexec", "nodev", "ro"].map(str::to_owned).to_vec()));
        return;
    }
    let mut options = mount.options().clone().unwrap_or_default();
    // There is one user and one group.
    options.retain(|option| !option.starts_with("uid=") && !option.starts_with("gid="));
    mount.set_options(Some(options).filter(|options| !options.is_empty()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rootless_spec_asks_for_nothing_of_roots() {
        let mut spec = crate::spec::default(true).unwrap();
        convert(&mut spec, 1000, 1001);
        let linux = spec.linux().as_ref().unwrap();
        let kinds: Vec<_> = linux.namespaces().iter().flatten().map(|namespace| namespace.typ()).collect();
        assert!(!kinds.contains(&LinuxNamespaceType::Network) && kinds.contains(&LinuxNamespaceType::User));
        assert_eq!(linux.uid_mappings().as_ref().unwrap()[0].host_id(), 1000);
        assert_eq!(linux.gid_mappings().as_ref().unwrap()[0].host_id(), 1001);
        assert!(linux.resources().is_none());
        let mounts = spec.mounts().as_ref().unwrap();
        let sys = mounts.iter().find(|mount| mount.destination() == Path::new("/sys")).unwrap();
        assert_eq!(sys.typ().as_deref(), Some("none"));
        assert!(mounts.iter().flat_map(|mount| mount.options()).flatten().all(|option| !option.starts_with("gid=")));
    }
}
