//! `rtc state`, and what `list` says of a container as well.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use runtime_core::container::{Container, Status};
use runtime_core::time::Rfc3339;
use serde::Serialize;

use crate::context::Context;
use crate::error::Error;
use crate::output;

/// Output the state of a container
#[derive(Debug, clap::Args)]
pub(crate) struct State {
    /// The container's id
    #[arg(value_name = "container-id")]
    id: String,
}

impl State {
    pub(crate) fn run(self, context: &Context) -> Result<ExitCode, Error> {
        let container = context.load(&self.id)?;
        let state = ContainerState::new(&container, String::new())?;
        output::print(&output::json_pretty("the state", &state, "  ")?)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The runtime specification's state, with runc's additions.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ContainerState {
    oci_version: &'static str,
    pub(crate) id: String,
    /// 0 once it has ended.
    pub(crate) pid: i32,
    pub(crate) status: String,
    pub(crate) bundle: PathBuf,
    rootfs: PathBuf,
    pub(crate) created: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    /// Of the state directory; empty in the answer of `state`, as with runc.
    pub(crate) owner: String,
}

impl ContainerState {
    pub(crate) fn new(container: &Container, owner: String) -> Result<Self, Error> {
        let status = container.status()?;
        let annotations = container.annotations().iter().map(|(key, value)| (key.clone(), value.clone()));
        Ok(Self {
            oci_version: runtime_core::spec::VERSION,
            id: container.id().to_string(),
            pid: container.pid().filter(|_| status != Status::Stopped).map_or(0, |pid| pid.as_raw()),
            status: status.to_string(),
            bundle: container.bundle().to_owned(),
            rootfs: container.rootfs().to_owned(),
            created: Rfc3339(container.created()).to_string(),
            annotations: annotations.collect(),
            owner,
        })
    }
}
