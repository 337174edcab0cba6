//! Wires between nodes.

use std::process::Command;

use super::{Cgroups, Node};
use crate::{Error, Result, Tree};

impl Node {
    /// Joins two nodes by a veth pair. `addresses` are theirs on it, as `10.1.0.1/24`; the devices' name is `device` in
    /// both.
    pub fn link(
        device: &str,
        (one, address_of_one): (&Self, &str),
        (two, address_of_two): (&Self, &str),
    ) -> Result<()> {
        one.plug(device, two, device)?;
        one.set_address(device, address_of_one)?;
        two.set_address(device, address_of_two)
    }

    /// Joins any number of nodes by a bridge; each has `device` with its address then. The bridge is a node too, without
    /// containerd: it lasts as long as what is returned. Dropping it cuts all its wires.
    pub fn bridge(device: &str, members: &[(&Self, &str)]) -> Result<Self> {
        let switch = Self::boot(Tree::default(), Cgroups::supported().first().copied().unwrap_or(Cgroups::V2), false)?;
        switch.sh("ip link add br0 type bridge; ip link set br0 up")?;
        for (number, (node, address)) in members.iter().enumerate() {
            let port = format!("port{number}");
            switch.plug(&port, node, device)?;
            switch.sh(&format!("ip link set {port} master br0 up"))?;
            node.set_address(device, address)?;
        }
        Ok(switch)
    }

    /// A veth pair between two nodes, with neither address nor life.
    fn plug(&self, device: &str, peer: &Self, device_of_peer: &str) -> Result<()> {
        // The root tree's ip, with the host's /proc: it looks for the peer's namespace there, by the host's number.
        let script = "mount --bind /proc \"$0/proc\"; exec chroot \"$0\" ip link add \"$@\"";
        let output = Command::new("nsenter")
            .arg(format!("--net=/proc/{}/ns/net", self.pid()))
            .args(["unshare", "--mount", "--propagation", "private", "sh", "-euc", script])
            .arg(self.tree().path())
            .args([device, "type", "veth", "peer", "name", device_of_peer])
            .args(["netns", &peer.pid().to_string()])
            .output();
        let output = output.map_err(|source| Error::Spawn { command: "nsenter".to_owned(), source })?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(Error::Command { command: "ip link add".to_owned(), status: output.status.to_string(), output: text })
    }

    fn set_address(&self, device: &str, address: &str) -> Result<()> {
        self.sh(&format!("ip address add {address} dev {device}; ip link set {device} up")).map(drop)
    }
}
