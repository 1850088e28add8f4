//! Evictions in the simulated cluster: however many are asked for, whenever, and however late the controller sees what happened, never
//! fewer pods are ready than the budget wants; what is refused is allowed again when the pods are back.

use oarlock_api::catalogue::{DEPLOYMENTS, POD_DISRUPTION_BUDGETS, PODS};
use oarlock_api::disruption::{self, Guard};
use oarlock_api::meta;
use oarlock_planner::Part;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::{SEEDS, deployment, ready, seeds};

/// As the API server does: first the allowance, then the pod.
fn evict_any(cluster: &mut Cluster) -> Option<bool> {
    let pods: Vec<Value> =
        cluster.store.all(&PODS).filter(|pod| !disruption::is_free(pod)).cloned().collect();
    let index = cluster.random(u64::try_from(pods.len()).unwrap().max(1));
    let pod = pods.get(usize::try_from(index).unwrap())?;
    let budget = cluster
        .store
        .all(&POD_DISRUPTION_BUDGETS)
        .find(|b| disruption::covers(b, meta::labels(pod)))?
        .clone();
    if disruption::guard(&budget, pod) == Guard::Allowance {
        let Ok(taken) = disruption::take(budget, meta::name(pod), "2026-01-01T00:00:10Z".parse().unwrap())
        else {
            return Some(false);
        };
        let key = ("d".to_owned(), meta::name(&taken).to_owned());
        let status = json!({"status": taken["status"]});
        cluster.store.patch(&POD_DISRUPTION_BUDGETS, &key, Part::Status, &status).unwrap();
    }
    cluster.user_deletes(&PODS, meta::name(pod));
    Some(true)
}

fn at_least(cluster: &Cluster, least: usize) {
    let available = cluster.store.all(&PODS).filter(|pod| ready(pod)).count();
    assert!(available >= least, "seed {}: {available} pods are ready, {least} must be", cluster.seed);
}

#[test]
fn evictions_never_take_more_than_the_budget_allows() {
    let (mut done, mut refused) = (0, 0);
    for seed in seeds(20_000, SEEDS) {
        let (spec, least) = match seed % 4 {
            0 => (json!({"maxUnavailable": 1}), 5),
            1 => (json!({"maxUnavailable": "34%"}), 3),
            2 => (json!({"minAvailable": 2}), 2),
            _ => (json!({"minAvailable": "100%"}), 6),
        };
        let mut cluster = Cluster::new(seed, 3, 8);
        let mut spec = spec;
        spec["selector"] = json!({"matchLabels": {"app": "web"}});
        cluster.user_creates(&DEPLOYMENTS, deployment(6, json!(1), json!(0)));
        let budget = json!({"metadata": {"name": "web"}, "spec": spec});
        cluster.user_creates(&POD_DISRUPTION_BUDGETS, budget);
        cluster.run_to_rest(|_| {});
        for _ in 0..40 {
            match evict_any(&mut cluster) {
                Some(true) => done += 1,
                Some(false) => refused += 1,
                None => {}
            }
            at_least(&cluster, least);
            let steps = cluster.random(12);
            cluster.run(steps, |cluster| at_least(cluster, least));
        }
        cluster.run_to_rest(|cluster| at_least(cluster, least));
        let status = &cluster.store.all(&POD_DISRUPTION_BUDGETS).next().unwrap()["status"];
        let counts =
            ["disruptionsAllowed", "currentHealthy", "expectedPods"].map(|f| status[f].as_u64().unwrap());
        let allowed = u64::try_from(6 - least).unwrap();
        assert_eq!(counts, [allowed, 6, 6], "seed {seed}: as if nothing had happened");
        assert_eq!(status.get("disruptedPods"), None, "seed {seed}");
    }
    assert!(done > 200 && refused > 200, "{done} evictions, {refused} refused: both have to be seen");
}
