//! What is refused before anything is touched.

use std::path::Path;

use criu::Criu;

use super::super::error::CheckpointError;
use super::super::options::{CheckpointOptions, CriuOptions, Transport};
use super::super::swrk::Plain;
use super::super::{images, preflight};
use super::criu_failed;
use crate::container::Container;
use crate::{Error, Result};

/// What the options themselves rule out.
pub(super) fn check(options: &CheckpointOptions) -> Result<(), CheckpointError> {
    if let Some(parent) = &options.parent {
        let refuse = |problem| Err(CheckpointError::Parent { path: parent.clone(), problem });
        if parent.is_absolute() {
            return refuse("the path must be relative to the image directory");
        }
        if !options.image_dir.join(parent).is_dir() {
            return refuse("there is no such directory in the image directory");
        }
        if is_same(&options.image_dir, &options.image_dir.join(parent)) {
            return refuse("it is the image directory itself, whose images are replaced");
        }
    }
    images::check(options)?;
    if options.pre_dump && options.lazy_pages {
        return Err(CheckpointError::PreDump { problem: "has no lazy pages: it writes the memory, and nothing else" });
    }
    let serves = match &options.page_server {
        Some(server) => matches!(server.transport, Transport::Address { .. }),
        None => options.holder.is_some(),
    };
    if options.lazy_pages && !serves {
        return Err(CheckpointError::LazyPagesNowhere);
    }
    Ok(())
}

fn is_same(one: &Path, other: &Path) -> bool {
    matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

/// CRIU fails at it too, with the container frozen and in other words.
pub(super) fn refuse(container: &Container, options: &CheckpointOptions) -> Result<()> {
    if options.skip_preflight {
        return Ok(());
    }
    let refusals = preflight::refusals(container, options)?;
    if !refusals.refuses() {
        return Ok(());
    }
    let err = CheckpointError::Refused(refusals);
    Err(Error::Checkpoint { id: container.id().clone(), operation: "checkpoint", err })
}

/// CRIU would find out too, with the container frozen and in words that help nobody.
pub(super) fn check_features(
    container: &Container,
    options: &CheckpointOptions,
    told: &CriuOptions,
    criu: &Criu,
) -> Result<()> {
    if !options.pre_dump && !options.lazy_pages && !told.track_mem {
        return Ok(());
    }
    let features = criu.features(&Plain).map_err(criu_failed(container))?;
    let (feature, needs) = match options.pre_dump {
        true if !features.mem_track => ("pre-dump", "a kernel that tracks memory (CONFIG_MEM_SOFT_DIRTY)"),
        false if told.track_mem && !features.mem_track => {
            ("tracking of memory", "a kernel that does (CONFIG_MEM_SOFT_DIRTY)")
        }
        false if options.lazy_pages && !features.lazy_pages => ("lazy pages", "a kernel with userfaultfd(2)"),
        _ => return Ok(()),
    };
    let err = CheckpointError::Feature { feature, needs };
    Err(Error::Checkpoint { id: container.id().clone(), operation: "checkpoint", err })
}
