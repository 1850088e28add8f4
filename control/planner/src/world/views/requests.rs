//! What a pod asks for of a node's resources.
//!
//! Source: `PodRequests` of k8s.io/component-helpers/resource, `NonZeroRequested` of the scheduler's framework.

use serde_json::Value;

use super::{list, quantity};

/// What a container that says nothing counts as when nodes are compared: a tenth of a core, 200 MiB.
const LITTLE: [i64; 2] = [100, 200 * 1024 * 1024];

/// The sum of a pod's requests.
#[derive(Debug, Clone, Default)]
pub(super) struct Requests {
    pub(super) cpu_milli: i64,
    pub(super) memory: i64,
    pub(super) storage: i64,
    pub(super) weighed: [i64; 2],
    pub(super) extended: Box<[(Box<str>, i64)]>,
}

impl Requests {
    /// The containers together; or what is needed while an init container runs, if that is more; and the overhead.
    pub(super) fn read(spec: &Value) -> Self {
        let names = ["cpu", "memory", "ephemeral-storage"];
        let [cpu_milli, memory, storage] =
            names.map(|name| total(spec, name, &|request| amount(request, name)));
        let [cpu, bytes] = [("cpu", LITTLE[0]), ("memory", LITTLE[1])].map(|(name, little)| {
            total(spec, name, &|request| if request.is_null() { little } else { amount(request, name) })
        });
        let extended = extended_names(spec).into_iter().filter_map(|name| {
            let sum = total(spec, name, &|request| amount(request, name));
            (sum > 0).then(|| (name.into(), sum))
        });
        Self { cpu_milli, memory, storage, weighed: [cpu, bytes], extended: extended.collect() }
    }
}

fn is_own(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage" | "pods")
}

fn amount(value: &Value, name: &str) -> i64 {
    quantity(value).map_or(0, |q| if name == "cpu" { q.milli_value() } else { q.value() })
}

fn extended_names(spec: &Value) -> Vec<&str> {
    let containers = [&spec["containers"], &spec["initContainers"]].into_iter().flat_map(list);
    let requests = containers.map(|container| &container["resources"]["requests"]).chain([&spec["overhead"]]);
    let mut names: Vec<&str> =
        requests.filter_map(Value::as_object).flat_map(|map| map.keys()).map(String::as_str).collect();
    names.retain(|name| !is_own(name));
    names.sort_unstable();
    names.dedup();
    names
}

fn total(spec: &Value, name: &str, of: &impl Fn(&Value) -> i64) -> i64 {
    let request = |container: &Value| of(&container["resources"]["requests"][name]);
    let mut sum: i64 = list(&spec["containers"]).iter().map(request).sum();
    // Those that stay beside the others, and the most that is needed on the way.
    let (mut beside, mut most) = (0, 0);
    for container in list(&spec["initContainers"]) {
        if container["restartPolicy"] == "Always" {
            beside += request(container);
            most = beside.max(most);
        } else {
            most = most.max(beside + request(container));
        }
    }
    sum += beside;
    sum.max(most) + amount(&spec["overhead"][name], name)
}

/// What a node has of resources that are not every node's.
pub(super) fn others(allocatable: &Value) -> Box<[(Box<str>, i64)]> {
    let all = allocatable.as_object().into_iter().flatten().filter(|(name, _)| !is_own(name));
    all.map(|(name, value)| (name.as_str().into(), amount(value, name))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn init_containers_count_when_they_need_more_and_overhead_is_added() {
        let of = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let beside = |cpu: &str| json!({"restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}});
        for (spec, wanted) in [
            (json!({"containers": [of("100m"), of("200m")]}), 300),
            (json!({"containers": [of("100m")], "initContainers": [of("1"), of("2")]}), 2000),
            (json!({"containers": [of("1")], "initContainers": [beside("500m"), of("700m")]}), 1500),
            (json!({"containers": [of("1")], "initContainers": [beside("500m"), of("2")]}), 2500),
            (json!({"containers": [of("1")], "overhead": {"cpu": "250m"}}), 1250),
        ] {
            assert_eq!(Requests::read(&spec).cpu_milli, wanted, "{spec}");
        }
    }

    #[test]
    fn other_resources_are_counted_and_silence_is_a_little() {
        let spec = json!({"containers": [
            {"resources": {"requests": {"example.com/foo": "2"}}}, {"resources": {"requests": {"example.com/foo": "1", "cpu": "0"}}}]});
        let requests = Requests::read(&spec);
        assert_eq!(*requests.extended, [("example.com/foo".into(), 3)]);
        assert_eq!(requests.weighed, [100, 400 * 1024 * 1024]);
        assert_eq!(*others(&json!({"cpu": "4", "example.com/foo": "7"})), [("example.com/foo".into(), 7)]);
    }
}
