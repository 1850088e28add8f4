//! A whole cluster in one thread: all controllers, a store, nodes and users, in an order that a seed decides. Whatever the
//! order, rollouts stay within their bounds, nodes are never over-committed, and it all comes to rest as it should.

#![expect(clippy::unwrap_used, reason = "helpers of tests panic, as tests do")]

#[path = "simulation/cluster.rs"]
mod cluster;
#[path = "simulation/daemon_sets.rs"]
mod daemon_sets;
#[path = "simulation/disruptions.rs"]
mod disruptions;
#[path = "simulation/jobs.rs"]
mod jobs;
#[path = "simulation/replication_controllers.rs"]
mod replication_controllers;
#[path = "simulation/stateful_sets.rs"]
mod stateful_sets;
#[path = "simulation/store.rs"]
mod store;
#[path = "simulation/volumes.rs"]
mod volumes;

use std::collections::BTreeSet;

use cluster::Cluster;
use oarlock_api::catalogue::{DEPLOYMENTS, ENDPOINT_SLICES, ENDPOINTS, PODS, REPLICA_SETS, SERVICES};
use serde_json::{Value, json};

const SEEDS: u64 = 40;

/// The seeds of a test: those of `cargo xtask soak simulation`, or as many as CI has time for.
fn seeds(first: u64, count: u64) -> std::ops::Range<u64> {
    #[expect(clippy::disallowed_methods, reason = "a soak says how long")]
    let asked = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    match (asked("OARLOCK_SEED"), asked("OARLOCK_SEEDS")) {
        (Some(first), Some(count)) => first..first + count,
        _ => first..first + count,
    }
}

fn deployment(replicas: i64, surge: Value, unavailable: Value) -> Value {
    json!({"metadata": {"name": "web", "namespace": "d"}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [
            {"name": "c", "image": "web:1", "resources": {"requests": {"cpu": "500m", "memory": "64Mi"}}}]}}}})
}

fn service() -> Value {
    json!({"metadata": {"name": "web", "namespace": "d"}, "spec": {"selector": {"app": "web"}, "clusterIP": "10.96.0.9",
        "ports": [{"port": 80, "targetPort": 80, "protocol": "TCP"}]}})
}

fn image(version: u64) -> Value {
    let resources = json!({"requests": {"cpu": "500m", "memory": "64Mi"}});
    json!({"spec": {"template": {"spec": {"containers":
        [{"name": "c", "image": format!("web:{version}"), "resources": resources}]}}}})
}

fn ready(pod: &Value) -> bool {
    pod["metadata"]["deletionTimestamp"].is_null()
        && pod["status"]["conditions"]
            .as_array()
            .is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
}

/// The cluster at rest: as many pods as wanted, all of the newest image, and exactly they are the endpoints.
fn is_as_wanted(cluster: &Cluster, replicas: usize, image: &str) {
    let pods: Vec<&Value> = cluster.store.all(&PODS).collect();
    let seed = cluster.seed;
    assert_eq!(
        pods.len(),
        replicas,
        "seed {seed}: {:#?}",
        cluster.store.all(&REPLICA_SETS).collect::<Vec<_>>()
    );
    for pod in &pods {
        assert!(ready(pod), "seed {seed}: {pod:#}");
        assert_eq!(pod["spec"]["containers"][0]["image"], image, "seed {seed}");
    }
    let addresses: BTreeSet<&str> = pods.iter().map(|pod| pod["status"]["podIP"].as_str().unwrap()).collect();
    let in_slices: BTreeSet<&str> = cluster
        .store
        .all(&ENDPOINT_SLICES)
        .flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten())
        .filter(|endpoint| endpoint["conditions"]["ready"] == true)
        .map(|endpoint| endpoint["addresses"][0].as_str().unwrap())
        .collect();
    let in_endpoints: BTreeSet<&str> = cluster
        .store
        .all(&ENDPOINTS)
        .flat_map(|endpoints| endpoints["subsets"].as_array().into_iter().flatten())
        .flat_map(|subset| subset["addresses"].as_array().into_iter().flatten())
        .map(|address| address["ip"].as_str().unwrap())
        .collect();
    assert_eq!((&in_slices, &in_endpoints), (&addresses, &addresses), "seed {seed}");
    let status = &cluster.store.all(&DEPLOYMENTS).next().unwrap()["status"];
    let wanted = Some(i64::try_from(replicas).unwrap());
    assert_eq!(
        (status["replicas"].as_i64().or(Some(0)), status["availableReplicas"].as_i64().or(Some(0))),
        (wanted, wanted),
        "seed {seed}"
    );
}

/// The store after each change, during rollouts that nothing else disturbs.
fn stays_within(cluster: &Cluster, most: i64, least: usize) {
    let asked: i64 =
        cluster.store.all(&REPLICA_SETS).map(|rs| rs["spec"]["replicas"].as_i64().unwrap()).sum();
    assert!(asked <= most, "seed {}: {asked} replicas are asked for, at most {most} may be", cluster.seed);
    let available = cluster.store.all(&PODS).filter(|pod| ready(pod)).count();
    assert!(
        available >= least,
        "seed {}: {available} pods are ready, at least {least} must be",
        cluster.seed
    );
}

