//! Roles through the whole server.

use super::*;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// Runs as somebody else.
async fn as_user(api: &mut Api, name: &str, groups: &[&str]) {
    let groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
    api.user = Some(User::known(name, &groups));
    // What was written before has been seen.
    api.fixture.registry.catch_up().await.unwrap();
}

async fn made(api: &Api, path: &str, body: Value) {
    let answer = api.post(&format!("{RBAC}/{path}"), body).await;
    assert_eq!(answer.code, 201, "{}", answer.message());
}

fn rule(groups: &[&str], resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": groups, "resources": resources, "verbs": verbs})
}

fn binding(name: &str, (role_kind, role): (&str, &str), (kind, subject): (&str, &str)) -> Value {
    json!({
        "metadata": {"name": name},
        "roleRef": {"kind": role_kind, "name": role},
        "subjects": [{"kind": kind, "name": subject}],
    })
}

#[tokio::test]
async fn nobody_sees_health_and_what_a_role_gives_them() {
    let mut api = api().await;
    crate::auth::bootstrap::bootstrap(&api.fixture.registry).await.unwrap();
    api.fixture.registry.catch_up().await.unwrap();
    api.user = None;
    for open in ["/healthz", "/livez", "/readyz", "/version"] {
        assert_eq!(api.get(open).await.code, 200, "{open}");
    }
    let closed = api.get("/api").await;
    assert_eq!(
        (closed.code, closed.message().as_str()),
        (403, r#"forbidden: User "system:anonymous" cannot get path "/api""#)
    );
    let token = api.send("GET", "/version", &[("authorization", "Bearer x")], "").await;
    assert_eq!((token.code, token.message().as_str()), (401, "Unauthorized"));
    as_user(&mut api, "jane", &[]).await;
    for open in ["/api", "/api/v1", "/apis", "/apis/apps/v1", "/openapi/v2", "/openapi/v3"] {
        assert_eq!(api.get(open).await.code, 200, "{open}");
    }
    for closed in ["/", "/metrics", "/nothing", PODS, "/api/v1/nodes"] {
        assert_eq!(api.get(closed).await.code, 403, "{closed}");
    }
}

#[tokio::test]
async fn a_role_gives_what_it_says_where_it_is_bound_and_until_it_is_not() {
    let mut api = api().await;
    let role = json!({"metadata": {"name": "reader"}, "rules": [rule(&[""], &["pods"], &["get", "list"])]});
    made(&api, "namespaces/d/roles", role).await;
    made(&api, "namespaces/d/rolebindings", binding("r", ("Role", "reader"), ("User", "jane"))).await;
    as_user(&mut api, "jane", &[]).await;
    assert_eq!(api.get(PODS).await.code, 200);
    let refused = api.get("/api/v1/pods").await;
    assert_eq!(
        (refused.code, refused.message().as_str(), refused.json()["details"]["kind"].as_str()),
        (
            403,
            r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" at the cluster scope"#,
            Some("pods")
        )
    );
    for (method, path) in
        [("POST", PODS.to_owned()), ("DELETE", PODS.to_owned()), ("GET", format!("{PODS}/p/log"))]
    {
        assert_eq!(api.send(method, &path, &[], "").await.code, 403, "{method} {path}");
    }
    assert_eq!(api.get(&format!("{PODS}?watch=true")).await.code, 403);
    as_user(&mut api, "admin", &["system:masters"]).await;
    let bound = format!("{RBAC}/namespaces/d/rolebindings/r");
    let moved = json!({"roleRef": {"kind": "ClusterRole", "name": "cluster-admin"}});
    let moved = api.patch(&bound, "merge", moved).await;
    assert_eq!(moved.code, 422);
    assert!(moved.message().ends_with(
        "roleRef: Invalid value: rbac.RoleRef{APIGroup:\"rbac.authorization.k8s.io\", Kind:\"ClusterRole\", \
         Name:\"cluster-admin\"}: cannot change roleRef"
    ), "{}", moved.message());
    assert_eq!(api.send("DELETE", &bound, &[], "").await.code, 200);
    as_user(&mut api, "jane", &[]).await;
    assert_eq!(api.get(PODS).await.code, 403);
}

#[tokio::test]
async fn nobody_gives_what_they_do_not_have() {
    let mut api = api().await;
    let own = json!({"metadata": {"name": "own"}, "rules": [
        rule(&["rbac.authorization.k8s.io"], &["roles", "rolebindings"], &["create", "update", "patch", "get"]),
        rule(&[""], &["pods"], &["get"]),
    ]});
    made(&api, "namespaces/d/roles", own).await;
    made(&api, "namespaces/d/rolebindings", binding("own", ("Role", "own"), ("User", "jane"))).await;
    let secrets =
        json!({"metadata": {"name": "secrets"}, "rules": [rule(&[""], &["secrets"], &["get", "list"])]});
    made(&api, "clusterroles", secrets).await;
    as_user(&mut api, "jane", &["staff"]).await;
    let roles = format!("{RBAC}/namespaces/d/roles");
    let role = |name: &str, resource: &str| json!({"metadata": {"name": name}, "rules": [rule(&[""], &[resource], &["get", "list"])]});
    let mut less = role("mine", "pods");
    less["rules"][0]["verbs"] = json!(["get"]);
    assert_eq!(api.post(&roles, less).await.code, 201);
    let refused = api.post(&roles, role("more", "secrets")).await;
    assert_eq!(
        (refused.code, refused.message().as_str()),
        (
            403,
            "roles.rbac.authorization.k8s.io \"more\" is forbidden: user \"jane\" (groups=[\"staff\" \"system:authenticated\"]) is \
             attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"secrets\"], Verbs:[\"get\" \"list\"]}"
        )
    );
    let more = json!({"rules": [rule(&[""], &["pods"], &["get", "delete"])]});
    let patched = api.patch(&format!("{roles}/mine"), "merge", more.clone()).await;
    assert!(
        patched.message().ends_with("{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}"),
        "{}",
        patched.message()
    );
    let mut put = more;
    put["metadata"] = json!({"name": "mine"});
    let answer = api
        .send("PUT", &format!("{roles}/mine"), &[("content-type", "application/json")], put.to_string())
        .await;
    assert_eq!(answer.code, 403);
    let bindings = format!("{RBAC}/namespaces/d/rolebindings");
    let bound = api.post(&bindings, binding("b", ("ClusterRole", "secrets"), ("User", "jane"))).await;
    assert!(bound.message().contains("not currently held"), "{}", bound.message());
    let unknown = api.post(&bindings, binding("b", ("ClusterRole", "none"), ("User", "jane"))).await;
    assert_eq!(
        (unknown.code, unknown.message().as_str()),
        (404, "clusterrole.rbac.authorization.k8s.io \"none\" not found")
    );
    assert_eq!(api.post(&bindings, binding("b", ("Role", "mine"), ("User", "joe"))).await.code, 201);
    // Who may bind and escalate need not have it.
    as_user(&mut api, "admin", &["system:masters"]).await;
    let mut power = json!({"metadata": {"name": "power"}, "rules": [
        rule(&["rbac.authorization.k8s.io"], &["clusterroles"], &["bind"]),
        rule(&["rbac.authorization.k8s.io"], &["roles"], &["escalate"]),
    ]});
    power["rules"][0]["resourceNames"] = json!(["secrets"]);
    made(&api, "namespaces/d/roles", power).await;
    made(&api, "namespaces/d/rolebindings", binding("power", ("Role", "power"), ("Group", "staff"))).await;
    as_user(&mut api, "jane", &["staff"]).await;
    assert_eq!(
        api.post(&bindings, binding("b2", ("ClusterRole", "secrets"), ("User", "jane"))).await.code,
        201
    );
    assert_eq!(api.post(&roles, role("more", "secrets")).await.code, 201);
}

#[tokio::test]
async fn defaults_are_made_once_and_completed() {
    let api = api().await;
    let registry = &api.fixture.registry;
    crate::auth::bootstrap::bootstrap(registry).await.unwrap();
    registry.catch_up().await.unwrap();
    let before = registry.cache().revision();
    crate::auth::bootstrap::bootstrap(registry).await.unwrap();
    registry.catch_up().await.unwrap();
    assert_eq!(registry.cache().revision(), before, "nothing is written when nothing is missing");
    let view = format!("{RBAC}/clusterroles/system:public-info-viewer");
    let emptied = api.patch(&view, "merge", json!({"rules": null})).await;
    assert_eq!((emptied.code, &emptied.json()["rules"]), (200, &Value::Null));
    registry.catch_up().await.unwrap();
    crate::auth::bootstrap::bootstrap(registry).await.unwrap();
    assert_eq!(api.get(&view).await.json()["rules"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn roles_and_bindings_are_checked_as_upstream_checks_them() {
    let api = api().await;
    for (path, object, message) in [
        (
            "namespaces/d/roles",
            json!({"metadata": {"name": "r"}, "rules": [{"verbs": ["get"], "nonResourceURLs": ["/x"]}]}),
            "Role.rbac.authorization.k8s.io \"r\" is invalid: rules[0].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot \
             apply to non-resource URLs",
        ),
        (
            "namespaces/d/roles",
            json!({"metadata": {"name": "a%b"}, "rules": [{"apiGroups": [""], "resources": ["pods"]}]}),
            "Role.rbac.authorization.k8s.io \"a%b\" is invalid: [metadata.name: Invalid value: \"a%b\": may not contain '%', \
             rules[0].verbs: Required value: verbs must contain at least one value]",
        ),
        (
            "clusterroles",
            json!({"metadata": {"name": "c"}, "aggregationRule": {}}),
            "ClusterRole.rbac.authorization.k8s.io \"c\" is invalid: aggregationRule.clusterRoleSelectors: Required value: at least one \
             clusterRoleSelector required if aggregationRule is non-nil",
        ),
        (
            "clusterrolebindings",
            binding("b", ("Role", "x"), ("User", "jane")),
            "ClusterRoleBinding.rbac.authorization.k8s.io \"b\" is invalid: roleRef.kind: Unsupported value: \"Role\": supported values: \
             \"ClusterRole\"",
        ),
        (
            "clusterrolebindings",
            binding("b", ("ClusterRole", "x"), ("ServiceAccount", "sa")),
            "ClusterRoleBinding.rbac.authorization.k8s.io \"b\" is invalid: subjects[0].namespace: Required value",
        ),
    ] {
        let answer = api.post(&format!("{RBAC}/{path}"), object).await;
        assert_eq!((answer.code, answer.message().as_str()), (422, message), "{path}");
    }
    let made = api
        .post(&format!("{RBAC}/namespaces/d/rolebindings"), binding("b", ("Role", "x"), ("User", "jane")))
        .await;
    assert_eq!(made.json()["subjects"][0]["apiGroup"], "rbac.authorization.k8s.io");
    assert_eq!(made.json()["roleRef"]["apiGroup"], "rbac.authorization.k8s.io");
    let table =
        api.send("GET", &format!("{RBAC}/namespaces/d/rolebindings"), &[("accept", TABLE)], "").await.json();
    assert_eq!(table["rows"][0]["cells"][1], "Role/x");
    assert_eq!(table["rows"][0]["cells"][3], "jane");
}

#[tokio::test]
async fn an_update_that_creates_needs_the_right_to_create() {
    let mut api = api().await;
    let leases = rule(&["coordination.k8s.io"], &["leases"], &["update"]);
    made(&api, "namespaces/d/roles", json!({"metadata": {"name": "updater"}, "rules": [leases]})).await;
    made(&api, "namespaces/d/rolebindings", binding("b", ("Role", "updater"), ("User", "jane"))).await;
    as_user(&mut api, "jane", &[]).await;
    let path = "/apis/coordination.k8s.io/v1/namespaces/d/leases/l";
    let body = json!({"metadata": {"name": "l"}}).to_string();
    let refused = api.send("PUT", path, &[("content-type", "application/json")], body).await;
    assert_eq!(refused.code, 403);
    assert!(refused.message().contains("cannot create resource \"leases\""), "{}", refused.message());
}
