//! Network sockets, with a client outside of the container.

use test_fixtures::Image;

use super::memory::counted_with;
use super::{Expected, Row};
use crate::client::{self, Client};
use crate::container::{Container, How, Place, Scene};
use crate::failure::Result;

pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "TCP, listening and established, in a network namespace by path",
        looked_at: "a client outside sees no gap in its sequence; a new one is answered",
        expected: Expected::GoesOn,
        run: |scene| by_path(scene, ECHO, |scene| client::echo(&scene.world.one.node, 7000)),
    },
    Row {
        name: "TCP, listening and established, in the container's own network namespace",
        looked_at: "the same",
        expected: Expected::GoesOn,
        run: own,
    },
    Row {
        name: "TCP within the container, in its own network namespace",
        looked_at: "no byte lost, doubled or out of order, with some under way at the dump",
        expected: Expected::GoesOn,
        run: |scene| counted_with(scene, &[], TCP, &["loopback"]).map(drop),
    },
    Row {
        name: "UDP",
        looked_at: "the server's count of the datagrams of a client outside",
        expected: Expected::GoesOn,
        run: |scene| by_path(scene, UDP, |scene| client::datagrams(&scene.world.one.node, 7000)),
    },
];

pub(crate) const TCP: How = How { tcp: true, locks: false, external_unix: false, terminal: false };
pub(crate) const BY_PATH: [&str; 2] = ["--with-ns", "network:/run/netns/web"];
const ECHO: &[&str] = &["/bin/workload", "echo", "--listen", "0.0.0.0:7000"];
const UDP: &[&str] = &["/bin/workload", "udp", "--listen", "0.0.0.0:7000", "--file", "/count", "--interval-ms", "0"];

/// The container's network, wherever it is; gone when dropped.
pub(crate) struct Network<'a>(Scene<'a>);

impl<'a> Network<'a> {
    pub(crate) fn new(scene: Scene<'a>) -> Result<Self> {
        let network = Self(scene);
        scene.world.one.add_network()?;
        scene.world.one.plug_network()?;
        Ok(network)
    }

    /// Moves a container, and its address.
    pub(crate) fn moves(&self, container: &mut Container<'_>) -> Result {
        let world = self.0.world;
        container.moves_to(TCP, || match self.0.place {
            Place::Here => Ok(()),
            Place::There => world.one.remove_network().and_then(|()| world.two.add_network()),
        })?;
        if self.0.place == Place::There { world.two.plug_network() } else { Ok(()) }
    }
}

impl Drop for Network<'_> {
    fn drop(&mut self) {
        for host in [&self.0.world.one, &self.0.world.two] {
            // It is in one of them.
            host.node.exec(["ip", "netns", "delete", "web"]).ok();
            host.wait_without_link().ok();
        }
    }
}

fn by_path(scene: Scene<'_>, line: &[&str], connect: fn(Scene<'_>) -> Result<Client>) -> Result {
    let network = Network::new(scene)?;
    let mut container = scene.run(Image::Workload, &BY_PATH, line)?;
    let client = connect(scene)?;
    network.moves(&mut container)?;
    client.end()?;
    // It listens, too. A UDP server's count is not from 1 on.
    if line == ECHO { connect(scene)?.end().map(drop) } else { Ok(()) }
}

fn own(scene: Scene<'_>) -> Result {
    // CRIU makes the pair of the dumped device, the outer end of which has a name that is this host's matter.
    let flags = ["--annotation", "org.rtc.criu.external-restore=veth[vc]:vh@br0"];
    let mut container = scene.run(Image::Workload, &flags, ECHO)?;
    scene.world.one.plug(container.pid)?;
    let client = client::echo(&scene.world.one.node, 7000)?;
    container.moves_to(TCP, || scene.world.one.wait_without_link())?;
    scene.target().node.sh("ip link set vh up")?;
    client.end()?;
    client::echo(&scene.world.one.node, 7000)?.end().map(drop)
}
