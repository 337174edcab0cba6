//! The nodes themselves: that a container runs in one with runc, that two hear one another, that nothing is left.
//! What rtc does in a node is tested beside the shim.

use test_fixtures::{Cgroups, Image, Node, NodeConfig, Tree};

fn config(tree: Tree, cgroups: Cgroups) -> NodeConfig {
    NodeConfig { tree, cgroups, rtc: false, images: vec![Image::Busybox], ..NodeConfig::default() }
}

fn skipped() -> bool {
    let why = test_fixtures::skip_reason();
    if let Some(why) = why {
        eprintln!("skipped: {why}");
    }
    why.is_some()
}

#[test]
fn runc_runs_in_every_tree() {
    if skipped() {
        return;
    }
    for tree in Tree::ALL {
        let node = Node::start(config(tree, Cgroups::supported()[0])).unwrap();
        let run = ["ctr", "run", "--rm", Image::Busybox.name(), "c1", "echo", "hello"];
        // The first container leaves directories that containerd keeps.
        node.run(run).unwrap();
        let before = node.snapshot();
        assert_eq!(node.run(run).unwrap(), "hello");
        node.assert_no_leaks(&before);
    }
}
