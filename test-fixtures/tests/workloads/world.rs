//! Two nodes with a wire between them, and what of networks the rows have in common.

use test_fixtures::{Image, Node, NodeConfig, Tree, artifact};

use crate::containerd::Containerd;
use crate::failure::Result;

/// Of the container, wherever it is; and of the client, in the first node.
pub(crate) const ADDRESS: &str = "10.77.0.2";

/// The bridge may believe that the container is still at the other end of the wire.
const FORGET: &str = "ip link set wire type bridge_slave fdb_flush";

/// A node with its containerd.
pub(crate) struct Host {
    pub(crate) node: Node,
    pub(crate) containerd: Containerd,
}

pub(crate) struct World {
    pub(crate) one: Host,
    pub(crate) two: Host,
}

impl World {
    pub(crate) fn start() -> Self {
        let start = || {
            let images = vec![Image::Workload, Image::Programs];
            let node = Node::start(NodeConfig { tree: Tree::Forky, images, ..NodeConfig::default() }).unwrap();
            node.copy_in(&artifact::find_static(artifact::WORKLOAD).unwrap(), "/usr/local/bin/workload").unwrap();
            let containerd = Containerd::connect(&node);
            Host { node, containerd }
        };
        let (one, two) = (start(), start());
        Node::link("wire", (&one.node, "10.78.0.1/24"), (&two.node, "10.78.0.2/24")).unwrap();
        for (host, address) in [(&one, "10.77.0.1"), (&two, "10.77.0.3")] {
            let script = format!(
                "ip link add br0 type bridge; ip link set wire master br0; ip address add {address}/24 dev br0; \
                 ip link set br0 up; mkdir -p /run/netns /etc/criu"
            );
            host.node.sh(&script).unwrap();
        }
        Self { one, two }
    }
}

impl Host {
    /// A network namespace by path, with the container's address, and no wire to the nodes' common network yet: until a
    /// connection is restored there, its peer's packets are to find nobody, and not somebody who knows nothing of it.
    pub(crate) fn add_network(&self) -> Result {
        let script = format!(
            "{FORGET}; ip netns add web; ip link add vh type veth peer name vc netns web; ip link set vh up; \
             ip -n web link set vc address 02:00:00:00:00:77; ip -n web address add {ADDRESS}/24 dev vc; \
             ip -n web link set lo up; ip -n web link set vc up"
        );
        Ok(self.node.sh(&script).map(drop)?)
    }

    pub(crate) fn plug_network(&self) -> Result {
        Ok(self.node.run(["ip", "link", "set", "vh", "master", "br0"]).map(drop)?)
    }

    /// With its namespace, in the kernel's own time, goes the veth pair.
    pub(crate) fn remove_network(&self) -> Result {
        self.node.sh("ip netns delete web")?;
        self.wait_without_link()
    }

    /// The same for a running container's own network namespace. The neighbours know the address by one name only.
    pub(crate) fn plug(&self, pid: u32) -> Result {
        let script = format!(
            "{FORGET}; ip link add vh master br0 type veth peer name vc netns {pid}; ip link set vh up; \
             nsenter --net=/proc/{pid}/ns/net sh -euc 'ip link set vc address 02:00:00:00:00:77; ip address add {ADDRESS}/24 dev vc; ip link set vc up'"
        );
        Ok(self.node.sh(&script).map(drop)?)
    }

    pub(crate) fn wait_without_link(&self) -> Result {
        Ok(self.node.sh("while ip link show vh; do sleep 0.01; done >/dev/null 2>&1").map(drop)?)
    }
}
