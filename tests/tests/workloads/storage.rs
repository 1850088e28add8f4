//! Claims and volumes: data outlives its pods, a pod of a StatefulSet comes back to its own on its node, and what is deleted is
//! gone from the disk.

use std::path::PathBuf;

use oarlock_tests::cluster::{Cluster, shell, wait};

use super::{SOON, becomes, rolled_out, words};

pub(super) fn claims_keep_data(cluster: &Cluster) {
    let _ = shell("rm -rf /tmp/oarlock-notes");
    cluster.kubectl("apply -f manifests/storage/");
    a_pod_comes_back_to_its_data(cluster);
    a_volume_made_by_hand_is_bound_and_kept(cluster);
    what_is_deleted_is_gone_from_the_disk(cluster);
    cluster.kubectl("delete -f manifests/storage/ --ignore-not-found");
    let _ = shell("rm -rf /tmp/oarlock-notes");
}

fn a_pod_comes_back_to_its_data(cluster: &Cluster) {
    rolled_out(cluster, "statefulset/ledger");
    let rows = cluster.kubectl("get storageclass");
    assert!(
        rows.contains("local (default)   oarlock.io/local   Delete          WaitForFirstConsumer"),
        "{rows}"
    );
    becomes(cluster, "pvc data-ledger-0 data-ledger-1", "{.items[*].status.phase}", &["Bound", "Bound"]);
    let uid = || cluster.shell("kubectl get pod ledger-1 -o jsonpath='{.metadata.uid}'").text;
    let node = words(cluster, "pod ledger-1", "{.spec.nodeName}");
    let before = uid();
    cluster.kubectl("delete pod ledger-1 --wait=false");
    let log = wait("another pod has written", SOON, || {
        let said = cluster.shell("kubectl exec ledger-1 -- cat /data/log");
        if uid() != before && said.well && said.text.lines().count() > 1 {
            Ok(said.text)
        } else {
            Err(said.text)
        }
    });
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines, ["ledger-1", "ledger-1"], "it was started twice on the same data");
    assert_eq!(words(cluster, "pod ledger-1", "{.spec.nodeName}"), node, "on the node that has it");
    let volume = words(cluster, "pvc data-ledger-1", "{.spec.volumeName}").remove(0);
    assert!(directory(&node[0], &volume).join("log").exists(), "in the folder of the node's agent");
    let events = cluster.kubectl("describe pvc data-ledger-1");
    for said in ["ProvisioningSucceeded", "Used By:       ledger-1", "kubernetes.io/pvc-protection"] {
        assert!(events.contains(said), "{said}: {events}");
    }
}

fn directory(node: &str, volume: &str) -> PathBuf {
    Cluster::folder().join(node).join("volumes").join(volume)
}

fn a_volume_made_by_hand_is_bound_and_kept(cluster: &Cluster) {
    becomes(cluster, "pvc notes", "{.status.phase} {.spec.volumeName}", &["Bound", "notes"]);
    wait("the pod has written", SOON, || {
        let said = shell("cat /tmp/oarlock-notes/first");
        if said.text.trim() == "written" { Ok(()) } else { Err(said.text) }
    });
    // A claim that is in use stays, and its volume with it.
    cluster.kubectl("delete pvc notes --wait=false");
    let row = cluster.kubectl("get pvc notes");
    assert!(row.contains("Terminating"), "{row}");
    cluster.kubectl("delete pod notes");
    becomes(cluster, "pv notes", "{.status.phase}", &["Released"]);
    assert!(shell("cat /tmp/oarlock-notes/first").well, "Retain: the data stays");
}

fn what_is_deleted_is_gone_from_the_disk(cluster: &Cluster) {
    let volumes = words(cluster, "pvc -l app=ledger", "{.items[*].spec.volumeName}");
    assert_eq!(volumes.len(), 2, "{volumes:?}");
    cluster.kubectl("delete statefulset ledger");
    let there = || {
        let all = volumes.iter().flat_map(|volume| ["node1", "node2"].map(|node| directory(node, volume)));
        all.filter(|directory| directory.exists()).count()
    };
    assert_eq!(
        (there(), words(cluster, "pvc", "{.items[*].metadata.name}").len()),
        (2, 2),
        "claims outlive their set"
    );
    cluster.kubectl("delete pvc data-ledger-0 data-ledger-1 --timeout=30s");
    wait("the volumes and their directories are gone", SOON, || {
        let left = words(cluster, "pv", "{.items[*].metadata.name}");
        if left == ["notes"] && there() == 0 {
            Ok(())
        } else {
            Err(format!("{left:?}, {} directories", there()))
        }
    });
}
