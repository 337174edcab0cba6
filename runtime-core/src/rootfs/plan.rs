//! From the spec to a [`Plan`]: everything that can be found wrong outside the container is found here.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType, Mount, Spec};

use super::error::Error;
use super::options::{self, Options};
use super::source::IdMap;
use super::tree::clean;
use super::{Entry, Kind, Plan, PlanOptions, devices, sysctl};

const DEVPTS_GROUP: u32 = 5;

impl Plan {
    /// Changes nothing, and opens nothing but what tells whether the host has SELinux.
    pub(crate) fn new(spec: &Spec, options: &PlanOptions<'_>) -> Result<Self, Error> {
        let root = spec.root().as_ref().ok_or(Error::Missing("root"))?;
        let linux = spec.linux().as_ref().ok_or(Error::Missing("linux section"))?;
        let has_namespace = |kind| linux.namespaces().iter().flatten().any(|n| n.typ() == kind);
        if !has_namespace(LinuxNamespaceType::Mount) {
            return Err(Error::NoMountNamespace);
        }
        let rootfs = options.bundle.join(root.path());
        let mut mounts = Vec::new();
        for mount in spec.mounts().iter().flatten() {
            let mut entry = Entry::new(mount, &rootfs, options.bundle, options.user_namespace)?;
            entry.adapt(linux, options);
            mounts.push(entry);
        }
        let dev_is_bound = |m: &Entry| m.target == Path::new("/dev") && matches!(m.kind, Kind::Bind { .. });
        let has_cgroup_mount = mounts.iter().any(|m| matches!(m.kind, Kind::Cgroup));
        Ok(Self {
            root: rootfs,
            read_only: root.readonly().unwrap_or(false),
            no_pivot_root: options.no_pivot_root,
            propagation: linux.rootfs_propagation().as_deref().map_or(Ok(None), propagation)?,
            user_namespace: options.user_namespace,
            fill_dev: !mounts.iter().any(dev_is_bound),
            mounts,
            cgroup: has_cgroup_mount.then(|| options.cgroup.clone()),
            devices: devices::plan(linux.devices().as_deref().unwrap_or_default())?,
            masked: absolute(linux.masked_paths())?,
            readonly: absolute(linux.readonly_paths())?,
            sysctl: sysctl::plan(linux, options.network_namespace, &has_namespace)?,
            live: OnceLock::new(),
        })
    }
}

fn propagation(name: &str) -> Result<Option<(u64, bool)>, Error> {
    match name {
        "" => Ok(None),
        name => options::propagation(name).map(Some).ok_or_else(|| Error::InvalidPropagation(name.to_owned())),
    }
}

fn absolute(paths: &Option<Vec<String>>) -> Result<Vec<PathBuf>, Error> {
    let check = |path: &String| match Path::new(path).is_absolute() {
        true => Ok(clean(Path::new(path))),
        false => Err(Error::RelativePath { path: path.clone() }),
    };
    paths.iter().flatten().map(check).collect()
}

impl Entry {
    fn new(mount: &Mount, rootfs: &Path, bundle: &Path, user_namespace: bool) -> Result<Self, Error> {
        // A relative destination is below the root, and the host's path of the root stands for the root, as runc has it.
        let target = clean(mount.destination());
        let target = target.strip_prefix(rootfs).map_or_else(|_| target.clone(), |below| Path::new("/").join(below));
        let invalid = |reason| Error::InvalidMount { target: target.clone(), reason };
        let refuse = |reason| Err(invalid(reason));
        let options = Options::parse(mount.options().as_deref().unwrap_or_default());
        if target == Path::new("/") && !options.remount {
            return refuse("the root itself cannot be mounted over");
        }
        let source = mount.source().as_deref();
        let kind = match mount.typ().as_deref() {
            _ if options.remount => Kind::Remount,
            Some("bind") => Kind::bind(source, bundle),
            _ if options.bind => Kind::bind(source, bundle),
            Some("cgroup" | "cgroup2") => Kind::Cgroup,
            None | Some("" | "none") => return refuse("it has neither a type nor the option bind"),
            Some(name) => Kind::Filesystem {
                name: name.to_owned(),
                source: source.unwrap_or(Path::new(name)).to_string_lossy().into_owned(),
            },
        };
        if matches!(&kind, Kind::Bind { source } if source.as_os_str().is_empty()) {
            return refuse("a bind mount needs a source");
        }
        let ids = match IdMap::new(mount, &options) {
            Ok(Some(_)) if !matches!(kind, Kind::Bind { .. }) => return refuse("only bind mounts can be id-mapped"),
            Ok(Some(map)) if map.is_containers() && !user_namespace => {
                return refuse("idmap without mappings of its own needs a user namespace");
            }
            ids => ids.map_err(invalid)?,
        };
        Ok(Self { target, kind, options, ids })
    }

    /// What the spec cannot know: whether a group is mapped, whether the host has SELinux.
    fn adapt(&mut self, linux: &Linux, options: &PlanOptions<'_>) {
        let Kind::Filesystem { name, .. } = &self.kind else { return };
        if name == "devpts" && options.user_namespace {
            // devpts refuses a group that has no mapping, and containerd's default spec asks for tty's.
            self.options.data.retain(|(key, value)| key != "gid" || is_mapped(linux.gid_mappings(), value.as_deref()));
        }
        // As with runc these four carry no context option; they have labels of their own.
        let labelled = !matches!(name.as_str(), "proc" | "sysfs" | "mqueue" | "cgroup");
        if let Some(label) = linux.mount_label().as_deref().filter(|l| !l.is_empty() && labelled && has_selinux())
            && !self.options.has_data("context")
        {
            self.options.data.push(("context".to_owned(), Some(format!("\"{label}\""))));
        }
    }
}

impl Kind {
    /// A relative source is below the bundle (OCI config, "mounts"). An empty one is refused by the caller.
    fn bind(source: Option<&Path>, bundle: &Path) -> Self {
        let source = match source {
            Some(source) if !source.as_os_str().is_empty() => bundle.join(source),
            _ => PathBuf::new(),
        };
        Self::Bind { source }
    }
}

fn is_mapped(mappings: &Option<Vec<LinuxIdMapping>>, id: Option<&str>) -> bool {
    let id = id.and_then(|id| id.parse().ok()).unwrap_or(DEVPTS_GROUP);
    mappings.iter().flatten().any(|m| (m.container_id()..m.container_id().saturating_add(m.size())).contains(&id))
}

fn has_selinux() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}
