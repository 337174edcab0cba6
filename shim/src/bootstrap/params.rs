//! What containerd tells `start`, and in what form it wants the answer. Three generations ask in three ways:
//!
//! | containerd  | parameters                                          | answer                                |
//! |-------------|-----------------------------------------------------|---------------------------------------|
//! | 1.6         | flags, `TTRPC_ADDRESS`, options (`Any`) on stdin    | the address, bare                     |
//! | 1.7 to 2.2  | the same, and `MAX_SHIM_VERSION`                    | JSON: `version`, `address`, `protocol`|
//! | 2.3 and up  | flags, `BootstrapParams` on stdin                   | `BootstrapResult`                     |
//!
//! 1.7 refuses an answer with a version above 2, and every release to 2.2 says so: `MAX_SHIM_VERSION=2`. Version 2 is
//! the service `containerd.task.v2.Task`, 3 is `containerd.task.v3.Task`; the shim serves both.

use std::io::Read;

use containerd_shim::bootstrap::{LogLevel, nearest_log_level};
use containerd_shim::{Flags, StartOpts};
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use protobuf::Message;
use protobuf::well_known_types::any::Any;
use serde::Serialize;

use super::TTRPC_ADDRESS;
use crate::options;

/// containerd's own bound for what it reads of the same stream.
const MAX_INPUT: u64 = 10 << 20;
const MAX_SHIM_VERSION: &str = "MAX_SHIM_VERSION";
const TASK_API_V2: i32 = 2;
const TASK_API_V3: i32 = 3;
const PROTOCOL: &str = "ttrpc";

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("read stdin")]
    Stdin(#[source] std::io::Error),
    #[error("stdin is neither bootstrap parameters nor options: cut off, or damaged")]
    Damaged(#[source] protobuf::Error),
    #[error("bootstrap parameters are for {namespace}/{id}, the arguments say otherwise")]
    OtherShim { namespace: String, id: String },
    #[error("container id cannot be empty")]
    NoId,
    #[error("containerd did not say where its events service is: no {TTRPC_ADDRESS}")]
    NoTtrpcAddress,
    #[error("options")]
    Options(#[from] options::Error),
}

/// How the answer is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Bare,
    Json { version: i32 },
    Protobuf,
}

/// The parameters, whichever way they came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Params {
    pub(crate) id: String,
    pub(crate) namespace: String,
    /// containerd's gRPC socket: part of the shim's own address.
    pub(crate) address: String,
    pub(crate) ttrpc_address: String,
    /// Where containerd wants the socket; its own default where it says nothing.
    socket_dir: Option<String>,
    pub(crate) shim_cgroup: Option<String>,
    pub(crate) debug: bool,
    pub(crate) answer: Answer,
}

/// The part of the environment that counts.
#[derive(Debug, Default)]
struct Environment {
    ttrpc_address: Option<String>,
    max_shim_version: Option<String>,
}

impl Params {
    /// Reads stdin to its end; containerd closes it.
    ///
    /// # Errors
    /// stdin is unreadable or for another shim, or something that `start` needs is missing.
    pub(crate) fn read(flags: &Flags) -> Result<Self, Error> {
        let mut input = Vec::new();
        std::io::stdin().lock().take(MAX_INPUT).read_to_end(&mut input).map_err(Error::Stdin)?;
        let environment = Environment {
            ttrpc_address: std::env::var(TTRPC_ADDRESS).ok(),
            max_shim_version: std::env::var(MAX_SHIM_VERSION).ok(),
        };
        Self::parse(&input, flags, environment)
    }

    fn parse(input: &[u8], flags: &Flags, environment: Environment) -> Result<Self, Error> {
        let params = match bootstrap_params(input, flags)? {
            Some(message) => Self::from_message(message, flags)?,
            None => Self::from_flags(input, flags, environment)?,
        };
        if params.id.is_empty() {
            return Err(Error::NoId);
        }
        // Found out here, where containerd's user sees it: the serving process has nobody to tell.
        if params.ttrpc_address.is_empty() {
            return Err(Error::NoTtrpcAddress);
        }
        Ok(params)
    }

