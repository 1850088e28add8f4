//! The index against a naive evaluation of the same objects, and upstream's reasons.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::auth::ResourceAttributes;

type Objects = BTreeMap<(usize, String, String), Value>;

const KINDS: [&Kind; 4] = [&ROLES, &CLUSTER_ROLES, &ROLE_BINDINGS, &CLUSTER_ROLE_BINDINGS];

/// As upstream reads: every binding, every subject, every rule.
fn naive(objects: &Objects, user: &User, attributes: &Attributes<'_>) -> bool {
    let namespace = match attributes.about {
        About::Resource(about) => about.namespace,
        About::Path(_) => "",
    };
    let is = |subject: &Value, place: &str| match subject["kind"].as_str().unwrap() {
        "User" => subject["name"] == *user.name,
        "Group" => user.groups.iter().any(|group| subject["name"] == **group),
        _ => {
            let own = subject["namespace"].as_str().unwrap_or(place);
            user.name == format!("system:serviceaccount:{own}:{}", subject["name"].as_str().unwrap())
        }
    };
    objects.iter().any(|((kind, place, _), binding)| {
        let bound = *kind == 3 || *kind == 2 && !namespace.is_empty() && place == namespace;
        let subjects = binding["subjects"].as_array();
        if !bound || !subjects.into_iter().flatten().any(|subject| is(subject, place)) {
            return false;
        }
        let name = binding["roleRef"]["name"].as_str().unwrap().to_owned();
        let cluster = binding["roleRef"]["kind"] == "ClusterRole";
        let role = if cluster { (1, String::new(), name) } else { (0, place.clone(), name) };
        let rules = objects.get(&role).map(Rule::of_role).unwrap_or_default();
        rules.iter().any(|rule| rule.allows(attributes))
    })
}

fn words(from: &'static [&'static str], most: usize) -> impl Strategy<Value = Vec<&'static str>> {
    proptest::collection::vec(proptest::sample::select(from), 0..=most)
}

prop_compose! {
    fn rule()(
        verbs in words(&["get", "list", "*"], 2),
        groups in words(&["", "apps", "*"], 2),
        resources in words(&["pods", "pods/log", "*/log", "*"], 2),
        names in words(&["a"], 1),
        urls in words(&["/x", "/x/*"], 1),
        path in any::<bool>(),
    ) -> Value {
        if path {
            json!({"verbs": verbs, "nonResourceURLs": urls})
        } else {
            json!({"verbs": verbs, "apiGroups": groups, "resources": resources, "resourceNames": names})
        }
    }
}

fn subject() -> impl Strategy<Value = Value> {
    proptest::sample::select(vec![
        json!({"kind": "User", "name": "jane"}),
        json!({"kind": "User", "name": "system:serviceaccount:n1:sa"}),
        json!({"kind": "Group", "name": "staff"}),
        json!({"kind": "ServiceAccount", "name": "sa", "namespace": "n1"}),
        json!({"kind": "ServiceAccount", "name": "sa", "namespace": "n2"}),
    ])
}

/// An object of one of the four kinds, or none in its place.
fn change() -> impl Strategy<Value = ((usize, String, String), Option<Value>)> {
    let role = proptest::collection::vec(rule(), 0..3).prop_map(|rules| json!({"rules": rules}));
    let reference = (prop_oneof![Just("Role"), Just("ClusterRole")], prop_oneof![Just("r1"), Just("r2")]);
    let binding = (reference, proptest::collection::vec(subject(), 0..3)).prop_map(
        |((kind, name), subjects)| json!({"roleRef": {"kind": kind, "name": name}, "subjects": subjects}),
    );
    (0..4usize, prop_oneof![Just("n1"), Just("n2")], 0..2usize, role, binding, 0..5u8).prop_map(
        |(kind, namespace, name, role, binding, gone)| {
            let namespace = if kind % 2 == 1 { "" } else { namespace };
            let (mut object, name) =
                if kind < 2 { (role, ["r1", "r2"][name]) } else { (binding, ["b1", "b2"][name]) };
            if kind == 3 {
                object["roleRef"]["kind"] = json!("ClusterRole");
            }
            ((kind, namespace.to_owned(), name.to_owned()), (gone > 0).then_some(object))
        },
    )
}

