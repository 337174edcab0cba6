//! `create`: from a spec to an init that waits for the start.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oci_spec::runtime::{Hook, Linux, LinuxNamespaceType, Process as ProcessSpec, Spec};

use super::class::NewClass;
use super::launch::{self, Launch, LentOrders};
use super::namespaces::Namespaces;
use super::state::{self, Directory, InitId, State, hooks};
use super::{Container, CreateOptions, StartBy, Started, Stdio, notify, process};
use crate::cgroup::{Cgroup, CgroupDriver, Pending, Placeholder};
use crate::error::{InitError, InitErrorKind, RootfsError, SeccompError};
use crate::fault::{self, Point};
use crate::hooks::HookState;
use crate::init::message::Environment;
use crate::rootfs::{Plan, PlanOptions};
use crate::{ContainerId, Error, Result, seccomp, spec};

/// How long processes that were ended may keep their cgroup busy while a failed create is undone.
pub(super) const ROLL_BACK: Duration = Duration::from_secs(5);

/// The exit code of a process that SIGKILL ended.
const KILLED: u32 = 128 + libc::SIGKILL as u32;

pub(super) fn create(options: &CreateOptions) -> Result<(Container, Started)> {
    let id = &options.id;
    if !rustix::process::geteuid().is_root() {
        // First: that nobody but root can have it says more than what else is wrong with it.
        spec::rootless::check(&options.spec)?;
    }
    spec::check(&options.spec)?;
    let process = options.spec.process().as_ref().ok_or(spec::Error::Missing { field: "process" })?;
    let linux = options.spec.linux().as_ref();
    let namespaces = Namespaces::new(id, &options.spec)?;
    let cgroup = resolve_cgroup(options)?;

    let class = NewClass::new(id, linux)?;

    let directory = Directory::new(&options.root, id);
    let _making = directory.make()?;
    let cgroup = NewCgroup::new(id, &cgroup);
    let parts = Parts { namespaces: &namespaces, cgroup: &cgroup, class: &class, directory: &directory };
    build(options, process, &parts).map_err(|err| {
        let err = out_of_memory(err, &cgroup);
        // The init, if there was one, is gone: it is ended where its owner is dropped.
        let cgroup = cgroup.undo(|cgroup| cgroup.remove(ROLL_BACK));
        let removed = cgroup.and(class.undo()).and(directory.remove());
        // A container that could not be made is destroyed as any other (OCI runtime, "Lifecycle", steps 12 and 13).
        run_poststop(id, &hooks(&options.spec, |hooks| hooks.poststop()), &stopped(options));
        match removed {
            Ok(()) => err,
            Err(roll_back) => Error::RollBack { err: Box::new(err), roll_back: Box::new(roll_back) },
        }
    })
}

fn resolve_cgroup(options: &CreateOptions) -> Result<Cgroup> {
    let linux = options.spec.linux().as_ref();
    let path = linux.and_then(|linux| linux.cgroups_path().as_deref());
    let cgroup = match (options.rootless_cgroup, options.cgroup_driver) {
        (true, CgroupDriver::Cgroupfs) => {
            Cgroup::permitted(&options.id, path, linux.and_then(|linux| linux.resources().as_ref()))
        }
        (_, driver) => Cgroup::of_spec(&options.id, &options.spec, driver),
    };
    let cgroup = cgroup.map_err(|err| Error::Cgroup { id: options.id.clone(), err })?;
    let has_pid = |linux: &Linux| {
        let kinds =
            linux.namespaces().iter().flatten().filter(|namespace| spec::given_path(namespace.path()).is_none());
        kinds.map(|namespace| namespace.typ()).any(|kind| kind == LinuxNamespaceType::Pid)
    };
    if cgroup.is_none() && !linux.is_some_and(has_pid) {
        // As runc warns.
        tracing::warn!(
            "Creating a rootless container with no cgroup and no private pid namespace. Such configuration is strongly \
             discouraged (as it is impossible to properly kill all container's processes)"
        );
    }
    Ok(cgroup)
}

/// What of a container is outside of its init.
struct Parts<'a> {
    namespaces: &'a Namespaces,
    cgroup: &'a NewCgroup<'a>,
    class: &'a NewClass<'a>,
    directory: &'a Directory,
}

