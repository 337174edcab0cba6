//! A scripted CRIU: a real process that stands in for `criu swrk`, and a thread that speaks for it on the socket pair.
//!
//! The client under test starts the process through [`FakeCriu::spawn`] with the command line that it would give CRIU. The
//! thread takes the process's end of the socket from the client's own table (the descriptor has the same number in both),
//! and plays the script. Needs no root.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use prost::Message;
use proto::criu::rpc::{CriuNotify, CriuReq, CriuReqType, CriuResp};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recv, send, sendmsg};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, getpid, pidfd_getfd, pidfd_open, pidfd_send_signal};

/// What the peer does, in order.
#[derive(Debug)]
pub enum Step {
    /// Waits for a message and keeps it for [`FakeCriu::received`].
    Receive,
    /// Sends a message.
    Send(CriuResp),
    /// Sends a message with descriptors beside it.
    SendWithFds(CriuResp, Vec<OwnedFd>),
    /// Sends these bytes as one message.
    SendBytes(Vec<u8>),
    /// Runs something at this point, such as writing a log.
    Do(fn(&CriuReq)),
    Sleep(Duration),
    /// The process ends with SIGKILL and the socket is closed.
    Die,
    /// Keeps the socket open until the client closes its end.
    AwaitHangUp,
    /// Keeps the socket open until the process is killed.
    Hang,
}

/// A script to be played once.
#[derive(Debug)]
pub struct FakeCriu {
    script: Mutex<Option<Vec<Step>>>,
    shell: &'static str,
    seen: Arc<Mutex<Seen>>,
    peer: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Seen {
    received: Vec<CriuReq>,
    hung_up: bool,
}

/// The process that stands in for CRIU.
#[derive(Debug)]
pub struct FakeProcess {
    pub child: Child,
    pub pidfd: OwnedFd,
}

impl FakeCriu {
    /// The process exits with status 0 when the script has ended.
    pub fn new(script: Vec<Step>) -> Self {
        // It reads its standard input, which the peer closes at the end of the script.
        Self::with_process(script, "read -r _; exit 0")
    }

    /// The process is a shell that runs this.
    pub fn with_process(script: Vec<Step>, shell: &'static str) -> Self {
        Self { script: Mutex::new(Some(script)), shell, seen: Arc::default(), peer: Mutex::new(None) }
    }

    /// Starts the process in place of `command`, which must be `criu swrk FD` with a descriptor of this process.
    ///
    /// # Errors
    /// Those of the start, and `InvalidInput` for another command.
    pub fn spawn(&self, command: &Command) -> io::Result<FakeProcess> {
        let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
        let number = match args.as_slice() {
            [swrk, number] if swrk == "swrk" => number.parse().map_err(io::Error::other)?,
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("not criu swrk FD: {args:?}"))),
        };
        let myself = pidfd_open(getpid(), PidfdFlags::empty())?;
        let socket = pidfd_getfd(&myself, number, PidfdGetfdFlags::empty())?;

        let mut child = Command::new("/bin/sh")
            .args(["-c", self.shell])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
        let script = lock(&self.script).take().ok_or_else(|| io::Error::other("the script was played already"))?;
        let mut peer = Peer { socket, pidfd: pidfd.try_clone()?, seen: Arc::clone(&self.seen) };
        let stdin = child.stdin.take();
        *lock(&self.peer) = Some(thread::spawn(move || {
            peer.play(script);
            drop(peer);
            drop(stdin);
        }));
        Ok(FakeProcess { child, pidfd })
    }

    /// Waits for the end of the script: the messages that it received.
    ///
    /// # Panics
    /// When the script met something that it did not expect.
    pub fn received(&self) -> Vec<CriuReq> {
        self.join();
        std::mem::take(&mut lock(&self.seen).received)
    }

    /// Waits for the end of the script: whether the client closed its end while the script ran.
    ///
    /// # Panics
    /// As [`FakeCriu::received`].
    pub fn hung_up(&self) -> bool {
        self.join();
        lock(&self.seen).hung_up
    }

    fn join(&self) {
        if let Some(peer) = lock(&self.peer).take() {
            peer.join().expect("the script of the fake criu failed");
        }
    }
}

struct Peer {
    socket: OwnedFd,
    pidfd: OwnedFd,
    seen: Arc<Mutex<Seen>>,
}

impl Peer {
    fn play(&mut self, script: Vec<Step>) {
        for step in script {
            match step {
                Step::Receive => match self.receive() {
                    Some(request) => lock(&self.seen).received.push(request),
                    None => {
                        lock(&self.seen).hung_up = true;
                        return;
                    }
                },
                Step::Send(response) => self.send(&response.encode_to_vec()),
                Step::SendBytes(bytes) => self.send(&bytes),
                Step::SendWithFds(response, fds) => self.send_with_fds(&response.encode_to_vec(), &fds),
                Step::Do(action) => action(lock(&self.seen).received.last().expect("nothing was received yet")),
                Step::Sleep(time) => thread::sleep(time),
                Step::Die => {
                    pidfd_send_signal(&self.pidfd, Signal::KILL).expect("kill the stand-in");
                    return;
                }
                Step::AwaitHangUp => {
                    let hung_up = self.receive().is_none();
                    lock(&self.seen).hung_up = hung_up;
                }
                Step::Hang => wait_for_exit(self.pidfd.as_fd()),
            }
        }
    }

    fn receive(&self) -> Option<CriuReq> {
        let mut buffer = vec![0; 1 << 20];
        let (length, _) = recv(&self.socket, &mut buffer[..], RecvFlags::empty()).expect("receive");
        (length > 0).then(|| CriuReq::decode(&buffer[..length]).expect("a criu_req"))
    }

    fn send(&self, bytes: &[u8]) {
        match send(&self.socket, bytes, SendFlags::NOSIGNAL) {
            Ok(_) | Err(Errno::PIPE) => {}
            Err(err) => panic!("send: {err}"),
        }
    }

    fn send_with_fds(&self, bytes: &[u8], fds: &[OwnedFd]) {
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        let mut space = vec![std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)), "at most 16 descriptors");
        sendmsg(&self.socket, &[io::IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).expect("send descriptors");
    }
}

fn wait_for_exit(pidfd: BorrowedFd<'_>) {
    let mut fds = [rustix::event::PollFd::from_borrowed_fd(pidfd, rustix::event::PollFlags::IN)];
    while rustix::event::poll(&mut fds, None) == Err(Errno::INTR) {}
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A reply of this type.
pub fn reply(kind: CriuReqType, success: bool) -> CriuResp {
    CriuResp { r#type: kind as i32, success, ..Default::default() }
}

/// A notification.
pub fn notification(script: &str, pid: Option<i32>) -> CriuResp {
    CriuResp { notify: Some(CriuNotify { script: Some(script.to_owned()), pid }), ..reply(CriuReqType::Notify, true) }
}
