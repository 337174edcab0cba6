//! What the tests of rtc stand on, and nothing that a user gets: only ever a dev-dependency.
//!
//! | where | what |
//! | --- | --- |
//! | [`tree`] | the root trees that nodes and machines are made from: Debian with containerd 1.6, 1.7 and 2.1 |
//! | `suites` | a further tree, with the field's public suites for OCI runtimes in it |
//! | [`cache`] | where those trees, and other things that take long to make, are kept |
//! | [`node`] | [`Node`]: a host of its own in namespaces, with containerd in it; exec, files, links, leaks |
//! | [`street`] | two nodes and a client on one network, and a container that can move between them |
//! | [`vm`] | [`Vm`]: a virtual machine with a kernel of its own, which has what this host's may lack |
//! | [`image`] | OCI images made on the spot: busybox and the workload |
//! | [`programs`] | the files of real programs, from Debian's packages, for an image of theirs |
//! | [`artifact`] | where the built binaries are: the shim, the command line, the workload |
//! | `cri` | a crate beside this one: a client of the Container Runtime Interface |
//! | `fake_criu` | with the feature `fake-criu`: a scripted CRIU, for tests of the client without root |
//! | `src/bin/workload` | the program that runs in the tests' containers; `workload help` lists its modes |
//!
//! A test that needs a node starts like this:
//! ```no_run
//! use test_fixtures::{Image, Node, NodeConfig};
//! if let Some(why) = test_fixtures::skip_reason() {
//!     eprintln!("skipped: {why}");
//!     return;
//! }
//! let node = Node::start(NodeConfig { images: vec![Image::Busybox], ..NodeConfig::default() }).unwrap();
//! let out = node.exec(["ctr", "run", "--rm", Image::Busybox.name(), "c1", "echo", "hello"]).unwrap();
//! assert_eq!(out.stdout, b"hello\n");
//! ```
//! The node dies, whole, when it is dropped, and when the test's process ends in any other way.

pub mod artifact;
pub mod cache;
pub mod error;
#[cfg(feature = "fake-criu")]
pub mod fake_criu;
pub mod image;
pub mod node;
mod owner;
pub mod programs;
pub mod street;
mod suites;
pub mod tree;
pub mod vm;

pub use error::{Error, Result};
pub use image::Image;
pub use node::{Cgroups, Node, NodeConfig, Output, Snapshot};
pub use tree::Tree;
pub use vm::{Vm, VmConfig};

/// Why nodes cannot run here, or `None` when they can. Tests print it and return.
pub fn skip_reason() -> Option<&'static str> {
    (!rustix::process::geteuid().is_root()).then_some("a test node needs root")
}

/// For a person who waits, and for the captured output of a failed test.
#[expect(clippy::print_stderr, reason = "a test's own output is where this belongs")]
fn say(what: &str) {
    eprintln!("{what}");
}
