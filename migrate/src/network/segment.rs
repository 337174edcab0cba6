//! TCP segments in the packets that carried them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const TCP: u8 = 6;
/// Offset of the checksum in a TCP header, and the header's least length.
const CHECKSUM: usize = 16;
const LEAST: usize = 20;

/// An IP packet with one TCP segment for this host, complete with its checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    bytes: Vec<u8>,
    to: IpAddr,
}

impl Segment {
    /// `None` for what is no whole TCP segment from elsewhere, and for one that was damaged.
    pub(crate) fn parse(mut bytes: Vec<u8>) -> Option<Self> {
        let (header, length, from, to) = match bytes.first()? >> 4 {
            4 => version_4(&bytes)?,
            6 => version_6(&bytes)?,
            _ => return None,
        };
        if from == to || from.is_loopback() || from.is_unspecified() {
            return None;
        }
        // A short frame was filled up on its way.
        bytes.truncate(header + length);
        if bytes.len() != header + length || length < LEAST {
            return None;
        }
        complete(bytes.get_mut(header..)?, pseudo_header(from, to, length))?;
        Some(Self { bytes, to })
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// A raw socket takes the address and, of version 6, no port.
    pub(crate) fn to(&self) -> SocketAddr {
        SocketAddr::new(self.to, 0)
    }
}

/// Lengths of the header and of the segment, and the addresses (RFC 791).
fn version_4(bytes: &[u8]) -> Option<(usize, usize, IpAddr, IpAddr)> {
    let header = usize::from(bytes.first()? & 0xf) * 4;
    let total = usize::from(be16(bytes, 2)?);
    let fragment = be16(bytes, 6)? & 0x3fff;
    if *bytes.get(9)? != TCP || fragment != 0 || header < 20 {
        return None;
    }
    let address = |at: usize| -> Option<IpAddr> {
        Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?).into())
    };
    Some((header, total.checked_sub(header)?, address(12)?, address(16)?))
}

/// Without extension headers (RFC 8200), which TCP's packets do not have in practice.
fn version_6(bytes: &[u8]) -> Option<(usize, usize, IpAddr, IpAddr)> {
    if *bytes.get(6)? != TCP {
        return None;
    }
    let address = |at: usize| -> Option<IpAddr> {
        Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok()?).into())
    };
    Some((40, usize::from(be16(bytes, 4)?), address(8)?, address(24)?))
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// A packet of this very host has not been summed up yet: its checksum is that of the pseudo header, for a device to go on.
fn complete(segment: &mut [u8], pseudo: u64) -> Option<()> {
    let sum = fold(pseudo + sum(segment));
    if sum == 0xffff {
        return Some(());
    }
    let found = be16(segment, CHECKSUM)?;
    if found != fold(pseudo) {
        return None;
    }
    segment.get_mut(CHECKSUM..CHECKSUM + 2)?.fill(0);
    let whole = !fold(pseudo + self::sum(segment));
    segment.get_mut(CHECKSUM..CHECKSUM + 2)?.copy_from_slice(&whole.to_be_bytes());
    Some(())
}

fn pseudo_header(from: IpAddr, to: IpAddr, length: usize) -> u64 {
    let address = |address| match address {
        IpAddr::V4(address) => sum(&address.octets()),
        IpAddr::V6(address) => sum(&address.octets()),
    };
    address(from) + address(to) + u64::from(TCP) + u64::try_from(length).unwrap_or_default()
}

/// Of 16 bits each, with the last byte padded (RFC 1071).
fn sum(bytes: &[u8]) -> u64 {
    let (pairs, rest) = bytes.as_chunks::<2>();
    let pairs: u64 = pairs.iter().map(|pair| u64::from(u16::from_be_bytes(*pair))).sum();
    pairs + rest.first().map_or(0, |last| u64::from(*last) << 8)
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With `data` behind a header that says `checksum`.
    fn packet(from: [u8; 4], data: &[u8], checksum: u16) -> Vec<u8> {
        let total = u16::try_from(40 + data.len()).unwrap().to_be_bytes();
        let mut bytes = vec![0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, TCP, 0, 0];
        bytes.extend(from);
        bytes.extend([10, 0, 0, 2]);
        bytes.extend([0x1b, 0x58, 0x1b, 0x59, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 1, 0]);
        bytes.extend(checksum.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(data);
        bytes
    }

    const CLIENT: [u8; 4] = [10, 0, 0, 1];

    fn pseudo(data: &[u8]) -> u64 {
        pseudo_header(Ipv4Addr::from(CLIENT).into(), Ipv4Addr::new(10, 0, 0, 2).into(), 20 + data.len())
    }

    #[test]
    fn a_sum_that_a_device_was_to_end_is_ended() {
        for data in [b"even".as_slice(), b"odd", b""] {
            let begun = packet(CLIENT, data, fold(pseudo(data)));
            let segment = Segment::parse(begun).unwrap();
            assert_eq!(fold(pseudo(data) + sum(&segment.bytes()[20..])), 0xffff);
            assert_eq!(Segment::parse(segment.bytes().to_vec()).unwrap(), segment);
            assert_eq!(segment.to(), "10.0.0.2:0".parse().unwrap());
        }
    }

    #[test]
    fn what_is_damaged_or_no_segment_from_elsewhere_is_left_out() {
        let good = packet(CLIENT, b"data", fold(pseudo(b"data")));
        let changed = |at: usize, to: u8| {
            let mut bytes = Segment::parse(good.clone()).unwrap().into_bytes();
            bytes[at] = to;
            Segment::parse(bytes)
        };
        assert_eq!(changed(41, b'x'), None, "the data");
        assert_eq!(changed(9, 17), None, "UDP");
        assert_eq!(changed(6, 0x20), None, "a fragment");
        assert_eq!(Segment::parse(good[..42].to_vec()), None, "cut off");
        for own in [[10, 0, 0, 2], [127, 0, 0, 1]] {
            assert_eq!(Segment::parse(packet(own, b"", 0)), None);
        }
        let padded = [good.as_slice(), &[0; 20]].concat();
        assert_eq!(Segment::parse(padded), Segment::parse(good));
    }

    #[test]
    fn version_6_has_a_longer_header() {
        let (from, to) = ([0xfd; 16], [0xfe; 16]);
        let mut bytes = vec![0x60, 0, 0, 0, 0, 20, TCP, 64];
        bytes.extend(from);
        bytes.extend(to);
        bytes.extend([0, 1, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 1, 0]);
        let partial = fold(pseudo_header(Ipv6Addr::from(from).into(), Ipv6Addr::from(to).into(), 20));
        bytes.extend(partial.to_be_bytes());
        bytes.extend([0, 0]);
        assert_eq!(Segment::parse(bytes).unwrap().to().ip(), Ipv6Addr::from(to));
    }

    proptest::proptest! {
        #[test]
        fn no_packet_does_harm(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..100)) {
            if let Some(segment) = Segment::parse(bytes) {
                assert_eq!(Segment::parse(segment.bytes().to_vec()), Some(segment));
            }
        }
    }
}
