//! What new objects get that depends on others: the class of claims and of Ingresses that name none.

use std::sync::Arc;

use oarlock_api::catalogue::{INGRESS_CLASSES, INGRESSES, Kind, PERSISTENT_VOLUME_CLAIMS, STORAGE_CLASSES};
use oarlock_api::meta;
use oarlock_api::storage::{default_class, wants_default_class};
use serde_json::{Value, json};

use super::super::Registry;

/// Marks the class of Ingresses that name none.
const DEFAULT_INGRESS_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";
/// How Ingresses named their class before there were classes.
const OLD_INGRESS_CLASS: &str = "kubernetes.io/ingress.class";

impl Registry {
    /// Completes a new object as upstream's admission does (DefaultStorageClass, DefaultIngressClass).
    pub(super) fn name_class(&self, kind: &Kind, object: &mut Value) {
        if *kind == PERSISTENT_VOLUME_CLAIMS && wants_default_class(object) {
            let classes = self.values(&STORAGE_CLASSES);
            // Without one the claim waits: the binder names the class when there is one.
            if let Some(class) = default_class(classes.iter().map(|class| &**class)) {
                object["spec"]["storageClassName"] = json!(class);
            }
        } else if *kind == INGRESSES && wants_ingress_class(object) {
            let classes = self.values(&INGRESS_CLASSES);
            if let Some(class) = newest_default(&classes) {
                object["spec"]["ingressClassName"] = json!(class);
            }
        }
    }

    fn values(&self, kind: &'static Kind) -> Vec<Arc<Value>> {
        self.cache.list(kind, None).0.iter().map(|object| object.value()).collect()
    }
}

fn wants_ingress_class(ingress: &Value) -> bool {
    ingress["spec"].get("ingressClassName").is_none_or(Value::is_null)
        && meta::annotation(ingress, OLD_INGRESS_CLASS).is_none()
}

/// Of several default classes the one that was made last.
fn newest_default(classes: &[Arc<Value>]) -> Option<&str> {
    let marked =
        classes.iter().filter(|class| meta::annotation(class, DEFAULT_INGRESS_CLASS) == Some("true"));
    let age = |class: &Value| std::cmp::Reverse(meta::text(class, "creationTimestamp").to_owned());
    marked.min_by_key(|class| (age(class), meta::name(class).to_owned())).map(|class| meta::name(class))
}
