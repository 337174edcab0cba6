//! `rtc spec`.

mod rootless;

use std::path::PathBuf;
use std::process::ExitCode;

use oci_spec::runtime::{LinuxNamespaceBuilder, LinuxNamespaceType, Spec as OciSpec};
use serde_json::Value;

use crate::error::Error;
use crate::output;

const FILE: &str = "config.json";

/// Create a new specification file, config.json
#[derive(Debug, clap::Args)]
pub(crate) struct Spec {
    /// The bundle's directory, the current one if not given
    #[arg(short, long, value_name = "DIR")]
    bundle: Option<PathBuf>,

    /// For a container of a user other than root
    #[arg(long)]
    rootless: bool,
}

impl Spec {
    pub(crate) fn run(self) -> Result<ExitCode, Error> {
        let bundle = self.bundle.filter(|path| !path.as_os_str().is_empty()).unwrap_or_default();
        let path = bundle.join(FILE);
        let mut spec = default(std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists())?;
        if self.rootless {
            rootless::convert(&mut spec, rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        }
        let json = output::json_pretty("the specification", &Ordered::new(&spec)?, "\t")?;
        let file = std::fs::OpenOptions::new().write(true).create_new(true).open(&path);
        match file.and_then(|mut file| std::io::Write::write_all(&mut file, json.as_bytes())) {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(err) if err.kind() == std::io::ErrorKind::AlreadyExists => Err(Error::SpecExists(FILE)),
            Err(err) => Err(Error::File { operation: "write", path, err }),
        }
    }
}

/// In the order in which people read it, the same each time.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Ordered {
    oci_version: Value,
    process: Value,
    root: Value,
    hostname: Value,
    mounts: Value,
    linux: Value,
}

impl Ordered {
    fn new(spec: &OciSpec) -> Result<Self, Error> {
        let mut spec = serde_json::to_value(spec).map_err(|err| Error::Encode { what: "the specification", err })?;
        for set in ["bounding", "effective", "permitted"] {
            if let Some(Value::Array(names)) = spec.pointer_mut(&format!("/process/capabilities/{set}")) {
                names.sort_by(|one, other| one.as_str().cmp(&other.as_str()));
            }
        }
        let mut take = |field: &str| spec[field].take();
        Ok(Self {
            oci_version: take("ociVersion"),
            process: take("process"),
            root: take("root"),
            hostname: take("hostname"),
            mounts: take("mounts"),
            linux: take("linux"),
        })
    }
}

/// A shell in a read-only root filesystem, with few capabilities.
fn default(unified_cgroups: bool) -> Result<OciSpec, Error> {
    let mut spec: OciSpec = serde_json::from_str(include_str!("config.json"))
        .map_err(|err| Error::Encode { what: "the specification", err })?;
    spec.set_version(runtime_core::spec::VERSION.to_owned());
    if let Some(linux) = spec.linux_mut().as_mut().filter(|_| unified_cgroups) {
        let cgroup = LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::Cgroup).build();
        let mut namespaces = linux.namespaces().clone().unwrap_or_default();
        namespaces.extend(cgroup.ok());
        linux.set_namespaces(Some(namespaces));
    }
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_what_the_runtime_takes() {
        for unified in [false, true] {
            let spec = default(unified).unwrap();
            let namespaces = spec.linux().as_ref().unwrap().namespaces().clone().unwrap();
            assert_eq!(namespaces.len(), if unified { 6 } else { 5 });
            assert_eq!(spec.version(), runtime_core::spec::VERSION);
        }
    }

    #[test]
    fn it_is_written_whole_and_in_order() {
        let spec = default(true).unwrap();
        let ordered = serde_json::to_value(Ordered::new(&spec).unwrap()).unwrap();
        assert_eq!(serde_json::from_value::<OciSpec>(ordered.clone()).unwrap(), spec);
        let bounding = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];
        assert_eq!(ordered["process"]["capabilities"]["bounding"], serde_json::json!(bounding));
    }

    #[test]
    fn nothing_is_overwritten() {
        let bundle = tempfile::tempdir().unwrap();
        let command = || Spec { bundle: Some(bundle.path().to_owned()), rootless: false };
        command().run().unwrap();
        let written = runtime_core::spec::load(bundle.path()).unwrap();
        assert_eq!(written.hostname().as_deref(), Some("rtc"));
        assert!(matches!(command().run(), Err(Error::SpecExists(_))));
    }
}
