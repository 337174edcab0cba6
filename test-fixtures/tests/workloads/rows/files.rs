//! Files, and what is mounted.

use test_fixtures::Image;

use super::memory::{counted, counted_with, whole_log};
use super::{Expected, Row};
use crate::container::{How, Place, Scene};
use crate::failure::{Failure, Result};

pub(crate) const ROWS: &[Row] = &[
    Row { name: "file locks", looked_at: "both kinds are held", expected: Expected::GoesOn, run: locks },
    Row {
        name: "deleted file",
        looked_at: "contents, position, and that it has no name",
        expected: Expected::GoesOn,
        run: |scene| counted(scene, &["deleted", "--scratch", "/scratch"]).map(drop),
    },
    Row {
        name: "file that lost one of two names",
        looked_at: "that it is the same file by the other (`link-remap`)",
        expected: Expected::GoesOn,
        run: |scene| {
            let flags = ["--annotation", "org.rtc.criu.link-remap=true"];
            let mode = ["unlinked", "--scratch", "/scratch", "--other", "/other"];
            counted_with(scene, &flags, How::default(), &mode).map(drop)
        },
    },
    Row { name: "bind mount", looked_at: "each line of a log in it", expected: Expected::GoesOn, run: bind },
    Row {
        name: "tmpfs",
        looked_at: "each line of a log in it",
        expected: Expected::GoesOn,
        run: |scene| {
            let flags = ["--mount", "type=tmpfs,src=tmpfs,dst=/mem,options=mode=755"];
            let container = counted_with(scene, &flags, How::default(), &["counter", "--log", "/mem/log"])?;
            whole_log(&container, "/mem/log")
        },
    },
];

fn locks(scene: Scene<'_>) -> Result {
    let line = ["/bin/workload", "lock", "--file", "/lock", "--ready", "/ready"];
    let mut container = scene.run(Image::Workload, &[], &line)?;
    container.wait("it has its locks", || container.read("/ready"))?;
    container.moves(How { locks: true, ..How::default() })?;
    match container.exec(&["/bin/workload", "try-lock", "--file", "/lock"])? {
        (1, _) => Ok(()),
        (code, said) => Err(Failure::after(format!("another process finds {said} ({code})"))),
    }
}

fn bind(scene: Scene<'_>) -> Result {
    let (one, two) = (&scene.world.one.node, &scene.world.two.node);
    for node in [one, two] {
        node.sh("rm -rf /srv/data; mkdir -p /srv/data")?;
    }
    let flags = ["--mount", "type=bind,src=/srv/data,dst=/data,options=rbind:rw"];
    let line = ["/bin/workload", "counter", "--file", "/data/count", "--log", "/data/log", "--interval-ms", "2"];
    let mut container = scene.run(Image::Workload, &flags, &line)?;
    let before = container.counts("/data/count")?;
    container.moves_to(How::default(), || {
        // What is mounted from the host is not the checkpoint's.
        if scene.place == Place::There {
            one.copy_directory_to("/srv/data", two)?;
        }
        Ok(())
    })?;
    container.goes_on("/data/count", &before)?;
    whole_log(&container, "/data/log")
}
