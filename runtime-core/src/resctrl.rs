//! Classes of cache and memory bandwidth (OCI config-linux, "IntelRdt"; the kernel's filesystems/resctrl).

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind as IoKind;
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxIntelRdt;
use serde::{Deserialize, Serialize};

use crate::{ContainerId, ErrorKind, Pid};

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("linux.intelRdt needs a mounted resctrl file system, and this host has none")]
    NotMounted,
    #[error("linux.intelRdt.closID {0:?} is not the name of a directory")]
    Name(String),
    #[error("class {0} does not exist, and linux.intelRdt has no schemata to make it with")]
    NoClass(PathBuf),
    #[error("class {path} exists, and its schemata are not {wanted:?}")]
    Differs { path: PathBuf, wanted: String },
    #[error("{operation} {path}")]
    File {
        operation: &'static str,
        path: PathBuf,
        #[source]
        err: std::io::Error,
    },
}

impl Error {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::NotMounted => ErrorKind::Unimplemented,
            Self::Name(_) | Self::NoClass(_) | Self::Differs { .. } => ErrorKind::InvalidArgument,
            // A schema that the kernel does not take.
            Self::File { err, .. } if err.kind() == IoKind::InvalidInput => ErrorKind::InvalidArgument,
            Self::File { .. } => ErrorKind::Internal,
        }
    }
}

/// The class of a container, and what of it goes with the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Class {
    path: PathBuf,
    /// A class without `closID` is the container's own.
    own: bool,
    /// Below the class: who is counted, and not who is limited.
    monitor: Option<PathBuf>,
    #[serde(skip)]
    schemata: Vec<String>,
}

