//! Tokens, who somebody is, what they may, and acting as somebody else, through the whole server.

use super::*;

const ACCOUNTS: &str = "/api/v1/namespaces/d/serviceaccounts";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const WHOAMI: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const TOKEN_REVIEW: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const AUTHORIZATION: &str = "/apis/authorization.k8s.io/v1";

impl Api {
    async fn account(&self, name: &str) {
        let made = self.post(ACCOUNTS, json!({"metadata": {"name": name}})).await;
        assert_eq!(made.code, 201, "{}", made.message());
    }

    async fn token_of(&self, account: &str, spec: Value) -> String {
        let answer = self.post(&format!("{ACCOUNTS}/{account}/token"), json!({"spec": spec})).await;
        assert_eq!(answer.code, 201, "{}", answer.message());
        answer.json()["status"]["token"].as_str().unwrap().to_owned()
    }

    /// Without a certificate, with a token.
    async fn by_token(&mut self, token: &str, method: &str, path: &str, body: Value) -> Answer {
        let certified = self.user.take();
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = self.send(method, path, &headers, body).await;
        self.user = certified;
        answer
    }

    /// What a review says.
    async fn review(&self, path: &str, spec: Value) -> Value {
        let answer = self.post(path, json!({"spec": spec})).await;
        assert_eq!(answer.code, 201, "{}", answer.message());
        answer.json()["status"].clone()
    }
}

#[tokio::test]
async fn an_account_acts_by_its_token() {
    let mut api = api().await;
    crate::auth::bootstrap::bootstrap(&api.fixture.registry).await.unwrap();
    api.account("builder").await;
    let token = api.token_of("builder", json!({})).await;
    let refused = api.by_token(&token, "GET", PODS, Value::Null).await;
    assert_eq!(
        (refused.code, refused.message().as_str()),
        (
            403,
            r#"pods is forbidden: User "system:serviceaccount:d:builder" cannot list resource "pods" in API group "" in the namespace "d""#
        )
    );
    let binding = json!({
        "metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "system:aggregate-to-view"},
        "subjects": [{"kind": "ServiceAccount", "name": "builder", "namespace": "d"}],
    });
    assert_eq!(api.post(&format!("{RBAC}/namespaces/d/rolebindings"), binding).await.code, 201);
    assert_eq!(api.by_token(&token, "GET", PODS, Value::Null).await.code, 200);
    let whoami = api.by_token(&token, "POST", WHOAMI, json!({})).await.json();
    let user = &whoami["status"]["userInfo"];
    assert_eq!(user["username"], "system:serviceaccount:d:builder");
    assert_eq!(
        user["groups"],
        json!(["system:serviceaccounts", "system:serviceaccounts:d", "system:authenticated"])
    );
    assert!(
        user["extra"]["authentication.kubernetes.io/credential-id"][0].as_str().unwrap().starts_with("JTI=")
    );
    assert_eq!(api.send("DELETE", &format!("{ACCOUNTS}/builder"), &[], "").await.code, 200);
    api.account("builder").await;
    api.fixture.registry.catch_up().await.unwrap();
    let gone = api.by_token(&token, "GET", PODS, Value::Null).await;
    assert_eq!(gone.code, 401, "another account of the same name is another");
    for path in ["/.well-known/openid-configuration", "/openid/v1/jwks"] {
        let token = api.token_of("builder", json!({})).await;
        assert_eq!(api.by_token(&token, "GET", path, Value::Null).await.code, 200, "{path}");
    }
}

#[tokio::test]
async fn a_token_dies_with_what_it_is_bound_to() {
    let mut api = api().await;
    api.account("builder").await;
    let mut pod = pod("p");
    pod["spec"]["serviceAccountName"] = json!("builder");
    let uid = api.post(PODS, pod).await.json()["metadata"]["uid"].as_str().unwrap().to_owned();
    let made = api.post("/api/v1/namespaces/d/secrets", json!({"metadata": {"name": "s"}})).await;
    assert_eq!(made.code, 201);
    for (kind, name, path) in [("Pod", "p", PODS), ("Secret", "s", "/api/v1/namespaces/d/secrets")] {
        let bound = json!({"kind": kind, "apiVersion": "v1", "name": name});
        let token = api.token_of("builder", json!({"boundObjectRef": bound})).await;
        let review = api.review(TOKEN_REVIEW, json!({"token": token})).await;
        assert_eq!(review["authenticated"], true, "{review}");
        if kind == "Pod" {
            assert_eq!(review["user"]["extra"]["authentication.kubernetes.io/pod-uid"], json!([uid]));
        }
        assert_eq!(
            api.send("DELETE", &format!("{path}/{name}?gracePeriodSeconds=0"), &[], "").await.code,
            200
        );
        api.fixture.registry.catch_up().await.unwrap();
        let review = api.review(TOKEN_REVIEW, json!({"token": token})).await;
        assert_eq!(review["authenticated"], Value::Null, "{review}");
        assert!(review["error"].as_str().unwrap().contains("not found"), "{review}");
        assert_eq!(api.by_token(&token, "GET", PODS, Value::Null).await.code, 401);
    }
}

