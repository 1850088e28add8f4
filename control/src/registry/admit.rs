//! What new objects get that depends on others: the class of claims that name none.

use std::sync::Arc;

use oarlock_api::catalogue::{Kind, PERSISTENT_VOLUME_CLAIMS, STORAGE_CLASSES};
use oarlock_api::storage::{default_class, wants_default_class};
use serde_json::{Value, json};

use super::Registry;

impl Registry {
    /// Completes a new object as upstream's admission does (DefaultStorageClass).
    pub(super) fn admit(&self, kind: &Kind, object: &mut Value) {
        if *kind != PERSISTENT_VOLUME_CLAIMS || !wants_default_class(object) {
            return;
        }
        let classes = self.cache.list(&STORAGE_CLASSES, None).0;
        let classes: Vec<Arc<Value>> = classes.iter().map(|class| class.value()).collect();
        // Without one the claim waits: the binder names the class when there is one.
        if let Some(class) = default_class(classes.iter().map(|class| &**class)) {
            object["spec"]["storageClassName"] = json!(class);
        }
    }
}
