//! The client of the migration service of a container's shim.
//!
//! The shim is the parent of the container's init; its working directory is the bundle of its first container, where
//! `address` names its socket. That holds wherever containerd keeps its bundles, and for a shim with many containers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use proto::migration::migration as api;
use proto::migration::migration_ttrpc::MigrationClient;
use tokio::task::JoinHandle;
use ttrpc::r#async::Client;
use ttrpc::context::{self, Context};

use crate::error::{Error, Result};

/// For what is answered at once.
const SOON: Duration = Duration::from_secs(10);
/// For what a container's size has a say in: containers of many gigabytes are dumped in minutes.
pub(crate) const LONG: Duration = Duration::from_secs(24 * 60 * 60);
/// How long the shim keeps a dump without hearing of us. Longer than a busy host keeps a process from running.
const LEASE: Duration = Duration::from_secs(10);

/// The migration of one container, as its shim sees it.
#[derive(Clone)]
pub(crate) struct Shim {
    client: MigrationClient,
    id: String,
    migration: String,
}

impl std::fmt::Debug for Shim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shim").field("id", &self.id).field("migration", &self.migration).finish_non_exhaustive()
    }
}

/// Renews the lease until it is dropped.
#[derive(Debug)]
pub(crate) struct Renewal(JoinHandle<()>);

impl Drop for Renewal {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a dump is to carry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DumpOptions {
    pub(crate) tcp_established: bool,
    pub(crate) ext_unix_sk: bool,
    pub(crate) shell_job: bool,
    pub(crate) file_locks: bool,
    pub(crate) lazy_pages: bool,
}

impl DumpOptions {
    /// What a container has goes with it.
    pub(crate) const ALL: Self =
        Self { tcp_established: true, ext_unix_sk: false, shell_job: false, file_locks: true, lazy_pages: false };
}

impl Shim {
    /// `pid` is that of the container's init.
    pub(crate) async fn connect(id: &str, pid: u32, migration: &str) -> Result<Self> {
        let address = address(pid)?;
        let failed = |err| Error::Shim { id: id.to_owned(), operation: "connect", err };
        let client = Client::connect(&address).await.map_err(failed)?;
        let client = MigrationClient::new(client);
        Ok(Self { client, id: id.to_owned(), migration: migration.to_owned() })
    }

    fn failed(&self, operation: &'static str) -> impl FnOnce(ttrpc::Error) -> Error + use<> {
        let id = self.id.clone();
        move |err| Error::Shim { id, operation, err }
    }

    /// # Errors
    /// It is no shim of ours, or does not answer.
    pub(crate) async fn preflight(&self, images: &Path, options: DumpOptions) -> Result<api::PreflightResponse> {
        let request = api::PreflightRequest {
            id: self.id.clone(),
            image_path: images.to_string_lossy().into_owned(),
            tcp_established: options.tcp_established,
            ext_unix_sk: options.ext_unix_sk,
            shell_job: options.shell_job,
            file_locks: options.file_locks,
            lazy_pages: options.lazy_pages,
            ..Default::default()
        };
        self.client.preflight(within(SOON), &request).await.map_err(self.failed("preflight"))
    }

    /// Writes the memory into a directory that is there, while the container runs; of one with a parent what has changed.
    pub(crate) async fn pre_dump(
        &self,
        images: &Path,
        options: DumpOptions,
        parent: &str,
    ) -> Result<api::PreDumpResponse> {
        let request = api::PreDumpRequest {
            id: self.id.clone(),
            migration: self.migration.clone(),
            image_path: images.to_string_lossy().into_owned(),
            parent: parent.to_owned(),
            tcp_established: options.tcp_established,
            ext_unix_sk: options.ext_unix_sk,
            shell_job: options.shell_job,
            file_locks: options.file_locks,
            ..Default::default()
        };
        self.client.pre_dump(within(LONG), &request).await.map_err(self.failed("write the memory of"))
    }

