//! A network namespace that takes nothing in: a table of nftables that drops what comes.
//!
//! A segment for a socket that is not restored yet would be answered with a reset, which ends the connection. CRIU locks the
//! network of a dump, and not that of a restore into a namespace that somebody else has made.
//!
//! The table belongs to the socket that has made it (`NFT_TABLE_F_OWNER`, Linux 5.12) and goes with it, however this process
//! ends. What is sent is let through: there is nobody to send before the container runs.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};

use super::inside;

/// linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const SUBSYSTEM: u16 = 10;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const DELETE_TABLE: u16 = SUBSYSTEM << 8 | 2;
const NEW_CHAIN: u16 = SUBSYSTEM << 8 | 3;
const FAMILY_INET: u8 = 1;
const TABLE_NAME: u16 = 1;
const TABLE_FLAGS: u16 = 2;
const OWNER: u32 = 2;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const LOCAL_IN: u32 = 1;
const DROP: u32 = 0;
const NESTED: u16 = 1 << 15;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x400;
const HEADER: usize = 16;

/// Dropping it unlocks too, if slower.
#[derive(Debug)]
pub(crate) struct Lock {
    socket: OwnedFd,
    table: String,
}

impl Lock {
    /// `name` is one that no other table has.
    pub(crate) fn new(netns: &File, name: &str) -> io::Result<Self> {
        let (table, protocol) = (name.to_owned(), Some(netlink::NETFILTER));
        let open = || Ok(socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?);
        let lock = Self { socket: inside(netns, open)?, table };
        let owned = [text(TABLE_NAME, &lock.table), number(TABLE_FLAGS, OWNER)].concat();
        let hook = [number(HOOK_NUMBER, LOCAL_IN), number(HOOK_PRIORITY, 0)].concat();
        let chain = [
            text(CHAIN_TABLE, &lock.table),
            text(CHAIN_NAME, "input"),
            attribute(CHAIN_HOOK | NESTED, &hook),
            number(CHAIN_POLICY, DROP),
            text(CHAIN_TYPE, "filter"),
        ];
        lock.commit(&[(NEW_TABLE, CREATE, owned), (NEW_CHAIN, CREATE, chain.concat())])?;
        Ok(lock)
    }

    pub(crate) fn unlock(self) -> io::Result<()> {
        self.commit(&[(DELETE_TABLE, 0, text(TABLE_NAME, &self.table))])
    }

    /// All of it or nothing.
    fn commit(&self, requests: &[(u16, u16, Vec<u8>)]) -> io::Result<()> {
        let [high, low] = SUBSYSTEM.to_be_bytes();
        let mut bytes = message(BATCH_BEGIN, REQUEST, &[0, 0, high, low]);
        for (kind, flags, attributes) in requests {
            bytes.extend(message(
                *kind,
                REQUEST | ACK | flags,
                &[&[FAMILY_INET, 0, 0, 0], attributes.as_slice()].concat(),
            ));
        }
        bytes.extend(message(BATCH_END, REQUEST, &[0, 0, high, low]));
        send(&self.socket, &bytes, SendFlags::empty())?;
        let mut buffer = [0; 8192];
        loop {
            // The kernel has answered by the time that the request is sent.
            match recv(&self.socket, buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
                Ok((_, length)) => answer(buffer.get(..length).unwrap_or_default())?,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(err) => return Err(err.into()),
            }
        }
    }
}

/// The errors of an answer; 0 is none.
fn answer(bytes: &[u8]) -> io::Result<()> {
    let errno = bytes.get(HEADER..HEADER + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_ne_bytes);
    if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno.saturating_neg())) }
}

fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 8], body].concat()
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len();
    let mut bytes = u16::try_from(length).unwrap_or(u16::MAX).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}

fn text(kind: u16, text: &str) -> Vec<u8> {
    attribute(kind, &[text.as_bytes(), &[0]].concat())
}

/// In network order, as all numbers of this subsystem.
fn number(kind: u16, number: u32) -> Vec<u8> {
    attribute(kind, &number.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_is_padded_and_its_length_is_not() {
        let bytes = text(TABLE_NAME, "rtc");
        assert_eq!(bytes, [&8_u16.to_ne_bytes()[..], &1_u16.to_ne_bytes(), b"rtc\0"].concat());
        assert_eq!(text(TABLE_NAME, "rtc-m").len(), 12);
        assert_eq!(number(CHAIN_POLICY, 7)[4..], [0, 0, 0, 7]);
    }

    #[test]
    fn a_refusal_has_its_reason() {
        let refusal = message(2, 0, &(-17_i32).to_ne_bytes());
        assert_eq!(answer(&refusal).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert!(answer(&message(2, 0, &0_i32.to_ne_bytes())).is_ok());
    }
}
