//! The standard streams of a container, which come from outside: at a restore the new ones take their places.
//!
//! CRIU knows a pipe by its inode, in every process that has it. A file that is not in the container's mounts, such as a log
//! that a shell redirects to, it dumps only if it is told so, by mount and inode. /dev/null is one too for a container that
//! was restored to it; one that was created with it has its own.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::OwnedFd;

use criu::InheritFd;

use super::error::CheckpointError;
use super::manifest::StdioFile;
use crate::Pid;
use crate::container::Stdio;

const NULL: &str = "/dev/null";

/// The files among a container's streams; `names` are those of its state. Where it is in them changes until it is frozen.
pub(crate) fn files(names: &[String]) -> Vec<StdioFile> {
    let of = |(fd, name): (usize, &String)| StdioFile { fd, name: name.clone(), position: 0 };
    names.iter().enumerate().filter(|(_, name)| !name.is_empty()).map(of).collect()
}

/// Looks where a frozen init is in its files.
pub(crate) fn take_positions(files: &mut [StdioFile], init: Pid) {
    for file in files {
        file.position = position(init, file.fd);
    }
}

/// For the dump.
pub(crate) fn external(files: &[StdioFile]) -> impl Iterator<Item = String> {
    let mut seen = HashSet::new();
    files.iter().map(|file| file.name.clone()).filter(move |name| seen.insert(name.clone()))
}

/// `pos` of proc_pid_fdinfo(5); 0 where the init has closed it, and in what is no file.
fn position(init: Pid, fd: usize) -> u64 {
    parse_position(&fs::read_to_string(format!("/proc/{init}/fdinfo/{fd}")).unwrap_or_default())
}

pub(super) fn parse_position(info: &str) -> u64 {
    let position = info.lines().find_map(|line| line.strip_prefix("pos:")).map(|position| position.trim().parse());
    position.and_then(Result::ok).unwrap_or(0)
}

/// The streams that a restored container gets, when it is offered these. What was /dev/null stays so: all three may have been
/// one name to CRIU then, and those that are offered are not one.
///
/// To be called where the host's mounts are seen, so that the next checkpoint finds them.
pub(crate) fn settle(descriptors: &[String], files: &[StdioFile], offered: &Stdio) -> Result<Stdio, CheckpointError> {
    let Stdio::Fds { stdin, stdout, stderr } = offered else { return Ok(Stdio::Terminal) };
    let settle = |number: usize, offered: &OwnedFd| {
        let link = descriptors.get(number).map_or("", String::as_str);
        let fd = match files.iter().find(|file| file.fd == number) {
            Some(_) if link == NULL => null(),
            Some(file) => offered.try_clone().and_then(|fd| goes_on(fd, file.position)),
            None => offered.try_clone(),
        };
        fd.map_err(CheckpointError::file("prepare the standard stream in the place of", link))
    };
    Ok(Stdio::Fds { stdin: settle(0, stdin)?, stdout: settle(1, stdout)?, stderr: settle(2, stderr)? })
}

/// For the restore: the settled streams under the names of the old. `descriptors` are the links of the old ones.
pub(crate) fn inherit(
    descriptors: &[String],
    files: &[StdioFile],
    stdio: &Stdio,
) -> Result<Vec<InheritFd>, CheckpointError> {
    let Stdio::Fds { stdin, stdout, stderr } = stdio else { return Ok(Vec::new()) };
    // stdout and stderr may have been one.
    let mut seen = HashSet::new();
    let mut inherited = Vec::new();
    for (number, (link, new)) in descriptors.iter().zip([stdin, stdout, stderr]).enumerate() {
        let key = match files.iter().find(|file| file.fd == number) {
            Some(file) => key(file),
            None if link.starts_with("pipe:") => link.clone(),
            None => continue,
        };
        if seen.insert(key.clone()) {
            let fd = new.try_clone().map_err(CheckpointError::file("duplicate", link))?;
            inherited.push(InheritFd { key, fd });
        }
    }
    Ok(inherited)
}

/// By its name without the first letter, which CRIU takes for the slash of a path, a file is handed over as it is: by its
/// name CRIU opens it anew, and demands the old one's size, mode and position of it.
fn key(file: &StdioFile) -> String {
    file.name.chars().skip(1).collect()
}

fn null() -> io::Result<OwnedFd> {
    Ok(OpenOptions::new().read(true).write(true).open(NULL)?.into())
}

/// The same file, opened anew, is at its beginning: it goes on where it was. Another one, or one that was cut off, is shorter
/// or is where its owner wants it.
fn goes_on(fd: OwnedFd, position: u64) -> io::Result<OwnedFd> {
    let mut file = File::from(fd);
    let metadata = file.metadata()?;
    if metadata.is_file() && metadata.len() >= position && file.stream_position()? == 0 {
        file.seek(SeekFrom::Start(position))?;
    }
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(fd: usize, name: &str, position: u64) -> StdioFile {
        StdioFile { fd, name: name.to_owned(), position }
    }

    fn stdio(stdout: File) -> Stdio {
        Stdio::Fds { stdin: null().unwrap(), stdout: stdout.try_clone().unwrap().into(), stderr: stdout.into() }
    }

    #[test]
    fn streams_that_were_one_are_named_once() {
        let links = ["/dev/null", "pipe:[7]", "pipe:[7]"].map(str::to_owned);
        let inherited = inherit(&links, &[], &stdio(tempfile::tempfile().unwrap())).unwrap();
        assert_eq!(inherited.iter().map(|fd| fd.key.as_str()).collect::<Vec<_>>(), ["pipe:[7]"]);
        let files = [file(1, "file[1f:2a]", 0), file(2, "file[1f:2a]", 0)];
        assert_eq!(external(&files).collect::<Vec<_>>(), ["file[1f:2a]"]);
    }

    #[test]
    fn what_was_null_stays_null_and_a_file_is_the_new_one() {
        let links = ["/dev/null", "/log", "/log"].map(str::to_owned);
        let files = [file(0, "file[5:4]", 0), file(1, "file[1f:2a]", 3), file(2, "file[1f:2a]", 3)];
        let new = tempfile::tempfile().unwrap();
        new.set_len(4).unwrap();
        let settled = settle(&links, &files, &stdio(new.try_clone().unwrap())).unwrap();
        let inherited = inherit(&links, &files, &settled).unwrap();
        assert_eq!(inherited.iter().map(|fd| fd.key.as_str()).collect::<Vec<_>>(), ["ile[5:4]", "ile[1f:2a]"]);
        let link =
            fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&inherited[0].fd))).unwrap();
        assert_eq!(link.to_str(), Some(NULL));
        assert_eq!((&new).stream_position().unwrap(), 3);
    }

    #[test]
    fn a_file_goes_on_where_it_was_unless_it_is_shorter_or_elsewhere() {
        for (length, at, expected) in [(10, 0, 6), (3, 0, 0), (10, 2, 2), (6, 0, 6)] {
            let mut new = tempfile::tempfile().unwrap();
            new.set_len(length).unwrap();
            new.seek(SeekFrom::Start(at)).unwrap();
            let fd = goes_on(new.into(), 6).unwrap();
            assert_eq!(File::from(fd).stream_position().unwrap(), expected, "{length} {at}");
        }
    }
}