/// The cgroup of a container in the making. Until it has been made, what is at its path is somebody else's.
#[derive(Debug)]
pub(super) struct NewCgroup<'a> {
    id: &'a ContainerId,
    cgroup: &'a Cgroup,
    made: AtomicBool,
    /// In a unit of systemd's, until the container's own process is.
    placeholder: Mutex<Option<Placeholder>>,
}

impl<'a> NewCgroup<'a> {
    pub(super) fn new(id: &'a ContainerId, cgroup: &'a Cgroup) -> Self {
        Self { id, cgroup, made: AtomicBool::new(false), placeholder: Mutex::default() }
    }

    /// Leaves nothing behind when it fails, or what [`Self::undo`] takes away.
    pub(super) fn create(&self, spec: &Spec) -> Result<()> {
        let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        let failed = |err| Error::Cgroup { id: self.id.clone(), err };
        let Some(unit) = self.cgroup.unit() else {
            self.cgroup.create(resources).map_err(failed)?;
            self.made.store(true, Ordering::Relaxed);
            return Ok(());
        };
        let first = Placeholder::start(unit).map_err(|err| failed(err.into()))?;
        fault::after(self.id, Point::Placeholder)?;
        self.cgroup.start_unit(unit, &first, resources, spec.annotations().as_ref()).map_err(failed)?;
        self.made.store(true, Ordering::Relaxed);
        // From here on it goes when this is undone.
        let mut place = self.placeholder();
        let first = place.insert(first);
        fault::after(self.id, Point::Unit)?;
        self.cgroup.fill_unit(first, resources).map_err(failed)
    }

    /// The container's own process is in it by now.
    pub(super) fn occupied(&self) -> Result<()> {
        let Some(first) = self.placeholder().take() else { return Ok(()) };
        self.cgroup.give_up_place(first).map_err(|err| Error::Cgroup { id: self.id.clone(), err })?;
        fault::after(self.id, Point::Place)
    }

    fn placeholder(&self) -> std::sync::MutexGuard<'_, Option<Placeholder>> {
        self.placeholder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn undo(&self, undo: impl FnOnce(&Cgroup) -> Result<(), crate::cgroup::Error>) -> Result<()> {
        if !self.made.load(Ordering::Relaxed) {
            return Ok(());
        }
        drop(self.placeholder().take());
        undo(self.cgroup).map_err(|err| Error::Cgroup { id: self.id.clone(), err })
    }
}

impl Deref for NewCgroup<'_> {
    type Target = Cgroup;

    fn deref(&self) -> &Cgroup {
        self.cgroup
    }
}

/// An init that was killed is told apart from one that the kernel has killed for the spec's own limit.
fn out_of_memory(err: Error, cgroup: &Cgroup) -> Error {
    match err {
        Error::Init { id, operation, err: InitError(InitErrorKind::Died { code: KILLED }) }
            if cgroup.oom_kills().is_ok_and(|kills| kills > 0) =>
        {
            Error::Init { id, operation, err: InitError(InitErrorKind::OutOfMemory) }
        }
        other => other,
    }
}

/// The specification wants a warning and no more when these fail.
pub(super) fn run_poststop(id: &ContainerId, hooks: &[Hook], state: &HookState) {
    for hook in hooks {
        if let Err(err) = crate::hooks::run("poststop", std::slice::from_ref(hook), state) {
            tracing::warn!(%id, err = &err as &dyn std::error::Error, "poststop hook");
        }
    }
}

fn stopped(options: &CreateOptions) -> HookState {
    HookState {
        oci_version: options.spec.version().clone(),
        id: options.id.as_str().to_owned(),
        status: "stopped".to_owned(),
        pid: None,
        bundle: options.bundle.clone(),
        annotations: options.spec.annotations().clone().unwrap_or_default(),
    }
}

