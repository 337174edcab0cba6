//! Loading and checking `config.json`.

mod check;
mod ids;
pub(crate) mod rootless;

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Capability, Process, Spec};
use serde_json::Value;

pub(crate) use check::{check, check_process, given_path};

use crate::error::ErrorKind;
use crate::{Result, limited};

/// The version of the runtime specification that this crate is written to.
pub const VERSION: &str = "1.3.0";

/// What is wrong with a spec.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("read {path}")]
    Read {
        path: PathBuf,
        #[source]
        err: std::io::Error,
    },
    #[error("parse {path}")]
    Parse {
        path: PathBuf,
        #[source]
        err: serde_json::Error,
    },
    #[error("{field} is missing")]
    Missing { field: &'static str },
    #[error("{field} {value:?} is not {expected}")]
    Invalid { field: &'static str, value: String, expected: &'static str },
    #[error("{field} has {value} twice")]
    Duplicate { field: &'static str, value: String },
    #[error("{0}")]
    Contradiction(&'static str),
    #[error("ociVersion {0:?} is of another major version than 1")]
    Version(String),
    #[error("{field} {id} has no mapping in linux.{maps}")]
    Unmapped { field: &'static str, id: u32, maps: &'static str },
    #[error("cannot specify {option} mount option for rootless container: no mapping found in linux.{maps}")]
    UnmappedOption { option: String, maps: &'static str },
    /// Better than to run a container that is not what was asked for.
    #[error("{field} is not supported")]
    Unsupported { field: &'static str },
}

impl Error {
    pub(crate) fn kind(&self) -> ErrorKind {
        match self {
            Self::Read { err, .. } if err.kind() == std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            Self::Read { err, .. } if err.kind() == std::io::ErrorKind::FileTooLarge => ErrorKind::InvalidArgument,
            Self::Read { .. } => ErrorKind::Internal,
            Self::Unsupported { .. } => ErrorKind::Unimplemented,
            _ => ErrorKind::InvalidArgument,
        }
    }
}

/// A bundle's file of the spec.
pub(crate) const CONFIG: &str = "config.json";

/// Reads `config.json` of a bundle. Leniently: a capability that is not known is dropped with a warning, as runc does.
///
/// # Errors
/// [`Error::Read`], of a file of more than 16 MiB too, or [`Error::Parse`] with the file's path.
pub fn load(bundle: &Path) -> Result<Spec> {
    load_file(&bundle.join(CONFIG))
}

/// [`load`], of a file of any name.
///
/// # Errors
/// As those of [`load`].
pub fn load_file(path: &Path) -> Result<Spec> {
    let json = limited::read(path, limited::DOCUMENT).map_err(|err| Error::Read { path: path.to_owned(), err })?;
    Ok(parse(&json).map_err(|err| Error::Parse { path: path.to_owned(), err })?)
}

/// Reads a document of JSON that is not a spec, such as the process of an exec.
///
/// # Errors
/// Those of the file, and `FileTooLarge` for one of more than 16 MiB.
pub fn read_document(path: &Path) -> std::io::Result<Vec<u8>> {
    limited::read(path, limited::DOCUMENT)
}

/// Parses the `process` of an exec, leniently as [`load`] does.
///
/// # Errors
/// Where and why it is no process.
pub fn parse_process(json: &[u8]) -> std::result::Result<Process, serde_json::Error> {
    match serde_json::from_slice(json) {
        Ok(process) => Ok(process),
        Err(first) => {
            let mut value: Value = serde_json::from_slice(json)?;
            if mend_process(&mut value) { serde_json::from_value(value) } else { Err(first) }
        }
    }
}

pub(crate) fn parse(json: &[u8]) -> std::result::Result<Spec, serde_json::Error> {
    match serde_json::from_slice::<Spec>(json) {
        Ok(spec) if !lacks_a_page_size(&spec) => Ok(spec),
        // The usual spec is parsed once; only one that fails is looked through for names that oci-spec does not know.
        first => {
            let mut value: Value = serde_json::from_slice(json)?;
            let process = value.get_mut("process").is_some_and(mend_process);
            let sizes = respell_page_sizes(value.pointer_mut("/linux/resources/hugepageLimits"));
            if process || sizes { serde_json::from_value(value) } else { first }
        }
    }
}

/// oci-spec has an empty size for a field that is not there.
fn lacks_a_page_size(spec: &Spec) -> bool {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let limits = resources.and_then(|resources| resources.hugepage_limits().as_ref());
    limits.into_iter().flatten().any(|limit| limit.page_size().is_empty())
}

/// The one field that is written in other letters than the specification's, as in runc's own tests: runc's decoder looks at
/// no letter's case. Whether any was found.
fn respell_page_sizes(limits: Option<&mut Value>) -> bool {
    let mut found = false;
    for limit in limits.and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut) {
        let Some(name) = limit.keys().find(|name| name.eq_ignore_ascii_case(PAGE_SIZE)).cloned() else { continue };
        if let Some(size) = limit.remove(&name) {
            limit.insert(PAGE_SIZE.to_owned(), size);
            found = true;
        }
    }
    found
}

const PAGE_SIZE: &str = "pageSize";

/// Flags of the scheduler, as the specification has them and as oci-spec spells them.
const SCHEDULER_FLAGS: [(&str, &str); 2] =
    [("SCHED_FLAG_RESET_ON_FORK", "SCHED_RESET_ON_FORK"), ("SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_D_L_OVERRUN")];

/// Whether there was anything to mend: unknown capabilities, flags of the scheduler that oci-spec spells in its own way, or
/// no user, who is root then as with runc.
fn mend_process(process: &mut Value) -> bool {
    let dropped = drop_unknown_capabilities(process.pointer_mut("/capabilities"));
    let respelled = respell_scheduler_flags(process.pointer_mut("/scheduler/flags"));
    match process {
        Value::Object(fields) if !fields.contains_key("user") => {
            fields.insert("user".to_owned(), serde_json::json!({"uid": 0, "gid": 0}));
            true
        }
        _ => dropped || respelled,
    }
}

/// Whether any was found.
fn respell_scheduler_flags(flags: Option<&mut Value>) -> bool {
    let Some(Value::Array(flags)) = flags else { return false };
    let mut found = false;
    for flag in flags {
        if let Some((_, own)) = SCHEDULER_FLAGS.iter().find(|(name, _)| flag == name) {
            *flag = Value::from(*own);
            found = true;
        }
    }
    found
}

/// Whether any was found.
fn drop_unknown_capabilities(capabilities: Option<&mut Value>) -> bool {
    let Some(Value::Object(sets)) = capabilities else { return false };
    let mut found = false;
    for (set, names) in sets {
        if let Value::Array(names) = names {
            names.retain(|name| {
                let known = serde_json::from_value::<Capability>(name.clone()).is_ok();
                if !known {
                    tracing::warn!(capability = %name, set, "ignoring unknown capability");
                    found = true;
                }
                known
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_capability_is_dropped_and_the_others_stay() {
        let json = r#"{"ociVersion":"1.2.0","process":{"user":{"uid":0,"gid":0},"cwd":"/",
            "capabilities":{"bounding":["CAP_KILL","CAP_FUTURE"]}}}"#;
        let spec = parse(json.as_bytes()).unwrap();
        let bounding = spec.process().as_ref().unwrap().capabilities().as_ref().unwrap().bounding().clone().unwrap();
        assert_eq!(bounding.into_iter().collect::<Vec<_>>(), [Capability::Kill]);
    }

    #[test]
    fn a_page_size_is_read_in_any_case_and_must_be_there() {
        let spec = |limits: &str| {
            let linux = format!(r#"{{"resources":{{"hugepageLimits":{limits}}}}}"#);
            let rest = r#""ociVersion":"1.2.0","root":{"path":"r"},"process":{"cwd":"/","args":["true"]}"#;
            parse(format!(r#"{{{rest},"linux":{linux}}}"#).as_bytes()).unwrap()
        };
        let sizes = |limits| {
            let spec = spec(limits);
            let resources = spec.linux().as_ref().unwrap().resources().clone().unwrap();
            resources.hugepage_limits().iter().flatten().map(|limit| limit.page_size().clone()).collect::<Vec<_>>()
        };
        assert_eq!(
            sizes(r#"[{"pagesize":"2MB","limit":1},{"PageSize":"1GB","limit":2},{"pageSize":"64KB","limit":3}]"#),
            ["2MB", "1GB", "64KB"]
        );
        let missing = check(&spec(r#"[{"limit":1}]"#)).unwrap_err().to_string();
        assert_eq!(missing, "linux.resources.hugepageLimits.pageSize is missing");
    }

    #[test]
    fn without_a_user_it_is_root() {
        let process = parse_process(br#"{"cwd":"/","args":["true"]}"#).unwrap();
        assert_eq!((process.user().uid(), process.user().gid()), (0, 0));
        let spec = parse(br#"{"ociVersion":"1.2.0","process":{"cwd":"/"}}"#).unwrap();
        assert_eq!(spec.process().as_ref().unwrap().user().uid(), 0);
    }

    /// runtime specification, "scheduler", "flags".
    #[test]
    fn the_schedulers_flags_are_those_of_the_specification() {
        for flag in [
            "SCHED_FLAG_RESET_ON_FORK",
            "SCHED_FLAG_RECLAIM",
            "SCHED_FLAG_DL_OVERRUN",
            "SCHED_FLAG_KEEP_POLICY",
            "SCHED_FLAG_KEEP_PARAMS",
            "SCHED_FLAG_UTIL_CLAMP_MIN",
            "SCHED_FLAG_UTIL_CLAMP_MAX",
        ] {
            let json = format!(r#"{{"cwd":"/","scheduler":{{"policy":"SCHED_OTHER","flags":["{flag}"]}}}}"#);
            let process = parse_process(json.as_bytes()).unwrap_or_else(|err| panic!("{flag}: {err}"));
            assert_eq!(process.scheduler().as_ref().unwrap().flags().as_ref().unwrap().len(), 1);
            let with_user = json.replacen('{', r#"{"user":{"uid":0,"gid":0},"#, 1);
            parse_process(with_user.as_bytes()).unwrap_or_else(|err| panic!("{flag} with a user: {err}"));
        }
    }

    #[test]
    fn unknown_fields_are_ignored() {
        parse(br#"{"ociVersion":"1.9.0","future":1,"process":{"user":{},"cwd":"/","new":[]}}"#).unwrap();
    }

    #[test]
    fn what_is_wrong_elsewhere_is_an_error_with_its_line() {
        let err = parse(br#"{"ociVersion":"1.2.0","process":{"user":{},"cwd":7}}"#).unwrap_err();
        assert!(err.to_string().contains("line 1"), "{err}");
    }

    #[test]
    fn a_value_outside_of_its_list_is_an_error_that_names_it() {
        for linux in [
            r#"{"namespaces":[{"type":"planet"}]}"#,
            r#"{"devices":[{"path":"/d","type":"planet","major":1,"minor":1}]}"#,
            r#"{"seccomp":{"defaultAction":"planet"}}"#,
            r#"{"personality":{"domain":"planet"}}"#,
            r#"{"memoryPolicy":{"mode":"planet"}}"#,
        ] {
            let err = parse(format!(r#"{{"ociVersion":"1.2.0","linux":{linux}}}"#).as_bytes()).unwrap_err();
            assert!(err.to_string().contains("planet"), "{err}");
        }
    }

    #[test]
    fn a_spec_without_an_end_is_refused_with_the_limit() {
        let bundle = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/zero", bundle.path().join("config.json")).unwrap();
        let err = load(bundle.path()).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidArgument);
        let messages: Vec<_> = crate::error::chain(&err).split(": ").map(str::to_owned).collect();
        assert!(messages.iter().any(|message| message == "it is longer than 16777216 bytes"), "{messages:?}");
    }

    #[test]
    fn a_spec_of_many_levels_is_an_error_and_no_stack_overflow() {
        for depth in [200, 100_000] {
            parse("[".repeat(depth).as_bytes()).unwrap_err();
            parse(format!(r#"{{"ociVersion":"1.0.0","annotations":{}"#, r#"{"a":"#.repeat(depth)).as_bytes())
                .unwrap_err();
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let err = load(Path::new("/does/not/exist")).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::NotFound);
        assert!(
            std::error::Error::source(&err).is_some_and(|err| err.to_string().contains("/does/not/exist/config.json"))
        );
    }
}
