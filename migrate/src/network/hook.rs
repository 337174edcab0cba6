//! The network hook: an executable of the administrator's, which moves what makes the container reachable. `rtc` knows
//! nothing of bridges, routes and clouds; it knows when.
//!
//! | role | moment | the container | the hook |
//! | --- | --- | --- | --- |
//! | source | `offer` | runs here | says what the destination has to know, as JSON on standard output; changes nothing |
//! | destination | `prepare` | runs at the source | makes what is needed, such as the network namespace, and announces nothing |
//! | source | `frozen` | stands still | lets go of the address: from its return on the destination has it |
//! | destination | `take-over` | is being restored | takes the address, and announces it |
//! | destination | `started` | runs here, and nowhere else | announces it once more, if it likes |
//! | source | `committed` | runs at the destination | removes what is left of the address here |
//! | source | `aborted` | runs on here | takes the address back; there may have been no `frozen` |
//! | destination | `aborted` | did not come | undoes `prepare` and `take-over`, as far as they came |
//!
//! On standard input is one JSON object ([`Call`]). `take-over` is under way while the container is restored, and what
//! reaches it before it runs is kept for it. `take-over`, `committed` and `aborted` may come twice, after somebody was
//! killed.
//! A hook that fails, or takes longer than [`DEADLINE`], ends the move until the container runs at the destination; after
//! that its failure is told, and changes nothing.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::error::{Error, Result};
use crate::journal::{Record, Role};

const DEADLINE: Duration = Duration::from_secs(10);
/// Of what a hook says, in bytes; what is more is a failure on standard output, and left out on standard error.
const LONGEST: u64 = 64 << 10;
const LONGEST_ERROR: u64 = 4 << 10;
/// Raised when a hook that knows this form would misunderstand the next.
const VERSION: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Moment {
    Offer,
    Prepare,
    Frozen,
    TakeOver,
    Started,
    Committed,
    Aborted,
}

/// The hook of a migration, as its journal keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Hook {
    pub(crate) executable: PathBuf,
    /// The network namespace that the container joins on this side, if it joins one.
    netns: Option<PathBuf>,
    /// What the source's hook has said at `offer`.
    pub(crate) data: Value,
}

/// What a hook is told.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Call<'a> {
    version: u32,
    moment: Moment,
    role: Role,
    migration: &'a str,
    namespace: &'a str,
    id: &'a str,
    netns: Option<&'a Path>,
    /// The init's, on the side where the container is; 0 elsewhere.
    pid: u32,
    /// Where to, at the source.
    #[serde(skip_serializing_if = "str::is_empty")]
    target: &'a str,
    data: &'a Value,
}

