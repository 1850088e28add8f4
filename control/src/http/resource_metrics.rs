//! `metrics.k8s.io/v1beta1`: what nodes and pods use, as metrics-server serves it, from the agents' reports.
//!
//! In: gets and lists of NodeMetrics and PodMetrics. Out: JSON objects or tables. A node that does not report and a pod of which nothing
//! is known are absent; nothing is ever made up.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Response, StatusCode};
use jiff::Timestamp;
use oarlock_api::catalogue::{NODE_METRICS, NODES, PODS};
use oarlock_api::meta;
use oarlock_api::quantity::{Format, Quantity};
use oarlock_api::static_pod;
use oarlock_api::status::Status;
use serde_json::{Map, Value, json};

use super::encode::{self, Include};
use super::resource::Request;
use super::respond::{self, Body};
use crate::cache::Object;
use crate::usage::Board;

/// Answers a request about one of the two kinds.
pub(super) async fn answer(request: &Request<'_>) -> Result<Response<Body>, Status> {
    let (path, kind, board) = (&request.path, request.served, request.usage);
    if *request.method != Method::GET || path.watch || request.query.flag("watch") {
        return Err(Status::method_not_allowed());
    }
    if path.subresource.is_some() || (path.name.is_some() && kind.namespaced && path.namespace.is_none()) {
        return Err(Status::no_resource());
    }
    let form = request.form()?;
    let include = Include::parse(request.query.get("includeObject"));
    request.registry.filled().await?;
    let of = if *kind == NODE_METRICS { &NODES } else { &PODS };
    let (usage, now) = (board.pods(), Timestamp::now());
    let measure = |object: &Arc<Object>| {
        if *kind == NODE_METRICS {
            return node(&object.value(), board, now);
        }
        let known = usage.get(&(object.key.namespace.clone(), object.key.name.clone()))?;
        pod(&object.value(), known, now)
    };
    if let Some(name) = path.name {
        let namespace = path.namespace.unwrap_or("");
        let found = request.registry.cache().get(of, namespace, name);
        let called = if kind.namespaced { format!("{namespace}/{name}") } else { name.to_owned() };
        let missing = || Status::not_found_resource(kind.group, &kind.kind.to_lowercase(), &called);
        let value = found.as_ref().and_then(measure).ok_or_else(missing)?;
        return Ok(respond::json(StatusCode::OK, &encode::object(kind, form, include, &value)));
    }
    let (labels, fields) = (request.query.labels()?, request.query.fields(of)?);
    let scope = super::list::Scope {
        served: of,
        kind: of,
        namespace: path.namespace.map(str::to_owned),
        labels,
        fields,
    };
    let (objects, _) = request.registry.cache().list(of, path.namespace);
    let values = objects.iter().filter(|object| scope.matches(object)).filter_map(measure).collect();
    Ok(respond::json(StatusCode::OK, &encode::values(kind, form, include, values)))
}

fn node(object: &Value, board: &Board, now: Timestamp) -> Option<Value> {
    let usage = board.node(meta::name(object), now)?;
    let node = usage.report.node.as_ref()?;
    let used = amounts(node.cpu_nano_cores?, node.working_set);
    let mut value = head("NodeMetrics", object, usage.at, usage.window(), now);
    value["usage"] = used;
    Some(value)
}

fn pod(object: &Value, usage: &oarlock_planner::PodUsage, now: Timestamp) -> Option<Value> {
    let runs = object["status"]["phase"] == "Running";
    if !runs || *usage.uid != *static_pod::uid_on_node(object) || !usage.is_fresh(now) {
        return None;
    }
    let containers = usage.containers.iter().map(|container| {
        json!({"name": container.name, "usage": amounts(container.cpu_nano_cores, container.memory)})
    });
    let mut value = head("PodMetrics", object, usage.at, usage.window, now);
    value["containers"] = containers.collect();
    Some(value)
}

fn head(kind: &str, object: &Value, at: Timestamp, window: Duration, now: Timestamp) -> Value {
    let mut metadata = Map::new();
    for field in ["name", "namespace", "labels"] {
        if let Some(value) = object["metadata"].get(field) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    metadata.insert("creationTimestamp".to_owned(), json!(meta::time(now)));
    json!({
        "kind": kind, "apiVersion": "metrics.k8s.io/v1beta1", "metadata": metadata, "timestamp": meta::time(at),
        "window": seconds(window),
    })
}

/// As Go writes a duration below a minute.
fn seconds(window: Duration) -> String {
    let text = format!("{:.3}", window.as_secs_f64());
    format!("{}s", text.trim_end_matches('0').trim_end_matches('.'))
}

fn amounts(nano_cores: u64, bytes: u64) -> Value {
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    // A node's own unit, as metrics-server writes it: kubectl rounds.
    let cpu = if nano_cores == 0 { "0".to_owned() } else { format!("{nano_cores}n") };
    let kibibytes = bytes / 1024 * 1024;
    json!({"cpu": cpu, "memory": Quantity::units(number(kibibytes), Format::BinarySI).to_string()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_and_windows_are_written_as_metrics_server_writes_them() {
        assert_eq!(amounts(1_500_000, (3 << 20) + 5), json!({"cpu": "1500000n", "memory": "3Mi"}));
        assert_eq!(amounts(0, 5000), json!({"cpu": "0", "memory": "4Ki"}));
        assert_eq!(seconds(Duration::from_millis(10_250)), "10.25s");
        assert_eq!(seconds(Duration::from_secs(10)), "10s");
    }
}
