//! What was typed into a container's terminal and not yet read from it.
//!
//! No call looks at that without taking it, so it is taken and put back, while the container is frozen. It has been through
//! the line discipline: typed again it would be echoed twice, and a ^C in it would be one again. So it is put into the
//! discipline's own end (TIOCSTI) with echo, signals and translation off. Lines stay lines, for ICANON stays on.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer};
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios, isatty, tcgetattr, tcsetattr,
};

use crate::Pid;
use crate::sys::terminal::push;

/// The line discipline holds 4096 bytes. Nearer to that the master holds some too, which nobody can take.
const MOST: usize = 3900;

/// How raw reads show the end of file that a terminal in canonical mode holds (`__DISABLED_CHAR` in n_tty.c).
const END: u8 = 0;

/// Linux 6.2 to 6.6 may refuse TIOCSTI to everybody (`legacy_tiocsti`); before it was for all, and since then for
/// CAP_SYS_ADMIN in any case.
const REFUSED: std::ops::Range<(u32, u32)> = (6, 2)..(6, 7);
const LEGACY: &str = "/proc/sys/dev/tty/legacy_tiocsti";

/// Whether what is taken can be put back.
pub(crate) fn possible() -> bool {
    let allowed = fs::read_to_string(LEGACY).is_ok_and(|value| value.trim() == "1");
    allowed || !release(&rustix::system::uname().release().to_string_lossy()).is_some_and(|own| REFUSED.contains(&own))
}

/// `6.5.0-15-generic`.
fn release(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// A copy of what the terminal of a frozen process holds for it; nothing where that is not [`possible`].
pub(crate) fn copy(pid: Pid) -> io::Result<Vec<u8>> {
    let Some(path) = slave_of(pid) else { return Ok(Vec::new()) };
    if !possible() {
        tracing::warn!("this kernel lets nobody look at what was typed ahead: it is not carried");
        return Ok(Vec::new());
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let slave = openat(CWD, path, flags, Mode::empty())?;
    let bytes = take(&slave)?;
    put(&slave, &bytes)?;
    match bytes.len() {
        ..=MOST => Ok(bytes),
        _ => Err(io::Error::other(format!("the terminal holds more than {MOST} bytes"))),
    }
}

/// For a restored terminal, whose processes do not run yet.
pub(crate) fn give(master: impl AsFd, bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    put(&slave, bytes)
}

/// One of its standard streams, while it has one.
fn slave_of(pid: Pid) -> Option<PathBuf> {
    let of = |fd: i32| PathBuf::from(format!("/proc/{pid}/fd/{fd}"));
    (0..3).map(of).find(|path| {
        let link = fs::read_link(path).unwrap_or_default();
        link.starts_with("/dev/pts") || link.as_os_str() == "/dev/console"
    })
}

fn take(slave: &OwnedFd) -> io::Result<Vec<u8>> {
    if !isatty(slave) {
        return Ok(Vec::new());
    }
    let was = tcgetattr(slave)?;
    let mut raw = was.clone();
    // Without ICANON unfinished lines are there too.
    raw.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG | LocalModes::IEXTEN;
    raw.special_codes[SpecialCodeIndex::VMIN] = 0;
    raw.special_codes[SpecialCodeIndex::VTIME] = 0;
    tcsetattr(slave, OptionalActions::Now, &raw)?;
    let bytes = read_all(slave);
    tcsetattr(slave, OptionalActions::Now, &was)?;
    bytes
}

fn read_all(slave: &OwnedFd) -> io::Result<Vec<u8>> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match rustix::io::read(slave, &mut buffer) {
            Ok(0) | Err(Errno::AGAIN) => return Ok(bytes),
            Ok(length) => bytes.extend_from_slice(buffer.get(..length).unwrap_or_default()),
            Err(Errno::INTR) => {}
            Err(err) => return Err(err.into()),
        }
    }
}

fn put(slave: &OwnedFd, bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let was = tcgetattr(slave)?;
    tcsetattr(slave, OptionalActions::Now, &as_it_is(&was))?;
    let canonical = was.local_modes.contains(LocalModes::ICANON);
    let end = was.special_codes[SpecialCodeIndex::VEOF];
    let put = bytes.iter().try_for_each(|&byte| push(slave, if canonical && byte == END { end } else { byte }));
    tcsetattr(slave, OptionalActions::Now, &was)?;
    Ok(put?)
}

