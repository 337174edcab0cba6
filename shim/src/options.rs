//! The options of Create, in the forms in which containerd sends them: `containerd.runc.v1.Options` from ctr, and
//! `runtimeoptions.v1.Options` from CRI, whose TOML (a file or a body) has the field names of containerd's own
//! configuration for runc: `Root`, `NoPivotRoot`, `SystemdCgroup` …
//!
//! For any runtime that is not called runc, the client library of containerd 1.x sends the messages of containerd's
//! first shim instead, `containerd.linux.runc.CreateOptions` and `CheckpointOptions`.

use std::path::{Path, PathBuf};

use containerd_shim_protos::shim::oci;
use protobuf::well_known_types::any::Any;
use protobuf::{CodedInputStream, Message};
use serde::Deserialize;

const RUNC_OPTIONS: &str = "containerd.runc.v1.Options";
const CREATE_OPTIONS_1: &str = "containerd.linux.runc.CreateOptions";
const RUNTIME_OPTIONS: &str = "runtimeoptions.v1.Options";
const CHECKPOINT_OPTIONS: &str = "containerd.runc.v1.CheckpointOptions";
const CHECKPOINT_OPTIONS_1: &str = "containerd.linux.runc.CheckpointOptions";
/// Below it is one directory for each containerd namespace.
const DEFAULT_ROOT: &str = "/run/containerd/rtc";

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("options of type {type_url:?} are not understood")]
    UnknownType { type_url: String },
    #[error("options {type_url} do not decode")]
    Decode {
        type_url: String,
        #[source]
        err: protobuf::Error,
    },
    #[error("read options {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        err: std::io::Error,
    },
    #[error("options are no TOML that rtc understands")]
    Toml(#[source] Box<toml::de::Error>),
}

/// What Create can be told beside the bundle. Unknown keys of a TOML file are another runtime's and are left alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct Options {
    pub(crate) no_pivot_root: bool,
    pub(crate) no_new_keyring: bool,
    pub(crate) shim_cgroup: String,
    pub(crate) io_uid: u32,
    pub(crate) io_gid: u32,
    /// A runtime's binary: rtc executes none, and says so in the log.
    pub(crate) binary_name: String,
    pub(crate) root: String,
    pub(crate) systemd_cgroup: bool,
    /// Restore from this directory; containerd hands it over as the request's `checkpoint`.
    pub(crate) criu_image_path: String,
    pub(crate) criu_work_path: String,
}

/// Whether `any` is one of the messages that carry [`Options`].
pub(crate) fn is_options(any: &Any) -> bool {
    matches!(message_name(any), RUNC_OPTIONS | CREATE_OPTIONS_1 | RUNTIME_OPTIONS)
}

/// containerd writes bare message names, others put a host before them.
fn message_name(any: &Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or_default()
}

impl Options {
    /// # Errors
    /// The message is of another type, does not decode, or its TOML is none.
    pub(crate) fn parse(any: &Any) -> Result<Self, Error> {
        let decode = |err| Error::Decode { type_url: any.type_url.clone(), err };
        match message_name(any) {
            RUNC_OPTIONS => oci::Options::parse_from_bytes(&any.value).map(Self::from).map_err(decode),
            CREATE_OPTIONS_1 => Self::decode_first(&any.value).map_err(decode),
            RUNTIME_OPTIONS => RuntimeOptions::decode(&any.value).map_err(decode)?.load(),
            _ => Err(Error::UnknownType { type_url: any.type_url.clone() }),
        }
    }

    /// The options of a request; all defaults where it has none.
    ///
    /// # Errors
    /// As [`Options::parse`].
    pub(crate) fn of_request(any: Option<&Any>) -> Result<Self, Error> {
        match any {
            Some(any) if !(any.type_url.is_empty() && any.value.is_empty()) => Self::parse(any),
            _ => Ok(Self::default()),
        }
    }

