//! One member fails, and with it the whole: it runs on, or nothing of it is left.

use crate::pod::{IMAGES, Pod, SANDBOX};
use crate::skipped;

/// But the times of a restore, which are kept beside the images.
const SUMS: &str = "cd /srv/checkpoint && find . -type f ! -name stats-restore | sort | xargs sha256sum";

#[test]
fn a_pod_of_which_one_member_fails_runs_on_or_is_not_there() {
    if skipped() {
        return;
    }
    let pod = Pod::place();
    pod.run();
    for action in ["pre-dump", "network-lock"] {
        pod.fail_at(action);
        let from = pod.progress().unwrap();
        let output = pod.checkpoint(&[]);
        assert_ne!(output.code(), 0, "{action}: {}", output.text());
        let said = output.error_text();
        assert!(said.contains("container client") && !said.contains("of the pod failed"), "{action}: {said}");
        pod.assert_goes_on(from);
        assert!(!pod.node.exists(IMAGES), "{action}");
        let pid = pod.pid(SANDBOX).unwrap().to_string();
        let rules = pod.node.run(["nsenter", "-t", &pid, "-n", "nft", "list", "ruleset"]).unwrap();
        assert!(!rules.contains("CRIU"), "{action}: {rules}");
    }
    pod.fail_no_more();
    refuses_what_criu_cannot_restore(&pod);

    let from = pod.progress().unwrap();
    let output = pod.checkpoint(&[]);
    assert_eq!(output.code(), 0, "{}\n{}", output.error_text(), pod.said());
    let sums = pod.node.sh(SUMS).unwrap();
    // The second fails when all are restored and the others have been let go.
    for action in ["setup-namespaces", "post-restore"] {
        pod.fail_at(action);
        let output = pod.restore();
        assert_ne!(output.code(), 0, "{action}: {}", output.text());
        assert!(output.error_text().contains("client"), "{action}: {}", output.error_text());
        assert_eq!(pod.node.run(["ctr", "task", "ls", "-q"]).unwrap(), "", "{action}");
        assert_eq!(pod.node.exec(["pgrep", "-x", "workload"]).unwrap().text(), "", "{action}");
        assert_eq!(pod.node.sh(SUMS).unwrap(), sums, "{action}");
    }
    pod.fail_no_more();
    let output = pod.restore();
    assert_eq!(output.code(), 0, "{}\n{}", output.error_text(), pod.said());
    pod.assert_goes_on(from);
}

/// The directory has to be empty, and one member alone is not restored from what belongs to all.
fn refuses_what_criu_cannot_restore(pod: &Pod) {
    let from = pod.progress().unwrap();
    pod.node.write(&format!("{IMAGES}/mine"), "x").unwrap();
    let refused = pod.checkpoint(&[]);
    assert!(refused.error_text().contains("no empty directory"), "{}", refused.error_text());
    assert_eq!(pod.node.read_text(&format!("{IMAGES}/mine")).unwrap(), "x");
    pod.node.run(["rm", "-r", IMAGES]).unwrap();

    // A POSIX message queue, which CRIU would lose.
    let pid = pod.pid("left").unwrap();
    let queue = format!("/proc/{pid}/root/dev/mqueue/q");
    pod.node.run(["touch", &queue]).unwrap();
    let refused = pod.checkpoint(&[]);
    assert!(refused.error_text().contains("POSIX message queues (q)"), "{}", refused.error_text());
    assert!(!pod.node.exists(IMAGES));
    pod.node.run(["rm", &queue]).unwrap();

    // One that is to be sealed; the shared memory would not be.
    pod.ctr(&["run", "-d", "--annotation", "org.rtc.criu.compress=zstd"], "sealed", &["pause"]);
    let refused = pod.checkpoint(&[]);
    assert!(refused.error_text().contains("container sealed has its images compressed"), "{}", refused.error_text());
    assert!(!pod.node.exists(IMAGES));
    pod.node.sh("ctr task rm -f sealed; ctr container rm sealed").unwrap();
    pod.assert_goes_on(from);
}
