//! What CRIU is asked for.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use criu::{After, Common, DumpOptions, Log};

use super::super::error::CheckpointError;
use super::super::manifest::Manifest;
use super::super::options::{CriuOptions, PageServer, Transport};
use super::super::work::open_dir;
use super::super::{config_file, mounts, namespaces, stdio};
use super::LOG;
use super::run::Dump;

/// As runc: warnings are not enough to find out what went wrong, and the log is small beside the pages.
const LOG_LEVEL: i32 = 4;

/// In the work directory: the user's own configuration of CRIU and the address of lazy pages.
const LAZY_CONFIG: &str = "criu-lazy.conf";

impl Dump<'_> {
    pub(super) fn common(&self, options: &CriuOptions) -> Result<Common, CheckpointError> {
        let mut common = Common::new(open_dir(self.images_dir())?);
        common.work_dir = Some(self.work.open()?);
        common.log = Log { file: LOG.to_owned(), level: LOG_LEVEL };
        common.root = self.spec.root().as_ref().map(|root| self.container.state.bundle.join(root.path()));
        common.config_file = config_file(&self.container.state);
        if let Some(server) = &self.options.page_server {
            let server = server.try_clone().map_err(CheckpointError::file("duplicate", "the page server's socket"))?;
            common.page_server = Some(server);
        }
        options.apply(&mut common);
        Ok(common)
    }

    pub(super) fn request(&self, manifest: &Manifest) -> Result<DumpOptions, CheckpointError> {
        let options = self.options;
        let mut common = self.common(&manifest.options)?;
        common.external = namespaces::external(self.spec, self.pid)?;
        common.external.extend(stdio::external(&manifest.stdio_files));
        common.ext_mounts = manifest.external_mounts.iter().map(|mount| mount.at_dump()).collect();
        mounts::add(&self.external, &mut common);
        if options.lazy_pages {
            common.lazy_pages = true;
            if common.page_server.is_none() {
                let (theirs, _hung_up) = UnixStream::pair().map_err(CheckpointError::file("make", "a socket pair"))?;
                common.page_server = Some(PageServer { transport: Transport::Socket(theirs.into()) });
            }
            common.config_file = Some(self.lazy_config(&common)?);
        }
        let mut dump = DumpOptions::new(common, self.pid.as_raw());
        dump.after = if options.leave_running { After::Run } else { After::Kill };
        dump.parent_img = manifest.parent.as_deref().map(|parent| self.images.parent(parent));
        dump.track_mem = manifest.parent.is_some() || manifest.options.track_mem;
        dump.tcp_skip_in_flight = manifest.options.tcp_skip_in_flight;
        dump.freeze_cgroup = self.freezer();
        Ok(dump)
    }

    pub(super) fn freezer(&self) -> Option<String> {
        self.container.state.cgroup.freezer_directory().map(|path| path.to_string_lossy().into_owned())
    }

    /// With lazy pages CRIU heeds the port of a request and not its address, and would show the container's memory to
    /// whoever can reach this host; it does heed an address in a configuration file, and a socket. Of a socket that nobody
    /// has the other end of, it finds the end at once when it comes to serve pages, and is done.
    fn lazy_config(&self, common: &Common) -> Result<PathBuf, CheckpointError> {
        let line = match common.page_server.as_ref().map(|server| &server.transport) {
            Some(Transport::Address { address, .. }) => format!("\naddress {address}\n"),
            Some(Transport::Socket(socket)) => format!("\nps-socket {}\n", socket.as_raw_fd()),
            None => return Err(CheckpointError::LazyPagesNowhere),
        };
        let mut config = match common.config_file.as_deref() {
            Some(path) => fs::read(path).map_err(CheckpointError::file("read", path))?,
            None => Vec::new(),
        };
        config.extend(line.bytes());
        let path = self.work.path().join(LAZY_CONFIG);
        fs::write(&path, config).map_err(CheckpointError::file("write", &path))?;
        Ok(path)
    }
}
