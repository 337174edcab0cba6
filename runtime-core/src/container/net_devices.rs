//! Network devices of the host for the container (OCI config-linux, "Network Devices").
//!
//! They are moved before the init has its orders, so that every hook finds them, with their lasting addresses, and up. If
//! the container cannot be made they go back; once it is made the kernel takes them back with the namespace's end. A
//! checkpoint does not carry them, and a restore moves the host's in again.

use std::os::fd::{AsFd, OwnedFd};

use nix::sched::CloneFlags;
use oci_spec::runtime::Linux;
use rustix::io::Errno;

use super::inside;
use super::namespaces::Namespaces;
use crate::netlink::{Address, Netlink};
use crate::{ContainerId, Error, Pid, Result};

/// Dropped, it moves the devices back.
#[derive(Debug)]
pub(super) struct Moved {
    id: ContainerId,
    /// The container's network namespace, and the caller's.
    there: OwnedFd,
    here: OwnedFd,
    devices: Vec<Device>,
}

#[derive(Clone, Debug)]
struct Device {
    name_here: String,
    name_there: String,
    up: bool,
    addresses: Vec<Address>,
}

/// Whether all of them are here to be moved. Changes nothing.
pub(super) fn check(id: &ContainerId, linux: Option<&Linux>) -> Result<()> {
    let wanted = linux.and_then(|linux| linux.net_devices().as_ref()).into_iter().flatten();
    let find = |name: &str| Netlink::open().and_then(|netlink| netlink.link(name)).map(drop);
    wanted.map(|(name, _)| name).try_for_each(|name| find(name).map_err(|err| failure(id, "find", name, err)))
}

/// `None` without devices. `pid` is an init that waits for its orders.
pub(super) fn move_in(
    id: &ContainerId,
    linux: Option<&Linux>,
    namespaces: &Namespaces,
    pid: Pid,
) -> Result<Option<Moved>> {
    let Some(wanted) = linux.and_then(|linux| linux.net_devices().as_ref()).filter(|devices| !devices.is_empty())
    else {
        return Ok(None);
    };
    let mut names: Vec<(&String, &String)> = wanted
        .iter()
        .map(|(name, device)| (name, device.name().as_ref().filter(|name| !name.is_empty()).unwrap_or(name)))
        .collect();
    names.sort();
    let open = |path| std::fs::File::open(path).map(OwnedFd::from);
    let failed = |operation| move |err| Error::System { id: id.clone(), operation, err };
    let there = match namespaces.joined(libc::CLONE_NEWNET) {
        Some(joined) => joined.try_clone_to_owned().map_err(failed("duplicate a network namespace"))?,
        None => inside::namespace(id, pid, "net")?,
    };
    let here = open("/proc/thread-self/ns/net").map_err(failed("open our own network namespace"))?;
    let mut moved = Moved { id: id.clone(), there, here, devices: Vec::new() };
    for (name_here, name_there) in names {
        moved.take(name_here, name_there)?;
    }
    let set_up = || moved.devices.iter().try_for_each(|device| set_up(&device.name_there, device, true));
    let done = inside::run(id, &moved.there, CloneFlags::CLONE_NEWNET, set_up)?;
    done.map_err(|(device, err)| failure(id, "set up", &device, err))?;
    Ok(Some(moved))
}

fn failure(id: &ContainerId, operation: &'static str, device: &str, err: Errno) -> Error {
    Error::NetDevice { id: id.clone(), operation, device: device.to_owned(), err }
}

/// In the namespace that it is in now.
fn set_up(name: &str, device: &Device, up: bool) -> Result<(), (String, Errno)> {
    let set_up = || {
        let netlink = Netlink::open()?;
        let link = netlink.link(name)?;
        device.addresses.iter().try_for_each(|address| netlink.add_address(link.index, address))?;
        if up { netlink.up(link.index) } else { Ok(()) }
    };
    set_up().map_err(|err| (name.to_owned(), err))
}

impl Moved {
    fn take(&mut self, name_here: &str, name_there: &str) -> Result<()> {
        let (name_here, name_there) = (name_here.to_owned(), name_there.to_owned());
        let look = || {
            let netlink = Netlink::open()?;
            let link = netlink.link(&name_here)?;
            let addresses = netlink.addresses(link.index)?;
            Ok((netlink, link, addresses))
        };
        let failed = |err| failure(&self.id, "move", &name_here, err);
        let (netlink, link, addresses) = look().map_err(failed)?;
        let moved = netlink.move_link(link.index, &name_there, self.there.as_fd()).map_err(failed);
        // The kernel moves it first, and refuses the new name then.
        let name_there = match &moved {
            Err(_) if netlink.link(&name_here) == Err(Errno::NODEV) => name_here.clone(),
            Err(_) => return moved,
            Ok(()) => name_there,
        };
        self.devices.push(Device { name_here, name_there, up: link.up, addresses });
        moved
    }

    /// They are the container's.
    pub(super) fn keep(mut self) {
        self.devices.clear();
    }

    /// All that can go back; the first failure is told.
    fn give_back(&self) -> Result<()> {
        let give = || {
            let netlink = Netlink::open().map_err(|err| ("lo".to_owned(), err))?;
            let given = self.devices.iter().map(|device| {
                let link = netlink.link(&device.name_there);
                link.and_then(|link| netlink.move_link(link.index, &device.name_here, self.here.as_fd()))
                    .map_err(|err| (device.name_there.clone(), err))
            });
            Ok(given.collect::<Vec<_>>())
        };
        let given = inside::run(&self.id, &self.there, CloneFlags::CLONE_NEWNET, give)?;
        given
            .and_then(|given| {
                let ready = self
                    .devices
                    .iter()
                    .zip(given)
                    .map(|(device, given)| given.and_then(|_| set_up(&device.name_here, device, device.up)));
                // Collected first: one that fails does not keep the others.
                ready.collect::<Vec<_>>().into_iter().collect()
            })
            .map_err(|(device, err)| failure(&self.id, "give back", &device, err))
    }
}

impl Drop for Moved {
    fn drop(&mut self) {
        if self.devices.is_empty() {
            return;
        }
        if let Err(err) = self.give_back() {
            tracing::error!(id = %self.id, err = &err as &dyn std::error::Error, "giving network devices back");
        }
    }
}
