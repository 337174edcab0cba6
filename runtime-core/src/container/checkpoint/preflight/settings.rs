//! What CRIU is going to be told, by the request and by its own configuration files, which it reads too.

use std::fs;
use std::path::{Path, PathBuf};

use crate::container::checkpoint::options::{CriuOptions, External};

/// Bytes, where nobody says otherwise (criu(8), `--ghost-limit`).
const GHOST_LIMIT: u64 = 1 << 20;

/// CRIU's own files, which it reads in any case; the second in the home directory.
const DEFAULT_FILES: [&str; 2] = ["/etc/criu/default.conf", ".criu/default.conf"];

/// Where CRIU looks for plugins, unless the variable names another directory.
const PLUGINS: &str = "/usr/lib/criu";
const PLUGINS_VARIABLE: &str = "CRIU_LIBS_DIR";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    /// Connections are carried or closed.
    pub(super) connections: bool,
    pub(super) skip_in_flight: bool,
    pub(super) ext_unix_sk: bool,
    /// Some sockets or files are named as external.
    pub(super) names_external: bool,
    pub(super) shell_job: bool,
    pub(super) file_locks: bool,
    pub(super) link_remap: bool,
    pub(super) ghost_limit: u64,
    /// A plugin may dump what CRIU itself cannot.
    pub(super) plugins: bool,
}

impl Settings {
    pub(super) fn new(options: &CriuOptions, external: &[External], config: Option<&Path>) -> Self {
        let mut settings = Self {
            connections: options.tcp_established || options.tcp_close,
            skip_in_flight: options.tcp_skip_in_flight,
            ext_unix_sk: options.ext_unix_sk,
            names_external: external.iter().any(|external| external.mount().is_none()),
            shell_job: options.shell_job,
            file_locks: options.file_locks,
            link_remap: options.link_remap,
            ghost_limit: options.ghost_limit.map_or(GHOST_LIMIT, u64::from),
            plugins: false,
        };
        // As CRIU gets it: in place of the variable that this process has.
        let plugins = options.libdir.clone().or_else(|| std::env::var_os(PLUGINS_VARIABLE).map(PathBuf::from));
        let mut plugins = plugins.unwrap_or_else(|| PathBuf::from(PLUGINS));
        let files = default_files().into_iter().chain(config.map(Path::to_owned));
        for text in files.filter_map(|file| fs::read_to_string(file).ok()) {
            settings.read(&text, &mut plugins);
        }
        let names = fs::read_dir(plugins).into_iter().flatten().flatten().map(|entry| entry.file_name());
        settings.plugins = names.into_iter().any(|name| name.to_string_lossy().ends_with(".so"));
        settings
    }

    fn read(&mut self, text: &str, plugins: &mut PathBuf) {
        for told in told(text) {
            match told {
                ("tcp-established" | "tcp-close", _) => self.connections = true,
                ("skip-in-flight", _) => self.skip_in_flight = true,
                ("ext-unix-sk", _) => self.ext_unix_sk = true,
                ("external", _) => self.names_external = true,
                ("shell-job", _) => self.shell_job = true,
                ("file-locks", _) => self.file_locks = true,
                ("link-remap", _) => self.link_remap = true,
                ("ghost-limit", Some(value)) => self.ghost_limit = self.ghost_limit.max(bytes(value)),
                ("libdir", Some(value)) => *plugins = value.trim_matches('"').into(),
                _ => {}
            }
        }
    }
}

/// The options of a configuration: a line is a long option without its dashes, and its value (criu(8), "CONFIGURATION FILES").
pub(in crate::container::checkpoint) fn told(text: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    text.lines().filter_map(|line| {
        let line = line.split('#').next()?;
        let mut words = line.split(|c: char| c.is_whitespace() || c == '=').filter(|word| !word.is_empty());
        Some((words.next()?.trim_start_matches('-'), words.next()))
    })
}

/// Those that CRIU reads in any case, the last one over the others.
pub(in crate::container::checkpoint) fn default_files() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    DEFAULT_FILES.iter().map(|file| home.join(file)).collect()
}

/// A number with K, M or G behind it. What cannot be read allows everything: CRIU says what is wrong with it.
fn bytes(text: &str) -> u64 {
    let text = text.trim_matches('"');
    let (number, shift) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 10),
        Some((at, 'm' | 'M')) => (&text[..at], 20),
        Some((at, 'g' | 'G')) => (&text[..at], 30),
        _ => (text, 0),
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_shl(shift)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_file_allows_what_the_request_does_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "# tcp-close\ntcp-established\n\next-unix-sk # for the bus\nghost-limit 4M\nexternal unix[7]\n";
        fs::write(file.path(), text).unwrap();
        let settings = Settings::new(&CriuOptions::default(), &[], Some(file.path()));
        assert!(settings.connections && settings.ext_unix_sk && settings.names_external);
        assert!(!settings.file_locks && !settings.shell_job && !settings.link_remap);
        assert_eq!(settings.ghost_limit, 4 << 20);
    }

    #[test]
    fn a_request_alone() {
        let options = CriuOptions { tcp_close: true, ghost_limit: Some(7), ..CriuOptions::default() };
        let settings = Settings::new(&options, &[], None);
        assert!(settings.connections && !settings.ext_unix_sk);
        assert_eq!(settings.ghost_limit, 7);
        assert_eq!(Settings::new(&CriuOptions::default(), &[], None).ghost_limit, GHOST_LIMIT);
    }

    #[test]
    fn what_is_named_external_and_plugins_of_the_call_are_known() {
        let external = |text: &str| [text.parse::<External>().unwrap()];
        let names = |text| Settings::new(&CriuOptions::default(), &external(text), None).names_external;
        assert!(names("unix[7]") && names("file[1:2]:x") && !names("mnt[/a]:b"));
        let dir = tempfile::tempdir().unwrap();
        let options = CriuOptions { libdir: Some(dir.path().to_owned()), ..CriuOptions::default() };
        assert!(!Settings::new(&options, &[], None).plugins);
        fs::write(dir.path().join("cuda_plugin.so"), "").unwrap();
        assert!(Settings::new(&options, &[], None).plugins);
    }

    #[test]
    fn sizes_have_suffixes_and_nonsense_forbids_nothing() {
        assert_eq!(["7", "2k", "3M", "\"1G\"", "x"].map(bytes), [7, 2048, 3 << 20, 1 << 30, u64::MAX]);
    }
}
