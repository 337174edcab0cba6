//! What was written to a container's standard input and is not read yet. It is in no image: to CRIU the pipe is somebody
//! else's, and so is the terminal's master.
//!
//! ```text
//!   client ==fifo==> writer ==pipe==> process        rtc-input.bin
//!          [waiting]  [pending]  [taken]             taken, then pending and waiting
//! ```
//! - At the checkpoint the writer is told to hold still before the processes do. When they are dumped and not yet ended or
//!   resumed, what is in the pipe, with the writer and in its fifo is copied, not taken: if they run on, they read it too.
//! - At the restore it is the first that the new pipe has in it. It is put there when all else is restored, before anything
//!   runs: of a restore that fails the pipe's owner has lost nothing.
//!
//! Output needs none of this. Its reader outlives the processes and reads to the end: what they have written is in the old
//! container's output, and the new pipe begins empty.

use std::any::Any;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, makedev, openat};
use rustix::io::{Errno, ioctl_fionread};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, tee};
use serde::{Deserialize, Serialize};

use super::error::CheckpointError;
use super::{inventory, typed};
use crate::container::Stdio;
use crate::{Pid, Result, limited};

/// In the image directory.
pub(crate) const FILE: &str = "rtc-input.bin";

/// Bytes of [`FILE`]. A pipe holds 1 MiB at the most, unless the administrator has allowed more.
const LONGEST: usize = 64 << 20;

/// Who writes a container's standard input: for a checkpoint it has to hold still.
pub trait Input: fmt::Debug + Send + Sync {
    /// Blocks until a write that is under way is done. From then on nothing is written until [`Held`] is dropped.
    ///
    /// # Errors
    /// A descriptor cannot be duplicated.
    fn hold(&self) -> io::Result<Held>;
}

/// A writer that holds still. To the container comes next what is `pending`, then what is in `source`.
pub struct Held {
    /// Read from the source and not written.
    pub pending: Vec<u8>,
    /// A pipe or fifo, readable.
    pub source: Option<OwnedFd>,
    /// Lets the writer go on when it is dropped.
    pub writer: Box<dyn Any + Send>,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held").field("pending", &self.pending.len()).field("source", &self.source).finish()
    }
}

/// What is in [`FILE`], in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Unread {
    /// Of the pipe or the terminal.
    pub(crate) taken: usize,
    /// Of its writer; behind them.
    pub(crate) waiting: usize,
}

/// Unread input out of a checkpoint.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Carried {
    pub(crate) taken: Vec<u8>,
    pub(crate) waiting: Vec<u8>,
}

/// Copies the unread input of a frozen container into the image directory. `terminal` is the init if it has one, `reader` who
/// had its standard input before, `pids` who may have it.
pub(crate) fn save(
    pids: &[Pid],
    terminal: Option<Pid>,
    reader: &Reader<'_>,
    held: Option<&Held>,
    dir: &Path,
) -> Result<Option<Unread>, CheckpointError> {
    let failed = || CheckpointError::file("copy the unread", "standard input");
    let mut bytes = match terminal {
        Some(init) => typed::copy(init).map_err(failed())?,
        None => in_pipe(reader.now(pids))?,
    };
    let unread = bytes.len();
    if let Some(held) = held {
        bytes.extend_from_slice(&held.pending);
        if let Some(source) = &held.source {
            bytes.extend(peek(source).map_err(failed())?);
        }
    }
    if bytes.len() > LONGEST {
        // No restore would take it.
        let long = format!("{} bytes are unread, and {LONGEST} at the most are carried", bytes.len());
        return Err(failed()(io::Error::new(io::ErrorKind::FileTooLarge, long)));
    }
    let path = dir.join(FILE);
    if bytes.is_empty() {
        return match fs::remove_file(&path) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => Err(CheckpointError::file("remove", path)(err)),
            _ => Ok(None),
        };
    }
    fs::write(&path, &bytes).map_err(CheckpointError::file("write", path))?;
    Ok(Some(Unread { taken: unread, waiting: bytes.len() - unread }))
}

