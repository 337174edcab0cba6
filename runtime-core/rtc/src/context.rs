//! What the global options say.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use runtime_core::ContainerId;
use runtime_core::container::Container;

use crate::args::Global;
use crate::error::Error;

const DEFAULT_ROOT: &str = "/run/rtc";

#[derive(Debug)]
pub(crate) struct Context {
    /// The state directories of all containers; absolute.
    pub(crate) root: PathBuf,
    /// The root is not the default one.
    pub(crate) root_given: bool,
    /// systemd is to make the cgroups of new containers.
    pub(crate) systemd_cgroup: bool,
}

impl Context {
    pub(crate) fn new(global: &Global) -> Result<Self, Error> {
        if global.criu.is_some() {
            // What runc says; nobody is helped by an error where stderr is closed.
            writeln!(std::io::stderr(), "WARNING: --criu ignored (criu binary from $PATH is used); do not use").ok();
        }
        let root = match &global.root {
            Some(root) => given_root(root)?,
            None => default_root()?,
        };
        Ok(Self { root, root_given: global.root.is_some(), systemd_cgroup: global.systemd_cgroup })
    }

    /// # Errors
    /// [`Error::NotExist`], or its state cannot be read.
    pub(crate) fn load(&self, id: &str) -> Result<Container, Error> {
        Container::load(&self.root, &parse_id(id)?).map_err(Into::into)
    }
}

pub(crate) fn parse_id(id: &str) -> Result<ContainerId, Error> {
    if id.is_empty() {
        return Err(Error::EmptyId);
    }
    ContainerId::parse(id).map_err(|_| Error::InvalidId)
}

/// # Errors
/// For the root directory, which is what an empty or a wrong path can come to.
fn given_root(root: &Path) -> Result<PathBuf, Error> {
    let mut clean = match root.as_os_str().is_empty() {
        true => std::env::current_dir(),
        false => std::path::absolute(root),
    }
    .map_err(|err| Error::File { operation: "resolve", path: root.to_owned(), err })?;
    if clean.components().any(|component| component == Component::ParentDir) {
        // Without looking at links, as Go's filepath.Abs.
        let components: Vec<_> = clean.components().map(|component| component.as_os_str().to_owned()).collect();
        clean = PathBuf::from("/");
        for component in components {
            if component == ".." {
                clean.pop();
            } else {
                clean.push(component);
            }
        }
    }
    if clean == Path::new("/") { Err(Error::RootIsRoot) } else { Ok(clean) }
}

fn default_root() -> Result<PathBuf, Error> {
    let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty());
    let Some(runtime_dir) = runtime_dir.filter(|_| honours_xdg()) else { return Ok(DEFAULT_ROOT.into()) };
    let root = Path::new(&runtime_dir).join("rtc");
    // The sticky bit keeps it from being pruned (XDG base directory specification).
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&root)
        .and_then(|()| std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o1700)))
        .map_err(|err| Error::File { operation: "make (is $XDG_RUNTIME_DIR writable?)", path: root.clone(), err })?;
    Ok(root)
}

/// Not for root on the host, whose containers have been in /run whatever its environment says.
fn honours_xdg() -> bool {
    if !rustix::process::geteuid().is_root() {
        return true;
    }
    in_user_namespace() && std::env::var_os("USER").is_none_or(|user| user != "root")
}

/// The initial one maps every id to itself (user_namespaces(7)).
fn in_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_ascii_whitespace().ne(["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_absolute_and_clean() {
        assert_eq!(given_root(Path::new("/run//x/./y/../z")).unwrap(), Path::new("/run/x/z"));
        assert_eq!(given_root(Path::new("x")).unwrap(), std::env::current_dir().unwrap().join("x"));
    }

    #[test]
    fn the_root_directory_is_no_root() {
        for root in ["/", "/..", "/run/..", "//"] {
            assert!(matches!(given_root(Path::new(root)), Err(Error::RootIsRoot)), "{root}");
        }
    }

    #[test]
    fn ids_are_refused_in_runcs_words() {
        assert_eq!(parse_id("").unwrap_err().to_string(), "container id cannot be empty");
        assert_eq!(parse_id("../x").unwrap_err().to_string(), "invalid container ID format");
    }
}
