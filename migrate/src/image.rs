//! Which blobs and layers an image has.
//!
//! containerd may not have all of an image: of an index for many platforms usually those of one. What is there goes; and what
//! the container was made from has to be among it, or it could not be unpacked at the destination.

use std::collections::HashSet;
use std::fmt::Write as _;

use proto::containerd::services::images::v1::Image;
use proto::containerd::types::Descriptor;
use proto::stream;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::containerd::Containerd;
use crate::error::{Error, Result};

/// The fields of an index, of a manifest and of a configuration; of each some are there.
#[derive(Debug, Deserialize)]
struct Document {
    #[serde(default)]
    manifests: Vec<Reference>,
    config: Option<Reference>,
    #[serde(default)]
    layers: Vec<Reference>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reference {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: i64,
}

#[derive(Debug, Deserialize)]
struct Configuration {
    rootfs: Option<Rootfs>,
}

#[derive(Debug, Deserialize)]
struct Rootfs {
    #[serde(default)]
    diff_ids: Vec<String>,
}

/// The name under which containerd keeps the snapshot of a layer on its parents.
pub(crate) fn chain_id(parent: &str, diff_id: &str) -> String {
    if parent.is_empty() {
        return diff_id.to_owned();
    }
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(format!("{parent} {diff_id}")) {
        // To a string it cannot fail.
        write!(text, "{byte:02x}").ok();
    }
    text
}

/// All that is there of an image, with the layers whose topmost snapshot is `top`.
///
/// # Errors
/// No part of the image makes that snapshot: its name has come to be another image's since, or its layers are not kept.
pub(crate) async fn inventory(containerd: &Containerd, image: Image, top: &str) -> Result<stream::Image> {
    let Descriptor { media_type, digest, size, .. } = image.target.clone().unwrap_or_default();
    let mut inventory = Inventory { containerd, top, blobs: Vec::new(), seen: HashSet::new(), layers: None };
    let mut documents = vec![digest.clone()];
    while let Some(digest) = documents.pop() {
        documents.extend(inventory.document(&digest).await?);
    }
    let Inventory { blobs, layers, .. } = inventory;
    let layers = layers.ok_or_else(|| Error::Unfit {
        id: image.name.clone(),
        problem: "containerd does not have all layers of the image that the container was made from".to_owned(),
    })?;
    Ok(stream::Image { name: image.name, labels: image.labels, media_type, digest, size, layers, blobs })
}

struct Inventory<'a> {
    containerd: &'a Containerd,
    top: &'a str,
    blobs: Vec<stream::BlobInfo>,
    seen: HashSet<String>,
    layers: Option<Vec<stream::Layer>>,
}

impl Inventory<'_> {
    /// Whether the blob is there.
    async fn add(&mut self, digest: &str) -> Result<bool> {
        if self.seen.contains(digest) {
            return Ok(true);
        }
        let Some(info) = self.containerd.blob(digest).await? else { return Ok(false) };
        self.seen.insert(digest.to_owned());
        self.blobs.push(stream::BlobInfo { digest: info.digest, size: info.size, labels: info.labels });
        Ok(true)
    }

    /// An index or a manifest; the documents that it names.
    async fn document(&mut self, digest: &str) -> Result<Vec<String>> {
        if !self.add(digest).await? {
            return Ok(Vec::new());
        }
        let json = self.containerd.small_blob(digest).await?.unwrap_or_default();
        let document: Document =
            serde_json::from_slice(&json).map_err(|err| Error::Json { what: format!("blob {digest}"), err })?;
        let mut all_there = true;
        for layer in &document.layers {
            all_there &= self.add(&layer.digest).await?;
        }
        if let Some(config) = &document.config
            && self.add(&config.digest).await?
            && all_there
        {
            self.configuration(&config.digest, &document.layers).await?;
        }
        Ok(document.manifests.into_iter().map(|manifest| manifest.digest).collect())
    }

    async fn configuration(&mut self, digest: &str, layers: &[Reference]) -> Result<()> {
        let json = self.containerd.small_blob(digest).await?.unwrap_or_default();
        // What an attestation has in this place is no configuration.
        let Ok(Configuration { rootfs: Some(rootfs) }) = serde_json::from_slice(&json) else { return Ok(()) };
        let chain = rootfs.diff_ids.iter().fold(String::new(), |parent, diff_id| chain_id(&parent, diff_id));
        if chain != self.top || rootfs.diff_ids.len() != layers.len() {
            return Ok(());
        }
        let layers = layers.iter().zip(rootfs.diff_ids).map(|(layer, diff_id)| stream::Layer {
            media_type: layer.media_type.clone(),
            digest: layer.digest.clone(),
            size: layer.size,
            diff_id,
        });
        self.layers = Some(layers.collect());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_has_containerds_name() {
        // From image-spec, "Layer ChainID": the first is its own, then sha256(PARENT + " " + DIFF_ID).
        let one = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";
        assert_eq!(chain_id("", one), one);
        let two = chain_id(one, one);
        assert!(two.starts_with("sha256:") && two.len() == one.len() && two != one);
        assert_eq!(chain_id("sha256:a", "sha256:b"), format!("sha256:{}", hex("sha256:a sha256:b")));
    }

    fn hex(text: &str) -> String {
        Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
