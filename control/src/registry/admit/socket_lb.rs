//! Where a pod's connections to Services are translated, if it does not say so itself: as its namespace says.

use oarlock_api::catalogue::NAMESPACES;
use oarlock_api::meta::{self, map_at};
use oarlock_api::service::SOCKET_LB;
use serde_json::Value;

use super::super::Registry;

impl Registry {
    /// Writes what the namespace says into a pod that says nothing. One on the node's network has no link of its own.
    pub(super) fn serve_as_namespace(&self, namespace: &str, pod: &mut Value) {
        if pod["spec"]["hostNetwork"] == true {
            return;
        }
        let namespace = self.cache.get(&NAMESPACES, "", namespace).map(|namespace| namespace.value());
        if let Some(wanted) = namespace.as_ref().and_then(|it| meta::annotation(it, SOCKET_LB)) {
            let annotations = map_at(meta::metadata_mut(pod), "annotations");
            annotations.entry(SOCKET_LB.to_owned()).or_insert_with(|| wanted.into());
        }
    }
}