fn build(options: &CreateOptions, process_spec: &ProcessSpec, parts: &Parts<'_>) -> Result<(Container, Started)> {
    let (id, spec) = (&options.id, &options.spec);
    let Parts { namespaces, cgroup, class, directory } = *parts;
    fault::after(id, Point::Directory)?;
    let linux = spec.linux().as_ref();
    let process = process::resolve(id, process_spec, process::schedule(process_spec, linux), &options.stdio)?;
    let rootfs = plan(options, namespaces, cgroup)?;
    let mut state = new_state(options, &options.stdio, process_spec, namespaces, cgroup)?;
    state.class = class.get().cloned();
    if options.notify_socket {
        notify::make_directory(directory)?;
    }
    // Before there is anything to find: after a crash, delete needs to know the cgroup, and whether it is ours.
    directory.write(&state)?;
    fault::after(id, Point::State)?;
    cgroup.create(spec)?;
    fault::after(id, Point::Cgroup)?;
    state.set_cgroup(cgroup);
    directory.write(&state)?;
    if let Some(uid) = cgroup_owner(spec, namespaces, process.uid) {
        cgroup.own(uid).map_err(|err| Error::Cgroup { id: id.clone(), err })?;
    }
    fault::after(id, Point::Owner)?;
    class.create()?;
    fault::after(id, Point::Class)?;

    let [prestart, create_runtime, create_container, start_container] = hooks_of(spec);
    let launch = Launch {
        id,
        namespaces,
        cgroup,
        linux,
        oom_score_adj: process_spec.oom_score_adj(),
        init: None,
        start_socket: match options.start_by {
            StartBy::Creator => None,
            StartBy::Anyone => Some(directory.bind_start_socket()?),
        },
        class: class.get(),
        preserve_fds: &options.preserve_fds,
    };
    let mut orders = LentOrders {
        id: id.as_str().to_owned(),
        environment: Some(Environment {
            rootfs: &rootfs,
            sources: Vec::new(),
            new_cgroup_namespace: namespaces.new_cgroup,
            new_network_namespace: namespaces.makes(libc::CLONE_NEWNET),
            hostname: spec.hostname().clone().filter(|name| !name.is_empty()),
            domainname: spec.domainname().clone().filter(|name| !name.is_empty()),
            parent_hooks: !prestart.is_empty() || !create_runtime.is_empty(),
            create_container: create_container.iter().collect(),
            start_container: start_container.iter().collect(),
            hook_state: state.hook_state("creating"),
        }),
        passed: launch.passed(),
        keyring: state.keyring,
        process,
        seccomp: state.seccomp.as_ref(),
        #[cfg(feature = "fault-points")]
        fault: fault::for_init(),
    };
    let launched = launch.run(&options.stdio, &mut orders)?;
    cgroup.occupied()?;
    let pid = launched.pid()?;
    // While the init works.
    let start_time = state::start_time(pid).map_err(|err| Error::System {
        id: id.clone(),
        operation: "read the init's start time",
        err,
    })?;
    state.init = Some(InitId { pid, start_time });
    directory.write(&state)?;
    fault::after(id, Point::InitState)?;
    let creating = state.hook_state("creating");
    let listener = state.seccomp.as_ref().and_then(|filter| filter.listener.as_ref());
    let hooks = || {
        let hook_state = &creating;
        crate::hooks::run("prestart", &prestart, hook_state)
            .and_then(|()| crate::hooks::run("createRuntime", &create_runtime, hook_state))
            .map_err(|err| Error::Hook { id: id.clone(), err })
    };
    let console = launched.ready(hooks, listener.map(|listener| (listener, &creating)), Some(&rootfs))?;
    fault::after(id, Point::Ready)?;
    let Some(path) = &options.pid_file else { return container(options, state, launched, console) };
    launch::write_pid_file(id, path, pid)?;
    fault::after(id, Point::PidFile).and_then(|()| container(options, state, launched, console)).inspect_err(|_| {
        // The first error is the one to tell.
        std::fs::remove_file(path).ok();
    })
}

/// Whom the cgroup is delegated to, as with runc: the process's user, if the container sees its cgroup alone and may write
/// to it. `None` for the host's root, whose it is.
fn cgroup_owner(spec: &Spec, namespaces: &Namespaces, uid: u32) -> Option<u32> {
    let mut mounts = spec.mounts().iter().flatten().filter(|mount| {
        let cgroup = matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2"));
        cgroup && !mount.options().iter().flatten().any(|option| option == "ro")
    });
    if !namespaces.new_cgroup || mounts.next().is_none() {
        return None;
    }
    let maps = spec.linux().as_ref().and_then(|linux| linux.uid_mappings().as_ref());
    let host = match maps.filter(|maps| !maps.is_empty()) {
        Some(maps) => maps.iter().find_map(|map| {
            let offset = uid.checked_sub(map.container_id()).filter(|offset| *offset < map.size())?;
            map.host_id().checked_add(offset)
        })?,
        None => uid,
    };
    (host != 0).then_some(host)
}

