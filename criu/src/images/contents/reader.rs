//! Reads entry after entry, and notes what cannot be read.

use std::path::Path;

use prost::Message;
use serde::Serialize;

use super::super::image::{COMMON, Image};
use super::super::{Error, read_inventory};
use super::Kind;

/// Bytes of entries that are kept in memory; a container with ten thousand processes has a few MiB of them.
const LIMIT: u64 = 64 << 20;

/// A directory that has more of them is not worth reading on.
const MOST_PROBLEMS: usize = 100;

/// What is wrong with a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// `None` for the directory as a whole.
    pub file: Option<String>,
    /// Where in the file, in bytes.
    pub offset: Option<u64>,
    pub reason: String,
}

/// Whether a file that is not there is a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needed {
    Yes,
    No,
}

#[derive(Debug)]
pub(super) struct Reader<'a> {
    pub(super) dir: &'a Path,
    pub(super) common: &'static [u32],
    left: u64,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(dir: &'a Path) -> Self {
        Self { dir, common: &[COMMON], left: LIMIT, problems: Vec::new() }
    }

    /// The format; without it the files are taken for those of all CRIUs since 2015. CRIU tells none for a pre-dump.
    pub(super) fn inventory(&mut self, kind: Kind) -> Option<u32> {
        match read_inventory(self.dir) {
            Err(Error::Format { found: 0 }) if kind == Kind::PreDump => None,
            Ok((inventory, common)) => {
                self.common = common;
                Some(inventory.img_version)
            }
            Err(err) => {
                self.note(&err);
                None
            }
        }
    }

    /// Calls `take` for each entry of a file that can be read.
    pub(super) fn each<M: Message + Default>(
        &mut self,
        name: &str,
        magic: u32,
        needed: Needed,
        mut take: impl FnMut(M),
    ) {
        let read = self.read(name, magic, |reader, image| {
            while let Some((entry, length)) = image.next_with_length()? {
                reader.keep(name, length)?;
                take(entry);
            }
            Ok(())
        });
        self.noted(read, needed);
    }

    /// The first entry.
    pub(super) fn first<M: Message + Default>(&mut self, name: &str, magic: u32, needed: Needed) -> Option<M> {
        let read = self.read(name, magic, |_, image| match image.next()? {
            Some(entry) => Ok(entry),
            None => Err(image.damaged("it is empty")),
        });
        self.noted(read, needed)
    }

    /// Does something else with a file.
    pub(super) fn read<T>(
        &mut self,
        name: &str,
        magic: u32,
        read: impl FnOnce(&mut Self, &mut Image) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut image = Image::open(self.dir, name, &[self.common, &[magic]].concat())?;
        read(self, &mut image)
    }

    pub(super) fn noted<T>(&mut self, read: Result<T, Error>, needed: Needed) -> Option<T> {
        match read {
            Ok(value) => Some(value),
            Err(Error::Missing { .. }) if needed == Needed::No => None,
            Err(err) => {
                self.note(&err);
                None
            }
        }
    }

    /// Counts what is kept.
    pub(super) fn keep(&mut self, file: &str, bytes: u64) -> Result<(), Error> {
        match self.left.checked_sub(bytes) {
            Some(left) => self.left = left,
            None => return Err(Error::TooMuch { file: file.to_owned(), limit: LIMIT }),
        }
        Ok(())
    }

    /// There is no sense in reading on.
    pub(super) fn gives_up(&self) -> bool {
        self.problems.len() >= MOST_PROBLEMS
    }

    fn note(&mut self, err: &Error) {
        if self.gives_up() {
            return;
        }
        let messages = std::iter::successors(Some(err as &dyn std::error::Error), |err| err.source());
        let whole = || messages.map(ToString::to_string).collect::<Vec<_>>().join(": ");
        self.problems.push(match err {
            Error::Damaged { file, offset, reason } => {
                Problem { file: Some(file.clone()), offset: Some(*offset), reason: (*reason).to_owned() }
            }
            Error::Missing { file } => {
                Problem { file: Some(file.clone()), offset: None, reason: "it is missing".to_owned() }
            }
            Error::Io { file, .. } | Error::TooMuch { file, .. } => {
                Problem { file: Some(file.clone()), offset: None, reason: whole() }
            }
            Error::Format { .. } | Error::Descriptors(_) => Problem { file: None, offset: None, reason: whole() },
        });
    }

    pub(super) fn into_problems(mut self) -> Vec<Problem> {
        if self.gives_up() {
            let reason = "it has more problems than these, and what followed them was not read".to_owned();
            self.problems.push(Problem { file: None, offset: None, reason });
        }
        self.problems
    }
}

/// Names are what a program chose; without the NUL bytes that some have at their end.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