#[test]
fn rollouts_stay_within_surge_and_unavailability_at_every_step() {
    for seed in seeds(0, SEEDS) {
        let (surge, unavailable) =
            [(1, 0), (0, 1), (1, 1), (2, 1), (3, 3)][usize::try_from(seed % 5).unwrap()];
        let mut cluster = Cluster::new(seed, 3, 8);
        cluster.user_creates(&SERVICES, service());
        cluster.user_creates(&DEPLOYMENTS, deployment(5, json!(surge), json!(unavailable)));
        cluster.run_to_rest(|_| {});
        is_as_wanted(&cluster, 5, "web:1");
        let (most, least) = (5 + surge, usize::try_from(5 - unavailable).unwrap());
        for version in 2..5 {
            cluster.user_patches(&DEPLOYMENTS, "web", &image(version));
            // The next one comes in the middle of it.
            let steps = cluster.random(400);
            cluster.run(steps, |cluster| stays_within(cluster, most, least));
        }
        cluster.run_to_rest(|cluster| stays_within(cluster, most, least));
        is_as_wanted(&cluster, 5, "web:4");
    }
}

#[test]
fn whatever_users_and_nodes_do_it_converges_and_no_node_is_over_committed() {
    for seed in seeds(1000, SEEDS) {
        let mut cluster = Cluster::new(seed, 3, 8);
        cluster.user_creates(&SERVICES, service());
        cluster.user_creates(&DEPLOYMENTS, deployment(3, json!("25%"), json!("25%")));
        let (mut replicas, mut version) = (3, 1);
        for _ in 0..12 {
            let steps = cluster.random(150);
            cluster.run(steps, Cluster::nodes_hold_what_they_have);
            match cluster.random(4) {
                0 => {
                    replicas = cluster.random(20);
                    cluster.user_patches(&DEPLOYMENTS, "web", &json!({"spec": {"replicas": replicas}}));
                }
                1 => {
                    version += 1;
                    cluster.user_patches(&DEPLOYMENTS, "web", &image(version));
                }
                2 => cluster.user_deletes_a_pod(),
                _ => cluster.a_pod_flaps(),
            }
        }
        cluster.run_to_rest(Cluster::nodes_hold_what_they_have);
        is_as_wanted(&cluster, usize::try_from(replicas).unwrap(), &format!("web:{version}"));
    }
}

#[test]
fn whatever_breaks_it_comes_to_rest_as_if_nothing_had() {
    for seed in seeds(6000, SEEDS) {
        let mut cluster = Cluster::new(seed, 4, 8);
        cluster.user_creates(&SERVICES, service());
        cluster.user_creates(&DEPLOYMENTS, deployment(4, json!("25%"), json!("25%")));
        let (mut replicas, mut version) = (4, 1);
        for _ in 0..16 {
            let steps = cluster.random(100);
            cluster.run(steps, Cluster::nodes_hold_what_they_have);
            match cluster.random(8) {
                0 => {
                    replicas = cluster.random(16);
                    cluster.user_patches(&DEPLOYMENTS, "web", &json!({"spec": {"replicas": replicas}}));
                }
                1 => {
                    version += 1;
                    cluster.user_patches(&DEPLOYMENTS, "web", &image(version));
                }
                2 => cluster.user_deletes_a_pod(),
                3 => cluster.a_pod_flaps(),
                4 | 5 => cluster.controllers_crash(),
                6 => cluster.an_agent_dies_or_returns(),
                _ => cluster.an_event_comes_again(),
            }
        }
        cluster.all_agents_return();
        cluster.run_to_rest(Cluster::nodes_hold_what_they_have);
        is_as_wanted(&cluster, usize::try_from(replicas).unwrap(), &format!("web:{version}"));
    }
}

#[test]
fn a_rollout_stays_within_its_bounds_though_controllers_crash_between_any_two_writes() {
    for seed in seeds(7000, SEEDS) {
        let mut cluster = Cluster::new(seed, 3, 8);
        cluster.user_creates(&DEPLOYMENTS, deployment(5, json!(1), json!(1)));
        cluster.run_to_rest(|_| {});
        for version in 2..4 {
            cluster.user_patches(&DEPLOYMENTS, "web", &image(version));
            for _ in 0..6 {
                let steps = cluster.random(60);
                cluster.run(steps, |cluster| stays_within(cluster, 6, 4));
                cluster.controllers_crash();
            }
            cluster.run_to_rest(|cluster| stays_within(cluster, 6, 4));
        }
        let available = cluster.store.all(&PODS).filter(|pod| ready(pod)).count();
        assert_eq!((available, cluster.store.all(&PODS).count()), (5, 5), "seed {seed}");
    }
}

