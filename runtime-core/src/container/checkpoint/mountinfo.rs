//! `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// One mount, as the process sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) id: u64,
    /// What of the filesystem is mounted.
    pub(super) root: PathBuf,
    pub(super) point: PathBuf,
    pub(super) fs: String,
    /// The superblock's; they name the controllers of a cgroup v1 hierarchy.
    pub(super) super_options: String,
}

/// The mounts in the order of the file; a line that is not one is left out.
pub(super) fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|&byte| byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let (_parent, _device) = (fields.next()?, fields.next()?);
    let (root, point) = (unescape(fields.next()?), unescape(fields.next()?));
    // Options, and any number of optional fields.
    let mut rest = fields.skip_while(|&field| field != b"-").skip(1);
    let fs = String::from_utf8_lossy(rest.next()?).into_owned();
    let _source = rest.next()?;
    let super_options = String::from_utf8_lossy(rest.next().unwrap_or_default()).into_owned();
    Some(Mount { id, root, point, fs, super_options })
}

/// Space, tab, newline and backslash are written in octal.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match octal {
            Some(value) if byte == b'\\' => {
                bytes.push(value);
                rest = &after[3..];
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_optional_fields_and_escapes_is_read() {
        let text =
            b"36 35 98:0 /mnt1 /a\\040b rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue\nnonsense\n";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 1);
        assert_eq!((mounts[0].id, mounts[0].fs.as_str()), (36, "ext3"));
        assert_eq!((mounts[0].root.to_str(), mounts[0].point.to_str()), (Some("/mnt1"), Some("/a b")));
        assert_eq!(mounts[0].super_options, "rw,errors=continue");
    }

    #[test]
    fn our_own_mounts_are_read() {
        let text = std::fs::read("/proc/self/mountinfo").unwrap();
        let mounts = parse(&text);
        assert_eq!(mounts.len(), text.split(|&b| b == b'\n').filter(|line| !line.is_empty()).count());
        assert!(mounts.iter().any(|mount| mount.fs == "proc"));
    }
}