/// What is in the pipe, which may be open in any process of the container, and in none: then nobody would read it.
fn in_pipe(reader: Option<PathBuf>) -> Result<Vec<u8>, CheckpointError> {
    let Some(path) = reader else { return Ok(Vec::new()) };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = openat(CWD, &path, flags, Mode::empty()).map_err(io::Error::from);
    open.and_then(|pipe| peek(&pipe)).map_err(CheckpointError::file("copy the unread input in", path))
}

/// A process's descriptor that is the container's standard input.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    link: &'a str,
    /// Below /proc; none if no process has it.
    path: Option<PathBuf>,
}

impl<'a> Reader<'a> {
    /// Looks at all descriptors of all processes, which are better not frozen meanwhile: there may be thousands. `link` is what
    /// the standard input was; nobody reads one that is no pipe.
    pub(crate) fn find(pids: &[Pid], link: &'a str) -> Self {
        let path = link.starts_with("pipe:").then(|| find_reader(pids, link)).flatten();
        Self { link, path }
    }

    /// Where it is by now. Whoever has none has got it from whoever had it: if none had it before, none has.
    fn now(&self, pids: &[Pid]) -> Option<PathBuf> {
        let path = self.path.as_ref()?;
        if is(path, self.link) { Some(path.clone()) } else { find_reader(pids, self.link) }
    }
}

fn find_reader(pids: &[Pid], link: &str) -> Option<PathBuf> {
    let first = pids.iter().map(|pid| PathBuf::from(format!("/proc/{pid}/fd/0"))).find(|path| is(path, link));
    first.or_else(|| pids.iter().find_map(|&pid| reader_of(pid, link)))
}

/// A descriptor of the process that is the pipe of this name.
fn reader_of(pid: Pid, link: &str) -> Option<PathBuf> {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten();
    fds.map(|fd| fd.path()).find(|path| is(path, link))
}

fn is(path: &Path, link: &str) -> bool {
    fs::read_link(path).is_ok_and(|target| target.as_os_str() == link)
}

/// What is in a pipe or fifo, which keeps it.
fn peek(source: impl AsFd) -> io::Result<Vec<u8>> {
    if ioctl_fionread(&source)? == 0 {
        return Ok(Vec::new());
    }
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    // As many pages as the source has: tee(2) copies references to them.
    fcntl_setpipe_size(&writer, fcntl_getpipe_size(&source)?)?;
    match tee(source, &writer, usize::MAX >> 1, SpliceFlags::NONBLOCK) {
        Ok(_) | Err(Errno::AGAIN) => {}
        Err(err) => return Err(err.into()),
    }
    drop(writer);
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut fs::File::from(reader), &mut bytes)?;
    Ok(bytes)
}

/// Reads what [`save`] has written. The file may be anybody's: a FIFO is not waited at, and what has another length is not read.
pub(crate) fn load(dir: &Path, unread: Unread) -> Result<Carried, CheckpointError> {
    let path = dir.join(FILE);
    let read = inventory::open(&path).and_then(|file| limited::read_open(file, LONGEST));
    let mut taken = read.map_err(CheckpointError::file("read", &path))?;
    if Some(taken.len()) != unread.taken.checked_add(unread.waiting) {
        return Err(CheckpointError::Unread { path, found: taken.len() });
    }
    let waiting = taken.split_off(unread.taken);
    Ok(Carried { taken, waiting })
}

impl Carried {
    fn bytes(&self) -> Vec<u8> {
        [self.taken.as_slice(), &self.waiting].concat()
    }
}

/// Makes room for it in the new standard input, in which nothing changes; a terminal gets it elsewhere. `/dev/null` makes way
/// for a pipe that ends behind it.
pub(crate) fn make_room(carried: &Carried, stdio: Stdio) -> Result<Stdio, CheckpointError> {
    let length = carried.taken.len() + carried.waiting.len();
    match stdio {
        Stdio::Fds { stdin, stdout, stderr } if length > 0 => {
            let failed = CheckpointError::file("make room for the unread input in", "the new standard input");
            let stdin = with_room(stdin, length).map_err(failed)?.ok_or(CheckpointError::NoPlaceForInput)?;
            Ok(Stdio::Fds { stdin, stdout, stderr })
        }
        stdio => Ok(stdio),
    }
}

