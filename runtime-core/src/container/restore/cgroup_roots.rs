//! Where the processes go that CRIU restores: into the container's new cgroups, whatever the old ones were called.

use std::fs;

use criu::CgroupRoot;

/// CRIU is in the container's cgroups by now: what was the root of the checkpoint's cgroups becomes these.
pub(super) fn cgroup_roots(pid: i32) -> Vec<CgroupRoot> {
    // Without them CRIU leaves the processes in its own cgroups, which are the same.
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    parse_cgroup_roots(&text)
}

/// `4:cpu,cpuacct:/a` (cgroups(7)), each controller for itself, and "" for the unified tree.
pub(in crate::container) fn parse_cgroup_roots(text: &str) -> Vec<CgroupRoot> {
    let lines = text.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    lines
        .flat_map(|(controllers, path)| {
            let root = |controller: &str| CgroupRoot { controller: Some(controller.to_owned()), path: path.to_owned() };
            controllers.split(',').map(root).collect::<Vec<_>>()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_controller_has_its_root() {
        let roots = parse_cgroup_roots("4:cpu,cpuacct:/a\n9:name=systemd:/b:c\n0::/d\n");
        let roots: Vec<_> =
            roots.iter().map(|root| (root.controller.as_deref().unwrap(), root.path.as_str())).collect();
        assert_eq!(roots, [("cpu", "/a"), ("cpuacct", "/a"), ("name=systemd", "/b:c"), ("", "/d")]);
    }
}