#[tokio::test]
async fn token_requests_are_checked_as_upstream_checks_them() {
    let api = api().await;
    api.account("builder").await;
    assert_eq!(api.post(PODS, pod("p")).await.code, 201);
    let bound = |kind: &str, name: &str, uid: &str| json!({"boundObjectRef": {"kind": kind, "apiVersion": "v1", "name": name, "uid": uid}});
    for (spec, code, message) in [
        (
            json!({"expirationSeconds": 599}),
            422,
            "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 599: may not specify a \
             duration less than 10 minutes",
        ),
        (
            json!({"expirationSeconds": 4294967297i64}),
            422,
            "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: 4294967297: may not specify a \
             duration larger than 2^32 seconds",
        ),
        (bound("Pod", "none", ""), 404, "pods \"none\" not found"),
        (bound("ConfigMap", "c", ""), 400, "cannot bind token to object of type v1, Kind=ConfigMap"),
        (
            bound("Pod", "p", ""),
            400,
            "cannot bind token for serviceaccount \"builder\" to pod running with different serviceaccount name.",
        ),
        (bound("Secret", "none", ""), 404, "secrets \"none\" not found"),
    ] {
        let answer = api.post(&format!("{ACCOUNTS}/builder/token"), json!({"spec": spec})).await;
        assert_eq!((answer.code, answer.message().as_str()), (code, message));
    }
    let other = bound("Pod", "p", "another");
    let answer = api.post(&format!("{ACCOUNTS}/builder/token"), json!({"spec": other})).await;
    assert_eq!(answer.code, 409, "{}", answer.message());
    assert_eq!(api.post(&format!("{ACCOUNTS}/none/token"), json!({})).await.code, 404);
    let answer =
        api.post(&format!("{ACCOUNTS}/builder/token"), json!({"spec": {"expirationSeconds": 600}})).await;
    let answer = answer.json();
    assert_eq!(answer["spec"]["audiences"], json!([crate::auth::tokens::tests::ISSUER]));
    assert_eq!((&answer["kind"], &answer["metadata"]["name"]), (&json!("TokenRequest"), &json!("builder")));
}

#[tokio::test]
async fn a_token_is_for_its_audiences_alone() {
    let mut api = api().await;
    api.account("builder").await;
    let token = api.token_of("builder", json!({"audiences": ["vault"]})).await;
    assert_eq!(api.by_token(&token, "GET", "/version", Value::Null).await.code, 401);
    let review = api.review(TOKEN_REVIEW, json!({"token": token, "audiences": ["vault", "other"]})).await;
    assert_eq!((&review["authenticated"], &review["audiences"]), (&json!(true), &json!(["vault"])));
    let review = api.review(TOKEN_REVIEW, json!({"token": token})).await;
    assert!(review["error"].as_str().unwrap().contains("audience"), "{review}");
    let answer = api.post(TOKEN_REVIEW, json!({"spec": {}})).await;
    assert_eq!(
        (answer.code, answer.message().as_str()),
        (400, "token is required for TokenReview in authentication")
    );
}

#[tokio::test]
async fn tokens_of_the_file_and_unknown_ones() {
    let mut api = api().await;
    crate::auth::bootstrap::bootstrap(&api.fixture.registry).await.unwrap();
    let whoami = api.by_token("filed", "POST", WHOAMI, json!({})).await.json();
    assert_eq!(
        whoami["status"]["userInfo"],
        json!({"username": "joe", "uid": "7", "groups": ["staff", "system:authenticated"]})
    );
    let unknown = api.by_token("unknown", "GET", "/version", Value::Null).await;
    assert_eq!((unknown.code, unknown.message().as_str()), (401, "Unauthorized"));
    let review = api.review(TOKEN_REVIEW, json!({"token": "unknown"})).await;
    assert_eq!(review, json!({"user": {}, "error": "invalid bearer token"}));
}