    /// `containerd.linux.runc.CreateOptions`, which containerd's protocol crate lacks.
    fn decode_first(bytes: &[u8]) -> Result<Self, protobuf::Error> {
        const VARINT: u32 = 0;
        const BYTES: u32 = 2;
        let mut options = Self::default();
        let mut input = CodedInputStream::from_bytes(bytes);
        while let Some(tag) = input.read_raw_tag_or_eof()? {
            match (tag >> 3, tag & 7) {
                (1, VARINT) => options.no_pivot_root = input.read_bool()?,
                (8, VARINT) => options.no_new_keyring = input.read_bool()?,
                (9, BYTES) => options.shim_cgroup = input.read_string()?,
                (10, VARINT) => options.io_uid = input.read_uint32()?,
                (11, VARINT) => options.io_gid = input.read_uint32()?,
                (12, BYTES) => options.criu_work_path = input.read_string()?,
                (13, BYTES) => options.criu_image_path = input.read_string()?,
                _ => protobuf::rt::skip_field_for_tag(tag, &mut input)?,
            }
        }
        Ok(options)
    }

    /// Where the state of all containers of `namespace` is kept.
    pub(crate) fn state_root(&self, namespace: &str) -> PathBuf {
        let root = if self.root.is_empty() { DEFAULT_ROOT } else { &self.root };
        Path::new(root).join(namespace)
    }
}

impl From<oci::Options> for Options {
    fn from(options: oci::Options) -> Self {
        Self {
            no_pivot_root: options.no_pivot_root,
            no_new_keyring: options.no_new_keyring,
            shim_cgroup: options.shim_cgroup,
            io_uid: options.io_uid,
            io_gid: options.io_gid,
            binary_name: options.binary_name,
            root: options.root,
            systemd_cgroup: options.systemd_cgroup,
            criu_image_path: options.criu_image_path,
            criu_work_path: options.criu_work_path,
        }
    }
}

/// `runtimeoptions.v1.Options`, which containerd's protocol crate lacks: three fields, so read by hand.
#[derive(Debug, Default, PartialEq, Eq)]
struct RuntimeOptions {
    /// Field 2.
    config_path: String,
    /// Field 3.
    config_body: Vec<u8>,
}

impl RuntimeOptions {
    const CONFIG_PATH: u32 = 2 << 3 | 2;
    const CONFIG_BODY: u32 = 3 << 3 | 2;

    fn decode(bytes: &[u8]) -> Result<Self, protobuf::Error> {
        let mut options = Self::default();
        let mut input = CodedInputStream::from_bytes(bytes);
        while let Some(tag) = input.read_raw_tag_or_eof()? {
            match tag {
                Self::CONFIG_PATH => options.config_path = input.read_string()?,
                Self::CONFIG_BODY => options.config_body = input.read_bytes()?,
                _ => protobuf::rt::skip_field_for_tag(tag, &mut input)?,
            }
        }
        Ok(options)
    }

    /// The body where there is one, else the file.
    fn load(self) -> Result<Options, Error> {
        let body = if !self.config_body.is_empty() {
            self.config_body
        } else if !self.config_path.is_empty() {
            let path = PathBuf::from(self.config_path);
            std::fs::read(&path).map_err(|err| Error::Read { path, err })?
        } else {
            return Ok(Options::default());
        };
        Self::of_toml(&body)
    }

    fn of_toml(body: &[u8]) -> Result<Options, Error> {
        toml::from_slice(body).map_err(|err| Error::Toml(Box::new(err)))
    }
}

/// The options of Checkpoint; all defaults where the request has none.
///
/// # Errors
/// The message is of another type or does not decode.
pub(crate) fn checkpoint(any: Option<&Any>) -> Result<oci::CheckpointOptions, Error> {
    let Some(any) = any else { return Ok(oci::CheckpointOptions::default()) };
    let decode = || {
        oci::CheckpointOptions::parse_from_bytes(&any.value)
            .map_err(|err| Error::Decode { type_url: any.type_url.clone(), err })
    };
    match message_name(any) {
        "" => Ok(oci::CheckpointOptions::default()),
        CHECKPOINT_OPTIONS => decode(),
        CHECKPOINT_OPTIONS_1 => {
            let mut options = decode()?;
            // The same message but for these two, which have each other's numbers.
            std::mem::swap(&mut options.image_path, &mut options.work_path);
            Ok(options)
        }
        _ => Err(Error::UnknownType { type_url: any.type_url.clone() }),
    }
}