/// `None` for what can hold no input for a later reader.
fn with_room(stdin: OwnedFd, length: usize) -> io::Result<Option<OwnedFd>> {
    let stat = fstat(&stdin)?;
    let pipe = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Fifo => stdin,
        FileType::CharacterDevice if stat.st_rdev == makedev(1, 3) => pipe_with(PipeFlags::CLOEXEC)?.0,
        _ => return Ok(None),
    };
    enlarge(&pipe, length)?;
    Ok(Some(pipe))
}

fn enlarge(pipe: &OwnedFd, length: usize) -> io::Result<()> {
    if length > fcntl_getpipe_size(pipe)? {
        fcntl_setpipe_size(pipe, length)?;
    }
    Ok(())
}

/// Puts it into the new standard input, which has [room](make_room) for it, before anything else that comes. As late as can
/// be: it cannot be taken back.
pub(crate) fn give(carried: &Carried, stdio: &Stdio) -> Result<(), CheckpointError> {
    let bytes = carried.bytes();
    match stdio {
        Stdio::Fds { stdin, .. } if !bytes.is_empty() => put_first(stdin, bytes)
            .map_err(CheckpointError::file("put the unread input into", "the new standard input")),
        _ => Ok(()),
    }
}

fn put_first(stdin: &OwnedFd, mut bytes: Vec<u8>) -> io::Result<()> {
    let reopen = |flags| -> io::Result<OwnedFd> {
        let path = format!("/proc/self/fd/{}", stdin.as_raw_fd());
        Ok(openat(CWD, path, flags | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?)
    };
    let (reader, writer) = (reopen(OFlags::RDONLY)?, reopen(OFlags::WRONLY)?);
    // Whoever holds its other end may have been quick.
    let waiting = usize::try_from(ioctl_fionread(&reader)?).unwrap_or(0);
    enlarge(&writer, bytes.len().saturating_add(waiting))?;
    bytes.extend(drain(&reader)?);
    fill(&writer, &bytes)
}

fn drain(pipe: &OwnedFd) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(ioctl_fionread(pipe)?).unwrap_or(0)];
    if !bytes.is_empty() {
        let length = rustix::io::read(pipe, &mut bytes)?;
        bytes.truncate(length);
    }
    Ok(bytes)
}

