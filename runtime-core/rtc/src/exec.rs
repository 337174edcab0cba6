//! `rtc exec`.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use oci_spec::runtime::{Capability, LinuxCapabilities, Process, User};
use runtime_core::container::{Container, ExecOptions, Status, SubCgroup};

use crate::bundle;
use crate::context::Context;
use crate::descriptors;
use crate::error::Error;
use crate::launch::{Console, Launch, pid_file};

/// Run a further process in a container
///
/// It is as the container's own, but for what is given here. With --process it is as that file says, alone.
#[derive(Debug, clap::Args)]
#[command(override_usage = "rtc exec [options] <container-id> <command> [arguments]\n   \
                            rtc exec [options] --process FILE <container-id>")]
pub(crate) struct Exec {
    #[command(flatten)]
    console: Console,

    /// The working directory
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,

    /// An environment variable, in addition to the container's
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,

    /// Give the process a terminal
    #[arg(short, long)]
    tty: bool,

    /// The user
    #[arg(short, long, value_name = "UID[:GID]")]
    user: Option<String>,

    /// A further group
    #[arg(short = 'g', long, value_name = "GID", allow_negative_numbers = true)]
    additional_gids: Vec<i64>,

    /// Read the process from FILE, which has what "process" has in a config.json
    #[arg(short, long, value_name = "FILE")]
    process: Option<PathBuf>,

    /// Return once the process runs
    #[arg(short, long)]
    detach: bool,

    /// Write the process's id to FILE
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,

    /// The SELinux label
    #[arg(long, value_name = "LABEL")]
    process_label: Option<String>,

    /// The AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    apparmor: Option<String>,

    /// Let the process and its children gain no privileges
    #[arg(long)]
    no_new_privs: bool,

    /// A capability, in addition to the container's
    #[arg(short, long, value_name = "CAPABILITY")]
    cap: Vec<String>,

    /// Pass N descriptors more (after stdio)
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u16,

    /// Run it in an existing cgroup below the container's; on cgroup v1 for these controllers
    #[arg(long, value_name = "[CONTROLLERS:]PATH")]
    cgroup: Vec<String>,

    /// Go on in a paused container; the process runs once the container is resumed
    #[arg(long)]
    ignore_paused: bool,

    // One argument, so that everything after the id is the command's, whatever it looks like.
    /// The container's id, and after it the command with its arguments
    #[arg(value_names = ["container-id", "command"], required = true, num_args = 1.., trailing_var_arg = true)]
    args: Vec<String>,
}

impl Exec {
    pub(crate) fn run(self, context: &Context) -> Result<ExitCode, Error> {
        self.execute(context).map_err(|err| Error::Exec(Box::new(err)))
    }

    fn execute(mut self, context: &Context) -> Result<ExitCode, Error> {
        let args = self.args.split_off(1);
        let container = context.load(self.args.first().map(String::as_str).unwrap_or_default())?;
        match container.status()? {
            Status::Creating => return Err(Error::Start("cannot exec in a container in the creating state")),
            Status::Stopped => return Err(Error::Start("cannot exec in a stopped container")),
            Status::Paused if !self.ignore_paused => return Err(Error::ExecPaused),
            Status::Created | Status::Running | Status::Paused => {}
        }
        let process = match self.process.as_deref().filter(|path| !path.as_os_str().is_empty()) {
            Some(path) => read_process(path)?,
            None => self.process(&container, args)?,
        };
        bundle::check(Some(&process))?;
        let sub_cgroups = sub_cgroups(&self.cgroup)?;
        let terminal = process.terminal().unwrap_or(false);
        let mut launch = match self.detach {
            true => Launch::detached(&self.console, terminal)?,
            false => Launch::foreground(&self.console, terminal, false)?,
        };
        let mut options = ExecOptions::new(process, launch.stdio()?);
        options.pid_file = pid_file(self.pid_file)?;
        options.preserve_fds = descriptors::of_exec(self.preserve_fds)?;
        options.ignore_paused = self.ignore_paused;
        options.sub_cgroups = sub_cgroups;
        let mut started = container.exec(options)?;
        let attached = launch.attach(&mut started, "setns");
        attached.and_then(|()| launch.wait(&started.child)).inspect_err(|_| {
            // Nobody could speak to it. It may have ended already.
            started.child.signal(runtime_core::Signal::KILL).ok();
        })
    }

    /// The container's, with what was given over it.
    fn process(&self, container: &Container, args: Vec<String>) -> Result<Process, Error> {
        let spec = bundle::load_spec(container.bundle())?;
        bundle::check(spec.process().as_ref())?;
        let mut process = spec.process().clone().unwrap_or_default();
        if args.is_empty() {
            return Err(Error::Process("exec args cannot be empty"));
        }
        process.set_args(Some(args));
        if let Some(cwd) = self.cwd.clone().filter(|cwd| !cwd.as_os_str().is_empty()) {
            process.set_cwd(cwd);
        }
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(profile) = given(&self.apparmor) {
            process.set_apparmor_profile(Some(profile));
        }
        if let Some(label) = given(&self.process_label) {
            process.set_selinux_label(Some(label));
        }
        if !self.cap.is_empty() {
            let sets = process.capabilities().clone().unwrap_or_default();
            process.set_capabilities(Some(with_capabilities(sets, &self.cap)));
        }
        let env = process.env().iter().flatten().chain(&self.env).cloned().collect();
        process.set_env(Some(env));
        // As the container's does not count for a further process.
        process.set_terminal(Some(self.tty));
        if self.no_new_privs {
            process.set_no_new_privileges(Some(true));
        }
        let user = user(process.user().clone(), self.user.as_deref(), &self.additional_gids)?;
        process.set_user(user);
        Ok(process)
    }
}

