//! A node that is reset: nothing of it is left on the machine, nothing of its neighbour is touched, and it can join anew.

use std::time::Duration;

use oarlock_tests::cluster::{Cluster, Said, run_in, shell, wait};
use serde_json::json;

use super::SOON;

const NODE: &str = "oarlock-node2";

pub(super) fn a_node_is_reset(cluster: &Cluster) {
    run_pods(cluster);
    let refused = reset("--yes");
    assert!(!refused.well && refused.text.contains("an agent is running on"), "{}", refused.text);
    let pid = cluster.pid("node2");
    cluster.signal("node2", "KILL");
    wait("the agent is gone", Duration::from_secs(10), || {
        let is_there = shell(&format!("kill -0 {pid}")).well;
        if is_there { Err("it runs".to_owned()) } else { Ok(()) }
    });

    let [here, there] = [found("node1"), found("node2")];
    assert_eq!(there.iter().filter(|(_, what)| what.is_empty()).count(), 0, "of all kinds: {there:?}");
    let listed = reset("--dry-run");
    for part in
        ["container  default/kept c ", "link       oarlock-vx", "proto 201", "cgroup ", "mount ", "volume "]
    {
        assert!(listed.well && listed.text.contains(part), "no {part} in {}", listed.text);
    }
    let unanswered = reset("</dev/null");
    assert!(!unanswered.well && unanswered.text.contains("nothing was removed"), "{}", unanswered.text);
    assert_eq!(found("node2"), there, "nothing was removed");

    let done = reset("--yes");
    assert!(done.well && done.text.contains("kubectl delete node node2"), "{}", done.text);
    assert_eq!(
        found("node2").iter().filter(|(_, what)| !what.is_empty()).collect::<Vec<_>>(),
        Vec::<&(_, _)>::new()
    );
    assert_eq!(found("node1"), here, "the neighbour's is as it was");
    let again = reset("--yes");
    assert!(again.well && again.text.starts_with("There is nothing of an agent in"), "{}", again.text);

    cluster.up_again();
    cluster.kubectl(
        "wait pod kept --for=jsonpath='{.status.containerStatuses[0].restartCount}'=0 --timeout=30s",
    );
    wait("its pods run again", SOON, || {
        let said = cluster.shell("kubectl exec kept -- cat /secret/word");
        if said.text.contains("hush") { Ok(()) } else { Err(said.text) }
    });
    cluster.kubectl("delete pod kept --grace-period=1");
    cluster.kubectl("delete secret,pvc kept");
}

/// With volumes in memory and a claim.
fn run_pods(cluster: &Cluster) {
    cluster.kubectl("create secret generic kept --from-literal=word=hush");
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "kept"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "kept"}, "spec": {
        "nodeSelector": {"kubernetes.io/hostname": "node2"}, "terminationGracePeriodSeconds": 1,
        "volumes": [{"name": "s", "secret": {"secretName": "kept"}}, {"name": "m", "emptyDir": {"medium": "Memory"}},
                    {"name": "d", "persistentVolumeClaim": {"claimName": "kept"}}],
        "containers": [{"name": "c", "image": "oarlock/toolbox:0.1.0",
            "volumeMounts": [{"name": "s", "mountPath": "/secret"}, {"name": "m", "mountPath": "/memory"},
                             {"name": "d", "mountPath": "/data"}]}]}});
    let file = Cluster::folder().join("kept.json");
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [claim, pod]});
    assert!(std::fs::write(&file, list.to_string()).is_ok());
    cluster.kubectl(&format!("create -f {}", file.display()));
    cluster.kubectl("wait pod kept --for=condition=Ready --timeout=30s");
}

fn reset(more: &str) -> Said {
    let folder = Cluster::folder();
    let command =
        format!("cd {} && ../debug/oarlock-agent reset --data-dir {} {more}", folder.display(), "node2");
    run_in(NODE, &command)
}

/// What there is of a node, by kind.
fn found(node: &str) -> Vec<(&'static str, String)> {
    let namespace = format!("oarlock-{node}");
    let folder = Cluster::folder().join(node);
    let cgroups = "$(awk '$3 ~ /^cgroup/ {print $2}' /proc/self/mounts)";
    let commands = [
        ("containers", format!("docker ps -aq --no-trunc --filter label=oarlock.io/node={node} | sort")),
        ("links", "ip -o link | cut -d: -f2 | grep -E '^ oar' | sort".to_owned()),
        ("routes", "ip route show table all proto 201".to_owned()),
        ("XDP", "ip -o link show dev eth0 | grep -o 'prog/xdp.*'".to_owned()),
        ("pins", format!("find /sys/fs/bpf/oarlock/{node} | sort")),
        ("cgroups", format!("find {cgroups} -path '*oarlock/{node}*' -type d | sort")),
        (
            "programs of cgroups",
            format!("for c in {cgroups}; do bpftool cgroup show $c/oarlock/{node}; done"),
        ),
        ("mounts", format!("awk '{{print $5}}' /proc/self/mountinfo | grep ^{}/", folder.display())),
        ("files", format!("ls {}", folder.display())),
    ];
    let said = |(kind, command): (&'static str, String)| {
        (kind, run_in(&namespace, &format!("{{ {command}; }} 2>/dev/null")).text)
    };
    commands.into_iter().map(said).collect()
}
