//! Which unit a container is, from the spec's `cgroupsPath`: `slice:prefix:name`, as runc reads it.

use std::path::PathBuf;

use super::{Bus, Error};
use crate::ContainerId;

/// Where the units go that say nothing.
fn default_slice(bus: Bus) -> &'static str {
    match bus {
        Bus::System => "system.slice",
        // As with runc.
        Bus::User => "user.slice",
    }
}

/// Where all other slices are.
const ROOT: &str = "-.slice";

/// As if `cgroupsPath` were `:runc:ID`. runc's own word, so that what looks for `runc-ID.scope` finds it.
const PREFIX: &str = "runc";

/// systemd's limit (UNIT_NAME_MAX).
const LONGEST: usize = 255;

/// A unit and the slice that it is in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) unit: String,
    pub(super) slice: String,
}

impl Place {
    pub(super) fn new(id: &ContainerId, cgroups_path: Option<&str>, bus: Bus) -> Result<Self, Error> {
        let path = cgroups_path.filter(|path| !path.is_empty());
        let (slice, prefix, name) = match path {
            None => ("", PREFIX, id.as_str()),
            Some(path) => {
                let refuse = || Error::Path { cgroups_path: path.to_owned() };
                let mut parts = path.split(':');
                let three = (parts.next(), parts.next(), parts.next(), parts.next());
                let (Some(slice), Some(prefix), Some(name), None) = three else { return Err(refuse()) };
                (slice, prefix, name)
            }
        };
        let unit = match prefix {
            _ if name.ends_with(".slice") => name.to_owned(),
            "" => format!("{name}.scope"),
            prefix => format!("{prefix}-{name}.scope"),
        };
        check_name(&unit)?;
        if unit == ROOT {
            return Err(Error::Name { unit, reason: "it is the root slice, which has every process of the host" });
        }
        let slice = match slice {
            "" => default_slice(bus),
            // runc's document has it so, systemd's name for it is the longer one.
            "-" => ROOT,
            slice => slice,
        };
        let place = Self { unit, slice: slice.to_owned() };
        place.path()?;
        Ok(place)
    }

    pub(super) fn is_slice(&self) -> bool {
        self.unit.ends_with(".slice")
    }

    /// The cgroup, from the root of the hierarchy.
    ///
    /// # Errors
    /// [`Error::Slice`].
    pub(super) fn path(&self) -> Result<PathBuf, Error> {
        if self.is_slice() {
            // A slice's name says where it is, whatever stands before it.
            return expand(&self.unit);
        }
        Ok(expand(&self.slice)?.join(&self.unit))
    }
}

/// `a-b.slice` is in `a.slice`: `/a.slice/a-b.slice` (systemd.slice(5)).
fn expand(slice: &str) -> Result<PathBuf, Error> {
    let refuse = || Error::Slice { slice: slice.to_owned() };
    let name = slice.strip_suffix(".slice").ok_or_else(refuse)?;
    let mut path = PathBuf::from("/");
    if name == "-" {
        return Ok(path);
    }
    check_name(slice).map_err(|_| refuse())?;
    let mut end = 0;
    for part in name.split('-') {
        if part.is_empty() {
            return Err(refuse());
        }
        end += part.len();
        path.push(format!("{}.slice", name.get(..end).unwrap_or(name)));
        end += 1;
    }
    Ok(path)
}

/// As systemd checks it, and before anything is made of it: the name is a directory of the cgroup's path.
fn check_name(unit: &str) -> Result<(), Error> {
    let refuse = |reason| Err(Error::Name { unit: unit.to_owned(), reason });
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    if unit.len() > LONGEST {
        return refuse("it is longer than 255 bytes");
    }
    if !unit.bytes().all(allowed) {
        return refuse("only letters, digits and the characters :-_.\\@ can be in it");
    }
    match unit.as_bytes().first() {
        Some(b'.' | b'@') | None => refuse("it has no name before its type"),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(path: Option<&str>) -> Result<(String, String), Error> {
        let place = Place::new(&ContainerId::parse("c1").unwrap(), path, Bus::System)?;
        let path = place.path()?.to_string_lossy().into_owned();
        Ok((if place.is_slice() { String::new() } else { place.slice }, path))
    }

    #[test]
    fn units_are_named_and_placed_as_by_runc() {
        for (cgroups_path, slice, path) in [
            (None, "system.slice", "/system.slice/runc-c1.scope"),
            (Some(""), "system.slice", "/system.slice/runc-c1.scope"),
            (Some(":docker:x"), "system.slice", "/system.slice/docker-x.scope"),
            (Some("machine.slice:libpod:x"), "machine.slice", "/machine.slice/libpod-x.scope"),
            (Some("a-b-c.slice::x"), "a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice/x.scope"),
            (Some("-.slice:p:x"), "-.slice", "/p-x.scope"),
            (Some("-:p:x"), "-.slice", "/p-x.scope"),
            (Some("system.slice:p:x-y.slice"), "", "/x.slice/x-y.slice"),
        ] {
            assert_eq!(place(cgroups_path).unwrap(), (slice.to_owned(), path.to_owned()), "{cgroups_path:?}");
        }
    }

    #[test]
    fn a_users_units_are_in_its_user_slice() {
        let place = Place::new(&ContainerId::parse("c1").unwrap(), None, Bus::User).unwrap();
        assert_eq!(place.path().unwrap(), PathBuf::from("/user.slice/runc-c1.scope"));
    }

    #[test]
    fn a_path_of_another_form_is_refused_in_runcs_words() {
        for path in ["/x", "a.slice:x", "a.slice:p:x:y"] {
            let err = place(Some(path)).unwrap_err().to_string();
            let words = "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got ";
            assert_eq!(err, format!("{words}{path:?} instead"));
        }
    }

    #[test]
    fn no_name_leads_out_of_its_slice() {
        for path in
            ["a.slice:../../x:y", "a.slice:p:../x", "a.slice:p:x/y", "a.slice:p:x y", "a.slice::", "a.slice:p:-.slice"]
        {
            assert!(matches!(place(Some(path)), Err(Error::Name { .. })), "{path}");
        }
        let long = format!(":p:{}", "x".repeat(250));
        assert!(matches!(place(Some(&long)), Err(Error::Name { .. })));
        for slice in ["a", "a.slice/b.slice", "-a.slice", "a--b.slice", ".slice", "../x.slice", "a.scope"] {
            let path = format!("{slice}:p:x");
            assert!(matches!(place(Some(&path)), Err(Error::Slice { .. })), "{slice}");
        }
        assert!(matches!(place(Some("a.slice:p:x--y.slice")), Err(Error::Slice { .. })));
    }
}
