//! What a container's annotations say about its checkpoints: for callers that cannot say it themselves, such as Kubernetes.
//!
//! What a call says is over them, and CRIU's own configuration file is over both.

use std::collections::HashMap;
use std::path::PathBuf;
use std::str::FromStr;

use super::error::CheckpointError;
use super::options::{CgroupMode, CriuOptions, External, NetworkLock, SealOptions};

/// What begins so may name code that CRIU runs as root, and directories of the host.
pub(crate) const PREFIX: &str = "org.rtc.criu.";
const UNKNOWN: &str = "the name of an option that there is";

/// The options that annotations can give.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Annotated {
    pub(crate) criu: CriuOptions,
    pub(crate) seal: SealOptions,
    pub(crate) decrypt_key: Option<PathBuf>,
    pub(crate) work_path: Option<PathBuf>,
    pub(crate) end_execs: bool,
    pub(crate) keep_images: bool,
    pub(crate) external_dump: Vec<External>,
    pub(crate) external_restore: Vec<External>,
    pub(crate) lsm_profile: Option<String>,
    pub(crate) lsm_mount_context: Option<String>,
}

/// # Errors
/// An option that there is not, or a value that it cannot have: nothing that somebody has asked for is left out in silence.
pub(crate) fn read(annotations: &HashMap<String, String>) -> Result<Annotated, CheckpointError> {
    let mut all = Annotated::default();
    for (name, value) in annotations {
        if let Some(option) = name.strip_prefix(PREFIX) {
            let refuse = |expected| CheckpointError::Annotation { name: name.clone(), value: value.clone(), expected };
            all.set(option, value).map_err(refuse)?;
        }
    }
    Ok(all)
}

impl Annotated {
    /// The error is what the value should have been.
    fn set(&mut self, option: &str, value: &str) -> Result<(), &'static str> {
        let criu = &mut self.criu;
        match option {
            "tcp-established" => criu.tcp_established = flag(value)?,
            "tcp-close" => criu.tcp_close = flag(value)?,
            "tcp-skip-in-flight" => criu.tcp_skip_in_flight = flag(value)?,
            "ext-unix-sk" => criu.ext_unix_sk = flag(value)?,
            "shell-job" => criu.shell_job = flag(value)?,
            "file-locks" => criu.file_locks = flag(value)?,
            "link-remap" => criu.link_remap = flag(value)?,
            "auto-dedup" => criu.auto_dedup = flag(value)?,
            "track-mem" => criu.track_mem = flag(value)?,
            "ghost-limit" => {
                criu.ghost_limit = Some(parse_ghost_limit(value).ok_or("a number of bytes, K, M or G behind it")?)
            }
            "empty-ns" if value == "network" => criu.empty_net_ns = true,
            "empty-ns" => return Err("network"),
            "manage-cgroups-mode" => criu.manage_cgroups = Some(cgroup_mode(value)?),
            "network-lock" => criu.network_lock = Some(parse_network_lock(value)?),
            "libdir" => criu.libdir = Some(value.into()),
            "work-path" => self.work_path = Some(value.into()),
            "end-execs" => self.end_execs = flag(value)?,
            "keep-images" => self.keep_images = flag(value)?,
            "compress" => self.seal.compress = Some(value.parse().map_err(|_| "zstd, or zstd:1 to zstd:19")?),
            "encrypt-recipient" => self.seal.recipients = words(value, "recipients of age's, with spaces between")?,
            "encrypt-key" => self.seal.key_files = vec![value.into()],
            "decrypt-key" => self.decrypt_key = Some(value.into()),
            "external-dump" => self.external_dump = words(value, EXTERNALS)?,
            "external-restore" => self.external_restore = words(value, EXTERNALS)?,
            "lsm-profile" => self.lsm_profile = Some(value.to_owned()),
            "lsm-mount-context" => self.lsm_mount_context = Some(value.to_owned()),
            _ => return Err(UNKNOWN),
        }
        Ok(())
    }
}

fn flag(value: &str) -> Result<bool, &'static str> {
    value.parse().map_err(|_| "true or false")
}

/// As CRIU reads `--ghost-limit`.
pub fn parse_ghost_limit(value: &str) -> Option<u32> {
    let (digits, shift) = match value.as_bytes().last()? {
        b'K' => (&value[..value.len() - 1], 10),
        b'M' => (&value[..value.len() - 1], 20),
        b'G' => (&value[..value.len() - 1], 30),
        _ => (value, 0),
    };
    digits.parse::<u32>().ok()?.checked_mul(1 << shift)
}

/// runc's names, and CRIU's further ones.
fn cgroup_mode(value: &str) -> Result<CgroupMode, &'static str> {
    Ok(match value {
        "soft" => CgroupMode::Soft,
        "full" => CgroupMode::Full,
        "strict" => CgroupMode::Strict,
        "ignore" => CgroupMode::Ignore,
        _ => return Err("soft, full, strict or ignore"),
    })
}

