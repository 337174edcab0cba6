//! The migration service: decodes a request, calls, and encodes the answer.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use proto::migration::migration as api;
use proto::migration::migration_ttrpc::{Migration, create_migration};
use protobuf::EnumOrUnknown;
use runtime_core::container::{CheckpointOptions, CriuOptions};
use ttrpc::r#async::TtrpcContext;

use super::{End, Hold, Phase};
use crate::error::{Error, Result};
use crate::sandbox::Sandbox;
use crate::service::whole;
use crate::task::Task;

/// What all requests that dump have.
macro_rules! criu_options {
    ($request:expr) => {
        CriuOptions {
            tcp_established: $request.tcp_established,
            ext_unix_sk: $request.ext_unix_sk,
            shell_job: $request.shell_job,
            file_locks: $request.file_locks,
            ..CriuOptions::default()
        }
    };
}

#[derive(Clone, Debug)]
pub(crate) struct MigrationService {
    sandbox: Arc<Sandbox>,
}

impl MigrationService {
    pub(crate) fn new(sandbox: Arc<Sandbox>) -> Self {
        Self { sandbox }
    }

    pub(crate) fn register(self) -> HashMap<String, ttrpc::r#async::Service> {
        create_migration(Arc::new(self))
    }

    fn hold(&self, id: &str, migration: &str) -> Result<Arc<Hold>> {
        self.sandbox.task(id)?.migration(migration)
    }
}

#[async_trait]
impl Migration for MigrationService {
    async fn preflight(
        &self,
        _: &TtrpcContext,
        request: api::PreflightRequest,
    ) -> ttrpc::Result<api::PreflightResponse> {
        let task = self.sandbox.task(&request.id)?;
        let mut options = CheckpointOptions::new(PathBuf::from(&request.image_path));
        options.criu = criu_options!(request);
        options.lazy_pages = request.lazy_pages;
        Ok(preflight(&task, options).await?)
    }

    async fn pre_dump(&self, _: &TtrpcContext, request: api::PreDumpRequest) -> ttrpc::Result<api::PreDumpResponse> {
        let task = self.sandbox.task(&request.id)?;
        let options = decode_pre_dump(&request)?;
        let span = tracing::info_span!("migrate", id = request.id, migration = request.migration);
        let made = whole(span, task.pre_dump(options, request.migration)).await?;
        Ok(api::PreDumpResponse {
            bytes: made.bytes,
            frozen_us: made.frozen.map(micros).unwrap_or_default(),
            total_us: micros(made.total),
            ..api::PreDumpResponse::default()
        })
    }

    async fn dump(&self, _: &TtrpcContext, request: api::DumpRequest) -> ttrpc::Result<api::DumpResponse> {
        let task = self.sandbox.task(&request.id)?;
        let (options, hold) = decode_dump(&request)?;
        let images = options.image_dir.clone();
        let span = tracing::info_span!("migrate", id = request.id, migration = request.migration);
        whole(span, task.dump(options, hold.clone())).await?;
        let bytes = size_of(images).await?;
        let frozen_for_us = micros(hold.frozen_for());
        Ok(api::DumpResponse { bytes, frozen_for_us, ..api::DumpResponse::default() })
    }

    async fn prepare(&self, _: &TtrpcContext, request: api::PrepareRequest) -> ttrpc::Result<api::PrepareResponse> {
        self.hold(&request.id, &request.migration)?.prepare().await?;
        Ok(api::PrepareResponse::default())
    }

    async fn leave(&self, _: &TtrpcContext, request: api::LeaveRequest) -> ttrpc::Result<api::LeaveResponse> {
        self.hold(&request.id, &request.migration)?.leave()?;
        Ok(api::LeaveResponse::default())
    }

    async fn commit(&self, _: &TtrpcContext, request: api::CommitRequest) -> ttrpc::Result<api::CommitResponse> {
        self.hold(&request.id, &request.migration)?.commit().await?;
        Ok(api::CommitResponse::default())
    }

