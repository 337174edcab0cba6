//! clone3 into new namespaces and a cgroup, then exec of our own binary, for a caller that may have threads.
//!
//! Between clone3 and execveat the child is a copy of one thread of a threaded process: another thread may have held
//! any lock. So the functions below that run there (`child`, `middle` and what they call) make system calls and nothing
//! else: they do not allocate, lock, panic or drop.
//!
//! ```text
//! direct:  caller --clone3(CLONE_NEW*, INTO_CGROUP)--> child --setns(joins)--> execveat
//! middle:  caller --clone3(INTO_CGROUP)--> middle --setns(joins), unshare(time)-- clone3(CLONE_PARENT, CLONE_NEW*) --> child --> execveat
//! ```
//! A process in the middle is needed where a namespace counts from the next child on (pid, time), and for a user
//! namespace, which a process with threads cannot join and behind which the host's namespaces cannot be joined any more.
//! CLONE_PARENT makes the child the caller's own all the same. A thread of the caller would do for pid alone.

use std::cell::Cell;
use std::ffi::{CStr, c_int};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

/// The first descriptor after stdio in the new process: the socket.
pub(crate) const SOCKET_FD: RawFd = 3;
/// Where [`Spawn::passed`] begins in the new process.
pub(crate) const PASSED_FD: RawFd = 4;
const MAX_JOINS: usize = 16;
/// The kernel has 14 v1 controllers; named hierarchies come on top.
const MAX_TASKS_FILES: usize = 32;
/// linux/sched.h; libc has it as an int, which it does not fit.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// In place of a length at the head of a frame on the socket: a [`Stage`] and an errno follow.
pub(crate) const FAILED_BEFORE_EXEC: u32 = u32::MAX;

/// What to run and where.
#[derive(Debug)]
pub(crate) struct Spawn<'a> {
    pub(crate) exe: BorrowedFd<'a>,
    pub(crate) argv0: &'a CStr,
    pub(crate) stdio: [BorrowedFd<'a>; 3],
    pub(crate) socket: BorrowedFd<'a>,
    pub(crate) passed: &'a [BorrowedFd<'a>],
    /// CLONE_NEW* to make at clone3.
    pub(crate) new: u64,
    /// Namespaces to join first: a descriptor of one and its type, or a pidfd and several types.
    pub(crate) joins: &'a [(BorrowedFd<'a>, c_int)],
    /// A directory of the unified cgroup tree.
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
    /// The `tasks` files of the v1 cgroups, open for writing: the child moves itself, having one thread.
    pub(crate) tasks_files: &'a [OwnedFd],
    /// Make a time namespace with these `timens_offsets`.
    pub(crate) time_offsets: Option<&'a [u8]>,
    pub(crate) middle: bool,
    /// Wait for one byte on the socket before exec: the caller writes the uid and gid maps.
    pub(crate) wait: bool,
    /// Become uid 0 and gid 0 of the user namespace; without it the exec would lose every capability.
    pub(crate) root: bool,
}

/// Where a process failed before it was ours to talk to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Stage {
    Descriptors = 1,
    Join,
    TimeOffsets,
    Clone,
    Cgroup,
    Maps,
    Root,
    Exec,
}

impl Stage {
    pub(crate) fn from_raw(raw: u32) -> Option<Self> {
        use Stage::{Cgroup, Clone, Descriptors, Exec, Join, Maps, Root, TimeOffsets};
        [Descriptors, Join, TimeOffsets, Clone, Cgroup, Maps, Root, Exec].into_iter().find(|stage| *stage as u32 == raw)
    }

    pub(crate) fn operation(self) -> &'static str {
        match self {
            Self::Descriptors => "arrange file descriptors",
            Self::Join => "join a namespace (setns)",
            Self::TimeOffsets => "make a time namespace",
            Self::Clone => "make namespaces (clone3)",
            Self::Cgroup => "join a v1 cgroup",
            Self::Maps => "wait for the user namespace's maps",
            Self::Root => "become root of the user namespace",
            Self::Exec => "execute the container's init",
        }
    }
}

/// A new process failed before its exec.
#[derive(Debug, thiserror::Error)]
#[error("{}", stage.operation())]
pub(crate) struct Failed {
    pub(crate) stage: Stage,
    #[source]
    pub(crate) err: Errno,
}

#[repr(C)]
#[derive(Default)]
pub(super) struct CloneArgs {
    pub(super) flags: u64,
    pub(super) pidfd: u64,
    pub(super) child_tid: u64,
    pub(super) parent_tid: u64,
    pub(super) exit_signal: u64,
    pub(super) stack: u64,
    pub(super) stack_size: u64,
    pub(super) tls: u64,
    pub(super) set_tid: u64,
    pub(super) set_tid_size: u64,
    pub(super) cgroup: u64,
}