/// Every message that carries options, without the file that one of them can name.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(bytes: &[u8]) {
    let any = |name: &str| Any { type_url: name.to_owned(), value: bytes.to_owned(), ..Any::default() };
    // What does not decode is an error, and no more.
    Options::parse(&any(RUNC_OPTIONS)).ok();
    Options::parse(&any(CREATE_OPTIONS_1)).ok();
    if let Ok(options) = RuntimeOptions::decode(bytes) {
        RuntimeOptions::of_toml(&options.config_body).ok();
    }
    RuntimeOptions::of_toml(bytes).ok();
    checkpoint(Some(&any(CHECKPOINT_OPTIONS))).ok();
    checkpoint(Some(&any(CHECKPOINT_OPTIONS_1))).ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(type_url: &str, value: Vec<u8>) -> Any {
        Any { type_url: type_url.into(), value, ..Any::default() }
    }

    /// One length-delimited field on the wire.
    fn field(number: u8, value: &str) -> Vec<u8> {
        let mut bytes = vec![number << 3 | 2, u8::try_from(value.len()).unwrap()];
        bytes.extend_from_slice(value.as_bytes());
        bytes
    }

    #[test]
    fn ctr_sends_runcs_message() {
        let message = oci::Options { no_pivot_root: true, root: "/r".into(), io_uid: 7, ..oci::Options::default() };
        let options = Options::parse(&any(RUNC_OPTIONS, message.write_to_bytes().unwrap())).unwrap();
        assert!(options.no_pivot_root);
        assert_eq!(options.io_uid, 7);
        assert_eq!(options.state_root("k8s.io"), Path::new("/r/k8s.io"));
    }

    #[test]
    fn cri_sends_toml_in_the_message() {
        let mut value = field(1, "whatever");
        value.extend(field(3, "NoPivotRoot = true\nRoot = '/r'\nSomebodyElses = 1\n"));
        let options = Options::parse(&any(RUNTIME_OPTIONS, value)).unwrap();
        assert_eq!(options, Options { no_pivot_root: true, root: "/r".into(), ..Options::default() });
    }

    #[test]
    fn cri_names_a_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rtc.toml");
        std::fs::write(&path, "CriuWorkPath = '/w'\n").unwrap();
        let value = field(2, path.to_str().unwrap());
        let options = Options::parse(&any(RUNTIME_OPTIONS, value)).unwrap();
        assert_eq!(options.criu_work_path, "/w");
    }

    #[test]
    fn a_missing_file_is_named() {
        let refused = Options::parse(&any(RUNTIME_OPTIONS, field(2, "/nowhere/rtc.toml"))).unwrap_err();
        assert!(refused.to_string().contains("/nowhere/rtc.toml"), "{refused}");
    }

    #[test]
    fn broken_options_are_refused() {
        assert!(matches!(Options::parse(&any(RUNTIME_OPTIONS, field(3, "= ="))), Err(Error::Toml(_))));
        assert!(matches!(Options::parse(&any(RUNTIME_OPTIONS, vec![0x1a, 0xff])), Err(Error::Decode { .. })));
        assert!(matches!(Options::parse(&any("x.Options", vec![])), Err(Error::UnknownType { .. })));
    }

    #[test]
    fn containerd_1_sends_its_first_shims_messages() {
        let mut value = vec![1 << 3, 1, 10 << 3, 7];
        value.extend(field(13, "/images"));
        value.extend(field(6, "network"));
        let options = Options::parse(&any(CREATE_OPTIONS_1, value)).unwrap();
        let expected =
            Options { no_pivot_root: true, io_uid: 7, criu_image_path: "/images".into(), ..Options::default() };
        assert_eq!(options, expected);

        let mut value = vec![1 << 3, 1];
        value.extend(field(8, "/work"));
        value.extend(field(9, "/images"));
        let options = checkpoint(Some(&any(CHECKPOINT_OPTIONS_1, value))).unwrap();
        assert!(options.exit);
        assert_eq!((options.image_path.as_str(), options.work_path.as_str()), ("/images", "/work"));
    }

    #[test]
    fn no_options_are_the_defaults() {
        assert_eq!(Options::of_request(None).unwrap(), Options::default());
        assert_eq!(Options::of_request(Some(&Any::default())).unwrap(), Options::default());
        assert_eq!(Options::default().state_root("ns"), Path::new("/run/containerd/rtc/ns"));
    }

    #[test]
    fn a_url_with_a_host_is_understood() {
        let options = Options::parse(&any("type.googleapis.com/containerd.runc.v1.Options", vec![])).unwrap();
        assert_eq!(options, Options::default());
    }
}
