//! The priority of a pod: that of the class that it names, else of the default class, else none. Pods do not say it themselves.
//!
//! Source: k8s.io/kubernetes/plugin/pkg/admission/priority.

use std::sync::Arc;

use oarlock_api::catalogue::{PODS, PRIORITY_CLASSES};
use oarlock_api::meta;
use oarlock_api::status::Status;
use serde_json::{Value, json};

use super::super::Registry;

const ALWAYS: &str = "PreemptLowerPriority";

impl Registry {
    /// Sets a new pod's priority, or says what it may not say.
    pub(super) async fn prioritize(&self, pod: &mut Value) -> Result<(), Status> {
        let refused = |pod: &Value, why: &str| Err(Status::forbidden(&PODS, meta::name(pod), why));
        let named = pod["spec"]["priorityClassName"].as_str().unwrap_or("").to_owned();
        let class = if named.is_empty() {
            let classes: Vec<Arc<Value>> =
                self.cache.list(&PRIORITY_CLASSES, None).0.iter().map(|class| class.value()).collect();
            default_class(&classes).cloned()
        } else {
            // The cache may be behind: only the store knows that there is none.
            match self.cache.get(&PRIORITY_CLASSES, "", &named) {
                Some(class) => Some(class.value()),
                None => match self.get(&PRIORITY_CLASSES, "", &named).await {
                    Ok(class) => Some(Arc::new(class)),
                    Err(status) if status.is("NotFound") => {
                        return refused(pod, &format!("no PriorityClass with name {named} was found"));
                    }
                    Err(status) => return Err(status),
                },
            }
        };
        match complete(&mut pod["spec"], class.as_deref()) {
            Ok(()) => Ok(()),
            Err(why) => refused(pod, &why),
        }
    }
}

impl Registry {
    /// Refuses a second default class.
    pub(in super::super) fn one_default(&self, class: &Value) -> Result<(), Status> {
        if class["globalDefault"] != true {
            return Ok(());
        }
        let name = meta::name(class);
        let classes: Vec<Arc<Value>> =
            self.cache.list(&PRIORITY_CLASSES, None).0.iter().map(|class| class.value()).collect();
        match default_class(&classes).map(|class| meta::name(class)).filter(|other| *other != name) {
            Some(other) => {
                let why =
                    format!("PriorityClass {other} is already marked as default. Only one default can exist");
                Err(Status::forbidden(&PRIORITY_CLASSES, name, &why))
            }
            None => Ok(()),
        }
    }
}

/// The default class; of several the one of the lowest value, as upstream.
fn default_class(classes: &[Arc<Value>]) -> Option<&Arc<Value>> {
    let default = classes.iter().filter(|class| class["globalDefault"] == true);
    default.min_by_key(|class| class["value"].as_i64())
}

/// What a changed pod does not say of its priority is as it was.
pub(in super::super) fn keep_priority(present: &Value, next: &mut Value) {
    for field in ["priority", "preemptionPolicy"] {
        if next["spec"].is_object() && next["spec"][field].is_null() && !present["spec"][field].is_null() {
            next["spec"][field] = present["spec"][field].clone();
        }
    }
}

fn complete(spec: &mut Value, class: Option<&Value>) -> Result<(), String> {
    let priority = class.and_then(|class| class["value"].as_i64()).unwrap_or(0);
    let preemption = class.and_then(|class| class["preemptionPolicy"].as_str()).unwrap_or(ALWAYS);
    let rest = "must not be provided in pod spec; priority admission controller computed";
    if let Some(stated) = spec["priority"].as_i64().filter(|stated| *stated != priority) {
        return Err(format!(
            "the integer value of priority ({stated}) {rest} {priority} from the given PriorityClass name"
        ));
    }
    if let Some(stated) = spec["preemptionPolicy"].as_str().filter(|stated| *stated != preemption) {
        return Err(format!(
            "the string value of PreemptionPolicy ({stated}) {rest} {preemption} from the given PriorityClass name"
        ));
    }
    spec["priority"] = json!(priority);
    spec["preemptionPolicy"] = json!(preemption);
    if let Some(class) = class {
        spec["priorityClassName"] = json!(meta::name(class));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(name: &str, value: i64) -> Value {
        json!({"metadata": {"name": name}, "value": value, "globalDefault": true, "preemptionPolicy": "Never"})
    }

    #[test]
    fn a_class_decides_and_a_pod_may_only_repeat_it() {
        let mut plain = json!({});
        complete(&mut plain, None).unwrap();
        assert_eq!(plain, json!({"priority": 0, "preemptionPolicy": ALWAYS}));
        let mut high = json!({"priority": 7});
        complete(&mut high, Some(&class("high", 7))).unwrap();
        assert_eq!(high, json!({"priority": 7, "preemptionPolicy": "Never", "priorityClassName": "high"}));
        assert_eq!(
            complete(&mut json!({"priority": 8}), Some(&class("high", 7))).unwrap_err(),
            "the integer value of priority (8) must not be provided in pod spec; priority admission controller computed 7 from the \
             given PriorityClass name"
        );
        assert_eq!(
            complete(&mut json!({"preemptionPolicy": "Never"}), None).unwrap_err(),
            "the string value of PreemptionPolicy (Never) must not be provided in pod spec; priority admission controller computed \
             PreemptLowerPriority from the given PriorityClass name"
        );
    }

    #[test]
    fn of_two_defaults_the_lower_counts() {
        let classes = [Arc::new(class("b", 2)), Arc::new(class("a", 1))];
        assert_eq!(default_class(&classes).map(|class| meta::name(class)), Some("a"));
    }
}
