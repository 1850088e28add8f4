//! Golden turns: what is scaled, said and remembered; rules about pods that are not known or not ready; policies; and that any history
//! of loads ends where a fresh autoscaler would begin.

mod asked;

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use oarlock_api::catalogue::{DEPLOYMENTS, HORIZONTAL_POD_AUTOSCALERS, PODS};
use oarlock_api::defaults;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::normalize::{Asked, decide};
use crate::change::{Change, Plan};
use crate::controllers::Settings;
use crate::world::{Answer, Answers, ContainerUsage, Memory, PodUsage, Query, Usage, World};

const NOW: &str = "2026-01-01T01:00:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

/// A pod's name, what it uses in millicores (nothing: not known), and its state.
#[derive(Clone, Copy)]
enum State {
    Ready,
    Unready,
    Pending,
    Fresh,
}

fn cpu(percent: i64) -> Value {
    let target = json!({"type": "Utilization", "averageUtilization": percent});
    json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}])
}

struct Stage {
    world: World,
    usage: Usage,
    replicas: i64,
    spec: Value,
    status: Value,
    now: Timestamp,
    /// What others say of a metric, by its name.
    served: Vec<(&'static str, Answer)>,
    /// What they were asked.
    asked: Vec<String>,
}

impl Stage {
    fn new(replicas: i64, metrics: Value) -> Self {
        let reference = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"});
        let spec =
            json!({"scaleTargetRef": reference, "minReplicas": 1, "maxReplicas": 10, "metrics": metrics});
        Self {
            world: World::default(),
            usage: Usage::new(),
            replicas,
            spec,
            status: json!({}),
            now: now(),
            served: Vec::new(),
            asked: Vec::new(),
        }
    }

    fn pod(mut self, name: &str, milli: Option<u64>, state: State) -> Self {
        let (phase, ready, started) = match state {
            State::Ready => ("Running", "True", "2026-01-01T00:00:00Z"),
            State::Unready => ("Running", "False", "2026-01-01T00:00:00Z"),
            State::Pending => ("Pending", "False", "2026-01-01T00:00:00Z"),
            State::Fresh => ("Running", "False", "2026-01-01T00:59:30Z"),
        };
        let pod = json!({"metadata": {"name": name, "namespace": "d", "uid": name, "labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m", "memory": "1Mi"}}}]},
            "status": {"phase": phase, "startTime": started,
                "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:10Z"}]}});
        self.world.put(&PODS, "d", name, &Arc::new(pod), 3);
        if let Some(milli) = milli {
            let container =
                ContainerUsage { name: "c".into(), cpu_nano_cores: milli * 1_000_000, memory: 512 * 1024 };
            let usage = PodUsage {
                uid: name.into(),
                at: self.now,
                window: Duration::from_secs(10),
                containers: [container].into(),
            };
            self.usage.insert(("d".into(), name.into()), Arc::new(usage));
        }
        self
    }

    fn pods(self, count: i64, milli: u64) -> Self {
        (0..count).fold(self, |stage, i| stage.pod(&format!("p{i}"), Some(milli), State::Ready))
    }

    fn with(mut self, field: &str, value: Value) -> Self {
        self.spec[field] = value;
        self
    }

    fn plan(&mut self) -> Plan {
        let selector = json!({"matchLabels": {"app": "web"}});
        let web = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "uid": "w"},
            "spec": {"replicas": self.replicas, "selector": selector}, "status": {"replicas": self.replicas}});
        self.world.put(&DEPLOYMENTS, "d", "web", &Arc::new(web), 5);
        let mut object =
            json!({"metadata": {"name": "a", "uid": "u"}, "spec": self.spec, "status": self.status});
        defaults::apply(&HORIZONTAL_POD_AUTOSCALERS, &mut object);
        self.world.put(&HORIZONTAL_POD_AUTOSCALERS, "d", "a", &Arc::new(object), 6);
        self.world.set_usage(self.usage.clone());
        let settings = Settings { cluster_cidr: "10.0.0.0/16".parse().unwrap(), ca_pem: String::new() };
        let key = ("d".into(), "a".into());
        let mut plan = super::plan(&self.world, &settings, &key, self.now);
        if let [Change::Measure { queries, .. }] = plan.changes.as_slice() {
            let answer = |query: &Query| {
                self.asked.push(format!("{}?{}", query.path.join("/"), parameters(query)));
                let known = self.served.iter().find(|(name, _)| query.path.last().is_some_and(|n| n == name));
                let (api, group) = (query.api, query.api.group());
                let none = || Err(format!("no {api} metrics API ({group}) registered"));
                (query.clone(), known.map_or_else(none, |(_, answer)| answer.clone()))
            };
            let answers = Answers { at: self.now, all: queries.iter().map(answer).collect() };
            self.world.tell(key.clone(), answers);
            plan = super::plan(&self.world, &settings, &key, self.now);
        }
        assert_eq!(plan.again, Some(Duration::from_secs(15)));
        for change in &plan.changes {
            match change {
                Change::Patch { kind, patch, .. } if **kind == DEPLOYMENTS => {
                    self.replicas = patch["spec"]["replicas"].as_i64().unwrap();
                }
                Change::Patch { patch, .. } => self.status = patch["status"].clone(),
                Change::Remember { memory, .. } => {
                    self.world.remember(("d".into(), "a".into()), Memory::clone(memory));
                }
                _ => {}
            }
        }
        plan
    }

    /// `AbleToScale True SucceededRescale`, one a line.
    fn said(&self) -> Vec<String> {
        let all = self.status["conditions"].as_array().unwrap().iter();
        let text = |c: &Value, field: &str| c[field].as_str().unwrap().to_owned();
        all.map(|c| format!("{} {} {}", text(c, "type"), text(c, "status"), text(c, "reason"))).collect()
    }

    fn message(&self, kind: &str) -> String {
        let all = self.status["conditions"].as_array().unwrap();
        all.iter().find(|c| c["type"] == kind).unwrap()["message"].as_str().unwrap().to_owned()
    }
}

