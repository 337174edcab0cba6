//! The pty of a process with a terminal.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};

use super::Plan;
use super::error::{Error, step};
use super::tree::{Tree, attach, clone_fd, open_in};

const PTMX: &str = "/dev/pts/ptmx";
const CONSOLE: &str = "/dev/console";
const DEVPTS_SUPER_MAGIC: fs::FsWord = 0x1cd1;

#[derive(Debug)]
pub(crate) struct Console {
    pub(crate) master: OwnedFd,
    pub(crate) slave: OwnedFd,
}

impl Plan {
    /// A pty from the container's own devpts, its slave bound on /dev/console; the master is sent to the caller by the
    /// step that calls this. Called after `pivot`, and only for a container with a terminal.
    pub(crate) fn console(&self) -> Result<Console, Error> {
        let console = open_console()?;
        let target = open_target(&Tree::current()?)?;
        // By descriptor: no name of the slave could be replaced in between (CVE-2025-52565).
        let bind = clone_fd(&console.slave, false).map_err(step("bind the terminal on", CONSOLE))?;
        attach(&bind, &target).map_err(step("bind the terminal on", CONSOLE))?;
        Ok(console)
    }
}

/// A new pty from the devpts of the current root. For exec, after setns into the container.
pub(crate) fn open_console() -> Result<Console, Error> {
    let tree = Tree::current()?;
    let path = Path::new(PTMX);
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    // Looked at before it is opened: opening a device that the image chose may already do something.
    let node = tree.open_plain(path, OFlags::PATH).map_err(step("open", path))?;
    verify(&node)?;
    let master = tree.open_plain(path, flags).map_err(step("open", path))?;
    verify(&master)?;
    unlockpt(&master).map_err(step("unlock a terminal of", path))?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = ioctl_tiocgptpeer(&master, flags).map_err(step("open the slave of", path))?;
    Ok(Console { master, slave })
}

/// The multiplexer of a devpts, not something that looks like it.
fn verify(node: &OwnedFd) -> Result<(), Error> {
    let stat = fs::fstat(node).map_err(step("look at", PTMX))?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let magic = fs::fstatfs(node).map_err(step("look at", PTMX))?.f_type;
    if kind == FileType::CharacterDevice && stat.st_rdev == fs::makedev(5, 2) && magic == DEVPTS_SUPER_MAGIC {
        return Ok(());
    }
    let found = format!("{kind:?} {}:{} on {magic:#x}", fs::major(stat.st_rdev), fs::minor(stat.st_rdev));
    Err(Error::WrongDevice { path: PTMX.into(), found })
}

/// /dev/console to bind on: made if it is missing, never through a symlink (CVE-2025-52565).
fn open_target(tree: &Tree) -> Result<OwnedFd, Error> {
    let dev = tree.open_plain(Path::new("/dev"), super::tree::DIRECTORY).map_err(step("open", "/dev"))?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match fs::openat(&dev, "console", flags, Mode::from_raw_mode(0o600)) {
        Ok(_) | Err(Errno::EXIST) => {}
        // On a read-only /dev it has to be there.
        Err(Errno::ROFS) => {}
        Err(err) => return Err(step("make", CONSOLE)(err)),
    }
    let target = match open_in(&dev, "console".as_ref()) {
        Err(Errno::LOOP) => return Err(Error::HostileTarget { target: CONSOLE.into(), what: "a symlink" }),
        opened => opened.map_err(step("open", CONSOLE))?,
    };
    match FileType::from_raw_mode(fs::fstat(&target).map_err(step("look at", CONSOLE))?.st_mode) {
        FileType::RegularFile | FileType::CharacterDevice => Ok(target),
        _ => Err(Error::HostileTarget { target: CONSOLE.into(), what: "neither a file nor a character device" }),
    }
}
