//! A CRIU process that serves one request.
//!
//! ```text
//!   this process                 criu swrk
//!        │ ── criu_req ─────────────> │
//!        │ <── criu_resp NOTIFY ───── │  any number; CRIU waits for each answer
//!        │ ── criu_req NOTIFY ──────> │
//!        │ <── criu_resp ──────────── │  the reply; CRIU then exits
//! ```
//! When anything else happens, this side hangs up: CRIU reads an end of file at its next notification and takes back what
//! it has begun (a dump thaws the processes). A CRIU that has not ended soon after is killed, with its descendants. It has
//! no parent-death signal for the same reason: when this process dies, CRIU sees the end of file and undoes its work,
//! where SIGKILL would leave the dumped processes with CRIU's code injected.

use std::error::Error as StdError;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use proto::criu::rpc::{CriuOpts, CriuReq, CriuReqType, CriuResp};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{WaitId, WaitIdOptions, waitid};

use crate::binary::Criu;
use crate::channel::{Channel, Received};
use crate::descendants;
use crate::error::{Error, Failure, Result};
use crate::log;
use crate::notify::{Answer, Notification, NotificationKind, Notify};
use crate::request::Request;
use crate::spawn::{Process, Spawn};
use crate::stall::Watch;
use crate::sys;

/// How long CRIU may take to undo its work after this side has hung up.
const GRACE: Duration = Duration::from_secs(2);

/// How long CRIU may take to exit after its reply.
const EXIT: Duration = Duration::from_secs(10);

/// A CRIU process that waits for its request. Dropping it ends it.
#[derive(Debug)]
pub struct Worker<R: Request> {
    request: R,
    child: Child,
    channel: Channel,
    stderr: File,
    watch: Option<Watch>,
    /// A process that CRIU restores, which is no child of CRIU's.
    restored: Option<i32>,
}

/// The process, until it is reaped.
#[derive(Debug)]
struct Child {
    process: Box<dyn Process>,
    status: Option<u32>,
}

impl<R: Request> Worker<R> {
    pub(crate) fn start(criu: &Criu, request: R, spawn: &dyn Spawn) -> Result<Self> {
        let operation = R::OPERATION;
        let (channel, theirs) = Channel::new(operation)?;
        let stderr = memfd_create("criu-stderr", MemfdFlags::CLOEXEC).map(File::from).map_err(|err| Error::Io {
            operation,
            action: "make a memory file for standard error",
            err,
        })?;
        let failed = |err| Error::Spawn { path: criu.path().to_owned(), err };

        let mut command = Command::new(criu.path());
        command.arg("swrk").arg(theirs.as_raw_fd().to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr.try_clone().map_err(failed)?);
        if let Some(libdir) = request.common().and_then(|common| common.libdir.as_ref()) {
            command.env("CRIU_LIBS_DIR", libdir);
        }
        // A terminal's interrupt ends this process, and CRIU is to live and take its work back.
        command.process_group(0);
        let mut inherited: Vec<_> = request.inherited().iter().map(BorrowedFd::as_raw_fd).collect();
        inherited.push(theirs.as_raw_fd());
        sys::inherit(&mut command, inherited);

        let process = spawn.spawn(command).map_err(failed)?;
        Ok(Self { request, child: Child { process, status: None }, channel, stderr, watch: None, restored: None })
    }

    /// Ends CRIU when it shows no sign of life for so long. Not for one that waits for somebody else's requests.
    pub fn end_when_stalled(&mut self, after: Duration) {
        self.watch = Some(Watch::new(after));
    }

    /// CRIU's pid. Processes that it restores are born in the cgroups that it is in.
    pub fn pid(&self) -> i32 {
        self.child.process.pid()
    }

