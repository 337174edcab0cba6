//! What the calling process may do, as far as that changes what a runtime can.

use std::path::Path;
use std::sync::LazyLock;

/// Not root, or root of a user namespace alone: device nodes, device programs and CRIU are then out of reach, and
/// cgroups may be.
pub fn is_unprivileged() -> bool {
    !rustix::process::geteuid().is_root() || in_user_namespace()
}

/// The initial one maps every id to itself (user_namespaces(7)). Looked up once in a process, for each start of a container
/// asks: no process that has threads changes its user namespace.
pub fn in_user_namespace() -> bool {
    // A kernel without user namespaces has no such file.
    static FOUND: LazyLock<bool> =
        LazyLock::new(|| std::fs::read_to_string(Path::new("/proc/self/uid_map")).is_ok_and(|map| !is_initial(&map)));
    *FOUND
}

fn is_initial(map: &str) -> bool {
    map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_initial_namespace_maps_every_id_to_itself() {
        assert!(is_initial("         0          0 4294967295\n"));
        for map in ["", "0 1000 1\n", "0 0 65536\n", "0 0 1000\n1000 1000 4294966295\n"] {
            assert!(!is_initial(map), "{map:?}");
        }
    }
}
