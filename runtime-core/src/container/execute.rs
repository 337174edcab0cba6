//! The last step of a start: the init becomes the program, or says or shows why not.

use std::path::Path;

use rustix::io::Errno;

use super::launch::init_failed;
use crate::error::{InitError, InitErrorKind};
use crate::init::COMM;
use crate::init::channel::{self, Channel};
use crate::init::message::{Go, Reply};
use crate::{ContainerId, Error, Pid, Result};

/// Lets a ready process execute its program. EOF is the success, the socket being close-on-exec, but for an init that died.
pub(super) fn execute(id: &ContainerId, channel: &Channel, pid: Pid) -> Result<()> {
    channel.send(&Go).map_err(|err| failed(id, err.into()))?;
    executed(id, channel, pid)
}

fn executed(id: &ContainerId, channel: &Channel, pid: Pid) -> Result<()> {
    match channel.receive::<Reply>() {
        Err(channel::Error::Closed) if died_as_init(pid) => Err(failed(id, InitErrorKind::DiedUnexecuted)),
        Err(channel::Error::Closed) => Ok(()),
        Ok(Reply::Failed(failure)) => Err(init_failed(id, failure)),
        Ok(Reply::Source { .. } | Reply::Hooks | Reply::Listener { .. } | Reply::Starting | Reply::Ready { .. }) => {
            Err(failed(id, channel::Error::OutOfTurn.into()))
        }
        Err(err) => Err(failed(id, err.into())),
    }
}

/// The same for an init that another process has made. `false`: it did not listen, or to somebody else.
pub(super) fn execute_at(id: &ContainerId, start_socket: &Path, pid: Pid) -> Result<bool> {
    let channel = match Channel::send_start(start_socket) {
        Err(channel::Error::Send(Errno::NOENT | Errno::CONNREFUSED)) => return Ok(false),
        channel => channel.map_err(|err| failed(id, err.into()))?,
    };
    match channel.receive::<Reply>() {
        Ok(Reply::Starting) => {}
        Err(channel::Error::Closed) => return Ok(false),
        Ok(_) => return Err(failed(id, channel::Error::OutOfTurn.into())),
        Err(err) => return Err(failed(id, err.into())),
    }
    executed(id, &channel, pid).map(|()| true)
}

fn failed(id: &ContainerId, err: InitErrorKind) -> Error {
    Error::Init { id: id.clone(), operation: "start", err: InitError(err) }
}

/// Whether the process that closed its socket ended as the init that it was, and never became the program. A process
/// that ends loses its memory before its descriptors, and one that executes has its new memory by then. One that has been
/// reaped already says nothing any more, and its exit is known to whoever reaped it.
fn died_as_init(pid: Pid) -> bool {
    std::fs::read(format!("/proc/{pid}/stat")).is_ok_and(|stat| is_dead_init(&stat))
}

/// The second and the twenty-third field: the name, in parentheses, and the size of the memory (proc_pid_stat(5)).
fn is_dead_init(stat: &[u8]) -> bool {
    let name = [b"(", COMM.to_bytes(), b")"].concat();
    // Neither a pid nor that name has a blank, a program's name may have some.
    let mut fields = stat.split(|byte| *byte == b' ').skip(1);
    fields.next() == Some(&name) && fields.nth(20) == Some(b"0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_init_is_told_from_a_live_one_and_from_a_dead_program() {
        let stat = |name: &str, size: u32| {
            format!("7 ({name}) Z {} {size} 0 0", (4..=22).map(|n| n.to_string()).collect::<Vec<_>>().join(" "))
        };
        let init = COMM.to_str().unwrap();
        assert!(is_dead_init(stat(init, 0).as_bytes()));
        assert!(!is_dead_init(stat(init, 4096).as_bytes()));
        assert!(!is_dead_init(stat("sh", 0).as_bytes()));
        assert!(!is_dead_init(stat(&format!("a ({init}) b"), 0).as_bytes()));
        assert!(!is_dead_init(b""));
    }

    #[test]
    fn the_kernel_keeps_a_zombies_name_and_not_its_memory() {
        let child = crate::children::spawn(std::process::Command::new("sleep").arg("60")).unwrap();
        let stat = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.pid)).unwrap();
            stat.replace("(sleep)", &format!("({})", COMM.to_str().unwrap()))
        };
        while !stat().contains("(rtc/init)") {
            std::thread::yield_now();
        }
        assert!(!is_dead_init(stat().as_bytes()));
        child.signal(crate::Signal::KILL).unwrap();
        assert!(child.exited(None).unwrap());
        assert!(is_dead_init(stat().as_bytes()), "{}", stat());
        child.wait().unwrap();
    }
}
