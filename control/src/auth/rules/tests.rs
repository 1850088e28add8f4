//! Rules against upstream's behaviour.

use serde_json::json;

use super::*;
use crate::auth::ResourceAttributes;

fn rule(value: Value) -> Rule {
    serde_json::from_value(value).unwrap()
}

/// `get pods/log.apps d/name`, as far as given; or a path.
fn allows(rule: &Rule, verb: &str, what: &str, name: &str) -> bool {
    let about = if what.starts_with('/') {
        About::Path(what)
    } else {
        let (what, group) = what.split_once('.').unwrap_or((what, ""));
        let (resource, subresource) = what.split_once('/').unwrap_or((what, ""));
        About::Resource(ResourceAttributes {
            group,
            resource,
            subresource,
            namespace: "d",
            name,
            of_node: "",
        })
    };
    rule.allows(&Attributes { verb, about })
}

#[test]
fn rules_allow_what_upstreams_allow() {
    let of = |groups: &[&str], resources: &[&str], names: &[&str], verbs: &[&str]| {
        rule(json!({"apiGroups": groups, "resources": resources, "resourceNames": names, "verbs": verbs}))
    };
    for (rule, verb, what, name, expected) in [
        (of(&[""], &["pods"], &[], &["get"]), "get", "pods", "p", true),
        (of(&[""], &["pods"], &[], &["get"]), "list", "pods", "", false),
        (of(&[""], &["pods"], &[], &["*"]), "deletecollection", "pods", "", true),
        (of(&[""], &["pods"], &[], &["get"]), "get", "pods.apps", "p", false),
        (of(&["*"], &["pods"], &[], &["get"]), "get", "pods.apps", "p", true),
        (of(&["apps"], &["deployments"], &[], &["get"]), "get", "deployments.apps", "d", true),
        // A resource is not its subresources, nor the other way round.
        (of(&[""], &["pods"], &[], &["get"]), "get", "pods/log", "p", false),
        (of(&[""], &["pods/log"], &[], &["get"]), "get", "pods/log", "p", true),
        (of(&[""], &["pods/log"], &[], &["get"]), "get", "pods", "p", false),
        (of(&[""], &["*"], &[], &["get"]), "get", "pods/log", "p", true),
        (of(&["apps"], &["*/scale"], &[], &["get"]), "get", "deployments/scale.apps", "d", true),
        (of(&["apps"], &["*/scale"], &[], &["get"]), "get", "deployments.apps", "d", false),
        (of(&["apps"], &["*/scale"], &[], &["get"]), "get", "deployments/status.apps", "d", false),
        (of(&[""], &["pods/*"], &[], &["get"]), "get", "pods/log", "p", false),
        // Names: of one object; what has no name is not it.
        (of(&[""], &["secrets"], &["a", "b"], &["get"]), "get", "secrets", "b", true),
        (of(&[""], &["secrets"], &["a", "b"], &["get"]), "get", "secrets", "c", false),
        (of(&[""], &["secrets"], &["a"], &["list", "create"]), "list", "secrets", "", false),
        (of(&[""], &["secrets"], &["a"], &["list", "create"]), "create", "secrets", "", false),
        // Resources are no paths.
        (of(&["*"], &["*"], &[], &["*"]), "get", "/healthz", "", false),
        (of(&[], &["*"], &[], &["*"]), "get", "pods", "p", false),
        (of(&["*"], &[], &[], &["*"]), "get", "pods", "p", false),
    ] {
        assert_eq!(allows(&rule, verb, what, name), expected, "{rule:?}: {verb} {what} {name}");
    }
}

#[test]
fn paths_are_matched_by_a_star_at_the_end_alone() {
    for (pattern, path, expected) in [
        ("*", "/anything", true),
        ("/healthz", "/healthz", true),
        ("/healthz", "/healthz/ping", false),
        ("/healthz/*", "/healthz/ping", true),
        ("/healthz/*", "/healthz/", true),
        ("/healthz/*", "/healthz", false),
        ("/apis*", "/apis/apps/v1", true),
        ("/*/v1", "/apis/v1", false),
        ("/apis/**", "/apis/x", true),
    ] {
        let rule = rule(json!({"nonResourceURLs": [pattern], "verbs": ["get"]}));
        assert_eq!(allows(&rule, "get", path, ""), expected, "{pattern} {path}");
        assert!(!allows(&rule, "post", path, ""), "{pattern} {path}");
    }
}

#[test]
fn nothing_is_read_as_everything() {
    for odd in [json!({}), json!({"verbs": null, "resources": null}), json!({"verbs": ["*"]})] {
        assert!(!allows(&rule(odd.clone()), "get", "pods", "p"), "{odd}");
        assert!(!allows(&rule(odd), "get", "/x", ""));
    }
    let role = json!({"rules": [{"verbs": ["get"], "resources": 7}, {"verbs": ["get"]}]});
    assert_eq!(Rule::of_role(&role).len(), 1, "what does not parse gives nothing");
    assert_eq!(Rule::of_role(&json!({"rules": null})), []);
}

fn lacks(held: Value, wanted: Value) -> Vec<String> {
    let rules = |value: Value| value.as_array().unwrap().iter().cloned().map(rule).collect::<Vec<_>>();
    describe(missing(&rules(held), &rules(wanted)))
}

#[test]
fn what_is_covered_is_what_upstream_says() {
    let pods = |verbs: &[&str]| json!([{"apiGroups": [""], "resources": ["pods"], "verbs": verbs}]);
    assert_eq!(lacks(pods(&["get", "list"]), pods(&["list"])), Vec::<String>::new());
    assert_eq!(
        lacks(pods(&["get"]), pods(&["get", "list", "watch"])),
        [r#"{APIGroups:[""], Resources:["pods"], Verbs:["list" "watch"]}"#]
    );
    let everything = json!(Rule::everything());
    assert_eq!(lacks(everything.clone(), pods(&["*"])), Vec::<String>::new());
    assert_eq!(
        lacks(everything, json!([{"nonResourceURLs": ["/x/*"], "verbs": ["get"]}])),
        Vec::<String>::new()
    );
    let named = json!([{"apiGroups": [""], "resources": ["pods"], "resourceNames": ["a"], "verbs": ["get"]}]);
    assert_eq!(lacks(pods(&["get"]), named.clone()), Vec::<String>::new());
    assert_eq!(lacks(named.clone(), pods(&["get"])).len(), 1);
    assert_eq!(
        lacks(json!([]), named),
        [r#"{APIGroups:[""], Resources:["pods"], ResourceNames:["a"], Verbs:["get"]}"#]
    );
    let scale = |resource: &str| json!([{"apiGroups": ["apps"], "resources": [resource], "verbs": ["get"]}]);
    assert_eq!(lacks(scale("*/scale"), scale("deployments/scale")), Vec::<String>::new());
    assert_eq!(lacks(scale("deployments"), scale("deployments/scale")).len(), 1);
    let url = |url: &str| json!([{"nonResourceURLs": [url], "verbs": ["get"]}]);
    assert_eq!(lacks(url("/a/*"), url("/a/b*")), Vec::<String>::new());
    assert_eq!(lacks(url("/a/b"), url("/a/*")), [r#"{NonResourceURLs:["/a/*"], Verbs:["get"]}"#]);
    // From two rules together.
    let two = json!([
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]},
    ]);
    let both = json!([{"apiGroups": [""], "resources": ["pods", "secrets"], "verbs": ["get", "list"]}]);
    assert_eq!(lacks(two, both).len(), 2);
}