#[tokio::test]
async fn reviews_say_what_somebody_may() {
    let mut api = api().await;
    crate::auth::bootstrap::bootstrap(&api.fixture.registry).await.unwrap();
    let binding = json!({
        "metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "system:public-info-viewer"},
        "subjects": [{"kind": "User", "name": "jane"}],
    });
    assert_eq!(api.post(&format!("{RBAC}/clusterrolebindings"), binding).await.code, 201);
    let review = |name: &str| format!("{AUTHORIZATION}/{name}");
    let pods = json!({"verb": "get", "resource": "pods", "namespace": "d"});
    let status = api
        .review(&review("subjectaccessreviews"), json!({"user": "jane", "resourceAttributes": pods}))
        .await;
    assert_eq!(status, json!({"allowed": false}));
    let status = api
        .review(
            &review("subjectaccessreviews"),
            json!({"groups": ["system:masters"], "resourceAttributes": pods}),
        )
        .await;
    assert_eq!(status["allowed"], true);
    let path = json!({"user": "jane", "nonResourceAttributes": {"verb": "get", "path": "/version"}});
    let status = api.review(&review("subjectaccessreviews"), path).await;
    assert_eq!(status["allowed"], true);
    assert_eq!(
        status["reason"],
        r#"RBAC: allowed by ClusterRoleBinding "b" of ClusterRole "system:public-info-viewer" to User "jane""#
    );
    let local = format!("{AUTHORIZATION}/namespaces/d/localsubjectaccessreviews");
    assert_eq!(
        api.review(&local, json!({"user": "jane", "resourceAttributes": pods})).await["allowed"],
        false
    );
    api.user = Some(User::known("jane", &[]));
    let own = review("selfsubjectaccessreviews");
    assert_eq!(api.review(&own, json!({"resourceAttributes": pods})).await["allowed"], false);
    let rules = api.review(&review("selfsubjectrulesreviews"), json!({"namespace": "d"})).await;
    assert_eq!(rules["incomplete"], false);
    assert!(
        rules["resourceRules"]
            .as_array()
            .unwrap()
            .iter()
            .any(|rule| rule["resources"] == json!(["selfsubjectreviews"]))
    );
    assert!(
        rules["nonResourceRules"]
            .as_array()
            .unwrap()
            .iter()
            .any(|rule| rule["nonResourceURLs"].as_array().unwrap().contains(&json!("/version")))
    );
}

#[tokio::test]
async fn bad_reviews_are_explained() {
    let api = api().await;
    let sar = "subjectaccessreviews";
    for (path, spec, code, message) in [
        (
            sar,
            json!({"user": "jane"}),
            422,
            "SubjectAccessReview.authorization.k8s.io \"\" is invalid: spec.resourceAttributes: Required value: exactly one of \
             nonResourceAttributes or resourceAttributes must be specified",
        ),
        (
            sar,
            json!({"resourceAttributes": {}}),
            422,
            "SubjectAccessReview.authorization.k8s.io \"\" is invalid: spec.user: Invalid value: \"\": at least one of user or group \
             must be specified",
        ),
        (
            "namespaces/d/localsubjectaccessreviews",
            json!({"user": "jane", "resourceAttributes": {"namespace": "e"}}),
            422,
            "LocalSubjectAccessReview.authorization.k8s.io \"\" is invalid: spec.resourceAttributes.namespace: Invalid value: \"e\": \
             must match metadata.namespace",
        ),
        ("selfsubjectrulesreviews", json!({}), 400, "no namespace on request"),
    ] {
        let answer = api.post(&format!("{AUTHORIZATION}/{path}"), json!({"spec": spec})).await;
        assert_eq!((answer.code, answer.message().as_str()), (code, message));
    }
    for (method, path) in [("GET", sar.to_owned()), ("DELETE", sar.to_owned()), ("GET", format!("{sar}/x"))] {
        assert_eq!(
            api.send(method, &format!("{AUTHORIZATION}/{path}"), &[], "").await.code,
            405,
            "{method} {path}"
        );
    }
}

