//! A street: two nodes and a client that are joined by a switch, and a container that can move between the nodes with its
//! address. Both nodes have certificates for one another, and the example of a network hook.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::artifact::{self, WORKLOAD};
use crate::node::Running;
use crate::{Error, Image, Node, NodeConfig, Result, Tree};

/// Of the container, in the network namespace that it joins.
pub const ADDRESS: &str = "10.7.0.9";
pub const NETNS: &str = "/run/netns/web";
/// In the nodes: the example, as it is.
pub const HOOK: &str = "/usr/local/lib/rtc/network-bridge.sh";
const EXAMPLE: &str = "hack/migrate/network-bridge.sh";

const NODES: [(&str, &str); 2] = [("node-a", "10.7.0.1"), ("node-b", "10.7.0.2")];
const CLIENT: &str = "10.7.0.3";
/// Where the nodes take containers in.
const PORT: u16 = 7070;
const PATIENCE: Duration = Duration::from_secs(30);

/// An authority, with a certificate for each node.
const CERTIFICATES: &str = "\
    mkdir -p /run/ca; cd /run/ca; new='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc'; \
    openssl req -x509 $new -keyout ca.key -subj /CN=ca -days 2 -out ca.pem; \
    for node in node-a node-b; do echo subjectAltName=DNS:$node >$node.ext; \
    openssl req $new -keyout $node.key -subj /CN=$node -out $node.csr; \
    openssl x509 -req -in $node.csr -CA ca.pem -CAkey ca.key -days 2 -out $node.pem -extfile $node.ext; done";

#[derive(Debug)]
pub struct Street {
    pub one: Node,
    pub two: Node,
    pub client: Node,
    _switch: Node,
}

impl Street {
    /// The first node has the image of the workload.
    pub fn new() -> Result<Self> {
        let node = |images| Node::start(NodeConfig { tree: Tree::Forky, images, ..NodeConfig::default() });
        let (one, two) = (node(vec![Image::Workload])?, node(Vec::new())?);
        let config = NodeConfig { tree: Tree::Forky, containerd: false, rtc: false, ..NodeConfig::default() };
        let client = Node::start(config)?;
        client.copy_in(&artifact::find(WORKLOAD)?, "/usr/local/bin/workload")?;
        let [(_, first), (_, second)] = NODES;
        let addresses = [first, second, CLIENT].map(|address| format!("{address}/24"));
        let members: Vec<_> = [&one, &two, &client].into_iter().zip(addresses.iter().map(String::as_str)).collect();
        let switch = Node::bridge("lan", &members)?;
        let street = Self { one, two, client, _switch: switch };
        street.equip()?;
        Ok(street)
    }

    fn equip(&self) -> Result<()> {
        self.one.sh(CERTIFICATES)?;
        for (node, (name, address)) in [&self.one, &self.two].into_iter().zip(NODES) {
            // A port of a bridge has no address.
            node.sh(&format!(
                "ip link add br0 type bridge; ip link set br0 up; ip address del {address}/24 dev lan; \
                 ip link set lan master br0; ip address add {address}/24 dev br0; mkdir -p /etc/rtc/tls"
            ))?;
            let hosts: String = NODES.iter().map(|(name, address)| format!("{address} {name}\n")).collect();
            node.write("/etc/hosts", format!("127.0.0.1 localhost\n{hosts}"))?;
            node.copy_in(&artifact::workspace().join(EXAMPLE), HOOK)?;
            for (from, to) in [
                (format!("{name}.pem"), "cert.pem"),
                (format!("{name}.key"), "key.pem"),
                ("ca.pem".to_owned(), "ca.pem"),
            ] {
                node.write(&format!("/etc/rtc/tls/{to}"), self.one.read(&format!("/run/ca/{from}"))?)?;
            }
        }
        Ok(())
    }

    /// Takes containers in at both nodes, until it is dropped.
    pub fn receive(&self) -> Result<[Running; 2]> {
        let listen = |node: &Node| {
            let target = format!("tls://0.0.0.0:{PORT}");
            let running = node.spawn(["rtc", "migrate", "receive", "--listen", &target, "--network-hook", HOOK])?;
            wait("rtc migrate receive listens", || Ok(node.run(["ss", "-Hltn"])?.contains(&format!(":{PORT} "))))?;
            Ok::<Running, Error>(running)
        };
        Ok([listen(&self.one)?, listen(&self.two)?])
    }

    /// The command line that moves a container to the second node, or back to the first.
    pub fn command(id: &str, back: bool) -> Vec<String> {
        let (name, _) = if back { NODES[0] } else { NODES[1] };
        let target = format!("tls://{name}:{PORT}");
        ["rtc", "migrate", id, "--to", &target, "--network-hook", HOOK].map(str::to_owned).to_vec()
    }

    /// A container at the first node, with its address, that runs a mode of the workload.
    pub fn start(&self, id: &str, workload: &[&str]) -> Result<()> {
        let script = format!(
            "ip netns add web; ip link add port type veth peer name eth0 netns web; ip link set port master br0 up; \
             ip -n web address add {ADDRESS}/24 dev eth0; ip -n web link set lo up; ip -n web link set eth0 up"
        );
        self.one.sh(&script)?;
        let (runtime, netns) = (["--runtime", "io.containerd.rtc.v2"], format!("network:{NETNS}"));
        let named = ["--with-ns", &netns, Image::Workload.name(), id, "/bin/workload"];
        self.one.run([&["ctr", "run", "-d"][..], &runtime, &named, workload].concat()).map(drop)
    }

    /// One that sends back what it gets on port 7000.
    pub fn start_echo(&self, id: &str) -> Result<()> {
        self.start(id, &["echo", "--listen", "0.0.0.0:7000"])?;
        wait("the container answers", || {
            let talk = ["workload", "talk", "--connect", &format!("{ADDRESS}:7000"), "--count", "1"];
            Ok(self.client.exec(talk)?.code() == 0)
        })
    }

    /// A client that talks to it until the file `stop` is there at the client's node.
    pub fn talk(&self, stop: &Path, options: &[&str]) -> Result<Running> {
        let (address, stop) = (format!("{ADDRESS}:7000"), stop.to_string_lossy());
        let line = [&["workload", "talk", "--connect", &address, "--stop", &stop][..], options].concat();
        let talking = self.client.spawn(line)?;
        wait("the client has an answer", || Ok(!talking.stdout_so_far().is_empty()))?;
        Ok(talking)
    }
}

fn wait(what: &str, done: impl Fn() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !done()? {
        if begun.elapsed() > PATIENCE {
            return Err(Error::Timeout { command: what.to_owned(), after: PATIENCE, output: String::new() });
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
