//! What CRIU is asked for.

use std::path::Path;

use criu::{Common, Log};

use super::super::checkpoint::annotations::Annotated;
use super::super::checkpoint::work::{Work, open_dir};
use super::super::checkpoint::{self, CheckpointError, mounts, namespaces, stdio};
use super::super::state::State;
use super::run::{LOG, Restore};

const LOG_LEVEL: i32 = 4;

impl Restore<'_> {
    pub(super) fn request(
        &self,
        root: &Path,
        work: &Work,
        state: &State,
    ) -> Result<criu::RestoreOptions, CheckpointError> {
        let create = &self.options.create;
        let mut common = Common::new(open_dir(self.source.dir())?);
        common.work_dir = Some(work.open()?);
        common.log = Log { file: LOG.to_owned(), level: LOG_LEVEL };
        common.root = Some(root.to_owned());
        common.config_file = checkpoint::config_file(state);
        common.lazy_pages = self.options.lazy_pages || self.fetches();
        // A device may have another inode here (runc sets it too).
        common.evasive_devices = true;
        common.ext_mounts = match &self.manifest {
            Some(manifest) => manifest
                .external_mounts
                .iter()
                .map(|mount| mount.at_restore(&self.plan, self.cgroup))
                .collect::<Result<_, _>>()?,
            None => mounts::as_runc_names(&self.plan, self.cgroup),
        };
        mounts::add(&self.external, &mut common);
        self.criu_options.apply(&mut common);

        let namespaces = self.manifest.as_ref().map(|manifest| manifest.namespaces.as_slice()).unwrap_or_default();
        let joined = namespaces::to_join(&create.spec, namespaces)?;
        let mut request = criu::RestoreOptions::new(common);
        request.rst_sibling = true;
        let Annotated { lsm_profile, lsm_mount_context, .. } = &self.annotated;
        request.lsm_profile = self.options.lsm_profile.clone().or_else(|| lsm_profile.clone());
        request.lsm_mount_context = self.options.lsm_mount_context.clone().or_else(|| lsm_mount_context.clone());
        request.join_namespaces = joined.join;
        request.inherit_fds = joined.inherit;
        let files = self.manifest.as_ref().map(|manifest| manifest.stdio_files.as_slice()).unwrap_or_default();
        let descriptors = self.images.descriptors.as_deref().unwrap_or_default();
        request.inherit_fds.extend(stdio::inherit(descriptors, files, &self.stdio)?);
        Ok(request)
    }

    /// Whether the memory is elsewhere, and no daemon of somebody else's brings it.
    pub(super) fn fetches(&self) -> bool {
        let lazy = self.manifest.as_ref().is_some_and(|manifest| manifest.lazy_pages);
        lazy && self.options.fetch_pages && !self.options.lazy_pages
    }
}
