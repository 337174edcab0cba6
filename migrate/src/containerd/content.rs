//! Blobs.

use std::collections::HashMap;

use proto::containerd::services::content::v1::content_client::ContentClient;
use proto::containerd::services::content::v1::{
    AbortRequest, Info, InfoRequest, ReadContentRequest, ReadContentResponse, WriteAction, WriteContentRequest,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::{Containerd, failed, found};
use crate::error::{Error, Result};

/// Of a blob that is read whole, such as a manifest, in bytes.
const WHOLE: i64 = 4 << 20;

impl Containerd {
    pub(crate) async fn blob(&self, digest: &str) -> Result<Option<Info>> {
        let request = self.request(InfoRequest { digest: digest.to_owned() });
        let answer = found(ContentClient::new(self.channel.clone()).info(request).await);
        let answer = answer.map_err(failed("look for blob", digest))?;
        Ok(answer.and_then(|answer| answer.into_inner().info))
    }

    pub(crate) async fn read_blob(&self, digest: &str) -> Result<Streaming<ReadContentResponse>> {
        let request = self.request(ReadContentRequest { digest: digest.to_owned(), offset: 0, size: 0 });
        let answer = ContentClient::new(self.channel.clone()).read(request).await;
        Ok(answer.map_err(failed("read blob", digest))?.into_inner())
    }

    /// A blob that is no layer.
    pub(crate) async fn small_blob(&self, digest: &str) -> Result<Option<Vec<u8>>> {
        let Some(info) = self.blob(digest).await? else { return Ok(None) };
        if info.size > WHOLE {
            return Err(Error::Answer { operation: "read blob", what: digest.to_owned(), lacks: "a sensible size" });
        }
        let mut bytes = Vec::new();
        let mut stream = self.read_blob(digest).await?;
        while let Some(part) = stream.message().await.map_err(failed("read blob", digest))? {
            bytes.extend(part.data);
        }
        Ok(Some(bytes))
    }

    /// Begins to write a blob, which containerd compares with its digest at the end.
    pub(crate) fn write_blob(&self, digest: &str, size: i64, labels: HashMap<String, String>) -> BlobWriter {
        let (parts, queue) = mpsc::channel(2);
        let request = self.request(ReceiverStream::new(queue));
        let mut client = ContentClient::new(self.channel.clone());
        let answered = tokio::spawn(async move {
            let mut answers = client.write(request).await?.into_inner();
            while answers.message().await?.is_some() {}
            Ok(())
        });
        let reference = self.own(digest);
        BlobWriter {
            containerd: self.clone(),
            digest: digest.to_owned(),
            reference,
            size,
            labels,
            offset: 0,
            parts,
            answered,
            there: false,
        }
    }
}

/// A blob on its way into containerd.
#[derive(Debug)]
pub(crate) struct BlobWriter {
    containerd: Containerd,
    digest: String,
    reference: String,
    size: i64,
    labels: HashMap<String, String>,
    offset: i64,
    parts: mpsc::Sender<WriteContentRequest>,
    answered: JoinHandle<Result<(), Status>>,
    /// Another writer was faster: there is nothing to do any more.
    there: bool,
}

impl BlobWriter {
    pub(crate) async fn write(&mut self, data: Vec<u8>) -> Result<()> {
        if self.there {
            return Ok(());
        }
        let length = i64::try_from(data.len()).unwrap_or(i64::MAX);
        let part = WriteContentRequest {
            action: WriteAction::Write.into(),
            r#ref: self.reference.clone(),
            total: self.size,
            expected: self.digest.clone(),
            offset: self.offset,
            data,
            labels: HashMap::new(),
        };
        self.offset += length;
        if self.parts.send(part).await.is_ok() {
            return Ok(());
        }
        self.there = true;
        self.ended().await
    }

    pub(crate) async fn commit(mut self) -> Result<()> {
        if self.there {
            return Ok(());
        }
        let part = WriteContentRequest {
            action: WriteAction::Commit.into(),
            r#ref: self.reference.clone(),
            total: self.size,
            expected: self.digest.clone(),
            offset: self.offset,
            data: Vec::new(),
            labels: std::mem::take(&mut self.labels),
        };
        // If it is not taken, the answer tells why.
        self.parts.send(part).await.ok();
        let (closed, _) = mpsc::channel(1);
        self.parts = closed;
        self.ended().await
    }

    /// Gives the half-written blob up.
    pub(crate) async fn abort(self) -> Result<()> {
        self.answered.abort();
        let request = self.containerd.request(AbortRequest { r#ref: self.reference.clone() });
        let answer = ContentClient::new(self.containerd.channel.clone()).abort(request).await;
        super::gone(answer).map_err(failed("give up blob", &self.digest))
    }

    async fn ended(&mut self) -> Result<()> {
        match (&mut self.answered).await? {
            Ok(()) => Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => Ok(()),
            Err(status) => Err(failed("write blob", &self.digest)(status)),
        }
    }
}