fn parameters(query: &Query) -> String {
    let given = query.parameters.iter().filter(|(_, value)| !value.is_empty());
    given.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

fn events(plan: &Plan) -> Vec<String> {
    let all = plan.changes.iter().filter_map(|change| match change {
        Change::Event { reason, message, .. } => Some(format!("{reason}: {message}")),
        _ => None,
    });
    all.collect()
}

#[test]
fn a_busy_target_grows_as_fast_as_it_may() {
    let mut stage = Stage::new(2, cpu(50)).pods(2, 200);
    let plan = stage.plan();
    assert_eq!(stage.replicas, 4, "eight would do, but twice as many or four is the most in one step");
    assert_eq!(
        stage.said(),
        [
            "AbleToScale True SucceededRescale",
            "ScalingActive True ValidMetricFound",
            "ScalingLimited True ScaleUpLimit"
        ]
    );
    assert_eq!(
        stage.message("ScalingActive"),
        "the HPA was able to successfully calculate a replica count from cpu resource utilization (percentage of request)"
    );
    let reason = "cpu resource utilization (percentage of request) above target";
    assert_eq!(events(&plan), [format!("SuccessfulRescale: New size: 4; reason: {reason}")]);
    assert_eq!((&stage.status["currentReplicas"], &stage.status["desiredReplicas"]), (&json!(2), &json!(4)));
    assert_eq!(stage.status["lastScaleTime"], NOW);
    let current = json!({"averageUtilization": 200, "averageValue": "200m"});
    assert_eq!(
        stage.status["currentMetrics"],
        json!([{"type": "Resource", "resource": {"name": "cpu", "current": current}}])
    );
}

#[test]
fn what_is_near_enough_stays_and_what_is_idle_waits_five_minutes() {
    let mut near = Stage::new(2, cpu(50)).pods(2, 54);
    near.plan();
    assert_eq!(near.replicas, 2);
    assert_eq!(near.said()[0], "AbleToScale True ReadyForNewScale");
    let mut idle = Stage::new(4, cpu(50)).pods(4, 10);
    idle.plan();
    assert_eq!((idle.replicas, idle.said()[0].as_str()), (4, "AbleToScale True ScaleDownStabilized"));
    let (status, quiet) = (idle.status.clone(), idle.plan());
    assert!(events(&quiet).is_empty() && idle.status == status, "nothing is said twice");
    idle.now = idle.now.checked_add(SignedDuration::from_secs(300)).unwrap();
    let mut later = Stage { usage: Usage::new(), ..idle }.pods(4, 10);
    let plan = later.plan();
    assert_eq!(later.replicas, 1);
    assert_eq!(events(&plan), ["SuccessfulRescale: New size: 1; reason: All metrics below target"]);
}

#[test]
fn bounds_come_before_metrics_and_none_is_scaled_from_zero() {
    let replicas = |replicas: i64| {
        let mut stage =
            Stage::new(replicas, cpu(50)).with("minReplicas", json!(3)).with("maxReplicas", json!(5));
        let said = events(&stage.plan()).concat();
        (stage.replicas, said)
    };
    let (text, reason) = ("SuccessfulRescale: New size: ", "reason: Current number of replicas");
    assert_eq!(replicas(9), (5, format!("{text}5; {reason} above Spec.MaxReplicas")));
    assert_eq!(replicas(1), (3, format!("{text}3; {reason} below Spec.MinReplicas")));
    let mut off = Stage::new(0, cpu(50));
    assert_eq!(events(&off.plan()), Vec::<String>::new());
    assert_eq!(off.said()[1], "ScalingActive False ScalingDisabled");
    assert_eq!(off.replicas, 0);
}

#[test]
fn what_cannot_be_had_is_said_in_upstreams_words() {
    let unable = "the HPA was unable to compute the replica count: ";
    let fail = |metrics: Value| {
        let mut stage = Stage::new(1, metrics).pod("p", None, State::Ready);
        let said = events(&stage.plan());
        assert!(events(&stage.plan()).is_empty(), "events are said once");
        assert_eq!(stage.replicas, 1);
        (stage.said()[1].clone(), stage.message("ScalingActive"), said[1].clone())
    };
    let why = "failed to get cpu utilization: unable to get metrics for resource cpu: no metrics returned from resource metrics API";
    let all = "FailedComputeMetricsReplicas: invalid metrics (1 invalid out of 1), first error is: ";
    assert_eq!(
        fail(cpu(50)),
        (
            "ScalingActive False FailedGetResourceMetric".to_owned(),
            format!("{unable}{why}"),
            format!("{all}failed to get cpu resource metric value: {why}")
        )
    );
    let amount = json!({"type": "AverageValue", "averageValue": "5"});
    let selector = json!({"matchLabels": {"queue": "jobs"}});
    for (metric, reason, message) in [
        (
            json!({"type": "Pods", "pods": {"metric": {"name": "rate"}, "target": amount}}),
            "FailedGetPodsMetric",
            "unable to get metric rate: unable to fetch metrics from custom metrics API: no custom metrics API \
             (custom.metrics.k8s.io) registered",
        ),
        (
            json!({"type": "Object", "object": {"metric": {"name": "rate"}, "target": amount,
                "describedObject": {"kind": "Ingress", "name": "main"}}}),
            "FailedGetObjectMetric",
            "unable to get metric rate: Ingress on d main/unable to fetch metrics from custom metrics API: unable to map kind \
             Ingress to resource: no matches for kind \"Ingress\" in group \"\"",
        ),
        (
            json!({"type": "External", "external": {"metric": {"name": "depth", "selector": selector}, "target": amount}}),
            "FailedGetExternalMetric",
            "unable to get external metric d/depth/&LabelSelector{MatchLabels:map[string]string{queue: jobs,},\
             MatchExpressions:[]LabelSelectorRequirement{},}: unable to fetch metrics from external metrics API: no external \
             metrics API (external.metrics.k8s.io) registered",
        ),
    ] {
        let (condition, said, _) = fail(json!([metric]));
        assert_eq!(condition, format!("ScalingActive False {reason}"));
        assert_eq!(said, format!("{unable}{message}"));
    }
}

#[test]
fn a_target_that_is_not_there_cannot_be_scaled() {
    let of = |kind: &str, group: &str, name: &str| {
        let reference = json!({"apiVersion": group, "kind": kind, "name": name});
        let mut stage = Stage::new(1, cpu(50)).with("scaleTargetRef", reference);
        let said = events(&stage.plan()).concat();
        assert_eq!(stage.said(), ["AbleToScale False FailedGetScale"]);
        said
    };
    assert_eq!(of("Deployment", "apps/v1", "none"), "FailedGetScale: deployments.apps \"none\" not found");
    assert_eq!(
        of("Thing", "apps/v1", "web"),
        "FailedGetScale: no matches for kind \"Thing\" in group \"apps\""
    );
    let unscalable = "FailedGetScale: the server could not find the requested resource";
    assert_eq!(of("DaemonSet", "apps/v1", "web"), unscalable);
}

#[test]
fn of_several_metrics_the_one_that_wants_most_counts_and_a_broken_one_never_lets_shrink() {
    let memory = json!({"type": "Resource", "resource": {"name": "memory",
        "target": {"type": "AverageValue", "averageValue": "128Ki"}}});
    let pods = json!({"type": "Pods", "pods": {"metric": {"name": "rate"}, "target": {"averageValue": "5"}}});
    let both = |first: Value, second: &Value| json!([first[0], second]);
    let mut stage = Stage::new(2, both(cpu(50), &memory)).pods(2, 60);
    let said = events(&stage.plan()).concat();
    assert_eq!(
        (stage.replicas, said.as_str()),
        (4, "SuccessfulRescale: New size: 4; reason: memory resource above target")
    );
    let mut grows = Stage::new(2, both(cpu(50), &pods)).pods(2, 100);
    grows.plan();
    assert_eq!(grows.replicas, 4);
    assert_eq!(grows.status["currentMetrics"][1], json!({"type": ""}));
    let mut shrinks = Stage::new(2, both(cpu(50), &pods)).pods(2, 10);
    shrinks.plan();
    assert_eq!(shrinks.said()[1], "ScalingActive False FailedGetPodsMetric");
}

#[test]
fn pods_that_are_not_known_or_not_ready_speak_against_the_change() {
    use State::{Fresh, Pending, Ready, Unready};
    for (pods, wanted, why) in [
        (vec![(Some(100), Ready), (None, Ready)], 2, "as if the other used nothing: 50 of 50"),
        (vec![(Some(400), Ready), (None, Ready)], 4, "as if the other used nothing: 200 of 50, bounded"),
        (vec![(Some(10), Ready), (None, Ready)], 2, "as if the other used all that it asked for"),
        (vec![(Some(100), Ready), (None, Pending)], 2, "who waits does not count but against growing"),
        (vec![(Some(100), Ready), (Some(900), Fresh)], 2, "a start is no load"),
        (vec![(Some(300), Ready), (Some(300), Unready)], 4, "who was ready once and is not any more counts"),
    ] {
        let count = i64::try_from(pods.len()).unwrap();
        let stage = pods.iter().enumerate().fold(Stage::new(count, cpu(50)), |stage, (i, (milli, state))| {
            stage.pod(&format!("p{i}"), *milli, *state)
        });
        let mut stage = stage;
        stage.plan();
        assert_eq!(stage.replicas, wanted, "{why}");
    }
    let mut old = Stage::new(1, cpu(50)).pods(1, 500);
    old.now = old.now.checked_add(SignedDuration::from_secs(61)).unwrap();
    old.plan();
    assert_eq!(old.said()[1], "ScalingActive False FailedGetResourceMetric", "an old report is none");
}

#[test]
fn a_pod_without_a_request_is_named() {
    let mut stage = Stage::new(1, cpu(50)).pods(1, 500);
    let bare = json!({"metadata": {"name": "p0", "namespace": "d", "uid": "p0", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c"}]}, "status": {"phase": "Running", "startTime": "2026-01-01T00:00:00Z",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:10Z"}]}});
    stage.world.put(&PODS, "d", "p0", &Arc::new(bare), 4);
    stage.plan();
    let said = stage.message("ScalingActive");
    assert!(
        said.ends_with("failed to get cpu utilization: missing request for cpu in container c of Pod p0"),
        "{said}"
    );
}