#[test]
fn what_does_not_fit_waits_until_there_is_room() {
    for seed in seeds(2000, SEEDS / 4) {
        // Two nodes of four pods each.
        let mut cluster = Cluster::new(seed, 2, 2);
        cluster.user_creates(&DEPLOYMENTS, deployment(11, json!(0), json!(1)));
        cluster.run_to_rest(Cluster::nodes_hold_what_they_have);
        let bound = |cluster: &Cluster| {
            cluster.store.all(&PODS).filter(|p| p["spec"]["nodeName"].is_string()).count()
        };
        assert_eq!((cluster.store.all(&PODS).count(), bound(&cluster)), (11, 8), "seed {seed}");
        cluster.add_node("late", 2);
        cluster.run_to_rest(Cluster::nodes_hold_what_they_have);
        assert_eq!(bound(&cluster), 11, "seed {seed}");
    }
}

#[test]
fn what_nobody_owns_any_more_goes() {
    for seed in seeds(3000, SEEDS / 4) {
        let mut cluster = Cluster::new(seed, 2, 8);
        cluster.user_creates(&SERVICES, service());
        cluster.user_creates(&DEPLOYMENTS, deployment(4, json!(1), json!(1)));
        let steps = cluster.random(600);
        cluster.run(steps, |_| {});
        cluster.user_deletes(&DEPLOYMENTS, "web");
        cluster.user_deletes(&SERVICES, "web");
        cluster.run_to_rest(|_| {});
        for kind in [&REPLICA_SETS, &PODS, &ENDPOINTS, &ENDPOINT_SLICES] {
            assert_eq!(cluster.store.all(kind).count(), 0, "seed {seed}: {}", kind.plural);
        }
    }
}

/// What slices of a Service say: type of address, address, ready.
fn in_slices(cluster: &Cluster, service: &str) -> BTreeSet<(String, String, bool)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut all = BTreeSet::new();
    for slice in cluster.store.all(&ENDPOINT_SLICES) {
        if slice["metadata"]["labels"]["kubernetes.io/service-name"] != service {
            continue;
        }
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            let entry = (
                text(&slice["addressType"]),
                text(&endpoint["addresses"][0]),
                endpoint["conditions"]["ready"] == true,
            );
            assert!(all.insert(entry.clone()), "seed {}: {entry:?} twice", cluster.seed);
        }
    }
    all
}

#[test]
fn both_families_and_hand_written_endpoints_are_in_slices_whatever_happens() {
    for seed in seeds(4000, SEEDS / 2) {
        let mut cluster = Cluster::new(seed, 3, 8);
        let hand = |ip: u64| json!([{"addresses": [{"ip": format!("192.0.2.{ip}")}, {"ip": "2001:db8::1"}], "ports": [{"port": 80}]}]);
        let mut last = 1;
        cluster.user_creates(&ENDPOINTS, json!({"metadata": {"name": "hand"}, "subsets": hand(last)}));
        cluster.user_creates(
            &SERVICES,
            json!({"metadata": {"name": "hand"}, "spec": {"ports": [{"port": 80}]}}),
        );
        cluster.user_creates(&SERVICES, service());
        cluster.user_creates(&DEPLOYMENTS, deployment(3, json!(1), json!(1)));
        let mut families = json!(["IPv4"]);
        for _ in 0..10 {
            let steps = cluster.random(120);
            cluster.run(steps, |_| {});
            match cluster.random(4) {
                0 => {
                    families = if cluster.random(2) == 0 { json!(["IPv6", "IPv4"]) } else { json!(["IPv4"]) };
                    cluster.user_patches(&SERVICES, "web", &json!({"spec": {"ipFamilies": families}}));
                }
                1 => {
                    last = 1 + cluster.random(200);
                    cluster.user_patches(&ENDPOINTS, "hand", &json!({"subsets": hand(last)}));
                }
                2 => cluster.user_deletes_a_pod(),
                _ => cluster.a_pod_flaps(),
            }
        }
        cluster.run_to_rest(|_| {});
        let pods =
            cluster.store.all(&PODS).flat_map(|pod| pod["status"]["podIPs"].as_array().unwrap().clone());
        let family = |ip: &str| if ip.contains(':') { "IPv6" } else { "IPv4" };
        let wanted: BTreeSet<_> = pods
            .map(|ip| ip["ip"].as_str().unwrap().to_owned())
            .map(|ip| (family(&ip).to_owned(), ip, true))
            .filter(|(family, ..)| families.as_array().unwrap().contains(&json!(family)))
            .collect();
        assert_eq!(in_slices(&cluster, "web"), wanted, "seed {seed}");
        let hand = [format!("192.0.2.{last}"), "2001:db8::1".to_owned()];
        let wanted: BTreeSet<_> = hand.map(|ip| (family(&ip).to_owned(), ip, true)).into();
        assert_eq!(in_slices(&cluster, "hand"), wanted, "seed {seed}");
    }
}
