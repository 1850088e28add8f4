//! StatefulSets, DaemonSets, ReplicationControllers, Jobs and CronJobs as kubectl and Docker see them, autoscaling by what pods
//! use and by what others measure, drains and preemption, on real nodes, which are on networks of their own: their pods talk
//! through a tunnel. Needs root.

mod bounds;
mod certificates;
mod disruption;
mod gluster;
mod metrics;
mod pressure;
mod reach;
mod reset;
mod scaling;
mod security;
mod storage;
mod tokens;

use std::collections::BTreeSet;
use std::time::Duration;

use oarlock_tests::cluster::{Cluster, shell, wait};

const SOON: Duration = Duration::from_secs(30);

#[test]
fn workloads_run_on_real_nodes_as_kubectl_expects() {
    let cluster = Cluster::up_on("2", "embedded", "native");
    pressure::a_full_disk_evicts_who_filled_it(&cluster);
    cluster.kubectl("apply -f manifests/workloads/");
    scaling::a_pod_begins_to_work(&cluster);
    metrics::a_pod_answers_for_an_api(&cluster);
    a_stateful_set_keeps_names_through_updates_and_deletions(&cluster);
    a_daemon_set_is_on_every_node_and_rolls(&cluster);
    a_replication_controller_keeps_its_number(&cluster);
    a_replication_controller_is_replaced_pod_by_pod(&cluster);
    pods_are_placed_by_their_rules(&cluster);
    metrics::an_autoscaler_asks_it(&cluster);
    scaling::a_deployment_grows_under_load(&cluster);
    jobs_complete_or_fail(&cluster);
    a_cron_job_makes_up_for_what_was_missed(&cluster);
    metrics::it_grows_by_what_it_hears(&cluster);
    disruption::a_drain_waits_for_a_budget(&cluster);
    disruption::who_matters_more_gets_a_full_node(&cluster);
    metrics::it_shrinks_and_knows_nothing_without_it(&cluster);
    tokens::a_pod_asks_the_api_server_by_its_token(&cluster);
    certificates::a_user_is_let_in_by_a_certificate_that_was_asked_for(&cluster);
    bounds::a_namespace_bounds_its_pods(&cluster);
    security::a_restricted_namespace_runs_what_asks_for_little(&cluster);
    deletion_takes_everything_along(&cluster);
    reach::pods_of_other_networks_are_reached(&cluster);
    storage::claims_keep_data(&cluster);
    gluster::a_volume_of_a_server_is_shared(&cluster);
    scaling::a_deployment_shrinks_again(&cluster);
    reset::a_node_is_reset(&cluster);
    cluster.down();
}

fn rolled_out(cluster: &Cluster, what: &str) {
    cluster.kubectl(&format!("rollout status {what} --timeout=60s"));
}

/// Words of a path in what a selector selects, sorted.
fn words(cluster: &Cluster, what: &str, path: &str) -> Vec<String> {
    let said = cluster.kubectl(&format!("get {what} -o jsonpath='{path}'"));
    let mut words: Vec<String> = said.split_whitespace().map(str::to_owned).collect();
    words.sort();
    words
}

fn becomes(cluster: &Cluster, what: &str, path: &str, wanted: &[&str]) {
    wait(&format!("{what} {path} is {wanted:?}"), SOON, || {
        let said = words(cluster, what, path);
        if said == wanted { Ok(()) } else { Err(said.join(" ")) }
    });
}

const NAMES: &str = "{.items[*].metadata.name}";