/// CRIU's names.
///
/// # Errors
/// Those that there are.
pub fn parse_network_lock(value: &str) -> Result<NetworkLock, &'static str> {
    Ok(match value {
        "iptables" => NetworkLock::Iptables,
        "nftables" => NetworkLock::Nftables,
        "skip" => NetworkLock::Skip,
        _ => return Err("iptables, nftables or skip"),
    })
}

const EXTERNALS: &str = "TYPE[ID]:VALUE, and more";

/// Separated by white space.
fn words<T: FromStr>(value: &str, expected: &'static str) -> Result<Vec<T>, &'static str> {
    value.split_whitespace().map(str::parse).collect::<Result<_, _>>().map_err(|_| expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(annotations: &[(&str, &str)]) -> Result<Annotated, CheckpointError> {
        let of = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        read(&annotations.iter().map(of).collect())
    }

    fn read_one(option: &str, value: &str) -> Annotated {
        read_all(&[(&format!("{PREFIX}{option}"), value)]).unwrap()
    }

    #[test]
    fn every_flag_is_its_own_and_no_other() {
        let names = [
            "tcp-established",
            "tcp-close",
            "tcp-skip-in-flight",
            "ext-unix-sk",
            "shell-job",
            "file-locks",
            "link-remap",
            "auto-dedup",
            "track-mem",
            "end-execs",
            "keep-images",
        ];
        let set: Vec<Annotated> = names.iter().map(|name| read_one(name, "true")).collect();
        for (at, one) in set.iter().enumerate() {
            assert_ne!(*one, Annotated::default(), "{}", names[at]);
            assert!(set[at + 1..].iter().all(|other| other != one), "{}", names[at]);
            assert_eq!(read_one(names[at], "false"), Annotated::default());
        }
        assert!(set[0].criu.tcp_established && set[5].criu.file_locks && set[9].end_execs);
    }

    #[test]
    fn values_are_taken_as_criu_takes_them() {
        assert_eq!(read_one("ghost-limit", "2M").criu.ghost_limit, Some(2 << 20));
        assert_eq!(read_one("ghost-limit", "7").criu.ghost_limit, Some(7));
        assert_eq!(read_one("network-lock", "skip").criu.network_lock, Some(NetworkLock::Skip));
        assert_eq!(read_one("manage-cgroups-mode", "strict").criu.manage_cgroups, Some(CgroupMode::Strict));
        assert!(read_one("empty-ns", "network").criu.empty_net_ns);
        assert_eq!(read_one("libdir", "/p").criu.libdir.unwrap().to_str(), Some("/p"));
        assert_eq!(read_one("work-path", "/w").work_path.unwrap().to_str(), Some("/w"));
        assert_eq!(read_one("lsm-profile", "apparmor:x").lsm_profile.as_deref(), Some("apparmor:x"));
        assert_eq!(read_one("lsm-mount-context", "c").lsm_mount_context.as_deref(), Some("c"));
        let external = read_one("external-restore", "mnt[/a]:/b  veth[eth0]:v@br0").external_restore;
        assert_eq!(external.iter().map(ToString::to_string).collect::<Vec<_>>(), ["mnt[/a]:/b", "veth[eth0]:v@br0"]);
        assert_eq!(read_one("external-dump", "mnt[/a]:b").external_dump.len(), 1);
        assert_eq!(read_one("compress", "zstd:7").seal.compress.unwrap().to_string(), "zstd:7");
        let recipient = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
        let recipients = read_one("encrypt-recipient", &format!("{recipient} {recipient}")).seal.recipients;
        assert_eq!(recipients.iter().map(ToString::to_string).collect::<Vec<_>>(), [recipient, recipient]);
        assert_eq!(read_one("encrypt-key", "/k").seal.key_files, [PathBuf::from("/k")]);
        assert_eq!(read_one("decrypt-key", "/k").decrypt_key.unwrap().to_str(), Some("/k"));
    }

    /// Its first column, where that is not empty.
    #[test]
    fn the_page_names_every_annotation_and_no_other() {
        let page = include_str!("../../../CHECKPOINT.md");
        let (_, table) = page.split_once("| annotation |").unwrap();
        let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
        let named: Vec<&str> = rows.filter_map(|row| row.strip_prefix("| `")?.split('`').next()).collect();
        // As many as there are arms in `set`.
        assert_eq!(named.len(), 25);
        for option in named {
            assert_ne!(Annotated::default().set(option, ""), Err(UNKNOWN), "{option}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        for (option, value) in [
            ("tcp-establish", "true"),
            ("file-locks", "yes"),
            ("ghost-limit", "4096M"),
            ("ghost-limit", "much"),
            ("empty-ns", "pid"),
            ("network-lock", "none"),
            ("manage-cgroups-mode", "some"),
            ("external-dump", "mnt"),
            ("compress", "gzip"),
            ("encrypt-recipient", "age1nobody"),
        ] {
            let name = format!("{PREFIX}{option}");
            let refused = read_all(&[(&name, value)]).unwrap_err().to_string();
            assert!(refused.contains(&name) && refused.contains(value), "{refused}");
        }
        assert_eq!(read_all(&[("org.criu.config", ""), ("org.rtc.other", "x")]).unwrap(), Annotated::default());
    }
}
