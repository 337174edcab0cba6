//! The few requests of rtnetlink(7) that moving a network device takes.
//!
//! A message is a header, a fixed part for its kind, and attributes, each padded to four bytes, all in the machine's order.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
const ERROR: u16 = 2;
const DONE: u16 = 3;

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;

const HEADER: usize = 16;
const LINK_PART: usize = 16;
const ADDRESS_PART: usize = 8;

/// linux/if_link.h
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
/// linux/if_addr.h
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 0x02;
const IFA_F_PERMANENT: u32 = 0x80;
const IFA_F_NOPREFIXROUTE: u32 = 0x200;
const SCOPE_GLOBAL: u8 = 0;

const UP: u32 = libc::IFF_UP as u32;
/// What the kernel sends at once at the most.
const LONGEST: usize = 32 << 10;

/// A socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: OwnedFd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) up: bool,
}

/// A global, permanent address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    family: u8,
    prefix: u8,
    flags: u32,
    /// IFA_LOCAL, IFA_ADDRESS and IFA_BROADCAST, as far as it has them.
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Netlink {
    pub(crate) fn open() -> Result<Self, Errno> {
        // Protocol 0 is NETLINK_ROUTE.
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        Ok(Self { socket })
    }

    /// # Errors
    /// ENODEV when there is none of this name.
    pub(crate) fn link(&self, name: &str) -> Result<Link, Errno> {
        let mut request = Message::new(GET_LINK, REQUEST | ACK, &[0; LINK_PART]);
        request.attribute(IFLA_IFNAME, &terminated(name));
        let mut found = None;
        self.ask(request, |kind, body| {
            if kind == NEW_LINK {
                found = word(body, 4).zip(word(body, 8));
            }
        })?;
        let (index, flags) = found.ok_or(Errno::NODEV)?;
        Ok(Link { index, up: flags & UP != 0 })
    }

    pub(crate) fn addresses(&self, index: u32) -> Result<Vec<Address>, Errno> {
        let mut found = Vec::new();
        self.ask(Message::new(GET_ADDRESS, REQUEST | DUMP, &[0; ADDRESS_PART]), |kind, body| {
            if kind == NEW_ADDRESS && word(body, 4) == Some(index) {
                found.extend(Address::parse(body));
            }
        })?;
        Ok(found)
    }

    /// Gives the device another name in another namespace. It loses its addresses, and is down there.
    pub(crate) fn move_link(&self, index: u32, name: &str, namespace: BorrowedFd<'_>) -> Result<(), Errno> {
        let mut request = Message::new(NEW_LINK, REQUEST | ACK, &link_part(index, 0));
        request.attribute(IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
        request.attribute(IFLA_IFNAME, &terminated(name));
        self.ask(request, |_, _| {})
    }

    pub(crate) fn up(&self, index: u32) -> Result<(), Errno> {
        self.ask(Message::new(NEW_LINK, REQUEST | ACK, &link_part(index, UP)), |_, _| {})
    }

    pub(crate) fn add_address(&self, index: u32, address: &Address) -> Result<(), Errno> {
        let mut part = [address.family, address.prefix, 0, SCOPE_GLOBAL, 0, 0, 0, 0];
        part[4..].copy_from_slice(&index.to_ne_bytes());
        let mut request = Message::new(NEW_ADDRESS, REQUEST | ACK | CREATE, &part);
        request.attribute(IFA_FLAGS, &address.flags.to_ne_bytes());
        for (kind, value) in &address.attributes {
            request.attribute(*kind, value);
        }
        match self.ask(request, |_, _| {}) {
            // The kernel has made it itself meanwhile.
            Err(Errno::EXIST) => Ok(()),
            other => other,
        }
    }

    /// Sends a request and reads until the kernel has said all to it.
    fn ask(&self, request: Message, mut answer: impl FnMut(u16, &[u8])) -> Result<(), Errno> {
        send(&self.socket, &request.finish(), SendFlags::empty())?;
        let mut buffer = vec![0; LONGEST];
        loop {
            let (_, length) = match recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                Err(Errno::INTR) => continue,
                received => received?,
            };
            if messages(buffer.get(..length).ok_or(Errno::MSGSIZE)?, &mut answer)? {
                return Ok(());
            }
        }
    }
}