#[tokio::test]
async fn acting_as_somebody_else_must_be_allowed() {
    let mut api = api().await;
    crate::auth::bootstrap::bootstrap(&api.fixture.registry).await.unwrap();
    let role = json!({"metadata": {"name": "act"}, "rules": [
        {"apiGroups": [""], "resources": ["users", "groups"], "verbs": ["impersonate"], "resourceNames": ["joe", "ops"]},
    ]});
    assert_eq!(api.post(&format!("{RBAC}/clusterroles"), role).await.code, 201);
    let binding = json!({
        "metadata": {"name": "act"}, "roleRef": {"kind": "ClusterRole", "name": "act"},
        "subjects": [{"kind": "User", "name": "jane"}],
    });
    assert_eq!(api.post(&format!("{RBAC}/clusterrolebindings"), binding).await.code, 201);
    api.user = Some(User::known("jane", &[]));
    let json_type = ("content-type", "application/json");
    let whoami = api
        .send("POST", WHOAMI, &[json_type, ("impersonate-user", "joe"), ("impersonate-group", "ops")], "{}")
        .await;
    assert_eq!(
        whoami.json()["status"]["userInfo"],
        json!({"username": "joe", "groups": ["ops", "system:authenticated"]})
    );
    for (headers, message) in [
        (
            vec![("impersonate-user", "admin")],
            r#"users "admin" is forbidden: User "jane" cannot impersonate resource "users" in API group "" at the cluster scope"#,
        ),
        (
            vec![("impersonate-user", "joe"), ("impersonate-group", "system:masters")],
            r#"groups "system:masters" is forbidden: User "jane" cannot impersonate resource "groups" in API group "" at the cluster scope"#,
        ),
        (
            vec![("impersonate-user", "joe"), ("impersonate-uid", "1")],
            r#"uids.authentication.k8s.io "1" is forbidden: User "jane" cannot impersonate resource "uids" in API group "authentication.k8s.io" at the cluster scope"#,
        ),
        (
            vec![("impersonate-user", "system:serviceaccount:d:default")],
            r#"serviceaccounts "default" is forbidden: User "jane" cannot impersonate resource "serviceaccounts" in API group "" in the namespace "d""#,
        ),
    ] {
        let answer = api.send("GET", "/version", &headers, "").await;
        assert_eq!((answer.code, answer.message().as_str()), (403, message));
    }
    assert_eq!(api.send("GET", "/version", &[("impersonate-group", "ops")], "").await.code, 400);
}

/// Waits until something is so.
async fn becomes(api: &Api, path: &str, so: impl Fn(&Answer) -> bool) -> Answer {
    for _ in 0..200 {
        let answer = api.get(path).await;
        if so(&answer) {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{path} never became as wanted");
}

#[tokio::test]
async fn a_secret_that_asks_for_a_token_is_filled_and_goes_with_its_account() {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    let mut api = api().await;
    let (registry, tokens) =
        (Arc::clone(&api.fixture.registry), Arc::clone(api.server.authenticator.tokens()));
    let (keeper, stop) =
        (crate::auth::TokenSecrets::new(registry, tokens, "the CA"), api.fixture.tasks.token());
    api.fixture.tasks.job("secrets", async move { keeper.run(&stop).await });
    api.account("builder").await;
    let secrets = "/api/v1/namespaces/d/secrets";
    let asking = |name: &str, account: &str| {
        json!({
            "metadata": {"name": name, "annotations": {"kubernetes.io/service-account.name": account}},
            "type": "kubernetes.io/service-account-token",
        })
    };
    for (name, account) in [("s", "builder"), ("orphan", "nobody")] {
        assert_eq!(api.post(secrets, asking(name, account)).await.code, 201);
    }
    becomes(&api, &format!("{secrets}/orphan"), |answer| answer.code == 404).await;
    let path = format!("{secrets}/s");
    let filled = becomes(&api, &path, |answer| answer.json()["data"]["token"].is_string()).await.json();
    let data = |key: &str| {
        String::from_utf8(STANDARD.decode(filled["data"][key].as_str().unwrap()).unwrap()).unwrap()
    };
    assert_eq!((data("ca.crt").as_str(), data("namespace").as_str()), ("the CA", "d"));
    let token = data("token");
    assert_eq!(api.by_token(&token, "GET", PODS, Value::Null).await.code, 403, "known, but may not");
    // A token that is not in its Secret any more is none.
    let emptied = api.patch(&path, "merge", json!({"data": {"token": STANDARD.encode("other")}})).await;
    assert_eq!(emptied.code, 200);
    api.fixture.registry.catch_up().await.unwrap();
    assert_eq!(api.by_token(&token, "GET", PODS, Value::Null).await.code, 401);
    assert_eq!(api.send("DELETE", &format!("{ACCOUNTS}/builder"), &[], "").await.code, 200);
    becomes(&api, &path, |answer| answer.code == 404).await;
}
