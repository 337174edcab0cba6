//! The checkpoint of a pod.

use std::error::Error as StdError;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::error::PodError;
use super::manifest::{self, Joined, PodManifest, PodMember, SharedMemory};
use super::meeting::{Meeting, Stage};
use super::members::{self, Member};
use super::memory::Source;
use super::{ipc, memory, sharing, tree};
use crate::container::{CheckpointOptions, Checkpointed, Container, HeldDump, Holder};
use crate::{ContainerId, Signal};

/// A pod that is being checkpointed: its containers are, each by [`Container::checkpoint`] in a thread of its own with the
/// options of [`PodDump::options`], and then [`PodDump::finish`] is called.
#[derive(Debug)]
pub struct PodDump {
    dir: PathBuf,
    /// The directory was not there before.
    made: bool,
    sandbox: Option<String>,
    leave_running: bool,
    members: Vec<Planned>,
    memory: Vec<Source>,
    copy: Mutex<Option<Copying>>,
    manifest: Mutex<Option<PodManifest>>,
    meeting: Meeting,
    started: Instant,
}

/// The thread that copies the shared memory.
type Copying = JoinHandle<Result<Vec<SharedMemory>, PodError>>;

#[derive(Debug)]
struct Planned {
    container: Arc<Container>,
    id: String,
    joined: Vec<Joined>,
    carries_ipc: bool,
}

/// A pod's checkpoint that was made.
#[derive(Clone, Debug)]
pub struct PodCheckpointed {
    pub manifest: PodManifest,
}

impl PodDump {
    /// Looks at the containers, in the order in which they are to be restored, and makes the directory. None is touched.
    ///
    /// # Errors
    /// One does not run, they share what CRIU cannot restore for several, or the directory has something in it.
    pub fn new(
        dir: &Path,
        sandbox: Option<&ContainerId>,
        containers: &[Arc<Container>],
        leave_running: bool,
    ) -> Result<Arc<Self>, PodError> {
        if containers.is_empty() {
            return Err(PodError::Empty);
        }
        let looked = containers.iter().map(Member::look).collect::<Result<Vec<_>, _>>()?;
        members::check_memory(&looked)?;
        let joined = sharing::find(&looked)?;
        let carriers = ipc::carriers(&looked, &joined)?;
        let memory = memory::find(&looked);
        let planned = containers.iter().zip(looked).zip(joined.into_iter().zip(carriers));
        let planned = planned.map(|((container, member), (joined, carries_ipc))| Planned {
            container: container.clone(),
            id: member.id,
            joined,
            carries_ipc,
        });
        let members: Vec<_> = planned.collect();
        Ok(Arc::new(Self {
            made: make(dir)?,
            dir: dir.to_owned(),
            sandbox: sandbox.map(ToString::to_string),
            leave_running,
            meeting: Meeting::new(members.len()),
            members,
            memory,
            copy: Mutex::default(),
            manifest: Mutex::default(),
            started: Instant::now(),
        }))
    }

    /// For the checkpoint of each member, in their order. Options that are dropped without a checkpoint are a failure of the
    /// whole.
    pub fn options(self: &Arc<Self>) -> Vec<(Arc<Container>, CheckpointOptions)> {
        let options = |member: usize, planned: &Planned| {
            let mut options = CheckpointOptions::new(self.dir.join(&planned.id));
            options.leave_running = self.leave_running;
            options.holder = Some(Arc::new(Seat { pod: self.clone(), member }));
            (planned.container.clone(), options)
        };
        self.members.iter().enumerate().map(|(at, planned)| options(at, planned)).collect()
    }

    /// The member whose failure is that of the whole.
    pub fn failed(&self) -> Option<String> {
        self.meeting.failed()
    }

    /// After all checkpoints have ended; `made` has what became of each, in their order. Blocks.
    ///
    /// # Errors
    /// Not all of the members could be dumped: all run on, and nothing of the directory stays.
    pub fn finish(&self, made: &[Option<Checkpointed>]) -> Result<PodCheckpointed, PodError> {
        // Before the directory may go.
        let copy = self.copy.lock().unwrap_or_else(PoisonError::into_inner).take();
        if copy.is_some_and(|copy| copy.join().is_err()) {
            tracing::error!("the thread that copies a pod's shared memory has panicked");
        }
        let manifest = self.manifest.lock().unwrap_or_else(PoisonError::into_inner).take();
        let late = self.members.iter().zip(made).find(|(_, made)| made.is_none()).map(|(member, _)| member);
        let failed = self.failed().or_else(|| late.filter(|_| self.leave_running).map(|member| member.id.clone()));
        let manifest = match (manifest, failed) {
            (Some(manifest), None) => manifest,
            (_, failed) => {
                self.discard();
                return Err(failed.map_or(PodError::Empty, |member| PodError::Failed { member }));
            }
        };
        self.end_late(made);
        Ok(PodCheckpointed { manifest: self.complete(manifest, made) })
    }