/// The caller's arguments with every descriptor as a number: all that the child reads.
struct Plain<'a> {
    exe: RawFd,
    argv0: &'a CStr,
    /// stdio, the socket, then what is passed. The child moves them out of the way of their own numbers.
    fds: Vec<Cell<RawFd>>,
    new: u64,
    joins: [(RawFd, c_int); MAX_JOINS],
    join_count: usize,
    cgroup: Option<RawFd>,
    tasks_files: [RawFd; MAX_TASKS_FILES],
    tasks_file_count: usize,
    time_offsets: Option<&'a [u8]>,
    wait: bool,
    root: bool,
}

/// Makes the process and returns its pid and pidfd. It is a child of the caller, who must see to it that nobody reaps it
/// (or the process in the middle) before this returns. What fails in the child after clone3 is told on the socket.
///
/// # Errors
/// The stage that failed; no process is left.
pub(crate) fn spawn(spawn: &Spawn<'_>) -> Result<(i32, OwnedFd), Failed> {
    let plain = Plain::new(spawn)?;
    let signals = BlockedSignals::new();
    let result = if spawn.middle { spawn_by_middle(&plain) } else { spawn_directly(&plain) };
    drop(signals);
    result
}

impl<'a> Plain<'a> {
    fn new(spawn: &Spawn<'a>) -> Result<Self, Failed> {
        let counts = [(spawn.joins.len(), MAX_JOINS), (spawn.tasks_files.len(), MAX_TASKS_FILES)];
        if counts.iter().any(|(count, most)| count > most) {
            return Err(Failed { stage: Stage::Descriptors, err: Errno::TOOBIG });
        }
        let all = spawn.stdio.iter().chain([&spawn.socket]).chain(spawn.passed);
        let fds = all.map(|fd| Cell::new(fd.as_raw_fd())).collect();
        let mut joins = [(-1, 0); MAX_JOINS];
        for (slot, (fd, kind)) in joins.iter_mut().zip(spawn.joins) {
            *slot = (fd.as_raw_fd(), *kind);
        }
        let mut tasks_files = [-1; MAX_TASKS_FILES];
        for (slot, file) in tasks_files.iter_mut().zip(spawn.tasks_files) {
            *slot = file.as_raw_fd();
        }
        Ok(Self {
            exe: spawn.exe.as_raw_fd(),
            argv0: spawn.argv0,
            fds,
            new: spawn.new,
            joins,
            join_count: spawn.joins.len(),
            cgroup: spawn.cgroup.map(|fd| fd.as_raw_fd()),
            tasks_files,
            tasks_file_count: spawn.tasks_files.len(),
            time_offsets: spawn.time_offsets,
            wait: spawn.wait,
            root: spawn.root,
        })
    }
}

/// All signals blocked in this thread: a handler of the caller's must not run in the child, which shares its pipes.
pub(super) struct BlockedSignals(libc::sigset_t);

impl BlockedSignals {
    pub(super) fn new() -> Self {
        // SAFETY: both sets are plain data that sigfillset and pthread_sigmask fill in; the mask is of this thread alone.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            let mut old: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut old);
            Self(old)
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: restores the mask that `new` saved on this thread; the type does not leave `spawn`.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, std::ptr::null_mut());
        }
    }
}

/// 0 in the child. The child gets a copy of this thread's stack and address space (no CLONE_VM).
pub(super) fn clone3(args: &CloneArgs) -> Result<i32, Errno> {
    // SAFETY: `args` is a valid clone_args of the size given; without CLONE_VM the child runs on its own copy of the
    // stack, and every caller keeps to system calls in the child.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, args, size_of::<CloneArgs>()) };
    if pid < 0 { Err(errno()) } else { Ok(pid as i32) }
}

fn errno() -> Errno {
    // SAFETY: reads this thread's errno.
    Errno::from_raw_os_error(unsafe { *libc::__errno_location() })
}

/// For a process that the caller makes itself.
fn cgroup_args(plain: &Plain<'_>) -> CloneArgs {
    let mut args = CloneArgs { exit_signal: libc::SIGCHLD as u64, ..CloneArgs::default() };
    if let Some(cgroup) = plain.cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup as u64;
    }
    args
}

fn spawn_directly(plain: &Plain<'_>) -> Result<(i32, OwnedFd), Failed> {
    let mut pidfd: c_int = -1;
    let mut args = cgroup_args(plain);
    args.flags |= plain.new | libc::CLONE_PIDFD as u64;
    args.pidfd = &raw mut pidfd as u64;
    match clone3(&args) {
        Err(err) => Err(Failed { stage: Stage::Clone, err }),
        Ok(0) => {
            if let Err(failed) = join(plain) {
                die(plain, failed)
            }
            child(plain)
        }
        // SAFETY: CLONE_PIDFD has stored a new descriptor that nobody else owns.
        Ok(pid) => Ok((pid, unsafe { OwnedFd::from_raw_fd(pidfd) })),
    }
}