    /// Readable once CRIU has exited.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.child.process.pidfd()
    }

    /// The options, for what only the started process can tell; descriptors that were added now would not reach it.
    pub fn request_mut(&mut self) -> &mut R {
        &mut self.request
    }

    /// Sends the request, passes the notifications on, and returns the reply when CRIU has exited. `limit` is how long
    /// CRIU may take in all; the time that `notify` takes does not count.
    ///
    /// # Errors
    /// CRIU's failure, a refused notification, a reply that makes no sense, the deadline. CRIU has ended in every case.
    pub fn run(mut self, notify: &mut dyn Notify, limit: Option<Duration>) -> Result<R::Reply> {
        let reply = self.exchange(notify, limit).and_then(|response| self.finish(response));
        if reply.is_err() && !self.child.ends_itself(&self.channel) {
            notify.before_kill();
            self.child.wait(Duration::ZERO, &self.channel);
        }
        reply
    }

    fn exchange(&mut self, notify: &mut dyn Notify, limit: Option<Duration>) -> Result<CriuResp> {
        let operation = R::OPERATION;
        self.channel.send(&self.request.encode())?;
        let mut refused = None;
        let mut left = limit;
        loop {
            let asked = Instant::now();
            let wait = self.watch.as_ref().map(Watch::interval).into_iter().chain(left).min();
            let received = self.channel.receive(self.child.process.pidfd(), wait)?;
            left = left.map(|left| left.saturating_sub(asked.elapsed()));
            match received {
                Received::TimedOut => {
                    if let Some(limit) = limit
                        && left == Some(Duration::ZERO)
                    {
                        return Err(Error::Deadline { operation, limit, failure: self.failure() });
                    }
                    self.check_alive()?;
                }
                Received::Closed => {
                    self.child.end(&self.channel);
                    let status = self.child.status.unwrap_or_default();
                    let died = Error::Died { operation, status, failure: self.failure() };
                    return Err(refused.unwrap_or(died));
                }
                Received::Message(response, fd) if response.r#type == CriuReqType::Notify as i32 => {
                    if let Err((notification, err)) = self.notified(*response, fd, notify)? {
                        // CRIU still takes its work back, and then replies that it failed.
                        refused = Some(Error::Refused { operation, notification, err });
                    }
                }
                Received::Message(response, _) => match refused {
                    Some(refused) if !response.success => return Err(refused),
                    _ => return Ok(*response),
                },
            }
        }
    }

    fn check_alive(&mut self) -> Result<()> {
        let Some(watch) = &mut self.watch else { return Ok(()) };
        let log = self.request.common().map(|common| (common.log_dir(), common.log.file.as_str()));
        let roots: Vec<i32> = [self.child.process.pid()].into_iter().chain(self.restored).collect();
        if !watch.is_stalled(&roots, log) {
            return Ok(());
        }
        let after = watch.after;
        Err(Error::Stalled { operation: R::OPERATION, after, failure: self.failure() })
    }

    /// Passes a notification on and answers CRIU. The inner error is the handler's.
    #[allow(clippy::type_complexity, reason = "two errors that go different ways")]
    fn notified(
        &mut self,
        response: CriuResp,
        fd: Option<OwnedFd>,
        notify: &mut dyn Notify,
    ) -> Result<Result<(), (NotificationKind, Box<dyn StdError + Send + Sync>)>> {
        let operation = R::OPERATION;
        let incomplete = |message: String, what| Error::Incomplete { operation, message, what };
        let notified = response.notify.ok_or_else(|| incomplete("NOTIFY".to_owned(), "notification"))?;
        let kind = NotificationKind::parse(notified.script());
        let pid = notified.pid;
        let notification = kind.clone().with(pid, fd).map_err(|(kind, what)| incomplete(kind.to_string(), what))?;
        tracing::debug!(operation, notification = %kind, pid, "criu notifies");

        if let Notification::SetupNamespaces { pid } = &notification {
            self.restored = Some(*pid);
        }
        let answer = notify.notify(notification, self.child.process.pidfd());
        // It waited for us.
        self.watch.iter_mut().for_each(Watch::alive);
        let mut request =
            CriuReq { r#type: CriuReqType::Notify as i32, notify_success: Some(answer.is_ok()), ..Default::default() };
        if let Ok(Answer::External(external)) = &answer {
            request.opts = Some(CriuOpts { external: external.clone(), ..Default::default() });
        }
        self.channel.send(&request)?;
        Ok(answer.map(drop).map_err(|err| (kind, err)))
    }

    fn finish(&mut self, response: CriuResp) -> Result<R::Reply> {
        let operation = R::OPERATION;
        let expected = self.request.kind();
        if !response.success {
            self.child.wait(EXIT, &self.channel);
            let mut failure = self.failure();
            failure.errno = response.cr_errno.filter(|&errno| errno != 0);
            failure.line = failure.line.or_else(|| response.cr_errmsg.map(|line| line.trim().to_owned()));
            return Err(Error::Failed { operation, failure });
        }
        if response.r#type != expected as i32 {
            let found = CriuReqType::try_from(response.r#type)
                .map_or_else(|err| err.to_string(), |kind| kind.as_str_name().to_owned());
            return Err(Error::UnexpectedType { operation, expected: expected.as_str_name(), found });
        }
        let reply = R::decode(response).map_err(|what| Error::Incomplete {
            operation,
            message: expected.as_str_name().to_owned(),
            what,
        })?;
        self.child.wait(EXIT, &self.channel);
        match self.child.status {
            Some(0) => Ok(reply),
            // Something failed after the reply was sent, such as the restored processes' last step.
            status => Err(Error::Died { operation, status: status.unwrap_or_default(), failure: self.failure() }),
        }
    }

    fn failure(&mut self) -> Failure {
        let log = self.request.common().map(|common| (common.log_dir(), common.log.file.as_str()));
        log::failure(log, &mut self.stderr)
    }
}