fn read_process(path: &Path) -> Result<Process, Error> {
    let json = runtime_core::spec::read_document(path).map_err(|err| Error::File {
        operation: "open",
        path: path.to_owned(),
        err,
    })?;
    runtime_core::spec::parse_process(&json).map_err(|err| Error::File {
        operation: "parse",
        path: path.to_owned(),
        err: err.into(),
    })
}

/// Ambient too, if the container has inheritable ones, which those depend on.
fn with_capabilities(mut sets: LinuxCapabilities, names: &[String]) -> LinuxCapabilities {
    let known = names.iter().filter_map(|name| {
        let capability = serde_json::from_value::<Capability>(name.as_str().into());
        capability.inspect_err(|_| tracing::warn!(capability = name, "ignoring unknown capability")).ok()
    });
    let added: HashSet<_> = known.collect();
    let with = |set: &Option<HashSet<Capability>>| Some(set.iter().flatten().chain(&added).copied().collect());
    sets.set_bounding(with(sets.bounding()));
    sets.set_effective(with(sets.effective()));
    sets.set_permitted(with(sets.permitted()));
    if sets.inheritable().is_some() {
        sets.set_ambient(with(sets.ambient()));
    }
    sets
}

pub(crate) fn user(mut user: User, given: Option<&str>, additional: &[i64]) -> Result<User, Error> {
    if let Some(given) = given.filter(|given| !given.is_empty()) {
        let (uid, gid) = given.split_once(':').map_or((given, None), |(uid, gid)| (uid, Some(gid)));
        let number =
            |what, text: &str| text.parse().map_err(|err| Error::BadUser { what, value: text.to_owned(), err });
        if let Some(gid) = gid {
            user.set_gid(number("gid", gid)?);
        }
        user.set_uid(number("uid", uid)?);
    }
    if !additional.is_empty() {
        let mut gids = user.additional_gids().clone().unwrap_or_default();
        for gid in additional {
            gids.push(u32::try_from(*gid).map_err(|_| Error::AdditionalGid(*gid))?);
        }
        user.set_additional_gids(Some(gids));
    }
    Ok(user)
}

pub(crate) fn sub_cgroups(given: &[String]) -> Result<Vec<SubCgroup>, Error> {
    let mut all: Vec<SubCgroup> = Vec::new();
    for text in given {
        let Some((controllers, path)) = text.split_once(':') else {
            if given.len() > 1 {
                let problem = "missing <controller>: prefix";
                return Err(Error::SubCgroup { given: text.clone(), problem });
            }
            return Ok(vec![SubCgroup { controller: None, path: text.into() }]);
        };
        for controller in controllers.split(',') {
            if controller.is_empty() {
                let problem = "empty <controller> prefix";
                return Err(Error::SubCgroup { given: text.clone(), problem });
            }
            if all.iter().any(|other| other.controller.as_deref() == Some(controller)) {
                return Err(Error::SubCgroupTwice(controller.to_owned()));
            }
            all.push(SubCgroup { controller: Some(controller.to_owned()), path: path.into() });
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cgroups(given: &[&str]) -> Result<Vec<(Option<String>, PathBuf)>, String> {
        let given: Vec<_> = given.iter().map(|text| (*text).to_owned()).collect();
        let all = sub_cgroups(&given).map_err(|err| err.to_string())?;
        Ok(all.into_iter().map(|cgroup| (cgroup.controller, cgroup.path)).collect())
    }

    #[test]
    fn cgroups_are_told_and_refused_as_runc_does() {
        let cpu = |path: &str| (Some("cpu".to_owned()), PathBuf::from(path));
        assert_eq!(cgroups(&["a/b"]).unwrap(), [(None, PathBuf::from("a/b"))]);
        let pids = (Some("pids".to_owned()), PathBuf::from("x"));
        assert_eq!(cgroups(&["cpu,pids:x"]).unwrap(), [cpu("x"), pids]);
        assert_eq!(
            cgroups(&["a", "cpu:b"]).unwrap_err(),
            "invalid --cgroup argument: a (missing <controller>: prefix)"
        );
        assert_eq!(cgroups(&[":b"]).unwrap_err(), "invalid --cgroup argument: :b (empty <controller> prefix)");
        assert_eq!(
            cgroups(&["cpu:a", "cpu:b"]).unwrap_err(),
            "invalid --cgroup argument(s): controller cpu specified multiple times"
        );
    }

    #[test]
    fn a_user_is_a_uid_and_may_have_a_gid() {
        let ids = |given| user(User::default(), Some(given), &[7]).map(|user| (user.uid(), user.gid()));
        assert_eq!(ids("5:6").unwrap(), (5, 6));
        assert_eq!(ids("5").unwrap(), (5, 0));
        // CVE-2026-30892: a parser that tells its end from the number's took this for root.
        assert_eq!([ids("1").unwrap(), ids("1:1").unwrap(), ids("0").unwrap()], [(1, 0), (1, 1), (0, 0)]);
        assert!(ids("web").unwrap_err().to_string().starts_with("bad uid"));
        assert!(ids("5:").unwrap_err().to_string().starts_with("bad gid"));
        let err = user(User::default(), None, &[-1]).unwrap_err();
        assert_eq!(err.to_string(), "additional-gids must be a positive number -1");
    }
}