fn a_stateful_set_keeps_names_through_updates_and_deletions(cluster: &Cluster) {
    rolled_out(cluster, "statefulset/db");
    assert_eq!(words(cluster, "pods -l app=db", NAMES), ["db-0", "db-1", "db-2"]);
    becomes(cluster, "endpoints db", "{.subsets[0].addresses[*].hostname}", &["db-0", "db-1", "db-2"]);
    let inside = shell("docker exec $(docker ps -q --filter name=k8s_web_db-1) /bin/sh -c hostname");
    let made_with =
        shell("docker inspect -f '{{.Config.Hostname}}' $(docker ps -q --filter name=k8s_POD_db-1)");
    assert!(inside.text.trim() == "db-1" || made_with.text.trim() == "db-1", "{inside:?} {made_with:?}");

    cluster.kubectl("set env statefulset/db COLOUR=red");
    rolled_out(cluster, "statefulset/db");
    let colours = "{.items[*].spec.containers[0].env[0].value}";
    assert_eq!(words(cluster, "pods -l app=db", colours), ["red", "red", "red"]);
    cluster.kubectl("rollout undo statefulset/db");
    rolled_out(cluster, "statefulset/db");
    assert_eq!(words(cluster, "pods -l app=db", colours), Vec::<String>::new());
    assert!(cluster.kubectl("rollout history statefulset/db").contains("\n3 "));

    let uid = || cluster.shell("kubectl get pod db-1 -o jsonpath='{.metadata.uid}'");
    let before = uid().text;
    cluster.kubectl("delete pod db-1 --wait=false");
    wait("another pod has the name", SOON, || {
        let now = uid();
        if now.well && now.text != before { Ok(()) } else { Err(now.text) }
    });
    cluster.kubectl("scale statefulset db --replicas=1");
    becomes(cluster, "pods -l app=db", NAMES, &["db-0"]);
    let described = cluster.kubectl("describe statefulset db");
    assert!(described.contains("create Pod db-2 in StatefulSet db successful"), "{described}");
}

fn a_daemon_set_is_on_every_node_and_rolls(cluster: &Cluster) {
    rolled_out(cluster, "daemonset/everywhere");
    let nodes = "{.items[*].spec.nodeName}";
    assert_eq!(words(cluster, "pods -l app=everywhere", nodes), ["node1", "node2"]);
    cluster.kubectl("set env daemonset/everywhere COLOUR=red");
    rolled_out(cluster, "daemonset/everywhere");
    let colours = "{.items[*].spec.containers[0].env[0].value}";
    becomes(cluster, "pods -l app=everywhere", colours, &["red", "red"]);
    assert_eq!(words(cluster, "pods -l app=everywhere", nodes), ["node1", "node2"]);
}

fn a_replication_controller_keeps_its_number(cluster: &Cluster) {
    becomes(cluster, "rc old", "{.status.readyReplicas}", &["2"]);
    let aside = words(cluster, "pods -l app=old", NAMES).remove(0);
    cluster.kubectl(&format!("label pod {aside} app=aside --overwrite"));
    cluster.kubectl("scale rc old --replicas=3");
    becomes(cluster, "rc old", "{.status.readyReplicas}", &["3"]);
    let owners = words(cluster, &format!("pod {aside}"), "{.metadata.ownerReferences}");
    assert_eq!(owners, Vec::<String>::new(), "it was let go");
    cluster.kubectl(&format!("delete pod {aside} --wait=false"));
    let rows = cluster.kubectl("get rc -o wide");
    assert!(rows.contains("app=old"), "{rows}");
}