fn container(
    options: &CreateOptions,
    state: State,
    launched: launch::Launched,
    console: Option<std::os::fd::OwnedFd>,
) -> Result<(Container, Started)> {
    let pidfd = launched.pidfd()?;
    let Some((child, channel)) = launched.into_parts() else { return Err(Error::NotFound { id: options.id.clone() }) };
    let container = Container {
        directory: Directory::new(&options.root, &options.id),
        state,
        pidfd: Some(pidfd),
        channel: Mutex::new(Some(channel).filter(|_| options.start_by == StartBy::Creator)),
    };
    Ok((container, Started { child, console, input: Vec::new(), arriving: None }))
}

fn plan(options: &CreateOptions, namespaces: &Namespaces, cgroup: &Cgroup) -> Result<Plan> {
    let plan = PlanOptions {
        bundle: &options.bundle,
        cgroup: &cgroup.view(),
        no_pivot_root: options.no_pivot_root,
        user_namespace: namespaces.user(),
        network_namespace: namespaces.network(),
    };
    Plan::new(&options.spec, &plan).map_err(|err| Error::Rootfs { id: options.id.clone(), err: RootfsError(err) })
}

pub(super) fn new_state(
    options: &CreateOptions,
    stdio: &Stdio,
    process: &ProcessSpec,
    namespaces: &Namespaces,
    cgroup: &Cgroup,
) -> Result<State> {
    let (id, spec) = (&options.id, &options.spec);
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let cache = state::seccomp_cache(&options.root);
    let seccomp = profile
        .map(|profile| seccomp::compile(profile, &cache))
        .transpose()
        .map_err(|err| Error::Seccomp { id: id.clone(), err: SeccompError(err) })?;
    let unknown = |err| Error::System { id: id.clone(), operation: "look at the standard streams", err };
    let links = state::describe(stdio).map_err(unknown)?;
    let stdio_files = state::describe_files(stdio).map_err(unknown)?;
    let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(State {
        oci_version: spec.version().clone(),
        id: id.clone(),
        bundle: options.bundle.clone(),
        config: options.config.clone(),
        // Without the dots of a path like "./rootfs".
        rootfs: spec
            .root()
            .as_ref()
            .map(|root| options.bundle.join(root.path()).components().collect())
            .unwrap_or_default(),
        annotations: spec.annotations().clone().unwrap_or_default(),
        created: u64::try_from(created.as_nanos()).unwrap_or(u64::MAX),
        init: None,
        cgroup: Cgroup::none(),
        pending_cgroup: (!cgroup.is_none()).then(|| Pending::new(cgroup)),
        class: None,
        shared_pid_namespace: namespaces.shared_pid,
        poststart: hooks(spec, |hooks| hooks.poststart()),
        poststop: hooks(spec, |hooks| hooks.poststop()),
        seccomp,
        capabilities: process.capabilities().clone(),
        rlimits: process.rlimits().clone(),
        schedule: super::process::schedule(process, spec.linux().as_ref()),
        exec_cpu_affinity: process.exec_cpu_affinity().clone(),
        keyring: !options.no_new_keyring,
        terminal: matches!(stdio, Stdio::Terminal),
        stdio: links,
        stdio_files,
    })
}

/// prestart, createRuntime, createContainer and startContainer.
#[allow(deprecated, reason = "prestart hooks are deprecated and in wide use")]
pub(super) fn hooks_of(spec: &Spec) -> [Vec<Hook>; 4] {
    [
        hooks(spec, |hooks| hooks.prestart()),
        hooks(spec, |hooks| hooks.create_runtime()),
        hooks(spec, |hooks| hooks.create_container()),
        hooks(spec, |hooks| hooks.start_container()),
    ]
}
