//! A node whose disk runs full: it says so, takes nobody new, evicts who filled it, and is well again. Images are told as they come.

use std::time::Duration;

use oarlock_tests::cluster::{Cluster, shell, wait};

use crate::becomes;

/// The disk of the node's pods, and what has to be free of it.
const DISK: &str = "64m";
const CONFIG: &str = "kind: KubeletConfiguration
apiVersion: kubelet.config.k8s.io/v1beta1
evictionHard: {nodefs.available: 24Mi}
evictionPressureTransitionPeriod: 3s
";

pub(crate) fn a_full_disk_evicts_who_filled_it(cluster: &Cluster) {
    let folder = Cluster::folder();
    let config = folder.join("node2-config.yaml");
    assert!(std::fs::write(&config, CONFIG).is_ok());
    let disk = folder.join("node2/pods/pods").display().to_string();
    let pid = cluster.pid("node2");
    cluster.signal("node2", "TERM");
    wait("the agent ends", Duration::from_secs(10), || match shell(&format!("kill -0 {pid}")).well {
        true => Err("it runs".to_owned()),
        false => Ok(()),
    });
    let mounted = shell(&format!("mkdir -p {disk} && mount -t tmpfs -o size={DISK} tmpfs {disk}"));
    assert!(mounted.well, "{}", mounted.text);
    cluster.up_again_with(&config);

    images_are_told_as_they_come(cluster);
    pod(cluster, "modest", 1);
    cluster.kubectl("wait pod modest --for=condition=Ready --timeout=30s");
    pod(cluster, "hog", 48);
    let taints = "{.spec.taints[*].key}";
    becomes(cluster, "node node2", taints, &["node.kubernetes.io/disk-pressure"]);
    becomes(cluster, "pod hog", "{.status.phase} {.status.reason}", &["Evicted", "Failed"]);
    let why = cluster.kubectl("get pod hog -o jsonpath='{.status.message}'");
    assert!(
        why.starts_with(
            "The node was low on resource: ephemeral-storage. Threshold quantity: 24Mi, available: "
        ),
        "{why}"
    );
    becomes(cluster, "node node2", taints, &[]);
    let pressure = "{.status.conditions[?(@.type==\"DiskPressure\")].reason}";
    becomes(cluster, "node node2", pressure, &["KubeletHasNoDiskPressure"]);
    assert_eq!(cluster.kubectl("get pod modest -o jsonpath='{.status.phase}'"), "Running");
    let events =
        cluster.kubectl("get events --field-selector involvedObject.kind=Node,involvedObject.name=node2");
    for reason in ["NodeHasDiskPressure", "EvictionThresholdMet", "NodeHasNoDiskPressure"] {
        assert!(events.contains(reason), "{events}");
    }
    cluster.kubectl("delete pod hog modest --grace-period=0 --force");
    wait("their containers are gone", Duration::from_secs(20), || {
        let left = shell("docker ps -aq --filter name=_hog_ --filter name=_modest_").text;
        if left.trim().is_empty() { Ok(()) } else { Err(left) }
    });
    // The threshold is far below what the machine's own disk has.
    let unmounted = shell(&format!("umount -l {disk}"));
    assert!(unmounted.well, "{}", unmounted.text);
}

/// A pod of that node that writes so many MiB.
fn pod(cluster: &Cluster, name: &str, mebibytes: u32) {
    let spec = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"nodeName": "node2", "terminationGracePeriodSeconds": 0,
            "volumes": [{"name": "v", "emptyDir": {}}],
            "containers": [{"name": "c", "image": "oarlock/toolbox:0.1.0", "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                "command": ["/bin/sh", "-c", format!("head -c {} /dev/zero > /v/file; exec sleep 1000", mebibytes << 20)]}]}});
    let file = Cluster::folder().join("pressure.json");
    assert!(std::fs::write(&file, spec.to_string()).is_ok());
    cluster.kubectl(&format!("create -f {}", file.display()));
}

fn images_are_told_as_they_come(cluster: &Cluster) {
    let name = format!("oarlock-test/told:{}", std::process::id());
    let tagged = shell(&format!("docker tag oarlock/toolbox:0.1.0 {name}"));
    assert!(tagged.well, "{}", tagged.text);
    let told = |wanted: bool| {
        wait(&format!("{name} is told: {wanted}"), Duration::from_secs(5), || {
            let images = cluster.kubectl("get node node1 -o jsonpath='{.status.images[*].names}'");
            if images.contains(&name) == wanted { Ok(()) } else { Err(images) }
        });
    };
    told(true);
    let removed = shell(&format!("docker rmi {name}"));
    assert!(removed.well, "{}", removed.text);
    told(false);
}
