//! PriorityClasses, RuntimeClasses and PodTemplates.
//!
//! Source: k8s.io/kubernetes/pkg/apis/{scheduling,node,core}/validation.

use serde_json::{Value, json};

use super::{Errors, list, pod, pod_support, text};
use crate::meta as rules;
use crate::quantity::Quantity;

/// The highest priority that users may give; what is above is the system's.
const HIGHEST: i64 = 1_000_000_000;
const SYSTEM: &str = "system-";
const SYSTEM_CLASSES: [(&str, i64); 2] =
    [("system-node-critical", 2 * HIGHEST + 1000), ("system-cluster-critical", 2 * HIGHEST)];

pub(super) fn priority(errors: &mut Errors, class: &Value) {
    let (name, value) = (rules::name(class), class["value"].as_i64().unwrap_or(0));
    if name.starts_with(SYSTEM) {
        let known = SYSTEM_CLASSES.iter().find(|(known, _)| *known == name);
        let why = match known {
            None => Some(format!("{name} is not a known system priority class")),
            Some((_, wanted)) if *wanted != value => {
                Some(format!("value of {name} PriorityClass must be {wanted}"))
            }
            Some(_) if class["globalDefault"] == true => {
                Some(format!("globalDefault of {name} PriorityClass must be false"))
            }
            Some(_) => None,
        };
        if let Some(why) = why {
            let reserved =
                "priority class names with 'system-' prefix are reserved for system use only. error:";
            errors.forbidden("metadata.name", format_args!("{reserved} {why}"));
        }
    } else if value > HIGHEST {
        let why = format!("maximum allowed value of a user defined priority is {HIGHEST}");
        errors.forbidden("value", why);
    }
    errors.one_of("preemptionPolicy", &class["preemptionPolicy"], &["Never", "PreemptLowerPriority"]);
}

pub(super) fn priority_update(errors: &mut Errors, old: &Value, new: &Value) {
    if old["value"] != new["value"] {
        errors.forbidden("value", "may not be changed in an update.");
    }
    errors.immutable("preemptionPolicy", &old["preemptionPolicy"], &new["preemptionPolicy"]);
}

pub(super) fn runtime(errors: &mut Errors, class: &Value) {
    let handler = text(class, "handler");
    if let Err(why) = rules::check_dns1123_label(handler) {
        errors.invalid("handler", format!("{handler:?}"), why);
    }
    for (name, amount) in class["overhead"]["podFixed"].as_object().into_iter().flatten() {
        let shown = amount.as_str().map_or_else(|| amount.to_string(), str::to_owned);
        if shown.parse::<Quantity>().is_ok_and(|amount| amount.is_negative()) {
            let field = format!("overhead.podFixed[{name}]");
            errors.invalid(field, format!("{shown:?}"), "must be greater than or equal to 0");
        }
    }
    let scheduling = &class["scheduling"];
    super::meta::labels(errors, "scheduling.nodeSelector", scheduling.get("nodeSelector"));
    for (i, toleration) in list(scheduling, "tolerations").iter().enumerate() {
        let (key, operator) = (text(toleration, "key"), text(toleration, "operator"));
        if key.is_empty() && operator != "Exists" {
            let why =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.invalid(format!("scheduling.tolerations[{i}].operator"), format!("{operator:?}"), why);
        }
    }
}

pub(super) fn pod_template(errors: &mut Errors, template: &Value) {
    super::meta::labels(errors, "template.metadata.labels", template["metadata"].get("labels"));
    let none = json!({});
    let spec = template.get("spec").unwrap_or(&none);
    pod::check_spec(errors, "template.spec", spec);
    pod_support::check(errors, "template.spec", spec);
}