fn users() -> [User; 4] {
    [
        User::known("jane", &[]),
        User::known("joe", &["staff".to_owned()]),
        User::known("system:serviceaccount:n1:sa", &[]),
        User::anonymous(),
    ]
}

fn questions() -> Vec<Attributes<'static>> {
    let mut questions = vec![
        Attributes { verb: "get", about: About::Path("/x") },
        Attributes { verb: "get", about: About::Path("/x/y") },
    ];
    for namespace in ["", "n1", "n2", "n3"] {
        for (verb, group, resource, subresource, name) in [
            ("get", "", "pods", "", "a"),
            ("get", "apps", "pods", "log", "b"),
            ("list", "", "pods", "", ""),
            ("watch", "", "secrets", "", ""),
        ] {
            let about = ResourceAttributes { group, resource, subresource, namespace, name, of_node: "" };
            questions.push(Attributes { verb, about: About::Resource(about) });
        }
    }
    questions
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn the_index_decides_as_a_scan_of_everything(changes in proptest::collection::vec(change(), 1..24)) {
        let (mut index, mut objects) = (Index::default(), Objects::new());
        for (key, object) in changes {
            match object {
                Some(object) => {
                    index.put(KINDS[key.0], &key.1, &key.2, &object);
                    objects.insert(key, object);
                }
                None => {
                    index.delete(KINDS[key.0], &key.1, &key.2);
                    objects.remove(&key);
                }
            }
            for user in users() {
                for question in questions() {
                    let decided = index.decide(&user, &question);
                    prop_assert_eq!(
                        decided.is_ok(),
                        naive(&objects, &user, &question),
                        "{:?} {:?} {:?}", user.name, question, objects
                    );
                }
            }
        }
        for ((kind, namespace, name), _) in objects {
            index.delete(KINDS[kind], &namespace, &name);
        }
        prop_assert!(index.by_subject.is_empty() && index.bindings.is_empty() && index.roles.is_empty());
    }
}

#[test]
fn reasons_are_upstreams() {
    let mut index = Index::default();
    let about = ResourceAttributes { resource: "pods", namespace: "d", ..ResourceAttributes::default() };
    let list = Attributes { verb: "list", about: About::Resource(about) };
    let sa = User::known("system:serviceaccount:d:builder", &["system:serviceaccounts".to_owned()]);
    assert_eq!(index.decide(&sa, &list), Err(String::new()));
    let binding = json!({
        "roleRef": {"kind": "Role", "name": "reader"}, "subjects": [{"kind": "ServiceAccount", "name": "builder"}],
    });
    index.put(&ROLE_BINDINGS, "d", "b", &binding);
    assert_eq!(
        index.decide(&sa, &list).unwrap_err(),
        r#"RBAC: role.rbac.authorization.k8s.io "reader" not found"#
    );
    let all = json!({
        "roleRef": {"kind": "ClusterRole", "name": "view"}, "subjects": [{"kind": "Group", "name": "system:serviceaccounts"}],
    });
    index.put(&CLUSTER_ROLE_BINDINGS, "", "all", &all);
    assert_eq!(
        index.decide(&sa, &list).unwrap_err(),
        "RBAC: [clusterrole.rbac.authorization.k8s.io \"view\" not found, role.rbac.authorization.k8s.io \"reader\" not found]"
    );
    let reader = json!({"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}]});
    index.put(&ROLES, "d", "reader", &reader);
    assert_eq!(
        index.decide(&sa, &list).unwrap(),
        r#"RBAC: allowed by RoleBinding "b/d" of Role "reader" to ServiceAccount "builder/d""#
    );
    index.put(&CLUSTER_ROLES, "", "view", &reader);
    assert_eq!(
        index.decide(&sa, &list).unwrap(),
        r#"RBAC: allowed by ClusterRoleBinding "all" of ClusterRole "view" to Group "system:serviceaccounts""#
    );
}
