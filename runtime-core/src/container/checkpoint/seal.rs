//! Images that are compressed or encrypted ([`crate::sealed`]), as the verbs see them.

use std::path::{Path, PathBuf};

use super::error::CheckpointError;
use super::manifest::{self, Manifest};
use super::options::{CheckpointOptions, CriuOptions};
use crate::sealed::{SealError, SealOptions, Sealed, Serving};

/// What does not go together, before anything is touched.
pub(super) fn check(options: &CheckpointOptions, criu: &CriuOptions, seal: &SealOptions) -> Result<(), SealError> {
    if !seal.is_on() {
        return Ok(());
    }
    let parents = "CRIU looks into a parent's images as they are";
    let refused = [
        (options.pre_dump, "a pre-dump", parents),
        (options.parent.is_some(), "a parent", parents),
        (criu.track_mem, "tracking of memory", "nothing can have it for its parent"),
        (criu.auto_dedup, "auto-dedup", "CRIU punches holes into a parent's images"),
        (options.lazy_pages, "lazy pages", "criu lazy-pages reads the images as they are"),
        (options.page_server.is_some(), "a page server", "it writes the memory as it is"),
    ];
    match refused.into_iter().find(|(asked, ..)| *asked) {
        Some((_, what, why)) => Err(SealError::Unsupported { what, why }),
        None => Ok(()),
    }
}

/// Where the images of a checkpoint are read.
#[derive(Debug)]
pub(in crate::container) struct Source {
    dir: PathBuf,
    serving: Option<Serving>,
}

impl Source {
    /// For a restore: of sealed images every byte was looked at. `key` is a file of age identities.
    pub(in crate::container) fn open(
        dir: &Path,
        manifest: Option<&Manifest>,
        key: Option<&Path>,
    ) -> Result<Self, CheckpointError> {
        let Some((sealed, manifest)) = find(dir, manifest, key)? else { return Ok(Self::plain(dir)) };
        sealed.verify()?;
        let said = Manifest::from_statement(&sealed.statement, dir)?;
        if said != manifest.as_statement() {
            return Err(CheckpointError::Statement { path: dir.join(manifest::FILE) });
        }
        Ok(Self::serve(sealed)?)
    }

    /// For somebody who looks into it, with what is damaged if he wants to know.
    pub(super) fn look(
        dir: &Path,
        manifest: &Manifest,
        key: Option<&Path>,
        verify: bool,
    ) -> Result<(Self, Vec<CheckpointError>), CheckpointError> {
        let Some((sealed, _)) = find(dir, Some(manifest), key)? else { return Ok((Self::plain(dir), Vec::new())) };
        let damaged = if verify { sealed.damaged()?.map(CheckpointError::Sealed).collect() } else { Vec::new() };
        Ok((Self::serve(sealed)?, damaged))
    }

    fn plain(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), serving: None }
    }

    fn serve(sealed: Sealed) -> Result<Self, SealError> {
        let serving = sealed.serve()?;
        Ok(Self { dir: serving.path().to_owned(), serving: Some(serving) })
    }

    pub(in crate::container) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(in crate::container) fn is_sealed(&self) -> bool {
        self.serving.is_some()
    }

    /// Why CRIU could not read, if that is why it failed.
    pub(in crate::container) fn failure(&self) -> Option<CheckpointError> {
        self.serving.as_ref()?.failure().map(CheckpointError::Sealed)
    }
}

/// `None` for images that are as CRIU wrote them. Who has a key wants no others than encrypted ones.
fn find<'a>(
    dir: &Path,
    manifest: Option<&'a Manifest>,
    key: Option<&Path>,
) -> Result<Option<(Sealed, &'a Manifest)>, SealError> {
    let sealing = manifest.and_then(|manifest| Some((manifest.sealed.as_ref()?, manifest)));
    match (sealing, key) {
        (Some((sealing, manifest)), key) => Ok(Some((Sealed::open(dir, sealing, key)?, manifest))),
        (None, Some(_)) => Err(SealError::NotEncrypted),
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_go_with_sealed_images_is_named() {
        let seal = SealOptions { compress: Some("zstd".parse().unwrap()), ..SealOptions::default() };
        let told = CriuOptions::default();
        type Case = (fn(&mut CheckpointOptions, &mut CriuOptions), &'static str);
        let cases: &[Case] = &[
            (|options, _| options.pre_dump = true, "a pre-dump"),
            (|options, _| options.parent = Some("../one".into()), "a parent"),
            (|_, criu| criu.track_mem = true, "tracking of memory"),
            (|_, criu| criu.auto_dedup = true, "auto-dedup"),
            (|options, _| options.lazy_pages = true, "lazy pages"),
            (|options, _| options.page_server = Some("127.0.0.1:27".parse().unwrap()), "a page server"),
        ];
        for (tell, what) in cases {
            let (mut options, mut criu) = (CheckpointOptions::new("/i".into()), told.clone());
            tell(&mut options, &mut criu);
            let refused = check(&options, &criu, &seal).unwrap_err().to_string();
            assert!(refused.contains(what), "{refused}");
            check(&options, &criu, &SealOptions::default()).unwrap();
        }
        check(&CheckpointOptions::new("/i".into()), &told, &seal).unwrap();
    }
}
