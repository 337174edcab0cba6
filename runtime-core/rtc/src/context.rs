//! What the global options say.

use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use runtime_core::container::{Bus, CgroupDriver, Container};
use runtime_core::{ContainerId, caller};
use rustix::fs::{Mode, OFlags};

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
    systemd_cgroup: bool,
    /// As it was given.
    rootless: String,
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
        let systemd_cgroup = global.systemd_cgroup || global.cgroup_manager.as_deref() == Some("systemd");
        let rootless = global.rootless.clone();
        Ok(Self { root, root_given: global.root.is_some(), systemd_cgroup, rootless })
    }

    /// Whether a new container may do without cgroups that this process may not make.
    pub(crate) fn rootless_cgroup(&self) -> Result<bool, Error> {
        Ok(parse_rootless(&self.rootless)?.unwrap_or_else(caller::is_unprivileged))
    }

    /// Who makes the cgroups of new containers, and whose systemd it is.
    pub(crate) fn cgroup_driver(&self) -> Result<CgroupDriver, Error> {
        if !self.systemd_cgroup {
            return Ok(CgroupDriver::Cgroupfs);
        }
        Ok(CgroupDriver::Systemd(match parse_rootless(&self.rootless)? {
            Some(true) => Bus::User,
            Some(false) => Bus::System,
            None => Bus::of_caller(),
        }))
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
    own_root(&root)?;
    Ok(root)
}

/// Makes it, or makes sure that nobody else has: what is in it says what is done with the user's rights.
fn own_root(root: &Path) -> Result<(), Error> {
    let failed = |operation| move |err: std::io::Error| Error::File { operation, path: root.to_owned(), err };
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(root);
    made.map_err(failed("make (the path in $XDG_RUNTIME_DIR must be writable by the user)"))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = failed("open (it must be a directory of the user's own, and no symlink)");
    let directory = rustix::fs::open(root, flags, Mode::empty()).map_err(|err| open(err.into()))?;
    let stat = rustix::fs::fstat(&directory).map_err(|err| failed("look at")(err.into()))?;
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        return Err(Error::ForeignRoot { path: root.to_owned(), owner: stat.st_uid });
    }
    // The sticky bit keeps it from being pruned (XDG base directory specification).
    rustix::fs::fchmod(&directory, Mode::RWXU | Mode::SVTX)
        .map_err(|err| failed("chmod (check permission of the path in $XDG_RUNTIME_DIR)")(err.into()))
}

/// Not for root on the host, whose containers have been in /run whatever its environment says.
fn honours_xdg() -> bool {
    if !rustix::process::geteuid().is_root() {
        return true;
    }
    caller::in_user_namespace() && std::env::var_os("USER").is_none_or(|user| user != "root")
}

/// As Go's strconv.ParseBool; `None` for "auto".
fn parse_rootless(text: &str) -> Result<Option<bool>, Error> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(Some(true)),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(Some(false)),
        "" => Ok(None),
        text if text.eq_ignore_ascii_case("auto") => Ok(None),
        text => Err(Error::ParseBool(text.to_owned())),
    }
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
    fn rootless_is_a_boolean_of_gos() {
        for (text, meant) in [("", None), ("AUTO", None), ("t", Some(true)), ("True", Some(true)), ("0", Some(false))] {
            assert_eq!(parse_rootless(text).unwrap(), meant, "{text}");
        }
        let said = parse_rootless("yes").unwrap_err().to_string();
        assert_eq!(said, r#"strconv.ParseBool: parsing "yes": invalid syntax"#);
    }

    #[test]
    fn a_root_in_the_runtime_directory_is_a_directory_of_ones_own() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("rtc");
        own_root(&root).unwrap();
        own_root(&root).unwrap();
        assert_eq!(std::fs::metadata(&root).unwrap().permissions().mode() & 0o7777, 0o1700);
        // A symlink to somebody else's directory, whose mode would be changed.
        let other = directory.path().join("other");
        std::fs::create_dir(&other).unwrap();
        std::fs::remove_dir(&root).unwrap();
        std::os::unix::fs::symlink(&other, &root).unwrap();
        assert!(own_root(&root).unwrap_err().to_string().contains("no symlink"));
        assert_eq!(std::fs::metadata(&other).unwrap().permissions().mode() & 0o1000, 0);
    }

    #[test]
    fn ids_are_refused_in_runcs_words() {
        assert_eq!(parse_id("").unwrap_err().to_string(), "container id cannot be empty");
        assert_eq!(parse_id("../x").unwrap_err().to_string(), "invalid container ID format");
    }
}