/// Takes a datagram apart; `true` if the kernel has said all with it.
fn messages(datagram: &[u8], answer: &mut impl FnMut(u16, &[u8])) -> Result<bool, Errno> {
    let mut left = datagram;
    while !left.is_empty() {
        let length = word(left, 0).ok_or(Errno::BADMSG)? as usize;
        let kind = half(left, 4).ok_or(Errno::BADMSG)?;
        let body = left.get(HEADER..length).ok_or(Errno::BADMSG)?;
        match kind {
            ERROR => return status(word(body, 0).ok_or(Errno::BADMSG)?).map(|()| true),
            DONE => return Ok(true),
            kind => answer(kind, body),
        }
        left = left.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// Every message, whatever its kind, as an address and as a link.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(datagram: &[u8]) {
    let mut found = |_: u16, body: &[u8]| {
        let address = Address::parse(body);
        for (_, value) in address.iter().flat_map(|address| &address.attributes) {
            assert!(value.len() < body.len(), "an attribute is longer than what it came in");
        }
        assert_eq!(word(body, 4).zip(word(body, 8)).is_some(), body.len() >= 12);
    };
    // What is no message is an error, and no more.
    messages(datagram, &mut found).ok();
}

/// The kernel's negative errno, or 0.
fn status(word: u32) -> Result<(), Errno> {
    match word.cast_signed() {
        0 => Ok(()),
        errno => Err(crate::sys::errno::told(errno.wrapping_neg())),
    }
}

impl Address {
    /// `None` for one that is not for ever, or not for the whole world: the kernel makes it anew, or nobody wants it.
    fn parse(body: &[u8]) -> Option<Self> {
        let &[family, prefix, flags, scope, ..] = body else { return None };
        let mut flags = u32::from(flags);
        let mut attributes = Vec::new();
        let mut left = body.get(ADDRESS_PART..)?;
        while left.len() >= 4 {
            let length = usize::from(half(left, 0)?);
            let (kind, value) = (half(left, 2)?, left.get(4..length)?);
            match kind {
                IFA_FLAGS => flags = word(value, 0)?,
                IFA_LOCAL | IFA_ADDRESS | IFA_BROADCAST => attributes.push((kind, value.to_vec())),
                _ => {}
            }
            left = left.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        let lasting = flags & IFA_F_PERMANENT != 0 && scope == SCOPE_GLOBAL;
        lasting.then_some(Self { family, prefix, flags: flags & (IFA_F_NODAD | IFA_F_NOPREFIXROUTE), attributes })
    }
}

/// A message while it is put together.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16, part: &[u8]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        // The sequence number and the port: one request at a time on a socket of its own needs neither.
        bytes.extend([0; 8]);
        bytes.extend(part);
        Self(bytes)
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

/// `struct ifinfomsg`; `flags` are set, and no other changes.
fn link_part(index: u32, flags: u32) -> [u8; LINK_PART] {
    let mut part = [0; LINK_PART];
    part[4..8].copy_from_slice(&index.to_ne_bytes());
    part[8..12].copy_from_slice(&flags.to_ne_bytes());
    part[12..].copy_from_slice(&flags.to_ne_bytes());
    part
}

fn terminated(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_device_is_found_and_no_other() {
        let netlink = Netlink::open().unwrap();
        let lo = netlink.link("lo").unwrap();
        assert_eq!(lo.index, 1);
        // Of the host's scope alone.
        assert_eq!(netlink.addresses(lo.index).unwrap().iter().filter(|one| one.family == 10).count(), 0);
        assert_eq!(netlink.link("no-such-device"), Err(Errno::NODEV));
    }

    #[test]
    fn an_error_is_the_kernels_number_or_none() {
        let answer = |errno: i32| {
            let mut message = Message::new(ERROR, 0, &errno.to_ne_bytes());
            message.0.resize(36, 0);
            messages(&message.finish(), &mut |_, _| {})
        };
        assert_eq!(answer(0), Ok(true));
        assert_eq!(answer(-libc::ENODEV), Err(Errno::NODEV));
        for number in [7, -5000, i32::MIN, i32::MAX] {
            assert_eq!(answer(number), Err(Errno::IO), "{number}");
        }
    }

    #[test]
    fn an_address_is_kept_if_it_is_for_ever_and_global() {
        let mut body = vec![2, 24, 0, SCOPE_GLOBAL];
        body.extend(7u32.to_ne_bytes());
        let mut message = Message(body);
        message.attribute(IFA_LOCAL, &[10, 0, 0, 1]);
        message.attribute(3, b"eth0\0");
        message.attribute(IFA_FLAGS, &(IFA_F_PERMANENT | IFA_F_NOPREFIXROUTE).to_ne_bytes());
        let attributes = vec![(IFA_LOCAL, vec![10, 0, 0, 1])];
        let expected = Address { family: 2, prefix: 24, flags: IFA_F_NOPREFIXROUTE, attributes };
        assert_eq!(Address::parse(&message.0), Some(expected));
        message.0[3] = 253;
        assert_eq!(Address::parse(&message.0), None);
        assert_eq!(Address::parse(&[2, 24]), None);
    }
}
