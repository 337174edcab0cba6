//! Waiting for and signalling processes: every signal number, real-time signals included, which nix's types lack.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

/// The calling thread's errno.
pub(super) fn errno() -> Errno {
    // SAFETY: reads this thread's errno.
    Errno::from_raw_os_error(unsafe { *libc::__errno_location() })
}

/// Whose exit waitid(2) is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Whose<'a> {
    Pidfd(BorrowedFd<'a>),
    Pid(i32),
    Any,
}

/// An exit: the pid, and the exit code or 128 plus the signal's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exited {
    pub(crate) pid: i32,
    pub(crate) code: u32,
}

/// Never blocks. With `peek` the process stays to be reaped.
///
/// # Errors
/// ECHILD when there is no such child.
pub(crate) fn try_wait(whose: Whose<'_>, peek: bool) -> Result<Option<Exited>, Errno> {
    waitid(whose, libc::WNOHANG | if peek { libc::WNOWAIT } else { 0 })
}

/// Blocks until the child has exited, and reaps it.
pub(super) fn wait_pid(pid: i32) -> Result<(), Errno> {
    waitid(Whose::Pid(pid), 0).map(drop)
}

fn waitid(whose: Whose<'_>, flags: i32) -> Result<Option<Exited>, Errno> {
    let (kind, id) = match whose {
        Whose::Pidfd(fd) => (libc::P_PIDFD, fd.as_raw_fd() as libc::id_t),
        Whose::Pid(pid) => (libc::P_PID, pid as libc::id_t),
        Whose::Any => (libc::P_ALL, 0),
    };
    loop {
        // SAFETY: siginfo_t is plain data which the kernel fills in; zeroed, it says that nobody has exited.
        let (result, info) = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            (libc::waitid(kind, id, &mut info, libc::WEXITED | flags), info)
        };
        if result < 0 {
            match errno() {
                Errno::INTR => continue,
                err => return Err(err),
            }
        }
        // SAFETY: after waitid these fields are the ones set, or zero.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        if pid == 0 {
            return Ok(None);
        }
        let code = if info.si_code == libc::CLD_EXITED { status as u32 & 0xff } else { 128 + status as u32 };
        return Ok(Some(Exited { pid, code }));
    }
}

/// Any signal number.
///
/// # Errors
/// ESRCH when the process has exited.
pub(crate) fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    // SAFETY: no siginfo, no flags; the descriptor is borrowed for the call.
    let result =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<u8>(), 0) };
    if result < 0 { Err(errno()) } else { Ok(()) }
}

/// Whether two processes have one memory between them (kcmp(2), KCMP_VM), as after a vfork(2) until the child executes.
///
/// # Errors
/// ESRCH when one of them is gone; ENOSYS from a kernel without CONFIG_KCMP, where CRIU does not work either.
pub(crate) fn share_memory(one: i32, other: i32) -> Result<bool, Errno> {
    /// linux/kcmp.h
    const KCMP_VM: i32 = 1;
    // SAFETY: numbers alone.
    let result = unsafe { libc::syscall(libc::SYS_kcmp, one, other, KCMP_VM, 0, 0) };
    if result < 0 { Err(errno()) } else { Ok(result == 0) }
}

/// From here to exec, ends this process with 128 and the number of a signal that asks it to end. The first process of a pid
/// namespace would not see one otherwise: the kernel keeps from it what it has no handler for (pid_namespaces(7)).
pub(crate) fn end_on_signals() {
    /// asm-generic/siginfo.h
    const SI_KERNEL: i32 = 0x80;
    extern "C" fn end(signal: libc::c_int) {
        // SAFETY: async-signal-safe (signal-safety(7)), and takes a number alone.
        unsafe { libc::_exit(128 + signal) }
    }
    // A failure closes the terminal that was just made, and is told after its hangup: that one comes from the kernel.
    extern "C" fn end_unless_of_kernel(signal: libc::c_int, info: *const libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: with SA_SIGINFO the kernel gives a whole siginfo_t that lives as long as this call.
        if unsafe { (*info).si_code } != SI_KERNEL {
            end(signal);
        }
    }
    for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGTERM] {
        // SAFETY: a handler of the right type that makes one async-signal-safe call; these signals can be handled.
        unsafe { libc::signal(signal, end as extern "C" fn(libc::c_int) as libc::sighandler_t) };
    }
    // SAFETY: all zeros are a valid sigaction: no flags, an empty mask.
    let mut hangup: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(libc::c_int, *const libc::siginfo_t, *mut libc::c_void) = end_unless_of_kernel;
    hangup.sa_sigaction = handler as libc::sighandler_t;
    hangup.sa_flags = libc::SA_SIGINFO;
    // SAFETY: a handler of the type that SA_SIGINFO asks for, which makes at most one async-signal-safe call; the old one is
    // not asked for.
    unsafe { libc::sigaction(libc::SIGHUP, &raw const hangup, std::ptr::null_mut()) };
}

/// Starts a command by fork(2), which glibc makes of clone(2): a seccomp filter that knows no clone3(2) may refuse
/// posix_spawn(3). For a process with a single thread. The child is not registered (see [`crate::children`]).
///
/// # Errors
/// As [`Command::spawn`](std::process::Command::spawn).
pub(crate) fn spawn_by_fork(command: &mut std::process::Command) -> std::io::Result<std::process::Child> {
    use std::os::unix::process::CommandExt;
    // SAFETY: the closure does nothing; that there is one makes the standard library fork.
    unsafe { command.pre_exec(|| Ok(())) }.spawn()
}

/// Default dispositions for all signals, and none blocked: exec keeps ignored signals ignored, and Rust ignores SIGPIPE.
/// Makes system calls alone, so that it may be called between clone3 and exec.
pub(crate) fn reset_signals() {
    // The kernel's struct sigaction, whose size on every 64-bit architecture is at most this: SIG_DFL, no flags, no mask.
    let default = [0u64; 4];
    let none = 0u64;
    // SAFETY: the kernel reads the arrays; numbers that cannot be changed are refused, which is as well. Raw, because
    // glibc keeps two signals to itself, which an ancestor may have ignored.
    unsafe {
        for signal in 1..=64 {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null_mut::<u64>(), 8);
        }
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const none, std::ptr::null_mut::<u64>(), 8);
    }
}
