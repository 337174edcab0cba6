//! The runtimes without a shim: what a person types, or an engine executes.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::bundle::{Bundle, run};
use crate::contestant::Contestant;
use crate::error::Error;
use crate::measure::{Figures, timed};
use crate::report::{Figure, Unit};

/// `floor.c`, which makes the least of a container that runs a program.
const FLOOR: &str = "rtc-floor";

pub(crate) fn measure(contestant: Contestant, id: &str, spec: &Value, rootfs: &Path) -> Result<Figures, Error> {
    let runtime = contestant.name();
    let bundle = Bundle::with_root(id, spec, &["/bin/true"], rootfs)?;
    let (run_true, _) = timed(|| run(Command::new(runtime).args(["run", "--bundle"]).arg(&bundle.dir).arg(id)))?;
    drop(bundle);
    let (floor, _) = timed(|| run(Command::new(FLOOR).arg(rootfs).args([id, "/bin/true"])))?;

    let bundle = Bundle::with_root(id, spec, &["/bin/sleep", "1000"], rootfs)?;
    let mut create = Command::new(runtime);
    // What the container keeps open must not be a pipe of ours.
    create.args(["create", "--bundle"]).arg(&bundle.dir).arg(id).stdout(Stdio::null()).stderr(Stdio::null());
    let (create, ()) = timed(|| status(&mut create))?;
    let (start, _) = timed(|| run(Command::new(runtime).args(["start", id])))?;
    let (exec, _) = timed(|| run(Command::new(runtime).args(["exec", id, "/bin/true"])))?;
    let (delete, _) = timed(|| run(Command::new(runtime).args(["delete", "--force", id])))?;
    Ok(vec![
        (Figure::time("run of true"), run_true),
        (Figure::time("run of true: the floor"), floor),
        (Figure::new("run of true, by the floor".to_owned(), Unit::Times), run_true / floor),
        (Figure::time("create"), create),
        (Figure::time("start"), start),
        (Figure::time("exec of true"), exec),
        (Figure::time("delete --force"), delete),
    ])
}

fn status(command: &mut Command) -> Result<(), Error> {
    let name = format!("{command:?}");
    let status = command.status().map_err(|err| Error::Execute { command: name.clone(), err })?;
    match status.success() {
        true => Ok(()),
        false => Err(Error::Command { command: name, status, output: String::new() }),
    }
}
