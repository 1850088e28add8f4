//! APIServices.
//!
//! Source: k8s.io/kube-aggregator/pkg/apis/apiregistration/validation/validation.go.

use serde_json::Value;

use super::{Errors, list, text};
use crate::{aggregation, meta};

const MOST_OF_GROUP: i64 = 20_000;
const MOST_OF_VERSION: i64 = 1000;

pub(super) fn api_service(errors: &mut Errors, object: &Value) {
    let spec = &object["spec"];
    let (group, version) = (text(spec, "group"), text(spec, "version"));
    let wanted = aggregation::name(group, version);
    if meta::name(object) != wanted && meta::check_path_segment(meta::name(object)).is_ok() {
        let why = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
        errors.invalid("metadata.name", format!("{:?}", meta::name(object)), why);
    }
    if group.is_empty() && version != "v1" {
        errors.required("spec.group", "only v1 may have an empty group and it better be legacy kube");
    }
    if !group.is_empty()
        && let Err(why) = meta::check_dns1123_subdomain(group)
    {
        errors.invalid("spec.group", &spec["group"], why);
    }
    if let Err(why) = meta::check_dns1035_label(version) {
        errors.invalid("spec.version", format!("{version:?}"), why);
    }
    for (field, most) in [("groupPriorityMinimum", MOST_OF_GROUP), ("versionPriority", MOST_OF_VERSION)] {
        let value = spec[field].as_i64().unwrap_or(0);
        if !(1..=most).contains(&value) {
            errors.invalid(format!("spec.{field}"), value, format!("must be positive and less than {most}"));
        }
    }
    let bundle = text(spec, "caBundle");
    let insecure = spec["insecureSkipTLSVerify"] == true;
    let Some(service) = aggregation::service(object) else {
        if !bundle.is_empty() {
            let size = format!("\"{} bytes\"", bundle.len() / 4 * 3);
            errors.invalid("spec.caBundle", size, "local APIServices may not have a caBundle");
        }
        if insecure {
            let why = "local APIServices may not have insecureSkipTLSVerify";
            errors.invalid("spec.insecureSkipTLSVerify", true, why);
        }
        return;
    };
    for field in ["namespace", "name"] {
        if text(service, field).is_empty() {
            errors.required(format!("spec.service.{field}"), "");
        }
    }
    errors.port("spec.service.port", &service["port"]);
    if group == aggregation::GROUP {
        let why = "the control plane answers for APIServices itself";
        errors.forbidden("spec.service", why);
    }
    if insecure && !bundle.is_empty() {
        errors.invalid("spec.insecureSkipTLSVerify", true, "may not be true if caBundle is present");
    }
}

pub(super) fn api_service_status(errors: &mut Errors, status: &Value) {
    for (i, condition) in list(status, "conditions").iter().enumerate() {
        let field = format!("status.conditions[{i}].status");
        errors.one_of(&field, &condition["status"], &["True", "False", "Unknown"]);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wrong(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut object = json!({"metadata": {"name": "v1beta2.custom.metrics.k8s.io"}, "spec": {
            "group": "custom.metrics.k8s.io", "version": "v1beta2", "groupPriorityMinimum": 100, "versionPriority": 100,
            "insecureSkipTLSVerify": true, "service": {"namespace": "monitoring", "name": "adapter", "port": 443}}});
        change(&mut object);
        let mut errors = Errors::default();
        api_service(&mut errors, &object);
        errors.causes.into_iter().map(|c| format!("{}: {}", c.field, c.message)).collect()
    }

    #[test]
    fn each_mistake_is_named_as_upstream_names_it() {
        assert_eq!(wrong(|_| {}), Vec::<String>::new());
        assert_eq!(
            wrong(|o| o["metadata"]["name"] = json!("mine")),
            ["metadata.name: Invalid value: \"mine\": must be `spec.version+\".\"+spec.group`: \
                 \"v1beta2.custom.metrics.k8s.io\""]
        );
        assert_eq!(
            wrong(|o| {
                o["metadata"]["name"] = json!("v2.");
                o["spec"] = json!({"version": "v2", "versionPriority": 1001, "caBundle": "YWJj"});
            }),
            [
                "spec.group: Required value: only v1 may have an empty group and it better be legacy kube",
                "spec.groupPriorityMinimum: Invalid value: 0: must be positive and less than 20000",
                "spec.versionPriority: Invalid value: 1001: must be positive and less than 1000",
                "spec.caBundle: Invalid value: \"3 bytes\": local APIServices may not have a caBundle",
            ]
        );
        assert_eq!(
            wrong(|o| {
                o["spec"]["caBundle"] = json!("YWJj");
                o["spec"]["service"] = json!({"port": 0});
            }),
            [
                "spec.service.namespace: Required value",
                "spec.service.name: Required value",
                "spec.service.port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.insecureSkipTLSVerify: Invalid value: true: may not be true if caBundle is present",
            ]
        );
        let own = wrong(|o| {
            o["metadata"]["name"] = json!("v1.apiregistration.k8s.io");
            o["spec"]["group"] = json!("apiregistration.k8s.io");
            o["spec"]["version"] = json!("v1");
        });
        assert_eq!(own, ["spec.service: Forbidden: the control plane answers for APIServices itself"]);
    }
}
