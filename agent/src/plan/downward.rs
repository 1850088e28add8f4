//! The downward API: fields of a pod and resources of a container as text, for variables and volumes.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;

use oarlock_api::k8s::api::core::v1::{Container, ObjectFieldSelector, Pod, ResourceFieldSelector};
use oarlock_api::quantity::Quantity;

use super::definition;

/// What a pod cannot know of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// The primary family first.
    pub(crate) host_ips: Vec<IpAddr>,
    /// The same; none before the pod has its network.
    pub(crate) pod_ips: Vec<IpAddr>,
    /// The node's processors, in thousandths: what "no limit" means.
    pub(crate) cpu_millis: i64,
    /// The node's memory in bytes.
    pub(crate) memory: i64,
}

impl Place {
    /// The pod's own address, of the primary family.
    pub(crate) fn pod_ip(&self) -> String {
        first(&self.pod_ips)
    }
}

fn first(ips: &[IpAddr]) -> String {
    ips.first().map(ToString::to_string).unwrap_or_default()
}

fn list(ips: &[IpAddr]) -> String {
    ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// The value of a field.
pub(crate) fn field(pod: &Pod, place: &Place, selector: &ObjectFieldSelector) -> Result<String, String> {
    let meta = &pod.metadata;
    let spec = pod.spec.as_ref();
    let text = |value: Option<&String>| value.cloned().unwrap_or_default();
    let path = selector.field_path.as_str();
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.labels" => &meta.labels,
            "metadata.annotations" => &meta.annotations,
            _ => return Err(format!("field path {path:?} is not supported")),
        };
        return Ok(text(map.as_ref().and_then(|m| m.get(key))));
    }
    Ok(match path {
        "metadata.name" => text(meta.name.as_ref()),
        "metadata.namespace" => text(meta.namespace.as_ref()),
        "metadata.uid" => text(meta.uid.as_ref()),
        "metadata.labels" => map_text(meta.labels.as_ref()),
        "metadata.annotations" => map_text(meta.annotations.as_ref()),
        "spec.nodeName" => text(spec.and_then(|s| s.node_name.as_ref())),
        "spec.serviceAccountName" => {
            spec.and_then(|s| s.service_account_name.clone()).unwrap_or_else(|| "default".to_owned())
        }
        "status.hostIP" => first(&place.host_ips),
        "status.hostIPs" => list(&place.host_ips),
        "status.podIP" => place.pod_ip(),
        "status.podIPs" => list(&place.pod_ips),
        _ => return Err(format!("field path {path:?} is not supported")),
    })
}

/// The value of a resource of a container.
pub(crate) fn resource(
    pod: &Pod,
    place: &Place,
    container: Option<&Container>,
    selector: &ResourceFieldSelector,
) -> Result<String, String> {
    let named = selector.container_name.as_deref().zip(pod.spec.as_ref());
    let found = named.and_then(|(name, spec)| definition(spec, name));
    let container = if named.is_some() { found.as_deref() } else { container }.ok_or_else(|| {
        format!("container {:?} not found", selector.container_name.as_deref().unwrap_or(""))
    })?;
    let name = selector.resource.as_str();
    let (kind, what) = name.split_once('.').unwrap_or((name, ""));
    let resources = container.resources.as_ref();
    let quantity = |map: Option<&BTreeMap<String, _>>| {
        let map: Option<&BTreeMap<String, oarlock_api::k8s::apimachinery::pkg::api::resource::Quantity>> =
            map;
        map.and_then(|m| m.get(what)).and_then(|q| q.0.parse::<Quantity>().ok())
    };
    let limit = quantity(resources.and_then(|r| r.limits.as_ref()));
    let found = match kind {
        "limits" => limit,
        "requests" => quantity(resources.and_then(|r| r.requests.as_ref())).or(limit),
        _ => return Err(format!("unsupported container resource : {name}")),
    };
    let is_cpu = what == "cpu";
    let amount = match (found, what) {
        (Some(found), "cpu") => found.milli_value(),
        (Some(found), _) => found.value(),
        (None, "cpu") if kind == "limits" => place.cpu_millis,
        (None, "memory") if kind == "limits" => place.memory,
        (None, _) => 0,
    };
    let divisor = selector.divisor.as_ref().and_then(|d| d.0.parse::<Quantity>().ok());
    let divisor = divisor.map_or(0, |d| if is_cpu { d.milli_value() } else { d.value() });
    let divisor = match divisor {
        divisor if divisor > 0 => divisor,
        _ if is_cpu => 1000,
        _ => 1,
    };
    // Rounded up, as kubelet does.
    Ok(amount.checked_add(divisor - 1).map_or(i64::MAX, |sum| sum / divisor).to_string())
}