    /// Dumps into a directory, on a `parent` if that is not empty; the container stands still then, and the lease is renewed until what is returned is dropped.
    pub(crate) async fn dump(
        &self,
        images: &Path,
        options: DumpOptions,
        parent: &str,
    ) -> Result<(api::DumpResponse, Renewal)> {
        let request = api::DumpRequest {
            id: self.id.clone(),
            migration: self.migration.clone(),
            image_path: images.to_string_lossy().into_owned(),
            lease_ms: u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX),
            parent: parent.to_owned(),
            tcp_established: options.tcp_established,
            ext_unix_sk: options.ext_unix_sk,
            shell_job: options.shell_job,
            file_locks: options.file_locks,
            lazy_pages: options.lazy_pages,
            ..Default::default()
        };
        let held = self.client.dump(within(LONG), &request).await.map_err(self.failed("dump"))?;
        let shim = self.clone();
        let renewal = tokio::spawn(async move {
            loop {
                tokio::time::sleep(LEASE / 4).await;
                if let Err(err) = shim.phase().await {
                    tracing::warn!(err = err.chain(), "renew the lease of a migration");
                }
            }
        });
        Ok((held, Renewal(renewal)))
    }

    /// # Errors
    /// The shim knows no such migration.
    pub(crate) async fn phase(&self) -> Result<api::Phase> {
        let (id, migration) = (self.id.clone(), self.migration.clone());
        let request = api::StateRequest { id, migration, ..Default::default() };
        let state = self.client.state(within(SOON), &request).await.map_err(self.failed("state"))?;
        Ok(state.phase.enum_value_or_default())
    }

    pub(crate) async fn prepare(&self) -> Result<()> {
        let (id, migration) = (self.id.clone(), self.migration.clone());
        let request = api::PrepareRequest { id, migration, ..Default::default() };
        self.client.prepare(within(SOON), &request).await.map(drop).map_err(self.failed("prepare"))
    }

    /// From here on the container cannot run on here.
    pub(crate) async fn leave(&self) -> Result<()> {
        let (id, migration) = (self.id.clone(), self.migration.clone());
        let request = api::LeaveRequest { id, migration, ..Default::default() };
        self.client.leave(within(SOON), &request).await.map(drop).map_err(self.failed("leave"))
    }

    /// Returns when all of the container's memory is here.
    ///
    /// # Errors
    /// It did not come, and the container has ended; or nobody knows of it any more.
    pub(crate) async fn arrived(&self) -> Result<()> {
        let request = api::ArrivedRequest { id: self.id.clone(), ..Default::default() };
        self.client.arrived(within(LONG), &request).await.map(drop).map_err(self.failed("wait for the memory"))
    }

    pub(crate) async fn commit(&self) -> Result<()> {
        let (id, migration) = (self.id.clone(), self.migration.clone());
        let request = api::CommitRequest { id, migration, ..Default::default() };
        self.client.commit(within(LONG), &request).await.map(drop).map_err(self.failed("commit"))
    }

    pub(crate) async fn abort(&self) -> Result<()> {
        let (id, migration) = (self.id.clone(), self.migration.clone());
        let request = api::AbortRequest { id, migration, ..Default::default() };
        self.client.abort(within(LONG), &request).await.map(drop).map_err(self.failed("abort"))
    }
}

pub(crate) fn within(limit: Duration) -> Context {
    context::with_duration(limit)
}

pub(crate) fn address(pid: u32) -> Result<String> {
    let path = PathBuf::from(format!("/proc/{pid}/status"));
    let status = std::fs::read_to_string(&path).map_err(Error::file("read", &path))?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).map(str::trim).unwrap_or_default();
    let path = PathBuf::from(format!("/proc/{parent}/cwd/address"));
    let address = std::fs::read_to_string(&path).map_err(Error::file("read the shim's address in", &path))?;
    Ok(address.trim().to_owned())
}
