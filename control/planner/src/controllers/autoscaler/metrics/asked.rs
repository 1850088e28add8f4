//! Metrics that others serve: what has to be asked, and what the answers propose.
//!
//! Source: k8s.io/kubernetes/pkg/controller/podautoscaler/replica_calculator.go, k8s.io/metrics/pkg/client.

use std::str::FromStr as _;

use oarlock_api::catalogue::KINDS;
use oarlock_api::quantity::Quantity;
use oarlock_api::selector::Selector;
use serde_json::{Value, json};

use super::{Calculator, Failed, Found, Reading, Readings, ratio, times};
use crate::world::{MetricsApi, Query, Sample};

/// How many pods a target has.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Count {
    /// That it should have.
    pub(in super::super) wanted: i64,
    /// That it says that it has.
    pub(in super::super) present: i64,
}

/// What has to be asked for a metric; nothing for those of resources. Or why it cannot be.
pub(in super::super) fn query(
    spec: &Value,
    namespace: &str,
    pods: &Selector,
) -> Result<Option<Query>, String> {
    let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
    let namespaced = || vec!["namespaces".to_owned(), namespace.to_owned()];
    let metric = |source: &Value| -> Result<(String, String), String> {
        let selector = Selector::from_label_selector(source["metric"].get("selector"));
        let selector = selector.map_err(|e| e.to_string())?;
        Ok((text(&source["metric"]["name"]), selector.map(|s| s.to_string()).unwrap_or_default()))
    };
    let custom = |resource: &str, name: &str, path: Vec<String>, parameters| {
        let about = format!("{resource}.{} {name}", MetricsApi::Custom.group());
        Ok(Some(Query { api: MetricsApi::Custom, path, parameters, about }))
    };
    match spec["type"].as_str().unwrap_or("") {
        "Pods" => {
            let (name, selector) = metric(&spec["pods"])?;
            let path = [namespaced(), vec!["pods".to_owned(), "*".to_owned(), name]].concat();
            let parameters = vec![("labelSelector", pods.to_string()), ("metricLabelSelector", selector)];
            custom("pods", "*", path, parameters)
        }
        "Object" => {
            let source = &spec["object"];
            let (metric, selector) = metric(source)?;
            let object = &source["describedObject"];
            let name = text(&object["name"]);
            let resource = resource(object)?;
            let parameters = vec![("metricLabelSelector", selector)];
            // An autoscaler sees no other namespace than its own, whichever it names.
            let path = if resource == "namespaces" {
                [namespaced(), vec!["metrics".to_owned(), metric]].concat()
            } else {
                [namespaced(), vec![resource.clone(), name.clone(), metric]].concat()
            };
            custom(&resource, &name, path, parameters)
        }
        "External" => {
            let (name, selector) = metric(&spec["external"])?;
            let about = format!("{name}.{}", MetricsApi::External.group());
            let path = [namespaced(), vec![name]].concat();
            let parameters = vec![("labelSelector", selector)];
            Ok(Some(Query { api: MetricsApi::External, path, parameters, about }))
        }
        _ => Ok(None),
    }
}

/// The resource of the kind of an object: `ingresses.networking.k8s.io`.
fn resource(object: &Value) -> Result<String, String> {
    let kind = object["kind"].as_str().unwrap_or("");
    let group = object["apiVersion"].as_str().unwrap_or("").split_once('/').map_or("", |(group, _)| group);
    let known = KINDS.iter().find(|known| known.kind == kind && known.group == group);
    known.map(|known| known.qualified()).ok_or_else(|| {
        let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        format!("unable to map kind {qualified} to resource: no matches for kind {kind:?} in group {group:?}")
    })
}

fn quantity(target: &Value, field: &str) -> Option<i64> {
    target[field].as_str().and_then(|text| Quantity::from_str(text).ok()).map(|q| q.milli_value())
}

fn shown(milli: i64) -> Value {
    json!(Quantity::milli(milli).to_string())
}

impl<'w> Calculator<'w> {
    /// What a metric of pods proposes.
    pub(super) fn pods_metric(&self, spec: &Value, current: i64) -> Result<Found, Failed> {
        let source = &spec["pods"];
        let name = source["metric"]["name"].as_str().unwrap_or("");
        let wanted = quantity(&source["target"], "averageValue").unwrap_or(0);
        let asked = self.samples(spec).map_err(|why| format!("unable to get metric {name}: {why}"));
        let found = asked.and_then(|samples| self.plain(readings(samples), wanted, current, false));
        let (replicas, used) = found.map_err(|why| Failed {
            reason: "FailedGetPodsMetric",
            told: format!("failed to get pods metric value: {why}"),
            why,
        })?;
        let status = json!({"metric": source["metric"], "current": {"averageValue": shown(used)}});
        Ok(Found {
            replicas,
            metric: format!("pods metric {name}"),
            status: json!({"type": "Pods", "pods": status}),
        })
    }