#[test]
fn one_container_can_be_what_counts() {
    let metric = |container: &str| {
        let target = json!({"type": "Utilization", "averageUtilization": 50});
        json!([{"type": "ContainerResource",
            "containerResource": {"name": "cpu", "container": container, "target": target}}])
    };
    let mut stage = Stage::new(1, metric("c")).pods(1, 100);
    stage.plan();
    assert_eq!(stage.replicas, 2);
    let mut other = Stage::new(1, metric("sidecar")).pods(1, 100);
    other.plan();
    let said = other.message("ScalingActive");
    let why = "failed to get container metrics: container sidecar not present in metrics for pod d/p0";
    assert!(said.ends_with(why), "{said}");
    assert_eq!(other.said()[1], "ScalingActive False FailedGetContainerResourceMetric");
}

#[test]
fn two_autoscalers_of_one_target_do_not_fight() {
    let mut stage = Stage::new(1, cpu(50)).pods(1, 500);
    let rival = json!({"metadata": {"name": "b"}, "spec": stage.spec});
    stage.world.put(&HORIZONTAL_POD_AUTOSCALERS, "d", "b", &Arc::new(rival), 2);
    stage.plan();
    assert_eq!((stage.replicas, stage.said()[1].as_str()), (1, "ScalingActive False AmbiguousSelector"));
    let said = stage.message("ScalingActive");
    assert_eq!(said, "pods by selector app=web are controlled by multiple HPAs: [{a d} {b d}]");
}

