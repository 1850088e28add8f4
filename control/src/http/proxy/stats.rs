//! `nodes/<name>/proxy/stats/summary` and `/metrics/resource`: what kubelets answer there, from the agent's last report.
//!
//! Source: k8s.io/kubelet/pkg/apis/stats/v1alpha1 and k8s.io/kubernetes/pkg/kubelet/metrics/collectors/resource_metrics.go.

use std::fmt::Write as _;

use jiff::Timestamp;
use oarlock_api::meta;
use oarlock_api::node::{PodUsage, StatsReport, Usage};
use serde_json::{Value, json};

fn time(unix_ms: i64) -> Value {
    json!(meta::time(Timestamp::from_millisecond(unix_ms).unwrap_or_default()))
}

/// `/stats/summary`.
pub(super) fn summary(node: &str, report: &StatsReport) -> Value {
    let at = time(report.at_unix_ms);
    let mut own = json!({"nodeName": node, "startTime": time(report.boot_unix_ms)});
    if let Some(usage) = &report.node {
        fill(&mut own, usage, &at);
    }
    if let Some(fs) = &report.filesystem {
        own["fs"] = json!({
            "time": at, "availableBytes": fs.available, "capacityBytes": fs.capacity, "usedBytes": fs.used,
            "inodesFree": fs.inodes_free, "inodes": fs.inodes, "inodesUsed": fs.inodes.saturating_sub(fs.inodes_free),
        });
    }
    let pods: Vec<Value> = report.pods.iter().map(|pod| of_pod(pod, &at)).collect();
    json!({"node": own, "pods": pods})
}

fn of_pod(pod: &PodUsage, at: &Value) -> Value {
    let containers = pod.containers.iter().map(|container| {
        let mut value = json!({"name": container.name, "startTime": time(container.started_unix_ms)});
        if let Some(usage) = &container.usage {
            fill(&mut value, usage, at);
        }
        value
    });
    let start = pod.containers.iter().map(|c| c.started_unix_ms).min().unwrap_or_default();
    let mut value = json!({
        "podRef": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid}, "startTime": time(start),
        "containers": containers.collect::<Vec<_>>(),
    });
    if let Some(usage) = &pod.usage {
        fill(&mut value, usage, at);
    }
    if pod.has_network {
        let link = json!({"name": "eth0", "rxBytes": pod.rx_bytes, "txBytes": pod.tx_bytes});
        value["network"] = json!({"time": at, "name": "eth0", "rxBytes": pod.rx_bytes, "txBytes": pod.tx_bytes,
            "interfaces": [link]});
    }
    value
}

fn fill(value: &mut Value, usage: &Usage, at: &Value) {
    value["cpu"] = json!({"time": at, "usageCoreNanoSeconds": usage.cpu_nanos});
    if let Some(rate) = usage.cpu_nano_cores {
        value["cpu"]["usageNanoCores"] = json!(rate);
    }
    value["memory"] = json!({"time": at, "usageBytes": usage.memory, "workingSetBytes": usage.working_set,
        "rssBytes": usage.rss});
}

/// `/metrics/resource`.
pub(super) fn resource(report: &StatsReport) -> String {
    let mut text = String::new();
    let at = report.at_unix_ms;
    let mut family = |name: &str, kind: &str, help: &str, samples: Vec<(String, f64)>| {
        let _ = writeln!(text, "# HELP {name} [STABLE] {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(text, "{name}{labels} {value} {at}");
        }
    };
    let containers = |value: fn(&Usage) -> f64| -> Vec<(String, f64)> {
        let all = report.pods.iter().flat_map(|pod| pod.containers.iter().map(move |c| (pod, c)));
        let labelled = all.filter_map(|(pod, c)| {
            let labels =
                format!("{{container={:?},namespace={:?},pod={:?}}}", c.name, pod.namespace, pod.name);
            Some((labels, value(c.usage.as_ref()?)))
        });
        labelled.collect()
    };
    let pods = |value: fn(&Usage) -> f64| -> Vec<(String, f64)> {
        let labelled = report.pods.iter().filter_map(|pod| {
            let labels = format!("{{namespace={:?},pod={:?}}}", pod.namespace, pod.name);
            Some((labels, value(pod.usage.as_ref()?)))
        });
        labelled.collect()
    };
    let node = |value: fn(&Usage) -> f64| -> Vec<(String, f64)> {
        report.node.iter().map(|usage| (String::new(), value(usage))).collect()
    };
    let cpu: fn(&Usage) -> f64 = |usage| usage.cpu_nanos as f64 / 1e9;
    let memory: fn(&Usage) -> f64 = |usage| usage.working_set as f64;
    let spent = |of: &str| format!("Cumulative cpu time consumed by the {of} in core-seconds");
    let held = |of: &str| format!("Current working set of the {of} in bytes");
    family("container_cpu_usage_seconds_total", "counter", &spent("container"), containers(cpu));
    family("container_memory_working_set_bytes", "gauge", &held("container"), containers(memory));
    family("node_cpu_usage_seconds_total", "counter", &spent("node"), node(cpu));
    family("node_memory_working_set_bytes", "gauge", &held("node"), node(memory));
    family("pod_cpu_usage_seconds_total", "counter", &spent("pod"), pods(cpu));
    family("pod_memory_working_set_bytes", "gauge", &held("pod"), pods(memory));
    let help = "1 if there was an error while getting container metrics, 0 otherwise";
    let _ = writeln!(
        text,
        "# HELP resource_scrape_error [STABLE] {help}\n# TYPE resource_scrape_error gauge\nresource_scrape_error 0"
    );
    text
}