fn a_replication_controller_is_replaced_pod_by_pod(cluster: &Cluster) {
    let update = |words: &str| {
        let said =
            cluster.shell(&format!("export PATH=$PATH:$PWD/target/debug; {words} --poll-interval=100ms"));
        assert!(said.well, "{words}: {}", said.text);
        said.text
    };
    let said = update("kubectl rolling-update old --image=oarlock/toolbox:0.1.0 --update-period=100ms");
    for wanted in
        ["(keep 3 pods available, don't exceed 4 pods)", "Renaming old-", "controller/old rolling updated"]
    {
        assert!(said.contains(wanted), "{said}");
    }
    let images = "{.items[*].spec.containers[0].image}";
    becomes(cluster, "pods -l app=old", images, &["oarlock/toolbox:0.1.0"; 3]);
    becomes(cluster, "rc old", "{.status.readyReplicas}", &["3"]);

    let file = Cluster::folder().join("new.yaml");
    let wanted = serde_json::json!({
        "apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "new"},
        "spec": {"template": {"metadata": {"labels": {"app": "new"}}, "spec": {
            "terminationGracePeriodSeconds": 1, "containers": [{"name": "web", "image": "oarlock/web:0.1.0"}]}}},
    });
    assert!(std::fs::write(&file, wanted.to_string()).is_ok(), "the folder is the cluster's");
    let to_new = format!("kubectl rolling-update old -f {}", file.display());
    // Interrupted while there is one pod more than wanted, by a signal to the program that kubectl has become.
    let interrupted = format!(
        "(exec {to_new} --update-period=60s --poll-interval=100ms) & sleep 3; kill $!; wait $!; true"
    );
    let said = cluster.shell(&format!("export PATH=$PATH:$PWD/target/debug; {interrupted}"));
    assert!(said.text.contains("Created new") && !said.text.contains("down to"), "{}", said.text);
    becomes(cluster, "rc old new", "{.items[*].spec.replicas}", &["1", "3"]);
    assert_eq!(
        words(cluster, "rc new", "{.metadata.annotations.kubectl\\.kubernetes\\.io/desired-replicas}"),
        ["3"]
    );
    let said = update(&format!("{to_new} --update-period=100ms --rollback"));
    assert!(said.contains("replicationcontroller/old rolled back"), "{said}");
    becomes(cluster, "rc", NAMES, &["old"]);
    becomes(cluster, "rc old", "{.status.readyReplicas}", &["3"]);

    let _ = cluster.shell(&format!("export PATH=$PATH:$PWD/target/debug; {interrupted}"));
    let said = update(&format!("{to_new} --update-period=100ms"));
    assert!(said.contains("Continuing update with existing controller new."), "{said}");
    becomes(cluster, "rc", NAMES, &["new"]);
    becomes(cluster, "pods -l app=new", images, &["oarlock/web:0.1.0"; 3]);
    cluster.kubectl("delete rc new --cascade=foreground --timeout=60s");
    becomes(cluster, "pods -l app=new", NAMES, &[]);
    // For what is looked at next.
    cluster.kubectl("apply -f manifests/workloads/");
    becomes(cluster, "rc old", "{.status.readyReplicas}", &["2"]);
}

/// What `kubectl oarlock why` says.
fn why(cluster: &Cluster, what: &str) -> String {
    let said = cluster.shell(&format!("export PATH=$PATH:$PWD/target/debug; kubectl oarlock why {what}"));
    assert!(said.well, "why {what}: {}", said.text);
    said.text
}

fn pods_are_placed_by_their_rules(cluster: &Cluster) {
    let selector = serde_json::json!({"matchLabels": {"app": "apart"}});
    let term = serde_json::json!({"labelSelector": selector, "topologyKey": "kubernetes.io/hostname"});
    let containers = serde_json::json!([{"name": "web", "image": "oarlock/web:0.1.0"}]);
    let apart = serde_json::json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "apart"},
        "spec": {"replicas": 3, "selector": selector, "template": {
            "metadata": {"labels": {"app": "apart"}},
            "spec": {"terminationGracePeriodSeconds": 1, "containers": containers,
                "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}}},
    });
    let gated = serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "gated"},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": containers,
            "schedulingGates": [{"name": "example.com/later"}]},
    });
    cluster.kubectl(&format!("apply -f - <<'END'\n{apart}\n---\n{gated}\nEND"));
    becomes(cluster, "deployment apart", "{.status.readyReplicas}", &["2"]);
    becomes(cluster, "pods -l app=apart", "{.items[*].spec.nodeName}", &["node1", "node2"]);
    let message = "{.items[*].status.conditions[?(@.reason==\"Unschedulable\")].message}";
    assert_eq!(
        cluster.kubectl(&format!("get pods -l app=apart -o jsonpath='{message}'")),
        "0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules. preemption: 0/2 nodes are available: \
         2 No preemption victims found for incoming pod."
    );
    let none = "no node takes it: 0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules.";
    assert!(why(cluster, "deployment apart").contains(none));
    let gates = "- it is kept from being placed by its gates example.com/later\n";
    assert!(why(cluster, "pod/gated").contains(gates));
    // Who goes makes room for who waits.
    let running = "{.items[?(@.status.phase==\"Running\")].metadata.name}";
    let first = words(cluster, "pods -l app=apart", running).remove(0);
    cluster.kubectl(&format!("delete pod {first} --wait=false"));
    wait("another pod has taken the node", SOON, || {
        let now = words(cluster, "pods -l app=apart", running);
        if now.len() == 2 && !now.contains(&first) { Ok(()) } else { Err(now.join(" ")) }
    });
    assert!(cluster.kubectl("get pod gated").contains("SchedulingGated"));
    cluster.kubectl(
        "patch pod gated --type=json -p '[{\"op\": \"remove\", \"path\": \"/spec/schedulingGates\"}]'",
    );
    becomes(cluster, "pod gated", "{.status.phase}", &["Running"]);
    cluster.kubectl("delete deployment/apart pod/gated --wait=false");
}