/// The modes in which a byte goes into the queue as it is; those that end a line still do.
fn as_it_is(was: &Termios) -> Termios {
    use SpecialCodeIndex as Code;
    let mut modes = was.clone();
    modes.input_modes = InputModes::empty();
    modes.local_modes -= LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ISIG | LocalModes::IEXTEN;
    for code in [Code::VERASE, Code::VKILL, Code::VWERASE, Code::VREPRINT, Code::VLNEXT] {
        modes.special_codes[code] = 0;
    }
    modes
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use rustix::pty::{grantpt, openpt, unlockpt};

    use super::*;

    fn pty() -> (fs::File, OwnedFd) {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let slave = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        rustix::fs::fcntl_setfl(&slave, OFlags::NONBLOCK).unwrap();
        (master.into(), slave)
    }

    fn echoed(master: &mut fs::File) -> Vec<u8> {
        let mut buffer = [0; 256];
        rustix::fs::fcntl_setfl(&*master, OFlags::NONBLOCK).unwrap();
        let length = master.read(&mut buffer).unwrap_or(0);
        buffer[..length].to_vec()
    }

    fn line(slave: &OwnedFd) -> Option<Vec<u8>> {
        let mut buffer = [0; 256];
        rustix::io::read(slave, &mut buffer).ok().map(|length| buffer[..length].to_vec())
    }

    /// Its bytes go through a work queue of the kernel's.
    fn typed(master: &mut fs::File, slave: &OwnedFd, text: &[u8], readable: u64) {
        master.write_all(text).unwrap();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while rustix::io::ioctl_fionread(slave).unwrap() < readable {
            assert!(std::time::Instant::now() < until);
        }
    }

    fn take_and_put(slave: &OwnedFd) -> Vec<u8> {
        let bytes = take(slave).unwrap();
        put(slave, &bytes).unwrap();
        bytes
    }

    #[test]
    fn a_release_is_its_first_two_numbers() {
        assert_eq!(release("6.5.0-15-generic"), Some((6, 5)));
        assert_eq!(release("5.15.167+"), Some((5, 15)));
        assert_eq!(release("linux"), None);
        assert!(REFUSED.contains(&(6, 6)) && !REFUSED.contains(&(6, 7)) && !REFUSED.contains(&(5, 19)));
    }

    #[test]
    fn lines_an_end_of_file_and_a_line_that_is_not_finished_move_to_another_terminal() {
        let (mut master, slave) = pty();
        typed(&mut master, &slave, b"one\rtwo\r\x04thr\x7f", 8);
        let bytes = take_and_put(&slave);
        assert_eq!(bytes, b"one\ntwo\n\0th");
        echoed(&mut master);

        let (mut other, theirs) = pty();
        give(&other, &bytes).unwrap();
        assert_eq!(echoed(&mut other), b"");
        // The first terminal has all of it still, and both take the rest of the line.
        for (master, slave) in [(&mut master, &slave), (&mut other, &theirs)] {
            assert_eq!(line(slave).unwrap(), b"one\n");
            assert_eq!(line(slave).unwrap(), b"two\n");
            assert_eq!(line(slave).unwrap(), b"");
            assert_eq!(line(slave), None);
            echoed(master);
            master.write_all(b"ere\n").unwrap();
            let until = std::time::Instant::now() + std::time::Duration::from_secs(5);
            let rest = std::iter::repeat_with(|| line(slave)).find(|line| {
                assert!(std::time::Instant::now() < until);
                line.is_some()
            });
            assert_eq!(rest.flatten().unwrap(), b"there\n");
            assert_eq!(echoed(master), b"ere\r\n");
        }
    }

    #[test]
    fn a_control_character_that_was_meant_as_one_is_not_a_signal_later() {
        let (mut master, slave) = pty();
        let mut raw = tcgetattr(&slave).unwrap();
        raw.make_raw();
        tcsetattr(&slave, OptionalActions::Now, &raw).unwrap();
        typed(&mut master, &slave, b"\x03\r\x11\0\xff", 5);
        let (other, theirs) = pty();
        tcsetattr(&theirs, OptionalActions::Now, &raw).unwrap();
        give(&other, &take_and_put(&slave)).unwrap();
        assert_eq!(take(&theirs).unwrap(), b"\x03\r\x11\0\xff");
        assert_eq!(take(&slave).unwrap(), b"\x03\r\x11\0\xff");
    }
}
