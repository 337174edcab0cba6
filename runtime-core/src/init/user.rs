//! The user of the process (credentials(7)) and what belongs to that user.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::message::Process;

/// Additional groups, then the group, then the user: each needs what the next takes away.
pub(super) fn change(process: &Process) -> Result<(), Errno> {
    // Where it is denied, a group may be there to keep its members out of something: they stay in it.
    if process.set_groups {
        let groups: Vec<_> = process.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        rustix::thread::set_thread_groups(&groups)?;
    }
    let (uid, gid) = (Uid::from_raw(process.uid), Gid::from_raw(process.gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
}

/// What came as the host's /dev/null becomes the container's: a descriptor into the host's mounts must not stay, and CRIU
/// cannot dump one. Where the container has no null device, it keeps the host's.
pub(super) fn own_null() -> Result<(), Errno> {
    use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    type Replace = fn(OwnedFd) -> Result<(), Errno>;
    let stdio: [(BorrowedFd<'_>, Replace); 3] =
        [(stdin.as_fd(), dup2_stdin), (stdout.as_fd(), dup2_stdout), (stderr.as_fd(), dup2_stderr)];
    for (fd, replace) in stdio {
        if is_null(fd)?
            && let Some(null) = container_null(rustix::fs::fcntl_getfl(fd)? & OFlags::RWMODE)?
        {
            replace(null)?;
        }
    }
    Ok(())
}

/// `None` if the image, or a process that runs already, has put something else there; that is not used.
fn container_null(access: OFlags) -> Result<Option<OwnedFd>, Errno> {
    // Neither a fifo nor a terminal in its place may stop or take this process.
    let safely = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let Ok(null) = rustix::fs::open("/dev/null", access | safely, Mode::empty()) else { return Ok(None) };
    if !is_null(null.as_fd())? {
        return Ok(None);
    }
    rustix::fs::fcntl_setfl(&null, OFlags::empty())?;
    Ok(Some(null))
}

/// The user may open its own stdio again through /proc/self/fd. Not for /dev/null, which is everybody's.
pub(super) fn own_stdio(process: &Process) -> Result<(), Errno> {
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    for fd in [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()] {
        let stat = rustix::fs::fstat(fd)?;
        if stat.st_uid == process.uid || is_null(fd)? {
            continue;
        }
        match rustix::fs::fchown(fd, Some(Uid::from_raw(process.uid)), None) {
            // An id that the file system or our user namespace cannot express, a read-only file system, a socket:
            // as with runc, the process then simply cannot open it again.
            Err(Errno::INVAL | Errno::PERM | Errno::ROFS) => {}
            other => other?,
        }
    }
    Ok(())
}

fn is_null(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    let stat = rustix::fs::fstat(fd)?;
    let null = rustix::fs::makedev(1, 3);
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == null)
}

/// Each variable once, with the last of its values, and HOME set: what is given as "" is taken for not given, as with runc.
pub(super) fn environment(given: &[String], uid: u32) -> Vec<String> {
    let mut seen = HashSet::new();
    let name = |variable: &'_ str| variable.split('=').next().unwrap_or_default().to_owned();
    let mut env: Vec<_> = given.iter().rev().filter(|variable| seen.insert(name(variable))).cloned().collect();
    env.reverse();
    env.retain(|variable| variable != "HOME=");
    if !env.iter().any(|variable| variable.starts_with("HOME=")) {
        env.push(format!("HOME={}", home(uid)));
    }
    env
}

/// The home directory that the container's /etc/passwd gives the user, or `/`.
fn home(uid: u32) -> String {
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    home_in(&passwd, uid).unwrap_or("/").to_owned()
}

pub(super) fn home_in(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        let found = fields.next()?.parse() == Ok(uid);
        let home = fields.nth(2)?;
        (found && !home.is_empty()).then_some(home)
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_variable_is_there_once() {
        let environment = |given: &[&str]| {
            let given: Vec<_> = given.iter().map(|variable| (*variable).to_owned()).collect();
            // Nobody has this id.
            super::environment(&given, u32::MAX)
        };
        assert_eq!(environment(&["A=1", "HOME=/h", "B=", "A=2"]), ["HOME=/h", "B=", "A=2"]);
        assert_eq!(environment(&["HOME=", "A=1"]), ["A=1", "HOME=/"]);
        assert_eq!(environment(&["HOME=/x", "HOME="]), ["HOME=/"]);
    }

    #[test]
    fn home_is_the_sixth_field_of_the_users_line() {
        let passwd =
            "# x\nroot:x:0:0:root:/root:/bin/sh\nbroken:x:1\nweb:x:33:33::/srv/www:/bin/false\nnone:x:5:5:::\n";
        assert_eq!(super::home_in(passwd, 33), Some("/srv/www"));
        assert_eq!(super::home_in(passwd, 1), None);
        assert_eq!(super::home_in(passwd, 5), None);
    }
}