#[test]
fn policies_bound_how_fast_it_goes() {
    let pods = |value: i64, seconds: i64| json!({"type": "Pods", "value": value, "periodSeconds": seconds});
    let percent =
        |value: i64, seconds: i64| json!({"type": "Percent", "value": value, "periodSeconds": seconds});
    let rules = |policies: Value, select: &str| json!({"stabilizationWindowSeconds": 0, "selectPolicy": select, "policies": policies});
    let ago = |seconds: i64| now().checked_sub(SignedDuration::from_secs(seconds)).unwrap();
    let of = |up: Value, down: Value, current: i64, proposed: i64| {
        let mut memory = Memory { ups: vec![(ago(30), 3)], downs: vec![(ago(30), 3)], ..Memory::default() };
        let asked = Asked { current, proposed, least: 1, most: 100, now: now() };
        let verdict = decide(&json!({"scaleUp": up, "scaleDown": down}), &asked, &mut memory);
        (verdict.replicas, verdict.limited.1)
    };
    let none = || rules(json!([percent(100, 15)]), "Max");
    for (policies, select, current, wanted, reason) in [
        (json!([pods(4, 60)]), "Max", 10, 11, "ScaleUpLimit"),
        (json!([pods(4, 15)]), "Max", 10, 14, "ScaleUpLimit"),
        (json!([pods(4, 15), percent(100, 15)]), "Max", 10, 20, "ScaleUpLimit"),
        (json!([pods(4, 15), percent(100, 15)]), "Min", 10, 14, "ScaleUpLimit"),
        (json!([percent(1, 15)]), "Max", 10, 11, "ScaleUpLimit"),
        (json!([pods(1, 60)]), "Max", 10, 10, "ScaleUpLimit"),
        (json!([pods(900, 15)]), "Max", 10, 50, "DesiredWithinRange"),
        (json!([pods(900, 15)]), "Disabled", 10, 10, "ScaleUpLimit"),
    ] {
        assert_eq!(
            of(rules(policies.clone(), select), none(), current, 50),
            (wanted, reason),
            "{policies} {select}"
        );
    }
    for (policies, select, wanted, reason) in [
        (json!([pods(4, 60)]), "Max", 19, "ScaleDownLimit"),
        (json!([pods(4, 15)]), "Max", 16, "ScaleDownLimit"),
        (json!([pods(4, 15), percent(50, 15)]), "Max", 10, "ScaleDownLimit"),
        (json!([pods(4, 15), percent(50, 15)]), "Min", 16, "ScaleDownLimit"),
        (json!([percent(100, 15)]), "Max", 2, "DesiredWithinRange"),
        (json!([percent(100, 15)]), "Disabled", 20, "ScaleDownLimit"),
    ] {
        assert_eq!(
            of(none(), rules(policies.clone(), select), 20, 2),
            (wanted, reason),
            "{policies} {select}"
        );
    }
}