    fn from_message(message: BootstrapParams, flags: &Flags) -> Result<Self, Error> {
        let level = nearest_log_level(message.log_level.value());
        let extensions = message.extensions.iter().filter_map(|extension| extension.value.as_ref());
        Ok(Self {
            id: message.instance_id.clone(),
            namespace: message.namespace.clone(),
            address: message.containerd_grpc_address.clone(),
            ttrpc_address: message.containerd_ttrpc_address.clone(),
            socket_dir: message.socket_dir.clone().filter(|directory| !directory.is_empty()),
            shim_cgroup: shim_cgroup(extensions)?,
            debug: flags.debug || matches!(level, LogLevel::LOG_LEVEL_DEBUG | LogLevel::LOG_LEVEL_TRACE),
            answer: Answer::Protobuf,
        })
    }

    fn from_flags(input: &[u8], flags: &Flags, environment: Environment) -> Result<Self, Error> {
        // Both messages are known by now, so what is neither is no third one.
        let options = Any::parse_from_bytes(input).map_err(Error::Damaged)?;
        let answer = match environment.max_shim_version.map(|version| version.parse::<i32>()) {
            None => Answer::Bare,
            Some(Ok(newest)) if newest >= TASK_API_V3 => Answer::Json { version: TASK_API_V3 },
            Some(_) => Answer::Json { version: TASK_API_V2 },
        };
        Ok(Self {
            id: flags.id.clone(),
            namespace: flags.namespace.clone(),
            address: flags.address.clone(),
            ttrpc_address: environment.ttrpc_address.unwrap_or_default(),
            socket_dir: None,
            shim_cgroup: shim_cgroup(std::iter::once(&options))?,
            debug: flags.debug,
            answer,
        })
    }

    /// The address of the shim that serves `group`.
    pub(crate) fn socket_address(&self, group: &str) -> String {
        let options = StartOpts {
            address: self.address.clone(),
            namespace: self.namespace.clone(),
            socket_dir: self.socket_dir.clone(),
            ..StartOpts::default()
        };
        options.socket_address(group)
    }
}

/// The message of containerd 2.3, if that is what came. The options that older releases send decode as the same message
/// (type URL as id, value as namespace and nothing else), so the ids decide.
fn bootstrap_params(input: &[u8], flags: &Flags) -> Result<Option<BootstrapParams>, Error> {
    let Ok(params) = BootstrapParams::parse_from_bytes(input) else { return Ok(None) };
    if input.is_empty() || (params.instance_id == flags.id && params.namespace == flags.namespace) {
        return Ok(Some(params).filter(|_| !input.is_empty()));
    }
    // Parameters that end too early have our id and no more; a type of options is no id, unless somebody takes it for one.
    let cut_off = params.instance_id == flags.id && !is_options(input);
    if !cut_off && params.containerd_ttrpc_address.is_empty() && params.containerd_grpc_address.is_empty() {
        return Ok(None);
    }
    Err(Error::OtherShim { namespace: params.namespace, id: params.instance_id })
}

fn is_options(input: &[u8]) -> bool {
    Any::parse_from_bytes(input).is_ok_and(|any| options::is_options(&any))
}

fn shim_cgroup<'a>(messages: impl Iterator<Item = &'a Any>) -> Result<Option<String>, Error> {
    for any in messages.filter(|any| options::is_options(any)) {
        let cgroup = options::Options::parse(any)?.shim_cgroup;
        if !cgroup.is_empty() {
            return Ok(Some(cgroup));
        }
    }
    Ok(None)
}

#[derive(Serialize)]
struct JsonAnswer<'a> {
    version: i32,
    address: &'a str,
    protocol: &'static str,
}

