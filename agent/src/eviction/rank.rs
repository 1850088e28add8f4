//! Who goes first, and what is said about it. Pure.
//!
//! Source: kubelet's pkg/kubelet/eviction/helpers.go (`rankMemoryPressure`, `rankDiskPressure`, `rankPIDPressure`, `evictionMessage`).

use std::cmp::Reverse;
use std::fmt::Write as _;

use oarlock_api::k8s::api::core::v1::{Container, Pod, PodSpec};
use oarlock_api::quantity::Quantity;

use super::judge::Pressures;
use super::threshold::{Pressure, Room, Signal};
use crate::plan::is_sidecar;
use crate::plan::spec::qos_class;
use crate::static_pods::is_static;

/// From this priority on a pod is the system's (`SystemCriticalPriority`).
const CRITICAL: i32 = 2_000_000_000;
/// The taint that goes with memory pressure.
const TAINT: &str = "node.kubernetes.io/memory-pressure";

/// A pod and what it uses of the thing that is short.
#[derive(Debug, Clone, Default)]
pub(crate) struct Candidate {
    pub(crate) pod: Pod,
    /// Of all of it.
    pub(crate) used: u64,
    /// Of its containers, by name.
    pub(crate) containers: Vec<(String, u64)>,
}

/// Whether it stays whatever happens: the node or the cluster needs it.
pub(crate) fn is_critical(pod: &Pod) -> bool {
    priority(pod) >= CRITICAL || is_static(pod)
}

fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0)
}

/// In the order in which they go.
pub(crate) fn rank(signal: Signal, candidates: &mut [Candidate]) {
    candidates.sort_by_cached_key(|candidate| {
        let request = requested(&candidate.pod, signal);
        let over = i128::from(candidate.used) - i128::from(request);
        // Whoever uses more than was asked for goes before whoever does not; of processes nobody asks for any.
        let exceeds = signal != Signal::Pids && over > 0;
        (!exceeds, priority(&candidate.pod), Reverse(over))
    });
}

/// What a pod asked for: the most that it needs at once.
fn requested(pod: &Pod, signal: Signal) -> u64 {
    let Some(spec) = pod.spec.as_ref() else { return 0 };
    let of = |container: &Container| of_container(container, signal).map_or(0, bytes);
    let inits = || spec.init_containers.iter().flatten();
    let sidecars: u64 = inits().filter(|c| is_sidecar(c)).map(of).sum();
    let together = spec.containers.iter().map(of).sum::<u64>() + sidecars;
    let overhead =
        spec.overhead.as_ref().and_then(|overhead| overhead.get(signal.resource())?.0.parse().ok());
    inits().filter(|c| !is_sidecar(c)).map(of).fold(together, u64::max) + overhead.map_or(0, bytes)
}

fn of_container(container: &Container, signal: Signal) -> Option<Quantity> {
    let requests = container.resources.as_ref()?.requests.as_ref()?;
    requests.get(signal.resource())?.0.parse().ok()
}

fn bytes(quantity: Quantity) -> u64 {
    u64::try_from(quantity.value()).unwrap_or(0)
}

/// Why it goes.
pub(crate) fn message(signal: Signal, least: u64, room: Room, candidate: &Candidate) -> String {
    let mut text = format!(
        "The node was low on resource: {}. Threshold quantity: {}, available: {}. ",
        signal.resource(),
        signal.quantity(least),
        signal.quantity(room.available)
    );
    let definitions = candidate.pod.spec.iter().flat_map(|spec| &spec.containers);
    for definition in definitions {
        let Some((name, used)) = candidate.containers.iter().find(|(name, _)| *name == definition.name)
        else {
            continue;
        };
        let request = of_container(definition, signal);
        if *used > request.map_or(0, bytes) {
            let request = request.map_or_else(|| "0".to_owned(), |quantity| quantity.to_string());
            let _ = write!(
                text,
                "Container {name} was using {}, request is {request}, has larger consumption of {}. ",
                signal.quantity(*used),
                signal.resource()
            );
        }
    }
    text
}

/// Why a node under pressure does not take a pod, if it does not.
pub(crate) fn refusal(pressures: &Pressures, pod: &Pod) -> Option<String> {
    if pressures.is_empty() || is_critical(pod) {
        return None;
    }
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let memory_alone = pressures.len() == 1 && pressures.contains(&Pressure::Memory);
    if memory_alone && (qos_class(spec) != "BestEffort" || bears(spec)) {
        return None;
    }
    let names = pressures.iter().map(|pressure| pressure.condition()).collect::<Vec<_>>().join(" ");
    Some(format!("The node had condition: [{names}]. "))
}