fn spawn_by_middle(plain: &Plain<'_>) -> Result<(i32, OwnedFd), Failed> {
    let fail = |err| Failed { stage: Stage::Clone, err };
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(fail)?;
    // Already the middle: from inside the container's cgroup namespace, a host whose cgroup2 is mounted with nsdelegate (as
    // systemd does) lets nobody in who is not below its root (ENOENT).
    let middle_pid = match clone3(&cgroup_args(plain)).map_err(fail)? {
        0 => middle(plain, write.as_raw_fd()),
        pid => pid,
    };
    drop(write);
    let mut report = [0u8; 8];
    let told = loop {
        match rustix::io::read(&read, &mut report) {
            Err(Errno::INTR) => {}
            other => break other,
        }
    };
    let reaped = super::process::wait_pid(middle_pid);
    match told {
        Ok(8) => {}
        Ok(_) => return Err(fail(Errno::CHILD)),
        Err(err) => return Err(fail(err)),
    }
    reaped.map_err(fail)?;
    let word = |at: usize| i32::from_ne_bytes([report[at], report[at + 1], report[at + 2], report[at + 3]]);
    if let Some(stage) = Stage::from_raw(word(0) as u32) {
        return Err(Failed { stage, err: super::errno::told(word(4)) });
    }
    let pid = word(4);
    // Nobody reaps it before we return, so its pid cannot have been given away.
    let process = rustix::process::Pid::from_raw(pid).ok_or(fail(Errno::CHILD))?;
    let pidfd = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty()).map_err(fail)?;
    Ok((pid, pidfd))
}

/// Runs in the process in the middle.
fn middle(plain: &Plain<'_>, report: RawFd) -> ! {
    let result = join(plain).and_then(|()| time_namespace(plain)).and_then(|()| {
        let args = CloneArgs { flags: plain.new | libc::CLONE_PARENT as u64, ..CloneArgs::default() };
        clone3(&args).map_err(|err| (Stage::Clone, err))
    });
    let (word, value) = match result {
        Ok(0) => child(plain),
        Ok(pid) => (0, pid),
        Err((stage, err)) => (stage as u32, err.raw_os_error()),
    };
    let mut bytes = [0u8; 8];
    bytes[..4].copy_from_slice(&word.to_ne_bytes());
    bytes[4..].copy_from_slice(&value.to_ne_bytes());
    // SAFETY: writes a local buffer to a pipe that the caller of `spawn` holds open, and ends this process.
    unsafe {
        libc::write(report, bytes.as_ptr().cast(), bytes.len());
        libc::_exit(0)
    }
}

/// Joins with the rights of the host first; what only the user namespace's own root may join is tried again after it.
fn join(plain: &Plain<'_>) -> Result<(), (Stage, Errno)> {
    let setns = |fd: RawFd, kind: c_int| {
        // SAFETY: setns takes two numbers; this process has a single thread.
        if unsafe { libc::setns(fd, kind) } == 0 { Ok(()) } else { Err((Stage::Join, errno())) }
    };
    let joins = plain.joins.get(..plain.join_count).unwrap_or(&[]);
    let user = joins.iter().find(|(_, kind)| *kind == libc::CLONE_NEWUSER);
    let mut again = [false; MAX_JOINS];
    for ((fd, kind), again) in joins.iter().zip(&mut again) {
        if *kind != libc::CLONE_NEWUSER
            && let Err(failed) = setns(*fd, *kind)
        {
            if user.is_none() {
                return Err(failed);
            }
            *again = true;
        }
    }
    if let Some((fd, kind)) = user {
        setns(*fd, *kind)?;
    }
    for ((fd, kind), again) in joins.iter().zip(&again) {
        if *again {
            setns(*fd, *kind)?;
        }
    }
    Ok(())
}

