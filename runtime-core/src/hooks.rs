//! Hooks (OCI runtime specification, "POSIX-platform Hooks"): programs run at points of a container's life, with its state
//! as JSON on stdin.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use oci_spec::runtime::Hook;
use serde::{Deserialize, Serialize};

use crate::children;
use crate::program::scratch;

/// How much of a failed hook's output goes into its error, in bytes.
const OUTPUT_KEPT: u64 = 4096;
/// Between two looks at a hook that has a timeout, where there is no pidfd to wait for.
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

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
    #[error("{kind} hook {path} ended with {}: {output}", End(*code))]
    Failed { kind: &'static str, path: PathBuf, code: u32, output: String },
    #[error("{kind} hook {path} ran for more than {seconds} s and was ended")]
    Timeout { kind: &'static str, path: PathBuf, seconds: u64 },
    #[error("encode the state for hooks")]
    State(#[source] serde_json::Error),
}

/// How a program ended, with a signal that ended it in the words that runc has for it.
struct End(u32);

/// From the first on (signal(7)).
const SIGNALS: [&str; 31] = [
    "hangup",
    "interrupt",
    "quit",
    "illegal instruction",
    "trace/breakpoint trap",
    "aborted",
    "bus error",
    "floating point exception",
    "killed",
    "user defined signal 1",
    "segmentation fault",
    "user defined signal 2",
    "broken pipe",
    "alarm clock",
    "terminated",
    "stack fault",
    "child exited",
    "continued",
    "stopped (signal)",
    "stopped",
    "stopped (tty input)",
    "stopped (tty output)",
    "urgent I/O condition",
    "CPU time limit exceeded",
    "file size limit exceeded",
    "virtual timer expired",
    "profiling timer expired",
    "window changed",
    "I/O possible",
    "power failure",
    "bad system call",
];

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signal = self.0.checked_sub(129).and_then(|index| SIGNALS.get(usize::try_from(index).ok()?));
        match signal {
            Some(words) => write!(f, "{} (signal: {words})", self.0),
            None => write!(f, "{}", self.0),
        }
    }
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
    prepare(surroundings, kind, hooks, state)?.run(run_registered)
}

/// Hooks that have all but their process.
#[derive(Debug)]
pub(crate) struct Prepared<'a> {
    kind: &'static str,
    row: Vec<Ready<'a>>,
}

#[derive(Debug)]
struct Ready<'a> {
    kind: &'static str,
    hook: &'a Hook,
    command: Command,
    output: File,
}

/// For [`run_in`] or [`Prepared::run_plainly`].
///
/// # Errors
/// [`Error::Hook`] and [`Error::State`].
pub(crate) fn prepare<'a>(
    surroundings: Surroundings<'_>,
    kind: &'static str,
    hooks: &'a [Hook],
    state: &HookState,
) -> Result<Prepared<'a>, Error> {
    if hooks.is_empty() {
        return Ok(Prepared { kind, row: Vec::new() });
    }
    let state = serde_json::to_vec(state).map_err(Error::State)?;
    let ready = |(number, hook): (usize, &'a Hook)| {
        Ready::new(surroundings, kind, hook, &state).map_err(|err| {
            let err = Error::Start { kind, path: hook.path().clone(), err };
            Error::Hook { kind, number, err: Box::new(err) }
        })
    };
    let row = hooks.iter().enumerate().map(ready).collect::<Result<_, _>>()?;
    Ok(Prepared { kind, row })
}

impl Prepared<'_> {
    /// In a process with a single thread that sweeps no orphans and may be under a seccomp filter: makes no calls but
    /// those that every program which starts others makes.
    ///
    /// # Errors
    /// As [`run`].
    pub(crate) fn run_plainly(self) -> Result<(), Error> {
        self.run(run_plainly)
    }

    fn run(self, one: impl Fn(Ready<'_>) -> Result<(), Error>) -> Result<(), Error> {
        let kind = self.kind;
        let at = |number| move |err| Error::Hook { kind, number, err: Box::new(err) };
        self.row.into_iter().enumerate().try_for_each(|(number, ready)| one(ready).map_err(at(number)))
    }
}

impl<'a> Ready<'a> {
    fn new(surroundings: Surroundings<'_>, kind: &'static str, hook: &'a Hook, state: &[u8]) -> std::io::Result<Self> {
        let (mut input, output) = (scratch()?, scratch()?);
        input.write_all(state).and_then(|()| input.rewind())?;
        let mut command = command(surroundings, hook, hook.path());
        command.stdin(input).stdout(output.try_clone()?).stderr(output.try_clone()?);
        Ok(Self { kind, hook, command, output })
    }

    fn timeout(&self) -> Option<Duration> {
        let seconds = self.hook.timeout().and_then(|seconds| u64::try_from(seconds).ok());
        seconds.filter(|seconds| *seconds > 0).map(Duration::from_secs)
    }

    fn start_failed(&self, err: std::io::Error) -> Error {
        Error::Start { kind: self.kind, path: self.hook.path().clone(), err }
    }

    fn wait_failed(&self, err: std::io::Error) -> Error {
        Error::Wait { kind: self.kind, path: self.hook.path().clone(), err }
    }

    fn timed_out(&self) -> Error {
        let seconds = self.timeout().unwrap_or_default().as_secs();
        Error::Timeout { kind: self.kind, path: self.hook.path().clone(), seconds }
    }

    fn ended(mut self, code: u32) -> Result<(), Error> {
        if code == 0 {
            return Ok(());
        }
        let output = tail(&mut self.output).map_err(|err| self.wait_failed(err))?;
        Err(Error::Failed { kind: self.kind, path: self.hook.path().clone(), code, output })
    }
}

fn run_registered(mut ready: Ready<'_>) -> Result<(), Error> {
    let child = children::spawn(&mut ready.command).map_err(|err| ready.start_failed(err))?;
    let wait = |err| ready.wait_failed(err);
    if !child.exited(ready.timeout()).map_err(wait)? {
        // It may have ended in this moment.
        crate::sys::process::pidfd_signal(child.pidfd(), 9).ok();
        child.wait().map_err(wait)?;
        return Err(ready.timed_out());
    }
    let exit = child.wait().map_err(wait)?;
    ready.ended(exit.code)
}

fn run_plainly(mut ready: Ready<'_>) -> Result<(), Error> {
    let mut child = crate::sys::process::spawn_by_fork(&mut ready.command).map_err(|err| ready.start_failed(err))?;
    let wait = |err| ready.wait_failed(err);
    let Some(status) = wait_plainly(&mut child, ready.timeout()).map_err(wait)? else {
        // It is ours and not reaped, so that the pid is its own.
        child.kill().and_then(|()| child.wait()).map_err(wait)?;
        return Err(ready.timed_out());
    };
    ready.ended(exit_code(status))
}

/// `None` when the time is over.
fn wait_plainly(child: &mut std::process::Child, timeout: Option<Duration>) -> std::io::Result<Option<ExitStatus>> {
    let Some(timeout) = timeout else { return child.wait().map(Some) };
    let end = Instant::now() + timeout;
    let mut pause = Duration::from_millis(1);
    loop {
        let status = child.try_wait()?;
        if status.is_some() || Instant::now() >= end {
            return Ok(status);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

fn exit_code(status: ExitStatus) -> u32 {
    // A process that was waited for has exited or died of a signal.
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    code.unsigned_abs()
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

fn tail(output: &mut File) -> std::io::Result<String> {
    let length = output.seek(std::io::SeekFrom::End(0))?;
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