impl Answer {
    pub(crate) fn encode(self, address: &str) -> Vec<u8> {
        let encoded = match self {
            Self::Bare => return address.as_bytes().to_vec(),
            Self::Json { version } => {
                serde_json::to_vec(&JsonAnswer { version, address, protocol: PROTOCOL }).map_err(|err| err.to_string())
            }
            Self::Protobuf => BootstrapResult {
                version: TASK_API_V3,
                address: address.to_owned(),
                protocol: PROTOCOL.to_owned(),
                ..BootstrapResult::default()
            }
            .write_to_bytes()
            .map_err(|err| err.to_string()),
        };
        encoded.expect("strings and a number always encode")
    }
}

/// The same bytes for each generation of containerd.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(input: &[u8]) {
    let flags = Flags { id: "web".into(), namespace: "k8s.io".into(), ..Flags::default() };
    for max_shim_version in [None, Some("2".to_owned()), Some("3".to_owned())] {
        let environment = Environment { ttrpc_address: Some("/c.sock.ttrpc".into()), max_shim_version };
        if let Ok(params) = Params::parse(input, &flags, environment) {
            assert_eq!((params.id.as_str(), params.namespace.as_str()), ("web", "k8s.io"), "another shim's");
            assert!(params.socket_address("web").starts_with("unix://"));
        }
    }
}

#[cfg(test)]
mod tests {
    use containerd_shim_protos::bootstrap_api::Extension;
    use containerd_shim_protos::shim::oci;
    use protobuf::EnumOrUnknown;

    use super::*;

    fn flags() -> Flags {
        Flags {
            id: "web".into(),
            namespace: "k8s.io".into(),
            address: "/run/containerd/containerd.sock".into(),
            ..Flags::default()
        }
    }

    fn environment(max_shim_version: Option<&str>) -> Environment {
        Environment {
            ttrpc_address: Some("/run/containerd/containerd.sock.ttrpc".into()),
            max_shim_version: max_shim_version.map(str::to_owned),
        }
    }

    fn runc_options() -> Any {
        let options = oci::Options { shim_cgroup: "/shims".into(), ..oci::Options::default() };
        Any {
            type_url: "containerd.runc.v1.Options".into(),
            value: options.write_to_bytes().unwrap(),
            ..Any::default()
        }
    }

    fn message() -> BootstrapParams {
        BootstrapParams {
            instance_id: "web".into(),
            namespace: "k8s.io".into(),
            log_level: EnumOrUnknown::new(LogLevel::LOG_LEVEL_DEBUG),
            containerd_ttrpc_address: "/c.sock.ttrpc".into(),
            containerd_grpc_address: "/c.sock".into(),
            socket_dir: Some("/run/c/s".into()),
            extensions: vec![Extension { value: Some(runc_options()).into(), ..Extension::default() }],
            ..BootstrapParams::default()
        }
    }

    #[test]
    fn containerd_1_6_reads_a_bare_address() {
        let params = Params::parse(&[], &flags(), environment(None)).unwrap();
        assert_eq!(params.answer.encode("unix:///s/x"), b"unix:///s/x");
    }

