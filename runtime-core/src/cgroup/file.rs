//! Reading and writing the control files.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

use nix::errno::Errno;

use super::Error;
use crate::Pid;

/// The errno of an error that came from a system call; EIO stands for one that did not (a short write).
pub(super) fn errno(err: &io::Error) -> Errno {
    err.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// One write(2), as the kernel's control files demand.
pub(super) fn write(path: &Path, value: &str) -> Result<(), Error> {
    OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(value.as_bytes()))
        .map_err(|err| Error::Write { path: path.to_owned(), value: value.to_owned(), err: errno(&err) })
}

/// `None` when the file is absent, because of its controller or because the cgroup is gone: a file that was opened
/// before the cgroup's end answers ENODEV.
pub(super) fn read(path: &Path) -> Result<Option<String>, Error> {
    let mut text = String::new();
    match File::open(path).and_then(|mut file| file.read_to_string(&mut text)) {
        Ok(_) => Ok(Some(text)),
        Err(err) => match errno(&err) {
            Errno::ENOENT | Errno::ENODEV => Ok(None),
            err => Err(Error::Read { path: path.to_owned(), err }),
        },
    }
}

pub(super) fn parse_error(path: &Path, line: &str) -> Error {
    Error::Parse { path: path.to_owned(), line: line.to_owned() }
}

/// A file with one number; "max" is `u64::MAX`.
pub(super) fn read_u64(path: &Path) -> Result<Option<u64>, Error> {
    read(path)?.map(|text| parse_u64(path, text.trim())).transpose()
}

/// Values below zero, which some kernels print for counters, are 0.
pub(super) fn parse_u64(path: &Path, text: &str) -> Result<u64, Error> {
    if text == "max" {
        return Ok(u64::MAX);
    }
    text.parse::<u64>()
        .or_else(|err| text.parse::<i64>().map(|n| n.max(0).cast_unsigned()).map_err(|_| err))
        .map_err(|_| parse_error(path, text))
}

/// A file of "key value" lines, in the kernel's order. Lines whose value is no number are an error.
pub(super) fn read_pairs(path: &Path) -> Result<Option<Pairs>, Error> {
    let Some(text) = read(path)? else { return Ok(None) };
    let mut pairs = Vec::new();
    for line in text.lines() {
        let (key, value) = line.split_once(' ').ok_or_else(|| parse_error(path, line))?;
        pairs.push((key.to_owned(), parse_u64(path, value.trim())?));
    }
    Ok(Some(Pairs(pairs)))
}

pub(super) struct Pairs(Vec<(String, u64)>);

impl IntoIterator for Pairs {
    type Item = (String, u64);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl Pairs {
    /// 0 for a key that this kernel does not print.
    pub(super) fn get(&self, key: &str) -> u64 {
        self.0.iter().find(|(name, _)| name == key).map_or(0, |(_, value)| *value)
    }
}

/// Process ids in one cgroup, without its children; none if it is gone. A process outside our pid namespace reads as 0
/// and is left out: nothing can be done to it from here.
pub(super) fn read_pids(path: &Path) -> Result<Vec<Pid>, Error> {
    let Some(text) = read(path)? else { return Ok(Vec::new()) };
    text.lines()
        .map(|line| line.parse::<i32>().map_err(|_| parse_error(path, line)))
        .filter_map(|pid| pid.map(Pid::new).transpose())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_the_kernel_prints_them() {
        let path = Path::new("f");
        assert_eq!(parse_u64(path, "max").unwrap(), u64::MAX);
        assert_eq!(parse_u64(path, "9223372036854771712").unwrap(), 9_223_372_036_854_771_712);
        assert_eq!(parse_u64(path, "-1").unwrap(), 0);
        assert!(parse_u64(path, "1x").is_err());
    }

    #[test]
    fn an_absent_file_is_none_and_an_unreadable_one_an_error() {
        assert!(read(Path::new("/nonexistent/file")).unwrap().is_none());
        assert!(matches!(read(Path::new("/")), Err(Error::Read { err: Errno::EISDIR, .. })));
    }
}
