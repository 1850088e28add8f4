//! What a pod of a StatefulSet is called and looks like. Pure.
//!
//! Source: k8s.io/kubernetes/pkg/controller/statefulset/stateful_set_utils.go.

use oarlock_api::meta::{map_at, map_of};
use serde_json::{Value, json};

use super::super::history::{HASH_LABEL, Revision};
use super::super::template;
use super::claims;
use crate::world::PodView;

const NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

/// `web-3` is the third of `web`: the set's name and the ordinal.
pub(super) fn parent(name: &str) -> Option<(&str, i64)> {
    let (set, ordinal) = name.rsplit_once('-')?;
    // A start and a number of replicas, 31 bits each.
    let digits = ordinal.len() <= 10 && ordinal.bytes().all(|b| b.is_ascii_digit());
    Some((set, ordinal.parse().ok().filter(|_| digits)?))
}

/// The ordinal of a pod of this set; `None` when its name is none that the set gives.
pub(super) fn ordinal(set: &str, name: &str) -> Option<i64> {
    // Written back, lest `web-03` count as `web-3`.
    parent(name).filter(|(parent, n)| *parent == set && format!("{set}-{n}") == name).map(|(_, n)| n)
}

/// Running and ready.
pub(super) fn is_ready(pod: &PodView) -> bool {
    &*pod.phase == "Running" && pod.ready
}

/// The labels that say which pod it is.
pub(super) fn identity(name: &str, ordinal: i64) -> Value {
    json!({NAME_LABEL: name, INDEX_LABEL: ordinal.to_string()})
}

/// Whether it says which pod it is.
pub(super) fn says_who_it_is(pod: &PodView, name: &str, ordinal: i64) -> bool {
    pod.label(NAME_LABEL) == Some(name) && pod.label(INDEX_LABEL) == Some(ordinal.to_string().as_str())
}

/// The pod of an ordinal, made from a revision.
pub(super) fn make(set: &Value, revision: &Revision, name: &str, ordinal: i64) -> Value {
    let mut pod = template::pod(&revision.template(), set);
    let metadata = map_at(map_of(&mut pod), "metadata");
    metadata.insert("name".to_owned(), json!(name));
    let labels = map_at(metadata, "labels");
    labels.insert(HASH_LABEL.to_owned(), json!(revision.name));
    labels.insert(NAME_LABEL.to_owned(), json!(name));
    labels.insert(INDEX_LABEL.to_owned(), json!(ordinal.to_string()));
    let spec = map_at(map_of(&mut pod), "spec");
    spec.insert("hostname".to_owned(), json!(name));
    if let Some(service) = set["spec"]["serviceName"].as_str().filter(|service| !service.is_empty()) {
        spec.insert("subdomain".to_owned(), json!(service));
    }
    claims::mount(set, &mut pod, name);
    pod
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_of_the_set_whose_name_it_bears_with_a_number() {
        assert_eq!(ordinal("web", "web-0"), Some(0));
        assert_eq!(ordinal("web-1", "web-1-12"), Some(12));
        for name in
            ["web", "web-", "web-03", "web-+3", "web--1", "web-x", "other-1", "web-1-1", "web-21474836480"]
        {
            assert_eq!(ordinal("web", name), None, "{name}");
        }
    }
}