    /// What a metric of one object proposes.
    pub(super) fn object_metric(&self, spec: &Value, count: Count) -> Result<Found, Failed> {
        let source = &spec["object"];
        let (object, target) = (&source["describedObject"], &source["target"]);
        let word = |value: &'_ Value| value.as_str().unwrap_or("").to_owned();
        let (name, kind, of) =
            (word(&source["metric"]["name"]), word(&object["kind"]), word(&object["name"]));
        let fail = |why: String, told: String| Failed {
            reason: "FailedGetObjectMetric",
            told: format!("failed to get object metric value: {told}"),
            why,
        };
        let value = || {
            let samples = self.samples(spec)?;
            match samples {
                [one] => Ok(one.value),
                several => Err(unfetched(
                    MetricsApi::Custom,
                    &format!(
                        "the custom metrics API server returned {} results when we asked for exactly one",
                        several.len()
                    ),
                )),
            }
        };
        let value = || {
            value().map_err(|why| {
                format!("unable to get metric {name}: {kind} on {} {of}/{why}", self.namespace)
            })
        };
        let found = |replicas: i64, metric: String, current: Value| Found {
            replicas,
            metric,
            status: json!({"type": "Object",
                "object": {"describedObject": object, "metric": source["metric"], "current": current}}),
        };
        if target["type"] == "AverageValue" {
            let wanted = quantity(target, "averageValue").unwrap_or(0);
            let value = value().map_err(|why| {
                let told = format!("failed to get {name} object metric: {why}");
                fail(why, told)
            })?;
            let (replicas, used) = self.shared(value, wanted, count);
            let metric =
                format!("external metric {name}({})", super::go_selector(&source["metric"]["selector"]));
            return Ok(found(replicas, metric, json!({"averageValue": shown(used)})));
        }
        let wanted = quantity(target, "value").ok_or_else(|| {
            let why =
                "invalid object metric source: neither a value target nor an average value target was set";
            fail(why.to_owned(), why.to_owned())
        })?;
        let proposed = value().and_then(|value| Ok((self.by_ratio(ratio(value, wanted), count)?, value)));
        let (replicas, value) = proposed.map_err(|why| fail(why.clone(), why))?;
        Ok(found(replicas, format!("{kind} metric {name}"), json!({"value": shown(value)})))
    }

    /// What a metric of something else proposes.
    pub(super) fn external_metric(&self, spec: &Value, count: Count) -> Result<Found, Failed> {
        let source = &spec["external"];
        let (target, metric) = (&source["target"], &source["metric"]);
        let name = metric["name"].as_str().unwrap_or("");
        let selector = super::go_selector(&metric["selector"]);
        let average = quantity(target, "averageValue");
        let fail = |why: String| {
            let told = if average.is_some() {
                format!("failed to get {name} external metric: {why}")
            } else {
                format!("failed to get external metric {name}: {why}")
            };
            Failed { reason: "FailedGetExternalMetric", why, told }
        };
        let sum = || {
            let samples = self.samples(spec).map_err(|why| {
                format!("unable to get external metric {}/{name}/{selector}: {why}", self.namespace)
            })?;
            Ok(samples.iter().fold(0_i64, |sum, sample| sum.saturating_add(sample.value)))
        };
        let found = |replicas: i64, current: Value| Found {
            replicas,
            metric: format!("external metric {name}({selector})"),
            status: json!({"type": "External", "external": {"metric": metric, "current": current}}),
        };
        if let Some(wanted) = average {
            let (replicas, used) = self.shared(sum().map_err(fail)?, wanted, count);
            return Ok(found(replicas, json!({"averageValue": shown(used)})));
        }
        let Some(wanted) = quantity(target, "value") else {
            let why =
                "invalid external metric source: neither a value target nor an average value target was set";
            return Err(Failed {
                reason: "FailedGetExternalMetric",
                why: why.to_owned(),
                told: why.to_owned(),
            });
        };
        let proposed = sum().and_then(|sum| Ok((self.by_ratio(ratio(sum, wanted), count)?, sum)));
        let (replicas, sum) = proposed.map_err(fail)?;
        Ok(found(replicas, json!({"value": shown(sum)})))
    }

    /// What was answered: at least one value.
    fn samples(&self, spec: &Value) -> Result<&'w [Sample], String> {
        let api = if spec["type"] == "External" { MetricsApi::External } else { MetricsApi::Custom };
        let query = query(spec, self.namespace, self.selector).map_err(|why| unfetched(api, &why))?;
        let answer = query.and_then(|query| self.answers?.to(&query));
        let samples = match answer {
            Some(Ok(samples)) => samples,
            Some(Err(why)) => return Err(unfetched(api, why)),
            None => return Err(unfetched(api, "it was not asked")),
        };
        if samples.is_empty() {
            return Err(format!("no metrics returned from {api} metrics API"));
        }
        Ok(samples)
    }

    /// As many pods as are ready, times the ratio.
    fn by_ratio(&self, usage: f64, count: Count) -> Result<i64, String> {
        if count.wanted == 0 {
            return Ok(times(usage, 1));
        }
        if self.is_near(usage) {
            return Ok(count.wanted);
        }
        if self.pods.is_empty() {
            let why = "no pods returned by selector while calculating replica count";
            return Err(format!("unable to calculate ready pods: {why}"));
        }
        let ready = self.pods.iter().filter(|(_, pod)| &*pod.phase == "Running" && pod.ready).count();
        Ok(times(usage, i64::try_from(ready).unwrap_or(i64::MAX)))
    }

    /// As many pods as share a value, and each one's share now.
    fn shared(&self, value: i64, wanted: i64, count: Count) -> (i64, i64) {
        let present = count.present;
        let usage = value as f64 / (wanted as f64 * present as f64);
        let replicas = if self.is_near(usage) { present } else { times(ratio(value, wanted), 1) };
        // Of nobody each has it all.
        (replicas, times(ratio(value, present.max(1)), 1))
    }
}

fn unfetched(api: MetricsApi, why: &str) -> String {
    format!("unable to fetch metrics from {api} metrics API: {why}")
}

fn readings(samples: &[Sample]) -> Readings<'_> {
    let reading = |sample: &Sample| Reading { value: sample.value, at: sample.at, window: sample.window };
    samples.iter().map(|sample| (sample.object.as_str(), reading(sample))).collect()
}