fn time_namespace(plain: &Plain<'_>) -> Result<(), (Stage, Errno)> {
    let Some(offsets) = plain.time_offsets else { return Ok(()) };
    // SAFETY: unshare takes a number; open and write get a literal path and a slice that outlives them.
    unsafe {
        if libc::unshare(libc::CLONE_NEWTIME) != 0 {
            return Err((Stage::TimeOffsets, errno()));
        }
        if offsets.is_empty() {
            return Ok(());
        }
        let fd = libc::open(c"/proc/self/timens_offsets".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if fd < 0 || libc::write(fd, offsets.as_ptr().cast(), offsets.len()) < 0 {
            return Err((Stage::TimeOffsets, errno()));
        }
        libc::close(fd);
    }
    Ok(())
}

/// Runs in the new process; ends in execveat or in a failure told on the socket.
fn child(plain: &Plain<'_>) -> ! {
    super::process::reset_signals();
    // SAFETY: setsid takes nothing; it fails only for a group leader, which a new process is not.
    unsafe {
        libc::setsid();
    }
    let result = join_cgroups(plain)
        .and_then(|()| wait_for_maps(plain))
        .and_then(|()| become_root(plain))
        .and_then(|()| arrange(plain));
    match result {
        Ok(exe) => {
            let argv = [plain.argv0.as_ptr(), std::ptr::null()];
            let envp: [*const libc::c_char; 1] = [std::ptr::null()];
            // SAFETY: argv and envp are arrays ended by null of strings that live until the exec.
            unsafe {
                libc::syscall(libc::SYS_execveat, exe, c"".as_ptr(), argv.as_ptr(), envp.as_ptr(), libc::AT_EMPTY_PATH);
            }
            fail(SOCKET_FD, Stage::Exec, errno())
        }
        Err(failed) => die(plain, failed),
    }
}

fn die(plain: &Plain<'_>, (stage, err): (Stage, Errno)) -> ! {
    fail(socket(plain), stage, err)
}

/// The child's end; -1 cannot be.
fn socket(plain: &Plain<'_>) -> RawFd {
    plain.fds.get(SOCKET_FD as usize).map_or(-1, Cell::get)
}

fn fail(socket: RawFd, stage: Stage, err: Errno) -> ! {
    let mut bytes = [0u8; 12];
    bytes[..4].copy_from_slice(&FAILED_BEFORE_EXEC.to_ne_bytes());
    bytes[4..8].copy_from_slice(&(stage as u32).to_ne_bytes());
    bytes[8..].copy_from_slice(&err.raw_os_error().to_ne_bytes());
    // SAFETY: sends a local buffer and ends this process; MSG_NOSIGNAL because the other end may be gone.
    unsafe {
        libc::send(socket, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL);
        libc::_exit(1)
    }
}

fn join_cgroups(plain: &Plain<'_>) -> Result<(), (Stage, Errno)> {
    for file in plain.tasks_files.iter().take(plain.tasks_file_count) {
        // SAFETY: writes a literal to a descriptor of this process.
        if unsafe { libc::write(*file, c"0".as_ptr().cast(), 1) } != 1 {
            return Err((Stage::Cgroup, errno()));
        }
    }
    Ok(())
}

fn wait_for_maps(plain: &Plain<'_>) -> Result<(), (Stage, Errno)> {
    if !plain.wait {
        return Ok(());
    }
    let mut byte = 0u8;
    loop {
        // SAFETY: reads one byte into a local.
        match unsafe { libc::read(socket(plain), (&raw mut byte).cast(), 1) } {
            1 => return Ok(()),
            // The caller is gone or has given up.
            0 => return Err((Stage::Maps, Errno::PIPE)),
            _ if errno() == Errno::INTR => {}
            _ => return Err((Stage::Maps, errno())),
        }
    }
}

fn become_root(plain: &Plain<'_>) -> Result<(), (Stage, Errno)> {
    if !plain.root {
        return Ok(());
    }
    // SAFETY: raw calls with numbers alone; glibc's wrappers would signal threads that this copy does not have.
    let result = unsafe {
        if libc::syscall(libc::SYS_setresgid, 0, 0, 0) < 0 { -1 } else { libc::syscall(libc::SYS_setresuid, 0, 0, 0) }
    };
    if result < 0 { Err((Stage::Root, errno())) } else { Ok(()) }
}

/// Puts the descriptors where the init looks for them and marks all others close-on-exec; returns the binary's.
fn arrange(plain: &Plain<'_>) -> Result<RawFd, (Stage, Errno)> {
    let count = plain.fds.len() as RawFd;
    // Out of the way of the numbers that dup2 is going to overwrite.
    let raise = |fd: RawFd| {
        if fd >= count {
            return Ok(fd);
        }
        // SAFETY: duplicates a descriptor of this process, whose table is its own.
        match unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, count) } {
            -1 => Err((Stage::Descriptors, errno())),
            raised => Ok(raised),
        }
    };
    let exe = raise(plain.exe)?;
    for fd in &plain.fds {
        fd.set(raise(fd.get())?);
    }
    for (target, fd) in plain.fds.iter().enumerate() {
        // SAFETY: as above; dup2 clears close-on-exec on the target.
        if unsafe { libc::dup2(fd.get(), target as RawFd) } < 0 {
            return Err((Stage::Descriptors, errno()));
        }
    }
    // SAFETY: marks descriptors of this process alone.
    if unsafe { libc::syscall(libc::SYS_close_range, count, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) } < 0 {
        return Err((Stage::Descriptors, errno()));
    }
    Ok(exe)
}