/// How a hook can fail.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    #[error("it cannot be executed")]
    Start(#[source] std::io::Error),
    #[error("it cannot be talked to")]
    Talk(#[source] std::io::Error),
    #[error("it has not ended after {0:?}, and was killed")]
    Late(Duration),
    #[error("it ended with {status}: {said}")]
    Status { status: std::process::ExitStatus, said: String },
    #[error("it says more than {0} bytes")]
    Long(u64),
    #[error("what it says is no JSON")]
    Answer(#[source] serde_json::Error),
}

impl Hook {
    /// # Errors
    /// The path is relative, and would name another file wherever this is read again.
    pub(crate) fn new(executable: &Path, netns: Option<PathBuf>) -> Result<Self> {
        if !executable.is_absolute() {
            return Err(Error::Path(executable.display().to_string()));
        }
        Ok(Self { executable: executable.to_owned(), netns, data: Value::Null })
    }

    /// What the hook says at the moment: [`Value::Null`] if nothing.
    ///
    /// # Errors
    /// It cannot be executed, fails, or does not end.
    pub(crate) async fn call(&self, record: &Record, moment: Moment) -> Result<Value> {
        let Record { role, migration, namespace, id, pid, target, .. } = record;
        let netns = self.netns.as_deref();
        let (role, pid, data) = (*role, *pid, &self.data);
        let call = Call { version: VERSION, moment, role, migration, namespace, id, netns, pid, target, data };
        let begun = std::time::Instant::now();
        let said = self.run(&call).await.map_err(|err| Error::NetworkHook {
            executable: self.executable.clone(),
            moment: serde_json::to_value(moment)
                .ok()
                .and_then(|name| Some(name.as_str()?.to_owned()))
                .unwrap_or_default(),
            err,
        })?;
        tracing::info!(id, ?moment, milliseconds = begun.elapsed().as_millis(), "called the network hook");
        Ok(said)
    }

    async fn run(&self, call: &Call<'_>) -> Result<Value, HookError> {
        let mut command = Command::new(&self.executable);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own, which ends with it: what it has started holds its streams.
        let mut child = command.process_group(0).kill_on_drop(true).spawn().map_err(HookError::Start)?;
        let Ok(talked) = timeout(DEADLINE, talk(&mut child, call)).await else {
            kill_group(&child);
            child.wait().await.map_err(HookError::Talk)?;
            return Err(HookError::Late(DEADLINE));
        };
        let (status, said, complaint) = talked.inspect_err(|_| kill_group(&child))?;
        if !status.success() {
            return Err(HookError::Status { status, said: complaint.trim().to_owned() });
        }
        if said.trim_ascii().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&said).map_err(HookError::Answer)
    }
}

async fn talk(child: &mut Child, call: &Call<'_>) -> Result<(std::process::ExitStatus, Vec<u8>, String), HookError> {
    let json = serde_json::to_vec(call).map_err(|err| HookError::Talk(err.into()))?;
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let tell = async {
        let Some(mut stdin) = stdin else { return Ok(()) };
        match stdin.write_all(&json).await {
            // It needs none of it.
            Err(err) if err.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            told => told,
        }
    };
    let (mut said, mut complaint) = (Vec::new(), Vec::new());
    let hear = async {
        let Some(stdout) = stdout else { return Ok(()) };
        stdout.take(LONGEST + 1).read_to_end(&mut said).await.map(drop)
    };
    let complain = async {
        let Some(mut stderr) = stderr else { return Ok(()) };
        (&mut stderr).take(LONGEST_ERROR).read_to_end(&mut complaint).await?;
        // It is not to end because nobody reads on.
        tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await.map(drop)
    };
    let (told, heard, complained) = tokio::join!(tell, hear, complain);
    told.and(heard).and(complained).map_err(HookError::Talk)?;
    if u64::try_from(said.len()).unwrap_or(u64::MAX) > LONGEST {
        return Err(HookError::Long(LONGEST));
    }
    let status = child.wait().await.map_err(HookError::Talk)?;
    Ok((status, said, String::from_utf8_lossy(&complaint).into_owned()))
}

fn kill_group(child: &Child) {
    let pid = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.try_into().ok()?));
    if let Some(pid) = pid {
        // It may have ended at this very moment.
        rustix::process::kill_process_group(pid, rustix::process::Signal::KILL).ok();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::journal::Stage;

    fn record(hook: Option<Hook>) -> Record {
        Record { network_hook: hook, ..crate::journal::example(Role::Source, Stage::Dumping) }
    }

    async fn run(script: &str) -> Result<Value> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hook");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let hook = Hook::new(&path, Some("/run/netns/web".into())).unwrap();
        hook.call(&record(None), Moment::TakeOver).await
    }

    #[tokio::test]
    async fn it_is_told_everything_and_its_answer_is_heard() {
        let told = run("cat").await.unwrap();
        let expected = serde_json::json!({
            "version": 1, "moment": "take-over", "role": "source", "migration": "m1", "namespace": "default",
            "id": "web", "netns": "/run/netns/web", "pid": 7, "data": null,
        });
        assert_eq!(told, expected);
        assert_eq!(run("exit 0").await.unwrap(), Value::Null);
    }

    #[tokio::test]
    async fn its_failure_is_told_with_its_words() {
        let failed = run("echo no such bridge >&2; exit 3").await.unwrap_err().chain();
        assert!(failed.contains("at take-over") && failed.contains("exit status: 3: no such bridge"), "{failed}");
        assert!(run("echo '{'").await.unwrap_err().chain().contains("no JSON"));
        assert!(run("head -c 70000 /dev/zero").await.unwrap_err().chain().contains("65536"));
        assert!(Hook::new(Path::new("hook"), None).is_err());
        let missing = Hook::new(Path::new("/nowhere/hook"), None).unwrap();
        assert!(missing.call(&record(None), Moment::Offer).await.unwrap_err().chain().contains("/nowhere/hook"));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_hangs_is_killed_with_what_it_has_started() {
        let late = run("sleep 1000 & sleep 1000").await.unwrap_err().chain();
        assert!(late.contains("10s"), "{late}");
    }
}