    async fn abort(&self, _: &TtrpcContext, request: api::AbortRequest) -> ttrpc::Result<api::AbortResponse> {
        if !self.sandbox.task(&request.id)?.pre_dump_over(&request.migration).await {
            self.hold(&request.id, &request.migration)?.abort().await?;
        }
        Ok(api::AbortResponse::default())
    }

    async fn state(&self, _: &TtrpcContext, request: api::StateRequest) -> ttrpc::Result<api::StateResponse> {
        let task = self.sandbox.task(&request.id)?;
        let (phase, migration) = if request.migration.is_empty() {
            let hold = task.any_migration();
            (hold.as_ref().map(|hold| hold.phase()), hold.map(|hold| hold.migration.clone()).unwrap_or_default())
        } else {
            (Some(task.migration(&request.migration)?.renew()), request.migration)
        };
        let (phase, left) = encode(phase);
        let lease_left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let phase = EnumOrUnknown::new(phase);
        Ok(api::StateResponse { phase, migration, lease_left_ms, ..api::StateResponse::default() })
    }

    async fn arrived(&self, _: &TtrpcContext, request: api::ArrivedRequest) -> ttrpc::Result<api::ArrivedResponse> {
        self.sandbox.task(&request.id)?.arrived().await?;
        Ok(api::ArrivedResponse::default())
    }
}

async fn preflight(task: &Arc<Task>, options: CheckpointOptions) -> Result<api::PreflightResponse> {
    let (mut problems, mut warnings) = (task.refuses_checkpoint(), Vec::new());
    if problems.is_empty() {
        (problems, warnings) = task.check_dump(options).await?;
    }
    let ask = || (runtime_core::container::criu_version(), runtime_core::container::criu_features());
    let (found, features) = tokio::task::spawn_blocking(ask).await?;
    // Where there are none, there is no version either.
    let features = features.unwrap_or_default();
    let criu_version = match found {
        Ok(version) => version,
        Err(err) if problems.is_empty() => {
            problems.push(crate::error::chain(&err));
            String::new()
        }
        // The preflight has found that too.
        Err(_) => String::new(),
    };
    Ok(api::PreflightResponse {
        bundle: task.bundle.to_string_lossy().into_owned(),
        pid: task.init.pid(),
        paused: task.is_paused(),
        criu_version,
        problems,
        warnings,
        tracks_memory: features.mem_track,
        lazy_pages: features.lazy_pages,
        ..api::PreflightResponse::default()
    })
}

/// Where the images of a migration go.
fn image_dir(id: &str, migration: &str, image_path: &str) -> Result<PathBuf> {
    let refuse = |option: &'static str, value: &str| Error::CheckpointOption {
        id: id.to_owned(),
        option,
        value: value.to_owned(),
    };
    if migration.is_empty() {
        return Err(refuse("migration", ""));
    }
    let directory = PathBuf::from(image_path);
    if directory.is_absolute() { Ok(directory) } else { Err(refuse("image path", image_path)) }
}

fn parent(parent: &str) -> Option<PathBuf> {
    (!parent.is_empty()).then(|| PathBuf::from(parent))
}

fn decode_pre_dump(request: &api::PreDumpRequest) -> Result<CheckpointOptions> {
    let image_dir = image_dir(&request.id, &request.migration, &request.image_path)?;
    let mut options = CheckpointOptions::new(image_dir);
    options.criu = criu_options!(request);
    options.pre_dump = true;
    options.parent = parent(&request.parent);
    // What is in the way was looked for before the first round, and will be again before the dump.
    options.skip_preflight = options.parent.is_some();
    Ok(options)
}

