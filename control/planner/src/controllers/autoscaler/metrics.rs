//! What each metric proposes: how much pods use, who of them counts, and how many would use as much as wanted. Pure.
//!
//! Source: k8s.io/kubernetes/pkg/controller/podautoscaler/replica_calculator.go.

mod asked;

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr as _;

use jiff::Timestamp;
use oarlock_api::quantity::Quantity;
use oarlock_api::selector::Selector;
use serde_json::{Value, json};

pub(super) use asked::{Count, query};

use crate::world::{Answers, Key, PodView, World};

/// A change smaller than this share is none (`--horizontal-pod-autoscaler-tolerance`).
const TOLERANCE: f64 = 0.1;
/// For how long after its start a pod's processor time is that of its start.
const INITIALIZATION: i64 = 120;
/// A pod that was not ready by then never has been.
const FIRST_READINESS: i64 = 30;

/// What a metric proposes.
pub(super) struct Found {
    pub(super) replicas: i64,
    /// How messages name it.
    pub(super) metric: String,
    /// For `status.currentMetrics`.
    pub(super) status: Value,
}

/// Why it proposes nothing.
pub(super) struct Failed {
    pub(super) reason: &'static str,
    /// For the condition.
    pub(super) why: String,
    /// For the event about all metrics.
    pub(super) told: String,
}

/// A pod's use of a resource, in thousandths.
#[derive(Clone, Copy)]
struct Reading {
    value: i64,
    at: Timestamp,
    window: i64,
}

type Readings<'w> = BTreeMap<&'w str, Reading>;

pub(super) struct Calculator<'w> {
    world: &'w World,
    namespace: &'w str,
    selector: &'w Selector,
    /// What others have said of their metrics.
    answers: Option<&'w Answers>,
    pods: Vec<(&'w str, &'w PodView)>,
    tolerance: (f64, f64),
    now: Timestamp,
}

/// A resource of pods, or of one container in each.
#[derive(Clone, Copy)]
struct Resource<'s> {
    name: &'s str,
    container: Option<&'s str>,
}

impl<'w> Calculator<'w> {
    pub(super) fn new(
        world: &'w World,
        key: &'w Key,
        selector: &'w Selector,
        spec: &Value,
        now: Timestamp,
    ) -> Self {
        let namespace = key.0.as_str();
        let pods = world.pods_in(namespace).filter(|(_, pod)| selector.matches_with(|key| pod.label(key)));
        let pods = pods.map(|(key, pod)| (key.1.as_str(), pod)).collect();
        let tolerance = |direction: &str| {
            let text = spec["behavior"][direction]["tolerance"].as_str();
            let quantity = text.and_then(|text| Quantity::from_str(text).ok());
            quantity.map_or(TOLERANCE, |q| ratio(q.milli_value(), 1000))
        };
        let tolerance = (tolerance("scaleDown"), tolerance("scaleUp"));
        Self { world, namespace, selector, answers: world.answers(key), pods, tolerance, now }
    }

    pub(super) fn metric(&self, spec: &Value, count: Count) -> Result<Found, Failed> {
        let current = count.wanted;
        let text = |value: &'_ Value| value.as_str().unwrap_or("").to_owned();
        match spec["type"].as_str().unwrap_or("") {
            "Resource" => {
                let source = &spec["resource"];
                let name = text(&source["name"]);
                let resource = Resource { name: &name, container: None };
                let found = self.resource(resource, &source["target"], current);
                found
                    .map(|(replicas, what, now)| Found {
                        replicas,
                        metric: format!("{name} {what}"),
                        status: json!({"type": "Resource", "resource": {"name": name, "current": now}}),
                    })
                    .map_err(|why| Failed {
                        reason: "FailedGetResourceMetric",
                        told: format!("failed to get {name} resource metric value: {why}"),
                        why,
                    })
            }
            "ContainerResource" => {
                let source = &spec["containerResource"];
                let (name, container) = (text(&source["name"]), text(&source["container"]));
                let resource = Resource { name: &name, container: Some(&container) };
                let found = self.resource(resource, &source["target"], current);
                found
                    .map(|(replicas, what, now)| Found {
                        replicas,
                        metric: format!("{name} container {what}"),
                        status: json!({"type": "ContainerResource",
                            "containerResource": {"name": name, "container": container, "current": now}}),
                    })
                    .map_err(|why| Failed {
                        reason: "FailedGetContainerResourceMetric",
                        told: format!("failed to get {name} container metric value: {why}"),
                        why,
                    })
            }
            "Pods" => self.pods_metric(spec, current),
            "Object" => self.object_metric(spec, count),
            "External" => self.external_metric(spec, count),
            other => {
                let why = format!("unknown metric source type {other:?}");
                Err(Failed { reason: "InvalidMetricSourceType", told: why.clone(), why })
            }
        }
    }