fn jobs_complete_or_fail(cluster: &Cluster) {
    cluster.kubectl("wait --for=condition=complete --timeout=60s job/count");
    let said: BTreeSet<String> = words(cluster, "pods -l job-name=count", NAMES)
        .iter()
        .map(|pod| cluster.kubectl(&format!("logs {pod}")))
        .collect();
    let wanted: BTreeSet<String> = (0..3).map(|n| format!("index {n}")).collect();
    assert_eq!(said, wanted);
    assert_eq!(cluster.kubectl("get job count -o jsonpath='{.status.completedIndexes}'"), "0-2");
    cluster.kubectl("wait --for=condition=failed --timeout=60s job/fails");
    let reason =
        cluster.kubectl("get job fails -o jsonpath='{.status.conditions[?(@.type==\"Failed\")].reason}'");
    assert_eq!(reason, "BackoffLimitExceeded");
}

fn a_cron_job_makes_up_for_what_was_missed(cluster: &Cluster) {
    let mut object = cluster.json("get cronjob yearly");
    object["status"] = serde_json::json!({"lastScheduleTime": "2020-06-01T00:00:00Z"});
    let path = "/apis/batch/v1/namespaces/default/cronjobs/yearly/status";
    cluster.kubectl(&format!("replace --raw {path} -f - <<'END'\n{object}\nEND"));
    let made = wait("a job is made", SOON, || {
        let jobs = words(
            cluster,
            "jobs",
            "{.items[?(@.metadata.ownerReferences[0].name==\"yearly\")].metadata.name}",
        );
        jobs.first().cloned().ok_or_else(|| cluster.kubectl("get events"))
    });
    cluster.kubectl(&format!("wait --for=condition=complete --timeout=60s job/{made}"));
    assert_eq!(cluster.kubectl(&format!("logs job/{made}")), "a year has passed");
    // The last first of January, and only that.
    let last = cluster.kubectl("get cronjob yearly -o jsonpath='{.status.lastScheduleTime}'");
    assert!(last.ends_with("-12-31T23:00:00Z"), "{last}");
    let events = cluster.kubectl("get events --field-selector involvedObject.kind=CronJob");
    assert!(events.contains("SuccessfulCreate"), "{events}");
}

fn deletion_takes_everything_along(cluster: &Cluster) {
    cluster.kubectl("delete rc old --cascade=foreground --timeout=60s");
    assert_eq!(
        words(cluster, "pods -l app=old", NAMES),
        Vec::<String>::new(),
        "in the foreground the owner goes last"
    );
    cluster.kubectl("delete -f manifests/workloads/ --ignore-not-found");
    becomes(cluster, "pods,controllerrevisions,jobs", NAMES, &[]);
    cluster.kubectl("create namespace short");
    cluster.kubectl("create deployment web -n short --image=oarlock/web:0.1.0");
    cluster.kubectl("wait -n short --for=condition=Available --timeout=60s deployment/web");
    cluster.kubectl("delete namespace short --timeout=60s");
}