impl<R: Request> Drop for Worker<R> {
    fn drop(&mut self) {
        self.child.end(&self.channel);
    }
}

impl Child {
    /// Hangs up, gives CRIU the time to take back its work, and ends it.
    fn end(&mut self, channel: &Channel) {
        if !self.ends_itself(channel) {
            self.wait(Duration::ZERO, channel);
        }
    }

    /// Hangs up, and gives CRIU the time to take back its work. Whether it has ended, and is reaped.
    fn ends_itself(&mut self, channel: &Channel) -> bool {
        if self.status.is_none() {
            channel.hang_up();
            // Of one that somebody has stopped: it is to take back its work too.
            descendants::go_on(self.process.pidfd());
            if !exits_within(self.process.pidfd(), GRACE) {
                return false;
            }
            self.wait(Duration::ZERO, channel);
        }
        true
    }

    /// Reaps CRIU when it exits, or kills it first when it has not by then.
    fn wait(&mut self, patience: Duration, channel: &Channel) {
        if self.status.is_some() {
            return;
        }
        channel.hang_up();
        if !exits_within(self.process.pidfd(), patience) {
            tracing::warn!(pid = self.process.pid(), ?patience, "criu does not end: killing it and its children");
            descendants::kill(self.process.pid(), self.process.pidfd());
        }
        if was_killed(self.process.pidfd()) {
            descendants::kill_group(self.process.pid());
        }
        match self.process.wait() {
            Ok(status) => self.status = Some(status),
            Err(err) => {
                tracing::warn!(pid = self.process.pid(), %err, "wait for criu");
                self.status = Some(u32::MAX);
            }
        }
    }
}

/// Of a child that has ended, which is not reaped by this. CRIU that ends by itself leaves nobody.
fn was_killed(pidfd: BorrowedFd<'_>) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    matches!(waitid(WaitId::PidFd(pidfd), options), Ok(Some(status)) if status.killed() || status.dumped())
}

fn exits_within(pidfd: BorrowedFd<'_>, patience: Duration) -> bool {
    let until = Instant::now() + patience;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout =
            Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(rustix::io::Errno::INTR) => {}
            // Then it is killed, and waited for.
            Err(_) => return false,
        }
    }
}