/// Whether it tolerates that memory is short.
fn bears(spec: &PodSpec) -> bool {
    spec.tolerations.iter().flatten().any(|toleration| {
        let key = toleration.key.as_deref().unwrap_or_default();
        let exists = toleration.operator.as_deref() == Some("Exists");
        let value = toleration.value.as_deref().unwrap_or_default();
        matches!(toleration.effect.as_deref(), None | Some("" | "NoSchedule"))
            && (key == TAINT || (key.is_empty() && exists))
            && (exists || value.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(name: &str, priority: i32, requests: Value) -> Pod {
        let container = json!({"name": "c", "resources": {"requests": requests}});
        serde_json::from_value(
            json!({"metadata": {"name": name}, "spec": {"priority": priority, "containers": [container]}}),
        )
        .unwrap()
    }

    fn candidate(name: &str, priority: i32, requests: Value, used: u64) -> Candidate {
        let containers = vec![("c".to_owned(), used)];
        Candidate { pod: pod(name, priority, requests), used, containers }
    }

    fn order(signal: Signal, mut candidates: Vec<Candidate>) -> Vec<String> {
        rank(signal, &mut candidates);
        candidates.into_iter().filter_map(|candidate| candidate.pod.metadata.name).collect()
    }

    #[test]
    fn who_uses_more_than_was_asked_for_goes_first_then_who_matters_least() {
        let memory = |amount: &str| json!({"memory": amount});
        let candidates = vec![
            candidate("modest", 0, memory("1Gi"), 500 << 20),
            candidate("important", 100, json!({}), 900 << 20),
            candidate("little over", 0, memory("100Mi"), 110 << 20),
            candidate("much over", 0, json!({}), 200 << 20),
            candidate("as asked", -5, memory("1Mi"), 1 << 20),
        ];
        let expected = ["much over", "little over", "important", "as asked", "modest"];
        assert_eq!(order(Signal::Memory, candidates.clone()), expected);
        let expected = ["as asked", "much over", "modest", "little over", "important"];
        let mut processes = candidates;
        for (candidate, used) in processes.iter_mut().zip([5, 100, 2, 7, 1]) {
            candidate.used = used;
        }
        assert_eq!(order(Signal::Pids, processes), expected, "processes: priority, then how many");
    }

    #[test]
    fn the_message_is_kubelets() {
        let room = Room { capacity: 1 << 30, available: 83_860 << 10 };
        let over = candidate("a", 0, json!({"memory": "10Mi"}), 57_484 << 10);
        assert_eq!(
            message(Signal::Memory, 100 << 20, room, &over),
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 83860Ki. \
             Container c was using 57484Ki, request is 10Mi, has larger consumption of memory. "
        );
        let under = candidate("a", 0, json!({"memory": "100Mi"}), 57_484 << 10);
        assert!(message(Signal::Memory, 100 << 20, room, &under).ends_with("available: 83860Ki. "));
        let free = candidate("a", 0, json!({}), 4096);
        assert!(
            message(Signal::NodeDisk, 1, room, &free).contains("was using 4Ki, request is 0, has larger")
        );
    }

    #[test]
    fn a_node_short_of_memory_takes_who_asked_for_some() {
        let memory = Pressures::from([Pressure::Memory]);
        let both = Pressures::from([Pressure::Memory, Pressure::Disk]);
        let (free, asked) = (pod("a", 0, json!({})), pod("b", 0, json!({"memory": "1Mi"})));
        let said = "The node had condition: [MemoryPressure]. ";
        assert_eq!(refusal(&memory, &free).as_deref(), Some(said));
        assert_eq!(refusal(&Pressures::new(), &free), None);
        assert_eq!(refusal(&memory, &asked), None);
        assert_eq!(
            refusal(&both, &asked).unwrap(),
            "The node had condition: [MemoryPressure DiskPressure]. "
        );
        assert_eq!(refusal(&both, &pod("c", CRITICAL, json!({}))), None);
        let mut bearing = free;
        bearing.spec.as_mut().unwrap().tolerations =
            serde_json::from_value(json!([{"key": TAINT, "operator": "Exists", "effect": "NoSchedule"}]))
                .unwrap();
        assert_eq!(refusal(&memory, &bearing), None);
        assert!(refusal(&both, &bearing).is_some());
    }
}