/// `metadata.labels['app']` -> (`metadata.labels`, `app`).
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// One `key="value"` a line, sorted, values quoted as Go's `%q` does.
fn map_text(map: Option<&BTreeMap<String, String>>) -> String {
    let mut text = String::new();
    for (index, (key, value)) in map.into_iter().flatten().enumerate() {
        let separator = if index == 0 { "" } else { "\n" };
        let _ = write!(text, "{separator}{key}={}", quoted(value));
    }
    text
}

fn quoted(value: &str) -> String {
    let mut out = String::from("\"");
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if u32::from(c) < 0x20 || u32::from(c) == 0x7f => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "d", "uid": "u",
                "labels": {"app": "web", "b": "say \"x\"\n"}},
            "spec": {"nodeName": "n1", "containers": [{"name": "c",
                "resources": {"limits": {"memory": "64Mi"}, "requests": {"cpu": "250m"}}}]},
        }))
        .unwrap()
    }

    fn place() -> Place {
        let ips = |texts: [&str; 2]| texts.map(|ip| ip.parse().unwrap()).to_vec();
        Place {
            host_ips: ips(["1.1.1.1", "fd00::1"]),
            pod_ips: ips(["10.0.0.1", "fd00::a00:1"]),
            cpu_millis: 2000,
            memory: 1 << 30,
        }
    }

    #[test]
    fn fields_are_found_by_their_path() {
        for (path, expected) in [
            ("metadata.name", "web"),
            ("metadata.labels['app']", "web"),
            ("metadata.labels['none']", ""),
            ("metadata.labels", "app=\"web\"\nb=\"say \\\"x\\\"\\n\""),
            ("spec.serviceAccountName", "default"),
            ("status.podIP", "10.0.0.1"),
            ("status.podIPs", "10.0.0.1,fd00::a00:1"),
            ("status.hostIPs", "1.1.1.1,fd00::1"),
        ] {
            let selector = ObjectFieldSelector { api_version: None, field_path: path.into() };
            assert_eq!(field(&pod(), &place(), &selector).as_deref(), Ok(expected), "{path}");
        }
        let selector = ObjectFieldSelector { api_version: None, field_path: "spec.nonsense".into() };
        assert!(field(&pod(), &place(), &selector).is_err());
    }

    #[test]
    fn resources_are_divided_rounded_up_and_default_to_the_node() {
        for (name, divisor, expected) in [
            ("limits.memory", Some("1Mi"), "64"),
            ("limits.memory", None, "67108864"),
            ("requests.cpu", None, "1"),
            ("requests.cpu", Some("1m"), "250"),
            ("limits.cpu", None, "2"),
            ("requests.memory", None, "67108864"),
        ] {
            let selector: ResourceFieldSelector =
                serde_json::from_value(json!({"resource": name, "divisor": divisor, "containerName": "c"}))
                    .unwrap();
            let found = resource(&pod(), &place(), None, &selector);
            assert_eq!(found.as_deref(), Ok(expected), "{name} / {divisor:?}");
        }
    }
}