/// Of an empty pipe.
fn fill(pipe: &OwnedFd, bytes: &[u8]) -> io::Result<()> {
    enlarge(pipe, bytes.len())?;
    match rustix::io::write(pipe, bytes)? {
        written if written == bytes.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, Read, Write};

    use super::*;

    fn null() -> OwnedFd {
        fs::OpenOptions::new().read(true).write(true).open("/dev/null").unwrap().into()
    }

    fn carried(taken: &[u8], waiting: &[u8]) -> Carried {
        Carried { taken: taken.to_vec(), waiting: waiting.to_vec() }
    }

    fn given(stdin: OwnedFd, carried: &Carried) -> Result<PipeReader, CheckpointError> {
        let stdio = make_room(carried, Stdio::Fds { stdin, stdout: null(), stderr: null() })?;
        give(carried, &stdio)?;
        match stdio {
            Stdio::Fds { stdin, .. } => Ok(stdin.into()),
            Stdio::Terminal => panic!("a terminal"),
        }
    }

    #[test]
    fn a_reader_is_found_again_where_it_is_by_then() {
        let (reader, writer) = io::pipe().unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", reader.as_raw_fd())).unwrap();
        let link = link.to_str().unwrap();
        let pids = [Pid::new(std::process::id().cast_signed()).unwrap()];
        // The writer's link is the same.
        drop(writer);
        let path = |fd: i32| PathBuf::from(format!("/proc/{}/fd/{fd}", pids[0]));
        let found = Reader::find(&pids, link);
        assert_eq!(found.now(&pids), Some(path(reader.as_raw_fd())));
        let other = reader.try_clone().unwrap();
        drop(reader);
        assert_eq!(found.now(&pids), Some(path(other.as_raw_fd())));
        drop(other);
        assert_eq!(found.now(&pids), None);
        assert_eq!(Reader::find(&pids, link).now(&pids), None);
        assert_eq!(Reader::find(&pids, "/dev/null").now(&pids), None);
    }

    #[test]
    fn a_look_into_a_pipe_takes_nothing() {
        let (mut reader, mut writer) = io::pipe().unwrap();
        assert_eq!(peek(&reader).unwrap(), b"");
        // In pieces, more than the default holds, and more than one page each.
        fcntl_setpipe_size(&writer, 1 << 18).unwrap();
        let pieces: Vec<Vec<u8>> = (0..40u8).map(|piece| vec![piece; 5000]).collect();
        pieces.iter().for_each(|piece| writer.write_all(piece).unwrap());
        assert_eq!(peek(&reader).unwrap(), pieces.concat());
        drop(writer);
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        assert_eq!(all, pieces.concat());
    }

    #[test]
    fn what_was_unread_comes_before_what_is_new() {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"third ").unwrap();
        let mut stdin = given(reader.into(), &carried(b"first ", b"second ")).unwrap();
        writer.write_all(b"last").unwrap();
        drop(writer);
        let mut text = String::new();
        stdin.read_to_string(&mut text).unwrap();
        assert_eq!(text, "first second third last");
    }

    #[test]
    fn room_alone_changes_nothing() {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"own").unwrap();
        drop(writer);
        let stdio = Stdio::Fds { stdin: reader.into(), stdout: null(), stderr: null() };
        let Stdio::Fds { stdin, .. } = make_room(&carried(b"first", b""), stdio).unwrap() else { panic!("a terminal") };
        let mut text = String::new();
        PipeReader::from(stdin).read_to_string(&mut text).unwrap();
        assert_eq!(text, "own");
    }

    #[test]
    fn more_than_a_pipe_holds_makes_it_larger() {
        let (reader, writer) = io::pipe().unwrap();
        let mut stdin = given(reader.into(), &carried(&[7; 65536], &[8; 65536])).unwrap();
        drop(writer);
        let mut all = Vec::new();
        stdin.read_to_end(&mut all).unwrap();
        assert_eq!(all, [[7; 65536], [8; 65536]].concat());
    }

    #[test]
    fn null_makes_way_for_what_is_left_to_read_and_a_file_cannot() {
        let mut text = String::new();
        given(null(), &carried(b"rest", b"")).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "rest");
        let file = || tempfile::tempfile().unwrap().into();
        assert!(matches!(given(file(), &carried(b"rest", b"")), Err(CheckpointError::NoPlaceForInput)));
        assert!(given(file(), &carried(b"", b"")).is_ok());
    }

    #[test]
    fn a_file_of_another_length_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "firstsecond").unwrap();
        let loaded = load(dir.path(), Unread { taken: 5, waiting: 6 }).unwrap();
        assert_eq!(loaded, carried(b"first", b"second"));
        for unread in [Unread { taken: 5, waiting: 5 }, Unread { taken: usize::MAX, waiting: 12 }] {
            let refused = load(dir.path(), unread).unwrap_err();
            assert!(matches!(refused, CheckpointError::Unread { found: 11, .. }), "{refused}");
        }
    }

    #[test]
    fn a_file_without_an_end_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/dev/zero", dir.path().join(FILE)).unwrap();
        let refused = load(dir.path(), Unread { taken: 5, waiting: 6 }).unwrap_err();
        let source = std::error::Error::source(&refused).map(ToString::to_string);
        assert_eq!(source.as_deref(), Some("it is longer than 67108864 bytes"), "{refused}");
    }
}
