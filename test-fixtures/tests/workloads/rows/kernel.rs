//! What the kernel does for a container, and what CRIU cannot dump.

use test_fixtures::Image;

use super::memory::{counted_with, whole_log};
use super::{Expected, Row};
use crate::container::{How, Place, Scene};
use crate::failure::{Failure, Result};

pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "user namespace",
        looked_at: "its map of ids; no count lost or doubled",
        expected: Expected::GoesOn,
        run: user_namespace,
    },
    Row {
        name: "seccomp",
        looked_at: "that the filter is there; no count lost or doubled",
        expected: Expected::GoesOn,
        run: seccomp,
    },
    Row { name: "io_uring", looked_at: "", expected: Expected::Refused("io_uring"), run: io_uring },
];

pub(crate) const MAPPED: [&str; 4] = ["--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536"];

/// Moves a container with those maps. containerd makes the image's files anew with other owners, once for each map, and keeps
/// them while a container has them: there has to be one in the other node.
pub(crate) fn with_map(scene: Scene<'_>, image: Image, moves: impl FnOnce() -> Result) -> Result {
    let two = &scene.world.two.node;
    if scene.place == Place::Here {
        return moves();
    }
    let run = ["ctr", "run", "-d", "--runtime", scene.runtime.name()];
    two.run([&run[..], &MAPPED, &[image.name(), "mapped", "workload", "pause"]].concat())?;
    let moved = moves();
    two.sh("ctr task rm --force mapped; ctr container rm mapped")?;
    moved
}

fn user_namespace(scene: Scene<'_>) -> Result {
    let line = ["/bin/workload", "counter", "--file", "/count", "--log", "/log", "--interval-ms", "2"];
    let mut container = scene.run(Image::Workload, &MAPPED, &line)?;
    let before = container.counts("/count")?;
    with_map(scene, Image::Workload, || container.moves(How::default()))?;
    container.goes_on("/count", &before)?;
    whole_log(&container, "/log")?;
    let map = container.proc("uid_map")?;
    let map: Vec<&str> = map.split_whitespace().collect();
    if map == ["0", "100000", "65536"] { Ok(()) } else { Err(Failure::after(format!("its uid map is {map:?}"))) }
}

fn seccomp(scene: Scene<'_>) -> Result {
    let container = counted_with(scene, &["--seccomp"], How::default(), &["counter", "--log", "/log"])?;
    whole_log(&container, "/log")?;
    let status = container.proc("status")?;
    let has = |line: &str| status.lines().any(|found| found == line);
    if has("Seccomp:\t2") && has("Seccomp_filters:\t1") {
        return Ok(());
    }
    let found: Vec<&str> = status.lines().filter(|line| line.starts_with("Seccomp")).collect();
    Err(Failure::after(found.join(", ")))
}

fn io_uring(scene: Scene<'_>) -> Result {
    let container = scene.run(Image::Programs, &[], &["python3", "/srv/io_uring.py"])?;
    container.counts("/count")?;
    container.refused(How::default(), "io_uring")
}
