//! A shim without containerd around it: started as containerd starts it, then called over its socket.
//!
//! The calls go to `containerd.task.v2.Task`, which shims of containerd 1.7 and 2.x both serve.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use containerd_shim_protos::api;
use containerd_shim_protos::shim::oci::CheckpointOptions;
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use serde_json::{Value, json};
use ttrpc::proto::Request;

use crate::bundle::{Bundle, run};
use crate::contestant::Contestant;
use crate::error::Error;

const NAMESPACE: &str = "bench";
const DEADLINE: Duration = Duration::from_secs(120);

/// A running shim that holds one container.
pub(crate) struct Shim {
    client: ttrpc::Client,
    id: String,
    // Keeps a reader on the log fifo, as containerd does: the Go shim blocks without one.
    _log: File,
}

impl Shim {
    pub(crate) fn start(contestant: Contestant, bundle: &Bundle) -> Result<Self, Error> {
        let log = open_fifo(&bundle.fifo("log")?)?;
        let drain = log.try_clone().map_err(|err| Error::File { action: "open", path: bundle.path("log"), err })?;
        thread::spawn(move || drain_all(drain));
        let answer = run(Command::new(contestant.shim_binary())
            .args(["-namespace", NAMESPACE, "-id", &bundle.id, "-address", "/run/containerd/containerd.sock"])
            .args(["-publish-binary", "/usr/bin/containerd", "start"])
            .env("TTRPC_ADDRESS", "/run/containerd/containerd.sock.ttrpc")
            .env("GRPC_ADDRESS", "/run/containerd/containerd.sock")
            .env("NAMESPACE", NAMESPACE)
            .env("MAX_SHIM_VERSION", "3")
            .current_dir(&bundle.dir))?;
        let address = match serde_json::from_str::<Value>(&answer) {
            Ok(json) => json["address"].as_str().unwrap_or_default().to_owned(),
            Err(_) => answer.trim().to_owned(),
        };
        let client = ttrpc::Client::connect(&address).map_err(|_| Error::Bootstrap { answer })?;
        Ok(Self { client, id: bundle.id.clone(), _log: log })
    }

    fn call<M: Message>(&self, method: &'static str, request: &impl Message) -> Result<M, Error> {
        let payload = request.write_to_bytes().map_err(|err| Error::Message { what: method, err })?;
        let request = Request {
            service: "containerd.task.v2.Task".to_owned(),
            method: method.to_owned(),
            timeout_nano: i64::try_from(DEADLINE.as_nanos()).unwrap_or(i64::MAX),
            payload,
            ..Default::default()
        };
        let response = self.client.request(request).map_err(|err| Error::Call {
            method,
            id: self.id.clone(),
            err: Box::new(err),
        })?;
        M::parse_from_bytes(&response.payload).map_err(|err| Error::Message { what: method, err })
    }

    pub(crate) fn create(
        &self,
        contestant: Contestant,
        bundle: &Bundle,
        rootfs: &Path,
        stdout: Option<&Path>,
        checkpoint: Option<&Path>,
    ) -> Result<(), Error> {
        let text = |path: Option<&Path>| path.map(|path| path.display().to_string()).unwrap_or_default();
        let options = contestant.create_options().map_err(|err| Error::Message { what: "options of Create", err })?;
        let request = api::CreateTaskRequest {
            id: self.id.clone(),
            bundle: bundle.dir.display().to_string(),
            rootfs: vec![api::Mount {
                type_: "bind".to_owned(),
                source: rootfs.display().to_string(),
                options: vec!["rbind".to_owned(), "rw".to_owned()],
                ..Default::default()
            }],
            stdout: text(stdout),
            // The Go shim opens both or none.
            stderr: text(stdout),
            checkpoint: text(checkpoint),
            options: Some(options).into(),
            ..Default::default()
        };
        self.call::<api::CreateTaskResponse>("Create", &request).map(drop)
    }

    pub(crate) fn start_process(&self, exec_id: &str) -> Result<(), Error> {
        let request = api::StartRequest { id: self.id.clone(), exec_id: exec_id.to_owned(), ..Default::default() };
        self.call::<api::StartResponse>("Start", &request).map(drop)
    }

    pub(crate) fn exec(&self, exec_id: &str, spec: &Value, args: &[&str]) -> Result<(), Error> {
        let mut process = spec["process"].clone();
        process["args"] = json!(args);
        process["terminal"] = json!(false);
        let spec = Any {
            type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".to_owned(),
            value: process.to_string().into_bytes(),
            ..Default::default()
        };
        let request = api::ExecProcessRequest {
            id: self.id.clone(),
            exec_id: exec_id.to_owned(),
            spec: Some(spec).into(),
            ..Default::default()
        };
        self.call::<api::Empty>("Exec", &request).map(drop)
    }

    pub(crate) fn wait(&self, exec_id: &str) -> Result<u32, Error> {
        let request = api::WaitRequest { id: self.id.clone(), exec_id: exec_id.to_owned(), ..Default::default() };
        self.call::<api::WaitResponse>("Wait", &request).map(|response| response.exit_status)
    }

    pub(crate) fn kill(&self) -> Result<(), Error> {
        let request = api::KillRequest { id: self.id.clone(), signal: 9, ..Default::default() };
        self.call::<api::Empty>("Kill", &request).map(drop)
    }

    pub(crate) fn delete(&self, exec_id: &str) -> Result<(), Error> {
        let request = api::DeleteRequest { id: self.id.clone(), exec_id: exec_id.to_owned(), ..Default::default() };
        self.call::<api::DeleteResponse>("Delete", &request).map(drop)
    }

    pub(crate) fn checkpoint(&self, images: &Path) -> Result<(), Error> {
        let options = CheckpointOptions { exit: true, ..Default::default() };
        let value = options.write_to_bytes().map_err(|err| Error::Message { what: "options of Checkpoint", err })?;
        let options = Any { type_url: "containerd.runc.v1.CheckpointOptions".to_owned(), value, ..Default::default() };
        let request = api::CheckpointTaskRequest {
            id: self.id.clone(),
            path: images.display().to_string(),
            options: Some(options).into(),
            ..Default::default()
        };
        self.call::<api::Empty>("Checkpoint", &request).map(drop)
    }

    pub(crate) fn shutdown(self) -> Result<(), Error> {
        let request = api::ShutdownRequest { id: self.id.clone(), ..Default::default() };
        match self.call::<api::Empty>("Shutdown", &request) {
            // The Go shim may be gone before its answer is.
            Ok(_) | Err(Error::Call { .. }) => Ok(()),
            Err(err) => Err(err),
        }
    }
}

/// Opens a fifo so that neither side ever waits for the other to open.
pub(crate) fn open_fifo(path: &PathBuf) -> Result<File, Error> {
    OpenOptions::new().read(true).write(true).open(path).map_err(|err| Error::File {
        action: "open",
        path: path.clone(),
        err,
    })
}

fn drain_all(mut log: File) {
    let mut buffer = [0; 4096];
    while log.read(&mut buffer).is_ok_and(|bytes| bytes > 0) {}
}