impl Class {
    /// Changes nothing.
    pub(crate) fn new(id: &ContainerId, spec: &LinuxIntelRdt) -> Result<Self, Error> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|err| Error::File {
            operation: "read",
            path: "/proc/self/mountinfo".into(),
            err,
        })?;
        Self::below(mount_point(&mounts).ok_or(Error::NotMounted)?, id, spec)
    }

    fn below(root: &Path, id: &ContainerId, spec: &LinuxIntelRdt) -> Result<Self, Error> {
        let name = spec.clos_id().as_deref().filter(|name| !name.is_empty());
        let path = match name {
            // The class that every process begins in.
            Some("/") => root.to_owned(),
            Some(name) if matches!(name, "." | ".." | "info" | "mon_data" | "mon_groups") || name.contains('/') => {
                return Err(Error::Name(name.to_owned()));
            }
            name => root.join(name.unwrap_or(id.as_str())),
        };
        let schemata = schemata(spec);
        if name.is_some() && schemata.is_empty() && !path.is_dir() {
            return Err(Error::NoClass(path));
        }
        let monitor = spec.enable_monitoring() == &Some(true);
        let monitor = monitor.then(|| path.join("mon_groups").join(id.as_str()));
        Ok(Self { path, own: name.is_none(), monitor, schemata })
    }

    /// Makes what is missing; what a failure leaves goes again.
    pub(crate) fn create(&self) -> Result<(), Error> {
        let made = self.make_dir(&self.path)?;
        let rest = match made {
            true => self.write_schemata(),
            false => self.compare(),
        };
        let rest = rest.and_then(|()| self.monitor.as_ref().map_or(Ok(false), |path| self.make_dir(path)).map(drop));
        if rest.is_err() && made {
            // The first error is the one to tell.
            fs::remove_dir(&self.path).ok();
        }
        rest
    }

    /// `false` if it is there.
    fn make_dir(&self, path: &Path) -> Result<bool, Error> {
        match fs::create_dir(path) {
            Ok(()) => Ok(true),
            Err(err) if err.kind() == IoKind::AlreadyExists => Ok(false),
            Err(err) => Err(Error::File { operation: "mkdir", path: path.to_owned(), err }),
        }
    }

    fn write_schemata(&self) -> Result<(), Error> {
        self.set(&self.schemata)
    }

    /// Gives the class the schemata of `spec`, and with it every container that is in it.
    pub(crate) fn update(&self, spec: &LinuxIntelRdt) -> Result<(), Error> {
        self.set(&schemata(spec))
    }

    fn set(&self, schemata: &[String]) -> Result<(), Error> {
        let path = self.path.join("schemata");
        // One write a line: the kernel stops at the first that it does not take.
        schemata.iter().try_for_each(|line| write(&path, line))
    }

    /// Another container's class is joined as it is, or not at all.
    fn compare(&self) -> Result<(), Error> {
        if self.schemata.is_empty() {
            return Ok(());
        }
        let path = self.path.join("schemata");
        let text = fs::read_to_string(&path).map_err(|err| Error::File { operation: "read", path, err })?;
        let now: Vec<_> = text.lines().filter_map(parse).collect();
        for wanted in &self.schemata {
            let same = parse(wanted).is_some_and(|(resource, domains)| {
                let found = now.iter().find(|(name, _)| *name == resource);
                found.is_some_and(|(_, now)| domains.iter().all(|(domain, value)| now.get(domain) == Some(value)))
            });
            if !same {
                return Err(Error::Differs { path: self.path.clone(), wanted: wanted.clone() });
            }
        }
        Ok(())
    }

    /// Puts a process, with all its threads to come, into the class.
    pub(crate) fn join(&self, pid: Pid) -> Result<(), Error> {
        let paths = std::iter::once(&self.path).chain(&self.monitor);
        paths.into_iter().try_for_each(|path| write(&path.join("tasks"), &pid.to_string()))
    }

    /// It is no error if it is gone.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        let own = self.own.then_some(&self.path);
        for path in self.monitor.iter().chain(own) {
            match fs::remove_dir(path) {
                Err(err) if err.kind() != IoKind::NotFound => {
                    return Err(Error::File { operation: "rmdir", path: path.clone(), err });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, format!("{text}\n")).map_err(|err| Error::File { operation: "write", path: path.to_owned(), err })
}

/// `schemata`, or the older two; MB lines are the bandwidth schema's where both have some.
fn schemata(spec: &LinuxIntelRdt) -> Vec<String> {
    let given: Vec<String> = spec.schemata().iter().flatten().filter(|line| !line.is_empty()).cloned().collect();
    if !given.is_empty() {
        return given;
    }
    let bandwidth = spec.mem_bw_schema().as_deref().filter(|line| !line.is_empty());
    let cache = spec.l3_cache_schema().as_deref().unwrap_or_default().lines();
    let cache = cache.filter(|line| !line.is_empty() && (bandwidth.is_none() || !line.trim_start().starts_with("MB:")));
    cache.chain(bandwidth).map(str::to_owned).collect()
}

/// "L3:0=7f0;1=1f": the resource, and for each domain its value without the zeros that the kernel fills up with.
fn parse(line: &str) -> Option<(&str, BTreeMap<&str, String>)> {
    let (resource, domains) = line.trim().split_once(':')?;
    let mut values = BTreeMap::new();
    for part in domains.split(';') {
        let (domain, value) = part.split_once('=')?;
        values.insert(domain.trim(), value.trim().trim_start_matches('0').to_lowercase());
    }
    Some((resource.trim(), values))
}

fn mount_point(mountinfo: &str) -> Option<&Path> {
    mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        right.starts_with("resctrl ").then(|| left.split(' ').nth(4))?.map(Path::new)
    })
}

