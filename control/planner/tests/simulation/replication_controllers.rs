//! ReplicationControllers in the simulated cluster: as many pods as asked for, whoever deletes, relabels or leaves some.

use oarlock_api::catalogue::{PODS, REPLICATION_CONTROLLERS};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::{SEEDS, ready, seeds};

fn controller(replicas: u64) -> Value {
    json!({"metadata": {"name": "web", "namespace": "d"}, "spec": {"replicas": replicas, "selector": {"app": "web"},
        "template": {"metadata": {"labels": {"app": "web", "tier": "front"}}, "spec": {"containers": [
            {"name": "c", "image": "web:1", "resources": {"requests": {"cpu": "500m", "memory": "64Mi"}}}]}}}})
}

fn owned(pod: &Value) -> bool {
    pod["metadata"]["ownerReferences"][0]["kind"] == "ReplicationController"
}

#[test]
fn as_many_pods_as_asked_for_whoever_takes_or_leaves_some() {
    for seed in seeds(14_000, SEEDS) {
        let mut cluster = Cluster::new(seed, 3, 12);
        cluster.user_creates(&REPLICATION_CONTROLLERS, controller(3));
        let (mut replicas, mut strangers) = (3, 0);
        for turn in 0..10 {
            let steps = cluster.random(150);
            cluster.run(steps, Cluster::nodes_hold_what_they_have);
            match cluster.random(5) {
                0 => {
                    replicas = cluster.random(9);
                    let patch = json!({"spec": {"replicas": replicas}});
                    cluster.user_patches(&REPLICATION_CONTROLLERS, "web", &patch);
                }
                1 => cluster.user_deletes_a_pod(),
                2 => cluster.a_pod_flaps(),
                3 => {
                    // Taken aside to be looked at.
                    let name = cluster
                        .store
                        .all(&PODS)
                        .find(|p| owned(p) && ready(p))
                        .map(|p| p["metadata"]["name"].clone());
                    if let Some(name) = name {
                        let aside = json!({"metadata": {"labels": {"app": "aside"}}});
                        cluster.user_patches(&PODS, name.as_str().unwrap(), &aside);
                        strangers += 1;
                    }
                }
                _ => {
                    let spec = controller(1)["spec"]["template"]["spec"].clone();
                    let labels = json!({"app": "web"});
                    cluster.user_creates(
                        &PODS,
                        json!({"metadata": {"name": format!("left-{turn}"), "labels": labels}, "spec": spec}),
                    );
                }
            }
        }
        cluster.run_to_rest(|_| {});
        let (mine, others): (Vec<&Value>, Vec<&Value>) = cluster.store.all(&PODS).partition(|p| owned(p));
        assert_eq!(u64::try_from(mine.len()).unwrap(), replicas, "seed {seed}");
        assert!(mine.iter().all(|p| ready(p) && p["metadata"]["labels"]["app"] == "web"), "seed {seed}");
        assert!(others.len() <= strangers, "seed {seed}: what fits is taken in");
        assert!(others.iter().all(|p| p["metadata"]["labels"]["app"] == "aside"), "seed {seed}");
        let status = &cluster.store.all(&REPLICATION_CONTROLLERS).next().unwrap()["status"];
        for field in ["replicas", "readyReplicas", "availableReplicas"] {
            assert_eq!(status[field].as_u64().unwrap_or(0), replicas, "seed {seed}: {field}");
        }
    }
}