    /// The images are complete, and the others have ended: what CRIU has left must not go on.
    fn end_late(&self, made: &[Option<Checkpointed>]) {
        for (member, _) in self.members.iter().zip(made).filter(|(_, made)| made.is_none()) {
            tracing::warn!(id = member.id, "criu did not end a container of a pod whose checkpoint is complete");
            if let Err(err) = member.container.kill(Signal::KILL, true) {
                tracing::error!(id = member.id, err = &err as &dyn StdError, "end a container of a pod");
            }
        }
    }

    /// The checkpoint is good without sizes and times.
    fn complete(&self, mut manifest: PodManifest, made: &[Option<Checkpointed>]) -> PodManifest {
        let micros = |time: std::time::Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        for (member, made) in manifest.members.iter_mut().zip(made) {
            member.bytes = made.as_ref().map(|made| made.bytes);
            member.frozen = made.as_ref().and_then(|made| made.frozen).map(micros);
        }
        manifest.total = Some(micros(self.started.elapsed()));
        if let Err(err) = manifest.write(&self.dir) {
            tracing::warn!(err = &err as &dyn StdError, "sizes and times of a pod's checkpoint");
        }
        manifest
    }

    fn discard(&self) {
        let gone = match self.made {
            true => fs::remove_dir_all(&self.dir).map_err(PodError::file("remove", &self.dir)),
            false => tree::clear(&self.dir),
        };
        if let Err(err) = gone {
            tracing::warn!(err = &err as &dyn StdError, "what is left of a pod's checkpoint");
        }
    }

    /// All stand still: the shared memory is copied while they are dumped.
    fn all_frozen(&self) -> Result<(), PodError> {
        if self.memory.is_empty() {
            return Ok(());
        }
        let (memory, dir) = (self.memory.clone(), self.dir.clone());
        let copy = Builder::new().spawn(move || memory::save(&memory, &dir));
        let copy = copy.map_err(PodError::file("start a thread that writes to", &self.dir))?;
        *self.copy.lock().unwrap_or_else(PoisonError::into_inner) = Some(copy);
        Ok(())
    }

    /// All are dumped. Once pod.json is there the checkpoint is one, whatever becomes of this process.
    fn all_held(&self) -> Result<(), PodError> {
        let copy = self.copy.lock().unwrap_or_else(PoisonError::into_inner).take();
        let shared_memory = match copy.map(JoinHandle::join) {
            None => Vec::new(),
            Some(Ok(copied)) => copied?,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        };
        let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let member = |planned: &Planned| PodMember {
            id: planned.id.clone(),
            joined: planned.joined.clone(),
            bytes: None,
            frozen: None,
        };
        let manifest = PodManifest {
            version: manifest::VERSION,
            created: u64::try_from(created.as_nanos()).unwrap_or(u64::MAX),
            sandbox: self.sandbox.clone(),
            left_running: self.leave_running,
            members: self.members.iter().map(member).collect(),
            shared_memory,
            total: None,
        };
        manifest.write(&self.dir)?;
        *self.manifest.lock().unwrap_or_else(PoisonError::into_inner) = Some(manifest);
        Ok(())
    }
}

/// Whether the directory had to be made.
fn make(dir: &Path) -> Result<bool, PodError> {
    match fs::read_dir(dir) {
        Ok(mut entries) => entries.next().map_or(Ok(false), |_| Err(PodError::NotEmpty(dir.to_owned()))),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
            made.map(|()| true).map_err(PodError::file("mkdir", dir))
        }
        Err(err) => Err(PodError::file("list", dir)(err)),
    }
}

/// One member's place among the others. Whoever leaves it before the decision has failed.
#[derive(Debug)]
struct Seat {
    pod: Arc<PodDump>,
    member: usize,
}

impl Seat {
    fn planned(&self) -> Result<&Planned, PodError> {
        self.pod.members.get(self.member).ok_or(PodError::Empty)
    }
}

impl Holder for Seat {
    fn frozen(&self) -> Result<(), Box<dyn StdError + Send + Sync>> {
        let member = self.planned()?;
        Ok(self.pod.meeting.reach(&member.id, Stage::Frozen, || self.pod.all_frozen())?)
    }

    fn goes_elsewhere(&self) -> bool {
        false
    }

    fn hold(&self, held: &HeldDump<'_>) -> Result<(), Box<dyn StdError + Send + Sync>> {
        let member = self.planned()?;
        if !member.carries_ipc {
            ipc::empty(&self.pod.dir.join(&member.id))?;
        }
        self.pod.meeting.reach(&member.id, Stage::Held, || self.pod.all_held())?;
        if !self.pod.leave_running {
            held.keep_images();
        }
        Ok(())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Ok(member) = self.planned() {
            self.pod.meeting.fail(&member.id, Stage::Held);
        }
    }
}
