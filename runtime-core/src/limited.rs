//! Reading files that somebody else has written: whole, or not at all when there is more than anybody means to write.
//!
//! What is read goes into memory, and a file can be without an end (`/dev/zero`).

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

/// Bytes of a `config.json`, or another document of JSON. containerd's messages, in which specs come, are at most as long.
pub(crate) const DOCUMENT: usize = 16 << 20;

/// # Errors
/// [`ErrorKind::FileTooLarge`] for one that is longer than `limit` bytes.
pub(crate) fn read(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    read_open(File::open(path)?, limit)
}

/// The same of a file that is open, from where it is.
pub(crate) fn read_open(file: File, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        return Err(io::Error::new(ErrorKind::FileTooLarge, format!("it is longer than {limit} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_an_end_is_an_error() {
        let error = read(Path::new("/dev/zero"), 4096).unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (ErrorKind::FileTooLarge, "it is longer than 4096 bytes")
        );
    }

    #[test]
    fn the_longest_is_read_whole() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [7; 4096]).unwrap();
        assert_eq!(read(file.path(), 4096).unwrap(), [7; 4096]);
        assert!(read(file.path(), 4095).is_err());
    }
}
