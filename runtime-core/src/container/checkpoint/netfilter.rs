//! CRIU's locks of a network, removed: `table inet CRIU-…` of nftables, and the chain `CRIU` of iptables.

use std::io;
use std::process::Command;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};

use crate::program;

/// linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const SUBSYSTEM: u16 = 10;
const DELETE_TABLE: u16 = SUBSYSTEM << 8 | 2;
const FAMILY_INET: u8 = 1;
const TABLE_NAME: u16 = 1;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const HEADER: usize = 16;

/// Programs that speak for one protocol each.
const RESTORE: [&str; 2] = ["iptables-restore", "ip6tables-restore"];
/// Seconds for the lock that they share with others: the container is frozen meanwhile.
const WAIT: &str = "--wait=5";
/// For each of these programs: more than they wait for the lock.
const DEADLINE: Duration = Duration::from_secs(10);
const SAVE: [&str; 2] = ["iptables-save", "ip6tables-save"];
/// What CRIU tells them, as they save it, and what undoes it, in this order.
const UNDO: [(&str, &str); 3] = [
    ("-A INPUT -j CRIU", "-D INPUT -j CRIU\n"),
    ("-A OUTPUT -j CRIU", "-D OUTPUT -j CRIU\n"),
    (":CRIU ", "-F CRIU\n-X CRIU\n"),
];

/// In the caller's network namespace. It is no error if there is none, or no nftables.
pub(super) fn delete_table(name: &str) -> io::Result<()> {
    let protocol = Some(netlink::NETFILTER);
    let socket = match socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol) {
        Err(Errno::PROTONOSUPPORT) => return Ok(()),
        opened => opened?,
    };
    send(&socket, &batch(name), SendFlags::empty())?;
    let mut buffer = [0; 4096];
    loop {
        // The kernel has answered by the time that the request is sent.
        let length = match recv(&socket, &mut buffer[..], RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN) => return Ok(()),
            Err(Errno::INTR) => continue,
            received => received?.1,
        };
        let errno = buffer.get(HEADER..HEADER + 4).filter(|_| length >= HEADER + 4);
        let errno = errno.and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_ne_bytes);
        match errno.saturating_neg() {
            0 => {}
            // No such table; no such subsystem in this kernel.
            libc::ENOENT | libc::EINVAL | libc::EOPNOTSUPP => return Ok(()),
            err => return Err(io::Error::from_raw_os_error(err)),
        }
    }
}

/// A transaction of one request.
fn batch(name: &str) -> Vec<u8> {
    // The third part of the fixed part is in network order.
    let subsystem = SUBSYSTEM.to_be_bytes();
    let mut bytes = message(BATCH_BEGIN, REQUEST, &[0, 0, subsystem[0], subsystem[1]]);
    let mut body = vec![FAMILY_INET, 0, 0, 0];
    let length = 4 + name.len() + 1;
    body.extend(u16::try_from(length).unwrap_or(u16::MAX).to_ne_bytes());
    body.extend(TABLE_NAME.to_ne_bytes());
    body.extend(name.bytes());
    body.resize(4 + length.next_multiple_of(4), 0);
    bytes.extend(message(DELETE_TABLE, REQUEST | ACK, &body));
    bytes.extend(message(BATCH_END, REQUEST, &[0, 0, subsystem[0], subsystem[1]]));
    bytes
}

fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes
}

/// Of what iptables there is, where CRIU has told it something. The chain has one name whoever has made it: not to be called
/// where another CRIU may be at work.
pub(super) fn delete_chain() -> io::Result<()> {
    for (save, restore) in SAVE.into_iter().zip(RESTORE) {
        let saved = match run(Command::new(save).args(["-t", "filter"]), "") {
            Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
            saved => saved?,
        };
        let undo = undo(&saved);
        if !undo.is_empty() {
            let input = format!("*filter\n{undo}COMMIT\n");
            run(Command::new(restore).args([WAIT, "--noflush"]), &input)?;
        }
    }
    Ok(())
}

/// As far as it is there: CRIU may have been killed between two of its own.
fn undo(saved: &str) -> String {
    let is_there = |what: &str| saved.lines().any(|line| line.starts_with(what));
    UNDO.iter().filter(|(what, _)| is_there(what)).map(|(_, undo)| *undo).collect()
}

fn run(command: &mut Command, input: &str) -> io::Result<String> {
    let ended = program::run(command, input.as_bytes(), DEADLINE)?;
    let output = String::from_utf8_lossy(&ended.output).into_owned();
    match ended.code {
        0 => Ok(output),
        code => {
            let name = program::shown(command);
            Err(io::Error::other(format!("{name} ended with {code}: {}", output.trim_end())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_has_a_beginning_and_an_end() {
        let bytes = batch("CRIU-7");
        // 16 and 4 for each end; header, fixed part, and an attribute of 4 + 7 bytes, padded.
        assert_eq!(bytes.len(), 20 + (16 + 4 + 12) + 20);
        assert_eq!(bytes[4..6], BATCH_BEGIN.to_ne_bytes());
        assert_eq!(bytes[24..26], DELETE_TABLE.to_ne_bytes());
        assert_eq!(&bytes[44..51], b"CRIU-7\0");
    }

    #[test]
    fn only_what_is_there_is_undone() {
        let saved = "*filter\n:INPUT ACCEPT [0:0]\n:CRIU - [0:0]\n-A INPUT -j CRIU\n-A CRIU -j DROP\nCOMMIT\n";
        assert_eq!(undo(saved), "-D INPUT -j CRIU\n-F CRIU\n-X CRIU\n");
        assert_eq!(undo("*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n"), "");
    }

    #[test]
    fn a_program_that_fails_says_why() {
        let err = run(Command::new("sh").args(["-c", "echo no >&2; exit 3"]), "").unwrap_err();
        assert_eq!(err.to_string(), "sh ended with 3: no");
    }
}
