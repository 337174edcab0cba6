//! Many containers, several at once.

use test_fixtures::Image;

use crate::host::{Check, Host, Runtime};

pub(crate) const CHECKS: &[Check] =
    &[("containers, 8 at once", containers), ("beside one another", beside_one_another)];

fn containers(host: &Host) {
    // 200 are ours to prove; of runc, enough to show that the check is right.
    let count = if host.lane.runtime == Runtime::Rtc { 200 } else { 40 };
    let (runtime, image) = (host.lane.runtime.name(), Image::Busybox.name());
    // To files, by the shim: ctr itself loses the output of a container that has ended before ctr has opened its fifos
    // (the client cancels the opening when the task is deleted), with any runtime.
    let line = format!(
        "mkdir /tmp/many; seq 1 {count} | xargs -P 8 -I N sh -c \
         'ctr run --rm --runtime {runtime} --log-uri file:///tmp/many/N {image} cN echo ran N || echo failed N >&2'; \
         cd /tmp/many; for n in *; do test \"$(cat $n)\" != \"ran $n\" || echo $n; done | wc -l; rm -r /tmp/many"
    );
    let output = host.node.exec_within(std::time::Duration::from_secs(180), ["sh", "-c", &line]).unwrap();
    assert_eq!((output.text(), output.error_text()), (count.to_string(), String::new()));
}

fn beside_one_another(host: &Host) {
    let ids: Vec<_> = (0..10).map(|number| format!("c{number}")).collect();
    for id in &ids {
        host.start_detached(&["--null-io"], id, &["sleep", "1000"]);
    }
    assert_eq!(host.ctr_ok(&["task", "ls", "-q"]).lines().count(), ids.len());
    for id in &ids {
        host.kill_and_remove(id);
    }
}
