//! Where systemd and the bus that it is on listen.
//!
//! The host's own systemd has fixed places. That of a user listens below the user's `XDG_RUNTIME_DIR`, and its bus there too
//! if `DBUS_SESSION_BUS_ADDRESS` names no other, in the form of the D-Bus specification ("Server Addresses"). As with
//! systemctl(1), systemd's own socket goes first.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use serde::{Deserialize, Serialize};

use super::Error;

const RUNTIME_DIR: &str = "XDG_RUNTIME_DIR";
const BUS_ADDRESS: &str = "DBUS_SESSION_BUS_ADDRESS";

const SYSTEM: &str = "/run/systemd/private";

/// Which systemd makes the units.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Bus {
    /// The host's own.
    System,
    /// The calling user's (systemd(1), `--user`), which has a part of cgroup v2 delegated to it.
    User,
}

/// Paths; one in the abstract namespace starts with `@`, as ss(8) shows it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sockets {
    /// systemd's own.
    pub(super) own: Option<PathBuf>,
    /// Of the bus: the first that can be reached is taken.
    pub(super) bus: Vec<PathBuf>,
}

impl Bus {
    /// Whose the containers of this process are to be when nobody says it, as runc decides: root's are the system's. Root
    /// of a user namespace is a user as any other if the host's systemd is not its own to speak to.
    pub fn of_caller() -> Self {
        let root = rustix::process::geteuid().is_root();
        match root && (!crate::caller::in_user_namespace() || access(SYSTEM, Access::WRITE_OK).is_ok()) {
            true => Self::System,
            false => Self::User,
        }
    }

    pub(super) fn sockets(self) -> Result<Sockets, Error> {
        match self {
            Self::System => Ok(Sockets { own: Some(SYSTEM.into()), bus: vec!["/run/dbus/system_bus_socket".into()] }),
            Self::User => Sockets::of_user(given(RUNTIME_DIR), given(BUS_ADDRESS)),
        }
    }
}

fn given(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

impl Sockets {
    fn of_user(runtime_dir: Option<OsString>, address: Option<OsString>) -> Result<Self, Error> {
        let runtime_dir = runtime_dir.as_ref().map(Path::new);
        let own = runtime_dir.map(|dir| dir.join("systemd/private"));
        let bus = match address {
            Some(address) => parse(&address)?,
            None => runtime_dir.map(|dir| dir.join("bus")).into_iter().collect(),
        };
        if own.is_none() && bus.is_empty() { Err(Error::NoUser) } else { Ok(Self { own, bus }) }
    }
}

/// The unix sockets of a list of addresses: `unix:path=/run/user/7/bus,guid=…;unix:abstract=…`.
fn parse(addresses: &OsStr) -> Result<Vec<PathBuf>, Error> {
    let refuse = || Error::Address { address: addresses.to_string_lossy().into_owned() };
    let mut sockets = Vec::new();
    for address in addresses.as_bytes().split(|byte| *byte == b';') {
        let Some(values) = address.strip_prefix(b"unix:") else { continue };
        for value in values.split(|byte| *byte == b',') {
            let named = |name: &[u8]| value.strip_prefix(name).map(|value| unescape(value).ok_or_else(refuse));
            if let Some(path) = named(b"path=") {
                sockets.push(OsString::from_vec(path?).into());
            } else if let Some(name) = named(b"abstract=") {
                sockets.push(OsString::from_vec([b"@", name?.as_slice()].concat()).into());
            }
        }
    }
    if sockets.is_empty() { Err(refuse()) } else { Ok(sockets) }
}

/// `%2f` is a slash. `None` for what is no number.
fn unescape(value: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = value.iter().copied();
    let mut plain = Vec::with_capacity(value.len());
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    while let Some(byte) = bytes.next() {
        plain.push(match byte {
            b'%' => digit(bytes.next()?)? << 4 | digit(bytes.next()?)?,
            byte => byte,
        });
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_user(runtime_dir: &str, address: &str) -> Result<Sockets, Error> {
        let given = |text: &str| (!text.is_empty()).then(|| text.into());
        Sockets::of_user(given(runtime_dir), given(address))
    }

    #[test]
    fn a_users_sockets_are_where_the_environment_says() {
        let own = Some("/run/user/7/systemd/private".into());
        let sockets = |own, bus: &[&str]| Sockets { own, bus: bus.iter().map(PathBuf::from).collect() };
        assert_eq!(of_user("/run/user/7", "").unwrap(), sockets(own.clone(), &["/run/user/7/bus"]));
        assert_eq!(of_user("/run/user/7", "unix:path=/a").unwrap(), sockets(own, &["/a"]));
        assert_eq!(of_user("", "unix:path=/a").unwrap(), sockets(None, &["/a"]));
        assert!(matches!(of_user("", ""), Err(Error::NoUser)));
    }

    #[test]
    fn addresses_are_lists_with_escapes() {
        let list = parse(OsStr::new("tcp:host=h;unix:guid=1,path=/a%2fb%20c;unix:abstract=/tmp/x,guid=2")).unwrap();
        assert_eq!(list, [PathBuf::from("/a/b c"), PathBuf::from("@/tmp/x")]);
        for wrong in ["tcp:host=h", "autolaunch:", "unix:tmpdir=/tmp", "/run/bus", "unix:path=/a%2", "unix:path=/a%zz"]
        {
            let err = parse(OsStr::new(wrong)).unwrap_err();
            assert!(matches!(&err, Error::Address { address } if address == wrong), "{err}");
        }
    }
}
