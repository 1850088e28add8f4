//! ComponentStatuses: how the parts of the control plane are, asked now.

use serde_json::{Value, json};

use super::{Registry, bounded};

impl Registry {
    /// One of each component, in the order of names. Who is not `elected` leads always.
    pub async fn components(&self, elected: bool) -> Vec<Value> {
        let (leader, store) = match bounded(self.store.get(crate::leader::KEY)).await {
            Ok(_) if !elected => (Ok(()), Ok(())),
            Ok((Some(_), _)) => (Ok(()), Ok(())),
            Ok((None, _)) => (Err("no control plane leads".to_owned()), Ok(())),
            Err(status) => (Err("who leads is not known".to_owned()), Err(status.message)),
        };
        vec![
            component("controller-manager", leader.clone()),
            component("etcd-0", store),
            component("scheduler", leader),
        ]
    }
}

fn component(name: &str, state: Result<(), String>) -> Value {
    let condition = match state {
        Ok(()) => json!({"type": "Healthy", "status": "True", "message": "ok"}),
        Err(why) => json!({"type": "Healthy", "status": "False", "message": why}),
    };
    json!({
        "apiVersion": "v1", "kind": "ComponentStatus",
        "metadata": {"name": name, "creationTimestamp": null}, "conditions": [condition],
    })
}
