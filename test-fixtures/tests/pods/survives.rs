//! What a pod has, it has after a restore.

use serde_json::Value;

use crate::pod::{IMAGES, Pod, SANDBOX};
use crate::skipped;

/// Of the IPC namespace that a container is in.
fn objects(pod: &Pod, id: &str) -> String {
    let pid = pod.pid(id).unwrap().to_string();
    pod.node.run(["nsenter", "-t", &pid, "-i", "ipcs"]).unwrap()
}

fn namespaces(pod: &Pod, id: &str) -> Vec<String> {
    let pid = pod.pid(id).unwrap();
    ["net", "ipc", "uts"].map(|kind| pod.node.run(["readlink", &format!("/proc/{pid}/ns/{kind}")]).unwrap()).to_vec()
}

#[test]
fn a_pod_goes_on_where_it_was() {
    if skipped() {
        return;
    }
    let pod = Pod::place();
    pod.run();
    let pid = pod.pid(SANDBOX).unwrap().to_string();
    pod.node.run(["nsenter", "-t", &pid, "-i", "ipcmk", "-M", "4096", "-Q", "-S", "2"]).unwrap();
    let (made, from) = (objects(&pod, "left"), pod.progress().unwrap());

    // The same once more: what a restore has made can be checkpointed again.
    for round in ["a", "b"] {
        let output = pod.checkpoint(&[]);
        assert_eq!(output.code(), 0, "{round}: {}\n{}", output.error_text(), pod.said());
        assert!(pod.running().is_empty(), "{round}");
        // Somebody else has used it meanwhile.
        pod.node.sh("rm /run/pod-shm/number; echo x >/run/pod-shm/other").unwrap();
        let output = pod.restore();
        assert_eq!(output.code(), 0, "{round}: {}\n{}", output.error_text(), pod.said());
        pod.assert_goes_on(from);
        assert!(!pod.node.exists("/run/pod-shm/other"));
        assert_eq!(objects(&pod, "left"), made);
        assert_eq!(namespaces(&pod, "left"), namespaces(&pod, SANDBOX));
        pod.node.run(["rm", "-r", IMAGES]).unwrap();
    }
}

#[test]
fn a_pod_that_ran_on_is_restored_on_another_node() {
    if skipped() {
        return;
    }
    let (one, two) = (Pod::place(), Pod::place());
    one.run();
    let output = one.checkpoint(&["--leave-running", "--json"]);
    assert_eq!(output.code(), 0, "{}\n{}", output.error_text(), one.said());
    let report: Value = serde_json::from_str(&output.text()).unwrap();
    assert_eq!(report["members"].as_array().unwrap().len(), 5, "{report}");
    assert_eq!(report["members"][0]["id"], SANDBOX);
    let from = one.progress().unwrap();
    one.assert_goes_on(from);

    one.node.copy_directory_to(IMAGES, &two.node).unwrap();
    two.create();
    let output = two.restore();
    assert_eq!(output.code(), 0, "{}\n{}", output.error_text(), two.said());
    let restored = two.progress().unwrap();
    two.assert_goes_on(restored);
    // The other one is not disturbed, and what a pod runs already is not restored over it.
    one.assert_goes_on(from);
    let refused = two.restore();
    assert_ne!(refused.code(), 0);
    assert!(refused.error_text().contains("has not ended"), "{}", refused.error_text());
    two.assert_goes_on(restored);
}
