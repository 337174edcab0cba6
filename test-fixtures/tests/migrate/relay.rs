//! The wire: a socket in one node that leads to one in another.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use test_fixtures::Node;

/// In the source's node.
pub(crate) const NEAR: &str = "/run/peer.sock";
/// In the destination's.
pub(crate) const FAR: &str = "/run/rtc-migrate.sock";

/// Messages by their number in `stream.proto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Offer = 3,
    Want = 4,
    Ready = 7,
    TreeBegin = 8,
    TreeDone = 13,
    Restore = 14,
    Started = 15,
    Finish = 16,
    Finished = 17,
    PagesWanted = 23,
    Arrived = 25,
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Passes,
    /// It is lost, and so is the connection.
    Lost,
}

/// Is asked about every message, by its number, and how many of its kind have passed.
pub(crate) type Judge = Arc<dyn Fn(u64, usize) -> Fate + Send + Sync>;

/// Ends when it is dropped; connections that are there go on.
pub(crate) struct Relay {
    path: PathBuf,
}

impl Relay {
    pub(crate) fn start(from: &Node, to: &Node, judge: Judge) -> Self {
        let (path, far) = (from.path(NEAR), to.path(FAR));
        std::fs::remove_file(&path).ok();
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let Ok(near) = near else { return };
                // Nobody listens: the connection ends at once.
                let Ok(far) = UnixStream::connect(&far) else { continue };
                let seen: Arc<Mutex<Vec<u64>>> = Arc::default();
                for (one, other) in [(&near, &far), (&far, &near)] {
                    let (one, other) = (one.try_clone().unwrap(), other.try_clone().unwrap());
                    let (judge, seen) = (judge.clone(), seen.clone());
                    std::thread::spawn(move || {
                        pass_on(&one, &other, &judge, &seen).ok();
                        one.shutdown(Shutdown::Both).ok();
                        other.shutdown(Shutdown::Both).ok();
                    });
                }
            }
        });
        Self { path }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).ok();
    }
}

fn pass_on(mut from: &UnixStream, mut to: &UnixStream, judge: &Judge, seen: &Mutex<Vec<u64>>) -> io::Result<()> {
    loop {
        let mut header = [0; 12];
        from.read_exact(&mut header)?;
        let [_, _, kind, _, l0, l1, l2, l3, ..] = header;
        let length = usize::try_from(u32::from_be_bytes([l0, l1, l2, l3])).unwrap();
        let mut payload = vec![0; length];
        from.read_exact(&mut payload)?;
        if kind == 1 {
            let number = number(&payload);
            let before = {
                let mut seen = seen.lock().unwrap();
                seen.push(number);
                seen.iter().filter(|other| **other == number).count() - 1
            };
            if judge(number, before) == Fate::Lost {
                return Ok(());
            }
        }
        to.write_all(&header)?;
        to.write_all(&payload)?;
    }
}

/// The first field's number, which is the message's: a protobuf tag.
fn number(payload: &[u8]) -> u64 {
    let mut tag = 0;
    for (at, byte) in payload.iter().enumerate() {
        tag |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            break;
        }
    }
    tag >> 3
}