    #[test]
    fn containerd_1_7_reads_json_of_version_2() {
        let params = Params::parse(&[], &flags(), environment(Some("2"))).unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&params.answer.encode("unix:///s/x")).unwrap();
        assert_eq!(answer, serde_json::json!({"version": 2, "address": "unix:///s/x", "protocol": "ttrpc"}));
    }

    #[test]
    fn a_containerd_that_takes_version_3_gets_it() {
        let params = Params::parse(&[], &flags(), environment(Some("3"))).unwrap();
        assert_eq!(params.answer, Answer::Json { version: 3 });
    }

    #[test]
    fn containerd_2_3_sends_and_reads_protobuf() {
        let input = message().write_to_bytes().unwrap();
        let params = Params::parse(&input, &flags(), Environment::default()).unwrap();
        assert_eq!(params.ttrpc_address, "/c.sock.ttrpc");
        assert_eq!(params.shim_cgroup.as_deref(), Some("/shims"));
        assert!(params.debug);
        assert!(params.socket_address("web").starts_with("unix:///run/c/s/"));
        let answer = BootstrapResult::parse_from_bytes(&params.answer.encode("unix:///s/x")).unwrap();
        assert_eq!((answer.version, answer.address.as_str(), answer.protocol.as_str()), (3, "unix:///s/x", "ttrpc"));
    }

    /// A field of a later containerd, a level between those that are known, an extension of a type that is not ours.
    #[test]
    fn what_a_later_containerd_adds_is_left_alone() {
        let foreign = Any { type_url: "containerd.io/nri.v1.PluginConfig".into(), ..Any::default() };
        let mut later = message();
        later.log_level = EnumOrUnknown::from_i32(-5);
        later.extensions.insert(0, Extension { value: Some(foreign).into(), ..Extension::default() });
        later.extensions.push(Extension::default());
        let mut input = later.write_to_bytes().unwrap();
        // Field 2000, a string.
        input.extend([0x82, 0x7d, 3, b'n', b'e', b'w']);
        let params = Params::parse(&input, &flags(), Environment::default()).unwrap();
        assert_eq!((params.answer, params.debug), (Answer::Protobuf, true));
        assert_eq!(params.shim_cgroup.as_deref(), Some("/shims"));
    }

    /// Wherever containerd's message ends too early: an error, or what came was enough. Never the answer of an older
    /// containerd, and never another shim's parameters.
    #[test]
    fn parameters_that_are_cut_off_are_not_taken_for_an_older_containerds() {
        let input = message().write_to_bytes().unwrap();
        for length in 1..input.len() {
            match Params::parse(&input[..length], &flags(), environment(Some("3"))) {
                Ok(params) => assert_eq!(params.answer, Answer::Protobuf, "{length} of {} bytes", input.len()),
                Err(Error::Damaged(_) | Error::OtherShim { .. } | Error::NoTtrpcAddress) => {}
                Err(other) => panic!("{length} of {} bytes: {other}", input.len()),
            }
        }
    }

    #[test]
    fn nothing_on_stdin_is_an_older_containerd_without_options() {
        let params = Params::parse(&[], &flags(), environment(Some("2"))).unwrap();
        assert_eq!((params.answer, params.shim_cgroup), (Answer::Json { version: 2 }, None));
        let refused = Params::parse(&[], &flags(), Environment::default()).unwrap_err();
        assert!(matches!(refused, Error::NoTtrpcAddress), "{refused}");
    }

    #[test]
    fn options_on_stdin_are_not_taken_for_bootstrap_parameters() {
        let input = runc_options().write_to_bytes().unwrap();
        let params = Params::parse(&input, &flags(), environment(Some("2"))).unwrap();
        assert_eq!(params.answer, Answer::Json { version: 2 });
        assert_eq!(params.shim_cgroup.as_deref(), Some("/shims"));
    }

    #[test]
    fn parameters_for_another_shim_are_refused() {
        let input = BootstrapParams { instance_id: "other".into(), ..message() }.write_to_bytes().unwrap();
        assert!(matches!(Params::parse(&input, &flags(), environment(None)), Err(Error::OtherShim { .. })));
    }

    #[test]
    fn a_containerd_without_events_service_is_refused() {
        let refused = Params::parse(&[], &flags(), Environment::default());
        assert!(matches!(refused, Err(Error::NoTtrpcAddress)));
    }

    #[test]
    fn the_address_is_the_one_that_containerd_computes() {
        let params = Params::parse(&[], &Flags { namespace: "default".into(), ..flags() }, environment(None)).unwrap();
        assert_eq!(
            params.socket_address("123"),
            "unix:///run/containerd/s/0ddfbd72d02b3551e75f3a0ed90b9965b533401be618f43a568bc522764e0ad0"
        );
    }
}