fn decode_dump(request: &api::DumpRequest) -> Result<(CheckpointOptions, Arc<Hold>)> {
    let image_dir = image_dir(&request.id, &request.migration, &request.image_path)?;
    if request.lease_ms == 0 {
        let (id, value) = (request.id.clone(), "0".to_owned());
        return Err(Error::CheckpointOption { id, option: "lease", value });
    }
    let hold = Arc::new(Hold::new(request.migration.clone(), Duration::from_millis(request.lease_ms))?);
    let mut options = CheckpointOptions::new(image_dir);
    options.criu = criu_options!(request);
    options.lazy_pages = request.lazy_pages;
    options.parent = parent(&request.parent);
    options.holder = Some(hold.clone());
    Ok((options, hold))
}

/// Sum of the sizes of the files, in bytes.
async fn size_of(directory: PathBuf) -> Result<u64> {
    let sum = move || -> std::io::Result<u64> {
        std::fs::read_dir(directory)?.map(|entry| Ok(entry?.metadata()?.len())).sum()
    };
    tokio::task::spawn_blocking(sum).await?.map_err(Error::Hold)
}

fn encode(phase: Option<Phase>) -> (api::Phase, Duration) {
    match phase {
        None | Some(Phase::Over(End::Resumed)) => (api::Phase::IDLE, Duration::ZERO),
        Some(Phase::Dumping) => (api::Phase::DUMPING, Duration::ZERO),
        Some(Phase::Held { until }) => (api::Phase::HELD, until.saturating_duration_since(Instant::now())),
        Some(Phase::Aborting) => (api::Phase::HELD, Duration::ZERO),
        Some(Phase::Preparing | Phase::Prepared | Phase::Committing) => (api::Phase::PREPARED, Duration::ZERO),
        Some(Phase::Left) => (api::Phase::LEFT, Duration::ZERO),
        Some(Phase::Over(End::Committed)) => (api::Phase::COMMITTED, Duration::ZERO),
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> api::DumpRequest {
        let (id, migration, image_path) = ("web".to_owned(), "m1".to_owned(), "/images".to_owned());
        api::DumpRequest { id, migration, image_path, lease_ms: 1000, file_locks: true, ..api::DumpRequest::default() }
    }

    #[test]
    fn what_a_dump_is_asked_for_reaches_criu() {
        let (options, hold) = decode_dump(&request()).unwrap();
        assert!(options.criu.file_locks && !options.criu.tcp_established && !options.leave_running);
        assert!(options.holder.is_some());
        assert_eq!((hold.migration.as_str(), hold.phase()), ("m1", Phase::Dumping));
    }

    #[test]
    fn a_round_stands_on_the_one_before() {
        let request = |parent: &str| api::PreDumpRequest {
            id: "web".to_owned(),
            migration: "m1".to_owned(),
            image_path: "/rounds/2".to_owned(),
            parent: parent.to_owned(),
            tcp_established: true,
            ..api::PreDumpRequest::default()
        };
        let first = decode_pre_dump(&request("")).unwrap();
        assert!(first.pre_dump && first.criu.tcp_established && first.parent.is_none() && !first.skip_preflight);
        let second = decode_pre_dump(&request("../1")).unwrap();
        assert_eq!(second.parent, Some(PathBuf::from("../1")));
        assert!(second.skip_preflight && second.holder.is_none());
        let nobody = api::PreDumpRequest { migration: String::new(), ..request("") };
        assert!(decode_pre_dump(&nobody).unwrap_err().to_string().contains("migration"));
        let (dump, _) = decode_dump(&api::DumpRequest { parent: "../rounds/2".to_owned(), ..self::request() }).unwrap();
        assert_eq!(dump.parent, Some(PathBuf::from("../rounds/2")));
    }

    #[test]
    fn a_dump_that_nobody_could_end_or_find_is_refused() {
        let refused = |request: api::DumpRequest| decode_dump(&request).unwrap_err().to_string();
        assert!(refused(api::DumpRequest { lease_ms: 0, ..request() }).contains("lease"));
        assert!(refused(api::DumpRequest { migration: String::new(), ..request() }).contains("migration"));
        let relative = api::DumpRequest { image_path: "images".into(), ..request() };
        assert_eq!(refused(relative), "checkpoint of container web: image path \"images\" is not supported");
    }
}