#[test]
fn windows_take_the_most_careful_recommendation() {
    let ago = |seconds: i64| now().checked_sub(SignedDuration::from_secs(seconds)).unwrap();
    let behavior = |up: i64, down: i64| {
        let rules = |window: i64| {
            json!({"stabilizationWindowSeconds": window, "selectPolicy": "Max",
            "policies": [{"type": "Percent", "value": 900, "periodSeconds": 15}]})
        };
        json!({"scaleUp": rules(up), "scaleDown": rules(down)})
    };
    let of = |behavior: &Value, current: i64, proposed: i64| {
        let recommendations = vec![(ago(90), 3), (ago(30), 6)];
        let mut memory = Memory { recommendations, ..Memory::default() };
        let asked = Asked { current, proposed, least: 1, most: 100, now: now() };
        let verdict = decide(behavior, &asked, &mut memory);
        (verdict.replicas, verdict.stabilized.map(|said| said.0))
    };
    assert_eq!(of(&behavior(60, 300), 4, 9), (6, Some("ScaleUpStabilized")));
    assert_eq!(of(&behavior(0, 300), 4, 9), (9, None));
    assert_eq!(of(&behavior(0, 60), 8, 2), (6, Some("ScaleDownStabilized")));
    assert_eq!(of(&behavior(0, 0), 8, 2), (2, None));
    assert_eq!(of(&Value::Null, 8, 2), (6, Some("ScaleDownStabilized")));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Whatever the loads were, under one that stays it ends where a fresh autoscaler ends: at a number that fits it.
    #[test]
    fn any_history_of_loads_ends_where_a_fresh_one_does(
        loads in proptest::collection::vec(0_u64..3000, 1..12), last in 0_u64..3000, behaves in any::<bool>(),
    ) {
        let run = |loads: &[u64]| {
            let mut stage = Stage::new(2, cpu(50)).with("minReplicas", json!(2)).with("maxReplicas", json!(20));
            if behaves {
                stage.spec["behavior"] = json!({"scaleDown": {"stabilizationWindowSeconds": 60}});
            }
            // A load is shared by all pods; the last one stays for ten minutes.
            let turns = loads.iter().chain(std::iter::repeat_n(&last, 60));
            for load in turns {
                let share = load / u64::try_from(stage.replicas).unwrap();
                let (world, memory) = (World::default(), stage.world.memory(&("d".into(), "a".into())).cloned());
                let after = stage.now.checked_add(SignedDuration::from_secs(15)).unwrap();
                let count = stage.replicas;
                stage = Stage { world, usage: Usage::new(), now: after, ..stage }.pods(count, share);
                if let Some(memory) = memory {
                    stage.world.remember(("d".into(), "a".into()), memory);
                }
                stage.plan();
                assert!((2..=20).contains(&stage.replicas), "{}", stage.replicas);
            }
            stage.replicas
        };
        // Where the load fits, or where rounding up gives the same again: several numbers may be right.
        let right = |replicas: i64| {
            let share = i64::try_from(last).unwrap() / replicas;
            let rounded = (share * replicas + 49) / 50;
            (45..=55).contains(&share) || rounded.clamp(2, 20) == replicas
        };
        let (lived, fresh) = (run(&loads), run(&[]));
        prop_assert!(right(lived) && right(fresh), "{lived} and {fresh} under {last}");
    }
}