/// A schemata file, and a mount table.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(text: &str) {
    for (resource, domains) in text.lines().filter_map(parse) {
        assert!(!resource.contains(':'), "{resource:?}");
        assert!(domains.iter().all(|(domain, value)| !domain.contains('=') && !value.contains(';')), "{domains:?}");
    }
    if let Some(point) = mount_point(text) {
        assert!(text.contains(&*point.to_string_lossy()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(root: &Path, spec: serde_json::Value) -> Result<Class, Error> {
        Class::below(root, &ContainerId::parse("web").unwrap(), &serde_json::from_value(spec).unwrap())
    }

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    /// A directory stands for the kernel's: each write replaces the file, so the last line is what is seen.
    #[test]
    fn without_a_class_id_the_class_is_the_containers() {
        let root = tempfile::tempdir().unwrap();
        let class = class(root.path(), serde_json::json!({"schemata": ["L3:0=f", "MB:0=20"]})).unwrap();
        class.create().unwrap();
        class.join(Pid::new(7).unwrap()).unwrap();
        assert_eq!(read(&root.path().join("web/schemata")), "MB:0=20\n");
        assert_eq!(read(&root.path().join("web/tasks")), "7\n");
        class.update(&serde_json::from_value(serde_json::json!({"memBwSchema": "MB:0=70"})).unwrap()).unwrap();
        assert_eq!(read(&root.path().join("web/schemata")), "MB:0=70\n");
        for file in ["schemata", "tasks"] {
            fs::remove_file(root.path().join("web").join(file)).unwrap();
        }
        class.remove().unwrap();
        class.remove().unwrap();
        assert!(!root.path().join("web").exists());
    }

    #[test]
    fn a_named_class_without_schemata_must_exist_and_stays() {
        let root = tempfile::tempdir().unwrap();
        let spec = serde_json::json!({"closID": "gold", "enableMonitoring": true});
        assert!(matches!(class(root.path(), spec.clone()), Err(Error::NoClass(_))));
        fs::create_dir_all(root.path().join("gold/mon_groups")).unwrap();
        let class = class(root.path(), spec).unwrap();
        class.create().unwrap();
        class.join(Pid::new(7).unwrap()).unwrap();
        assert_eq!(read(&root.path().join("gold/mon_groups/web/tasks")), "7\n");
        fs::remove_file(root.path().join("gold/mon_groups/web/tasks")).unwrap();
        class.remove().unwrap();
        assert!(root.path().join("gold").exists() && !root.path().join("gold/mon_groups/web").exists());
    }

    #[test]
    fn a_class_of_others_is_joined_only_as_it_is() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("gold")).unwrap();
        fs::write(root.path().join("gold/schemata"), "    L3:0=7f0;1=01f\n    MB:0= 20;1= 70\n").unwrap();
        let create = |spec| class(root.path(), spec).unwrap().create();
        create(serde_json::json!({"closID": "gold", "l3CacheSchema": "L3:0=7f0;1=1f", "memBwSchema": "MB:1=70"}))
            .unwrap();
        let other = create(serde_json::json!({"closID": "gold", "l3CacheSchema": "L3:0=7ff"}));
        assert!(matches!(other, Err(Error::Differs { .. })), "{other:?}");
        assert_eq!(read(&root.path().join("gold/schemata")), "    L3:0=7f0;1=01f\n    MB:0= 20;1= 70\n");
    }

    #[test]
    fn the_bandwidth_schema_replaces_the_caches_lines() {
        let spec = serde_json::json!({"l3CacheSchema": "L3:0=f\nMB:0=10", "memBwSchema": "MB:0=20"});
        assert_eq!(schemata(&serde_json::from_value(spec).unwrap()), ["L3:0=f", "MB:0=20"]);
    }

    #[test]
    fn a_class_is_a_directory_of_resctrls_own() {
        let root = tempfile::tempdir().unwrap();
        for name in ["..", "a/b", "info", "mon_groups"] {
            let found = class(root.path(), serde_json::json!({"closID": name}));
            assert!(matches!(found, Err(Error::Name(_))), "{name}: {found:?}");
        }
        assert_eq!(class(root.path(), serde_json::json!({"closID": "/"})).unwrap().path, root.path());
        let mounts = "1 0 0:1 / /a rw - tmpfs tmpfs rw\n2 0 0:2 / /sys/fs/resctrl rw - resctrl resctrl rw\n";
        assert_eq!(mount_point(mounts), Some(Path::new("/sys/fs/resctrl")));
        assert_eq!(mount_point("1 0 0:1 / /a rw - tmpfs tmpfs rw\n"), None);
    }
}
