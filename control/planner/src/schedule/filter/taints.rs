//! Taints that the pod does not bear. Nodes that never said they are ready, or have no podCIDR, count as tainted.

use crate::world::{NodeView, PodView};

pub(super) fn refusals(pod: &PodView, node: &NodeView) -> Vec<String> {
    if &*node.ready != "True" {
        return vec!["node(s) were not ready".to_owned()];
    }
    if node.pod_cidrs.is_empty() {
        return vec!["node(s) had no podCIDR yet".to_owned()];
    }
    let hard = node.taints.iter().filter(|t| matches!(&*t.effect, "NoSchedule" | "NoExecute"));
    let unborne = hard.filter(|taint| !pod.tolerations.iter().any(|toleration| toleration.bears(taint)));
    let first = unborne.map(|t| format!("node(s) had untolerated taint {{{}: {}}}", t.key, t.value)).next();
    first.into_iter().collect()
}
