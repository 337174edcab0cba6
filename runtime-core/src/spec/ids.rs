//! User and group ids against the mappings of a new user namespace.

use oci_spec::runtime::{Linux, LinuxIdMapping, Process};

use super::Error;

/// # Errors
/// A mapping that the kernel would refuse without a reason, or an id of the process's that no mapping has.
pub(super) fn check(linux: &Linux, process: &Process) -> Result<(), Error> {
    let uids = linux.uid_mappings().as_deref().unwrap_or_default();
    let gids = linux.gid_mappings().as_deref().unwrap_or_default();
    check_mappings("linux.uidMappings", uids)?;
    check_mappings("linux.gidMappings", gids)?;
    let user = process.user();
    mapped("process.user.uid", user.uid(), uids, "uidMappings")?;
    mapped("process.user.gid", user.gid(), gids, "gidMappings")?;
    let mut more = user.additional_gids().iter().flatten();
    more.try_for_each(|gid| mapped("process.user.additionalGids", *gid, gids, "gidMappings"))
}

fn check_mappings(field: &'static str, maps: &[LinuxIdMapping]) -> Result<(), Error> {
    let ends = |first: u32, size: u32| u64::from(first)..u64::from(first) + u64::from(size);
    for (place, map) in maps.iter().enumerate() {
        let invalid = |expected| {
            let value = format!("{} {} {}", map.container_id(), map.host_id(), map.size());
            Err(Error::Invalid { field, value, expected })
        };
        let (inside, outside) = (ends(map.container_id(), map.size()), ends(map.host_id(), map.size()));
        // The last id of all is no id (-1).
        if map.size() == 0 || inside.end > u64::from(u32::MAX) || outside.end > u64::from(u32::MAX) {
            return invalid("a range of ids");
        }
        for other in &maps[..place] {
            let overlap = |a: &std::ops::Range<u64>, b: &std::ops::Range<u64>| a.start < b.end && b.start < a.end;
            if overlap(&inside, &ends(other.container_id(), other.size()))
                || overlap(&outside, &ends(other.host_id(), other.size()))
            {
                return invalid("apart from the ranges before it");
            }
        }
    }
    Ok(())
}

/// Without mappings, in the caller's user namespace or another's, every id may be one.
fn mapped(field: &'static str, id: u32, maps: &[LinuxIdMapping], name: &'static str) -> Result<(), Error> {
    match maps.is_empty() || is_mapped(id, maps) {
        true => Ok(()),
        false => Err(Error::Unmapped { field, id, maps: name }),
    }
}

/// Whether an id of the container's is one of the host's.
pub(super) fn is_mapped(id: u32, maps: &[LinuxIdMapping]) -> bool {
    maps.iter().any(|map| id.checked_sub(map.container_id()).is_some_and(|offset| offset < map.size()))
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
    fn ranges_are_whole_and_apart() {
        check_mappings("m", &maps(&[(0, 1000, 1), (1, 100_000, 65_535)])).unwrap();
        for wrong in [&[(0, 1000, 0)][..], &[(0, u32::MAX, 1)], &[(0, 0, 10), (9, 100, 1)], &[(0, 0, 10), (10, 9, 1)]] {
            assert!(check_mappings("m", &maps(wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_id_without_a_mapping_is_named() {
        let several = maps(&[(0, 1000, 1), (10, 100_000, 10)]);
        for (id, found) in [(0, true), (1, false), (10, true), (19, true), (20, false)] {
            assert_eq!(mapped("process.user.uid", id, &several, "uidMappings").is_ok(), found, "{id}");
        }
        let err = mapped("process.user.uid", 5, &several, "uidMappings").unwrap_err();
        assert_eq!(err.to_string(), "process.user.uid 5 has no mapping in linux.uidMappings");
        mapped("process.user.uid", 5, &[], "uidMappings").unwrap();
    }
}
