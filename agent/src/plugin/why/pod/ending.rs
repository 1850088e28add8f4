//! Why a pod that is to end is still there. Pure.

use oarlock_api::meta;
use oarlock_api::table::human_duration;
use serde_json::Value;

use crate::plugin::why::told::{and, list, seconds_since, text};
use crate::plugin::why::{Evidence, Finding};

/// Why a pod that is to end is still there.
pub(super) fn findings(evidence: &Evidence, pod: &Value) -> Vec<Finding> {
    let mut found = Vec::new();
    let node = text(&pod["spec"]["nodeName"]);
    let finalizers: Vec<&str> = meta::finalizers(pod).collect();
    if !finalizers.is_empty() {
        let said = format!("its finalizers keep it: {}", and(&finalizers));
        found.push(Finding::new(said).and("who has set them has to take them out of metadata.finalizers"));
    }
    if node.is_empty() || matches!(text(&pod["status"]["phase"]), "Succeeded" | "Failed") {
        return found;
    }
    let force = format!(
        "kubectl -n {} delete pod {} --force forgets it without asking its node",
        meta::namespace(pod),
        meta::name(pod)
    );
    if let Some(silent) = super::silent_node(evidence, pod) {
        found.push(silent.and(force));
        return found;
    }
    let grace = pod["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    let late = seconds_since(&pod["metadata"]["deletionTimestamp"], evidence.now).unwrap_or(0);
    let runs =
        list(&pod["status"]["containerStatuses"]).filter(|status| status["state"]["running"].is_object());
    let running: Vec<&str> = runs.map(|status| text(&status["name"])).collect();
    if running.is_empty() && !finalizers.is_empty() && late >= 0 {
        return found;
    }
    let hooks = |name: &&&str| super::containers::definition(pod, name)["lifecycle"]["preStop"].is_object();
    let hooked: Vec<&str> = running.iter().filter(hooks).copied().collect();
    let mut finding = if late < 0 {
        Finding::new(format!(
            "{} may take {} more to end (terminationGracePeriodSeconds: {grace})",
            if running.is_empty() { "it".to_owned() } else { format!("its container {}", and(&running)) },
            human_duration(-late)
        ))
    } else {
        let said = format!(
            "its time to end is over since {}, and {node} has not said that it has",
            human_duration(late)
        );
        Finding::new(said).and(format!("kubectl oarlock why node {node}")).and(force)
    };
    if !hooked.is_empty() {
        finding = finding.and(format!("the preStop hook of {} comes first", and(&hooked)));
    }
    if let Some(event) = evidence.latest(pod, &["FailedPreStopHook", "FailedKillPod"]) {
        finding = finding.and(format!("{} ({})", text(&event["message"]), evidence.times(event)));
    }
    found.push(finding);
    found
}
