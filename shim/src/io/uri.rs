//! containerd's names for the ends of a process's stdio: a path of a fifo, or `fifo://`, `file://` or `binary://`.
//!
//! For `binary://PATH?KEY=VALUE…` the query becomes the logger's arguments, each key followed by its value, and
//! `env.NAME=VALUE` its environment (containerd's `NewBinaryCmd`).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use super::error::{Error, Stream};

/// Where a stream comes from or goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Null,
    /// A fifo made by containerd, or whatever else is found there.
    Path(PathBuf),
    File(PathBuf),
    Binary(Program),
}

/// A logger's command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Program {
    pub(super) path: PathBuf,
    pub(super) args: Vec<OsString>,
    pub(super) env: Vec<(OsString, OsString)>,
}

impl Target {
    pub(super) fn parse(stream: Stream, uri: &str) -> Result<Self, Error> {
        let refuse = |reason| Err(Error::Uri { stream, uri: uri.to_owned(), reason });
        if uri.contains('\0') || uri.contains("%00") {
            return refuse("it contains a null byte");
        }
        let Some((scheme, rest)) = uri.split_once("://") else {
            return match uri {
                "" => Ok(Self::Null),
                path if path.starts_with('/') => Ok(Self::Path(path.into())),
                _ => refuse("neither an absolute path nor a URI"),
            };
        };
        if !rest.starts_with('/') {
            return refuse("its path is not absolute");
        }
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = PathBuf::from(decode(path, false));
        match scheme {
            "fifo" => Ok(Self::Path(path)),
            "file" => Ok(Self::File(path)),
            "binary" => Ok(Self::Binary(Program::parse(path, query))),
            _ => refuse("unknown scheme; fifo, file and binary are known"),
        }
    }
}

impl Program {
    fn parse(path: PathBuf, query: &str) -> Self {
        let mut program = Self { path, args: Vec::new(), env: Vec::new() };
        let mut seen = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            // Of a key that is given twice, the first value counts.
            if seen.contains(&key) {
                continue;
            }
            seen.push(key);
            let value = decode(value, true);
            match key.strip_prefix("env.") {
                Some(name) => program.env.push((decode(name, true), value)),
                None => program.args.extend([decode(key, true), value]),
            }
        }
        program
    }
}

/// Undoes percent-encoding; a `%` that begins no escape stands for itself. In a query `+` is a space.
fn decode(text: &str, query: bool) -> OsString {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = bytes.get(at + 1..at + 3).and_then(|hex| Some((digit(hex[0])?, digit(hex[1])?)));
        match (bytes[at], escape) {
            (b'%', Some((high, low))) => {
                out.push(high << 4 | low);
                at += 2;
            }
            (b'+', _) if query => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    OsString::from_vec(out)
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

/// Standard output's, which may be anything.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(uri: &str) {
    let Ok(target) = Target::parse(Stream::Stdout, uri) else { return };
    let path = match &target {
        Target::Null => return,
        Target::Path(path) | Target::File(path) => path,
        Target::Binary(program) => &program.path,
    };
    assert!(path.is_absolute(), "{target:?}");
    assert!(!path.as_os_str().as_encoded_bytes().contains(&0), "{target:?}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(uri: &str) -> Target {
        Target::parse(Stream::Stdout, uri).unwrap()
    }

    #[test]
    fn paths_and_uris_are_told_apart() {
        assert_eq!(parse(""), Target::Null);
        assert_eq!(parse("/run/fifo/1-stdout"), Target::Path("/run/fifo/1-stdout".into()));
        assert_eq!(parse("fifo:///run/a"), Target::Path("/run/a".into()));
        assert_eq!(parse("file:///var/log/a%20b.log"), Target::File("/var/log/a b.log".into()));
    }

    #[test]
    fn a_query_becomes_arguments_and_environment() {
        let Target::Binary(program) = parse("binary:///bin/log?--dir=%2Ftmp+x&-v&env.LEVEL=5&--dir=again") else {
            panic!("not a binary")
        };
        assert_eq!(program.path, PathBuf::from("/bin/log"));
        assert_eq!(program.args, ["--dir", "/tmp x", "-v", ""]);
        assert_eq!(program.env, [("LEVEL".into(), "5".into())]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        for (uri, word) in [
            ("run/fifo", "absolute"),
            ("file://log", "absolute"),
            ("file://", "absolute"),
            ("npipe:///x", "scheme"),
            ("file:///a%00b", "null"),
        ] {
            let message = Target::parse(Stream::Stderr, uri).unwrap_err().to_string();
            assert!(message.contains(word) && message.contains("stderr") && message.contains(uri), "{message}");
        }
    }

    #[test]
    fn a_percent_sign_that_begins_no_escape_stays() {
        assert_eq!(decode("100%", false), "100%");
        assert_eq!(decode("%zz+%4", false), "%zz+%4");
        assert_eq!(decode("%c3%a9", false), "é");
    }
}
