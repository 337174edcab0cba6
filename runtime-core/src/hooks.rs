//! Hooks (OCI runtime specification, "POSIX-platform Hooks"): programs run at points of a container's life, with its state
//! as JSON on stdin.

use std::collections::HashMap;
use std::io::{Read, Seek, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use oci_spec::runtime::Hook;
use serde::{Deserialize, Serialize};

use crate::children;

/// How much of a failed hook's output goes into its error, in bytes.
const OUTPUT_KEPT: u64 = 4096;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// As runc words it; counted from 0.
    #[error("error running {kind} hook #{number}")]
    Hook {
        kind: &'static str,
        number: usize,
        #[source]
        err: Box<Error>,
    },
    #[error("start {kind} hook {path}")]
    Start {
        kind: &'static str,
        path: PathBuf,
        #[source]
        err: std::io::Error,
    },
    #[error("wait for {kind} hook {path}")]
    Wait {
        kind: &'static str,
        path: PathBuf,
        #[source]
        err: std::io::Error,
    },
    #[error("{kind} hook {path} ended with {code}: {output}")]
    Failed { kind: &'static str, path: PathBuf, code: u32, output: String },
    #[error("{kind} hook {path} ran for more than {seconds} s and was ended")]
    Timeout { kind: &'static str, path: PathBuf, seconds: u64 },
    #[error("encode the state for hooks")]
    State(#[source] serde_json::Error),
}

/// The specification's `state`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HookState {
    pub(crate) oci_version: String,
    pub(crate) id: String,
    pub(crate) status: String,
    /// As the hook's pid namespace sees it; not there for a stopped container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pid: Option<i32>,
    pub(crate) bundle: PathBuf,
    #[serde(default, skip_serializing_if = "HashMap::is_empty")]
    pub(crate) annotations: HashMap<String, String>,
}

impl HookState {
    pub(crate) fn at(&self, status: &str, pid: Option<i32>) -> Self {
        Self { status: status.to_owned(), pid, ..self.clone() }
    }
}

/// What a hook is given where the spec says nothing; the default: what the caller has.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Surroundings<'a> {
    pub(crate) env: Option<&'a [String]>,
    pub(crate) directory: Option<&'a Path>,
}

/// Runs hooks in order; the first that fails ends the row.
///
/// # Errors
/// [`Error::Hook`], with the end of what it wrote.
pub(crate) fn run(kind: &'static str, hooks: &[Hook], state: &HookState) -> Result<(), Error> {
    run_in(Surroundings::default(), kind, hooks, state)
}

/// [`run`] in given surroundings.
pub(crate) fn run_in(
    surroundings: Surroundings<'_>,
    kind: &'static str,
    hooks: &[Hook],
    state: &HookState,
) -> Result<(), Error> {
    if hooks.is_empty() {
        return Ok(());
    }
    let state = serde_json::to_vec(state).map_err(Error::State)?;
    for (number, hook) in hooks.iter().enumerate() {
        let at = |err| Error::Hook { kind, number, err: Box::new(err) };
        run_one(surroundings, kind, hook, &state).map_err(at)?;
    }
    Ok(())
}

fn run_one(surroundings: Surroundings<'_>, kind: &'static str, hook: &Hook, state: &[u8]) -> Result<(), Error> {
    let path = hook.path();
    let start = |err| Error::Start { kind, path: path.clone(), err };
    let wait = |err| Error::Wait { kind, path: path.clone(), err };
    let mut input = scratch().map_err(start)?;
    input.write_all(state).and_then(|()| input.rewind()).map_err(start)?;
    let mut output = scratch().map_err(start)?;
    let child = {
        let mut command = command(surroundings, hook, path);
        command.stdin(input).stdout(output.try_clone().map_err(start)?).stderr(output.try_clone().map_err(start)?);
        children::spawn(&mut command).map_err(start)?
    };
    let timeout = hook.timeout().and_then(|seconds| u64::try_from(seconds).ok()).filter(|seconds| *seconds > 0);
    if !child.exited(timeout.map(Duration::from_secs)).map_err(wait)? {
        // It may have ended in this moment.
        crate::sys::process::pidfd_signal(child.pidfd(), 9).ok();
        child.wait().map_err(wait)?;
        return Err(Error::Timeout { kind, path: path.clone(), seconds: timeout.unwrap_or_default() });
    }
    match child.wait().map_err(wait)?.code {
        0 => Ok(()),
        code => Err(Error::Failed { kind, path: path.clone(), code, output: tail(&mut output).map_err(wait)? }),
    }
}

fn command(surroundings: Surroundings<'_>, hook: &Hook, path: &Path) -> Command {
    let mut command = Command::new(path);
    if let Some((name, rest)) = hook.args().as_ref().and_then(|args| args.split_first()) {
        command.arg0(name).args(rest);
    }
    if let Some(env) = hook.env().as_deref().or(surroundings.env) {
        command.env_clear();
        for variable in env {
            let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
            command.env(name, value);
        }
    }
    if let Some(directory) = surroundings.directory {
        command.current_dir(directory);
    }
    command.stdin(Stdio::null());
    command
}

/// A file in memory: a hook that writes much must not block on a pipe that nobody reads.
fn scratch() -> std::io::Result<std::fs::File> {
    Ok(rustix::fs::memfd_create("rtc-hook", rustix::fs::MemfdFlags::CLOEXEC)?.into())
}

fn tail(output: &mut std::fs::File) -> std::io::Result<String> {
    let length = output.metadata()?.len();
    output.seek(std::io::SeekFrom::Start(length.saturating_sub(OUTPUT_KEPT)))?;
    let mut text = Vec::new();
    output.take(OUTPUT_KEPT).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> HookState {
        HookState {
            oci_version: "1.2.0".into(),
            id: "web".into(),
            status: "creating".into(),
            pid: Some(7),
            bundle: "/b".into(),
            annotations: HashMap::new(),
        }
    }

    fn hook(script: &str, timeout: Option<i64>) -> Hook {
        let mut hook = Hook::default();
        hook.set_path("/bin/sh".into());
        hook.set_args(Some(vec!["sh".into(), "-c".into(), script.into()]));
        hook.set_env(Some(vec!["A=b".into()]));
        hook.set_timeout(timeout);
        hook
    }

    fn failure(kind: &'static str, hooks: &[Hook]) -> Error {
        match run(kind, hooks, &state()) {
            Err(Error::Hook { err, .. }) => *err,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_hook_reads_the_state_and_its_own_environment_alone() {
        let script = r#"read -r line; echo "$line" >&2; test "$A" = b && test -z "$HOME" && exit 3"#;
        let Error::Failed { code, output, .. } = failure("prestart", &[hook(script, None)]) else {
            panic!("not a failure")
        };
        assert_eq!(
            (code, output.as_str()),
            (3, r#"{"ociVersion":"1.2.0","id":"web","status":"creating","pid":7,"bundle":"/b"}"#)
        );
    }

    #[test]
    fn a_hook_without_an_environment_has_that_of_its_surroundings() {
        let mut bare = hook(r#"test "$B" = c && test "$PWD" = / && exit 3"#, None);
        bare.set_env(None);
        let surroundings = Surroundings { env: Some(&["B=c".to_owned()]), directory: Some(Path::new("/")) };
        let text = crate::error::chain(&run_in(surroundings, "x", std::slice::from_ref(&bare), &state()).unwrap_err());
        assert!(text.starts_with("error running x hook #0: x hook /bin/sh ended with 3"), "{text}");
    }

    #[test]
    fn a_hook_that_hangs_is_ended() {
        let err = failure("poststop", &[hook("exec sleep 60", Some(1))]);
        assert!(matches!(err, Error::Timeout { seconds: 1, .. }), "{err:?}");
    }

    #[test]
    fn the_first_failure_ends_the_row() {
        let mut missing = Hook::default();
        missing.set_path("/does/not/exist".into());
        assert!(matches!(failure("x", &[missing, hook("exit 9", None)]), Error::Start { .. }));
        let text = crate::error::chain(&run("x", &[hook(":", None), hook("exit 9", None)], &state()).unwrap_err());
        assert!(text.starts_with("error running x hook #1: "), "{text}");
    }
}