    /// The number of replicas, what was compared, and what is used now.
    fn resource(
        &self,
        resource: Resource<'_>,
        target: &Value,
        current: i64,
    ) -> Result<(i64, &'static str, Value), String> {
        let name = resource.name;
        let average = target["averageValue"].as_str().and_then(|text| Quantity::from_str(text).ok());
        if let Some(average) = average {
            let (replicas, used) = self
                .by_value(resource, average.milli_value(), current)
                .map_err(|why| format!("failed to get {name} usage: {why}"))?;
            let now = json!({"averageValue": Quantity::milli(used).to_string()});
            return Ok((replicas, "resource", now));
        }
        let Some(wanted) = target["averageUtilization"].as_i64() else {
            return Err(
                "invalid resource metric source: neither an average utilization target nor an average value (usage) target was set"
                    .to_owned(),
            );
        };
        let (replicas, percent, used) = self
            .by_utilization(resource, wanted, current)
            .map_err(|why| format!("failed to get {name} utilization: {why}"))?;
        let now = json!({"averageUtilization": percent, "averageValue": Quantity::milli(used).to_string()});
        Ok((replicas, "resource utilization (percentage of request)", now))
    }

    fn readings(&self, resource: Resource<'_>) -> Result<Readings<'w>, String> {
        let fail = |why: String| format!("unable to get metrics for resource {}: {why}", resource.name);
        let usage = |name: &str, pod: &PodView| {
            let usage = self.world.usage(self.namespace, name)?;
            (usage.uid == pod.uid && usage.is_fresh(self.now)).then_some(usage)
        };
        let known: Vec<_> =
            self.pods.iter().filter_map(|(name, pod)| Some((*name, usage(name, pod)?))).collect();
        if known.is_empty() {
            return Err(fail("no metrics returned from resource metrics API".to_owned()));
        }
        let mut readings = Readings::new();
        for (name, usage) in known {
            let wanted = |c: &str| resource.container.is_none_or(|only| only == c);
            let containers: Vec<_> = usage.containers.iter().filter(|c| wanted(&c.name)).collect();
            if containers.is_empty() {
                let container = resource.container.unwrap_or("");
                return Err(fail(format!(
                    "failed to get container metrics: container {container} not present in metrics for pod {}/{name}",
                    self.namespace
                )));
            }
            let value = match resource.name {
                "cpu" => containers.iter().map(|c| milli(c.cpu_nano_cores.div_ceil(1_000_000))).sum(),
                "memory" => containers.iter().map(|c| milli(c.memory.saturating_mul(1000))).sum(),
                _ => continue,
            };
            let window = i64::try_from(usage.window.as_secs()).unwrap_or(0);
            readings.insert(name, Reading { value, at: usage.at, window });
        }
        Ok(readings)
    }

    /// How many pods count, which do not count yet, and of which nothing is known.
    fn group(&self, readings: &Readings<'w>, cpu: bool) -> (i64, BTreeSet<&'w str>, BTreeSet<&'w str>) {
        let (mut ready, mut ignored, mut missing) = (0, BTreeSet::new(), BTreeSet::new());
        for (name, pod) in &self.pods {
            if pod.is_terminating() || &*pod.phase == "Failed" {
                continue;
            }
            match readings.get(name) {
                _ if &*pod.phase == "Pending" => drop(ignored.insert(*name)),
                None => drop(missing.insert(*name)),
                Some(reading) if cpu && self.begins(pod, reading) => drop(ignored.insert(*name)),
                Some(_) => ready += 1,
            }
        }
        (ready, ignored, missing)
    }

    /// Whether what a pod uses is what its start uses.
    fn begins(&self, pod: &PodView, reading: &Reading) -> bool {
        let (Some(started), Some(since)) = (pod.started, pod.ready_since) else { return true };
        let (started, since) = (started.as_second(), since.as_second());
        if started + INITIALIZATION > self.now.as_second() {
            !pod.ready || reading.at.as_second() < since + reading.window
        } else {
            !pod.ready && started + FIRST_READINESS > since
        }
    }

    fn requests(&self, resource: Resource<'_>) -> Result<BTreeMap<&'w str, i64>, String> {
        let mut requests = BTreeMap::new();
        for (name, pod) in &self.pods {
            let mut sum = 0_i64;
            let wanted = |c: &str| resource.container.is_none_or(|only| only == c);
            for container in pod.requests.iter().filter(|c| wanted(&c.name)) {
                let asked = match resource.name {
                    "cpu" => container.cpu_milli,
                    "memory" => container.memory.map(|bytes| bytes.saturating_mul(1000)),
                    _ => None,
                };
                let missing = || {
                    format!(
                        "missing request for {} in container {} of Pod {name}",
                        resource.name, container.name
                    )
                };
                sum = sum.saturating_add(asked.ok_or_else(missing)?);
            }
            requests.insert(*name, sum);
        }
        Ok(requests)
    }

    fn by_utilization(
        &self,
        resource: Resource<'_>,
        wanted: i64,
        current: i64,
    ) -> Result<(i64, i64, i64), String> {
        let mut readings = self.readings(resource)?;
        let (ready, ignored, missing) = self.grouped(&mut readings, resource.name == "cpu")?;
        let requests = self.requests(resource)?;
        if readings.is_empty() {
            return Err("did not receive metrics for any ready pods".to_owned());
        }
        let (usage, percent, used) = utilization(&readings, &requests, wanted)?;
        let fallback = |name: &str| requests.get(name).map_or(0, |request| request * wanted.max(100) / 100);
        let replicas = self.replicas(
            (&mut readings, ready, &ignored, &missing),
            current,
            usage,
            &fallback,
            &|readings| utilization(readings, &requests, wanted).map(|(ratio, ..)| ratio),
        )?;
        Ok((replicas, percent, used))
    }

    fn by_value(&self, resource: Resource<'_>, wanted: i64, current: i64) -> Result<(i64, i64), String> {
        self.plain(self.readings(resource)?, wanted, current, resource.name == "cpu")
    }

    /// By the average of what is known of pods.
    fn plain(
        &self,
        mut readings: Readings<'w>,
        wanted: i64,
        current: i64,
        cpu: bool,
    ) -> Result<(i64, i64), String> {
        let (ready, ignored, missing) = self.grouped(&mut readings, cpu)?;
        if readings.is_empty() {
            return Err("did not receive metrics for any ready pods".to_owned());
        }
        let used = average(&readings);
        let replicas = self.replicas(
            (&mut readings, ready, &ignored, &missing),
            current,
            ratio(used, wanted),
            &|_| wanted,
            &|readings| Ok(ratio(average(readings), wanted)),
        )?;
        Ok((replicas, used))
    }

    /// Takes the readings of those that do not count yet away.
    fn grouped(
        &self,
        readings: &mut Readings<'w>,
        cpu: bool,
    ) -> Result<(i64, BTreeSet<&'w str>, BTreeSet<&'w str>), String> {
        if self.pods.is_empty() {
            return Err("no pods returned by selector while calculating replica count".to_owned());
        }
        let (ready, ignored, missing) = self.group(readings, cpu);
        readings.retain(|name, _| !ignored.contains(name));
        Ok((ready, ignored, missing))
    }

    /// From the ratio of use to target. Who is not known, or not ready, is taken to use what speaks against a change.
    fn replicas(
        &self,
        (readings, ready, ignored, missing): (&mut Readings<'w>, i64, &BTreeSet<&'w str>, &BTreeSet<&'w str>),
        current: i64,
        usage: f64,
        fallback: &dyn Fn(&str) -> i64,
        again: &dyn Fn(&Readings<'w>) -> Result<f64, String>,
    ) -> Result<i64, String> {
        let starting = !ignored.is_empty() && usage > 1.0;
        if !starting && missing.is_empty() {
            return Ok(if self.is_near(usage) { current } else { times(usage, ready) });
        }
        let assumed = |value: i64| Reading { value, at: self.now, window: 0 };
        for name in missing {
            let value = if usage < 1.0 { fallback(name) } else { 0 };
            readings.insert(name, assumed(value));
        }
        if starting {
            readings.extend(ignored.iter().map(|name| (*name, assumed(0))));
        }
        let now = again(readings)?;
        if self.is_near(now) || (usage < 1.0 && now > 1.0) || (usage > 1.0 && now < 1.0) {
            return Ok(current);
        }
        let replicas = times(now, i64::try_from(readings.len()).unwrap_or(i64::MAX));
        let turns = (now < 1.0 && replicas > current) || (now > 1.0 && replicas < current);
        Ok(if turns { current } else { replicas })
    }

    fn is_near(&self, ratio: f64) -> bool {
        let (down, up) = self.tolerance;
        1.0 - down <= ratio && ratio <= 1.0 + up
    }
}

fn milli(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn ratio(used: i64, wanted: i64) -> f64 {
    used as f64 / wanted as f64
}

fn times(ratio: f64, pods: i64) -> i64 {
    (ratio * pods as f64).ceil() as i64
}

fn average(readings: &Readings<'_>) -> i64 {
    let sum: i64 = readings.values().map(|r| r.value).sum();
    sum / i64::try_from(readings.len()).unwrap_or(1).max(1)
}

/// The ratio to the target, the utilization in percent, and the average use.
fn utilization(
    readings: &Readings<'_>,
    requests: &BTreeMap<&str, i64>,
    wanted: i64,
) -> Result<(f64, i64, i64), String> {
    let known = readings.iter().filter_map(|(name, reading)| Some((reading.value, *requests.get(name)?)));
    let (mut used, mut asked, mut count) = (0_i64, 0_i64, 0_i64);
    for (value, request) in known {
        (used, asked, count) = (used.saturating_add(value), asked.saturating_add(request), count + 1);
    }
    if asked == 0 {
        return Err("no metrics returned matched known pods".to_owned());
    }
    let percent = used.saturating_mul(100) / asked;
    Ok((ratio(percent, wanted), percent, used / count))
}

/// A label selector as Go prints it.
fn go_selector(selector: &Value) -> String {
    let Some(map) = selector.as_object() else { return "nil".to_owned() };
    let labels = map.get("matchLabels").and_then(Value::as_object).into_iter().flatten();
    let labels: String =
        labels.map(|(key, value)| format!("{key}: {},", value.as_str().unwrap_or(""))).collect();
    let all = map.get("matchExpressions").and_then(Value::as_array).into_iter().flatten();
    let all: String = all
        .map(|e| {
            let text = |field: &str| e[field].as_str().unwrap_or("").to_owned();
            let values = e["values"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let values = values.collect::<Vec<_>>().join(" ");
            format!(
                "LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},",
                text("key"),
                text("operator")
            )
        })
        .collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{all}}},}}"
    )
}
