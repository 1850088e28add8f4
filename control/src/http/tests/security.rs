//! Pod security by the labels of namespaces, as clients see it: refusals, warnings, and what a raised level finds.

use super::*;

const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
const WARN: &str = "pod-security.kubernetes.io/warn";
const PODS: &str = "/api/v1/namespaces/d/pods";

fn pod(name: &str, security: Value) -> Value {
    let container = json!({"name": "c", "image": "i", "securityContext": security});
    json!({"metadata": {"name": name}, "spec": {"containers": [container]}})
}

fn warnings(answer: &Answer) -> Vec<String> {
    answer.headers.get_all("warning").iter().map(|warning| warning.to_str().unwrap().to_owned()).collect()
}

async fn label(api: &Api, labels: Value) -> Answer {
    let answer = api.patch("/api/v1/namespaces/d", "merge", json!({"metadata": {"labels": labels}})).await;
    assert_eq!(answer.code, 200, "{}", answer.message());
    answer
}

#[tokio::test]
async fn a_namespace_refuses_pods_that_are_above_its_level() {
    let api = api().await;
    let privileged = || json!({"privileged": true});
    assert_eq!(api.post(PODS, pod("before", privileged())).await.code, 201);
    api.fixture.registry.catch_up().await.unwrap();
    let raised = label(&api, json!({ENFORCE: "baseline"})).await;
    assert_eq!(
        warnings(&raised),
        [
            "299 - \"existing pods in namespace \\\"d\\\" violate the new PodSecurity enforce level \\\"baseline:latest\\\"\"",
            "299 - \"before: privileged\"",
        ]
    );
    // At once: whoever looks at an older namespace does not write.
    let refused = api.post(PODS, pod("p", privileged())).await;
    assert_eq!(
        (refused.code, refused.message().as_str()),
        (
            403,
            "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": privileged (container \"c\" must not set \
             securityContext.privileged=true)"
        )
    );
    let dry = api.post(&format!("{PODS}?dryRun=All"), pod("p", privileged())).await;
    assert_eq!(dry.code, 403);
    assert_eq!(api.post(PODS, pod("plain", json!({}))).await.code, 201);
    // What is there stays, and may change but for what counts.
    let labelled =
        api.patch(&format!("{PODS}/before"), "merge", json!({"metadata": {"labels": {"a": "b"}}})).await;
    assert_eq!(labelled.code, 200);
    let other = json!({"spec": {"containers": [{"name": "c", "image": "other"}]}});
    let image = api.patch(&format!("{PODS}/before"), "strategic-merge", other).await;
    assert_eq!(image.code, 403, "{}", image.message());
    let bad =
        api.patch("/api/v1/namespaces/d", "merge", json!({"metadata": {"labels": {ENFORCE: "high"}}})).await;
    assert_eq!(
        (bad.code, bad.message().as_str()),
        (
            422,
            "Namespace \"d\" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"high\": must be one of \
             privileged, baseline, restricted"
        )
    );
    let made = json!({"metadata": {"name": "e", "labels": {WARN: "none"}}});
    assert_eq!(api.post("/api/v1/namespaces", made).await.code, 422);
}

#[tokio::test]
async fn a_namespace_warns_of_pods_and_of_what_makes_them() {
    let api = api().await;
    label(&api, json!({WARN: "baseline", "pod-security.kubernetes.io/warn-version": "v1.30"})).await;
    api.fixture.registry.catch_up().await.unwrap();
    let said = [
        "299 - \"would violate PodSecurity \\\"baseline:v1.30\\\": hostPort (container \\\"c\\\" uses hostPort 80)\"",
    ];
    let with_port = |name: &str| {
        let mut pod = pod(name, json!({}));
        pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": 80, "hostPort": 80}]);
        pod
    };
    let made = api.post(PODS, with_port("p")).await;
    assert_eq!((made.code, warnings(&made)), (201, said.map(str::to_owned).to_vec()));
    assert!(warnings(&api.post(PODS, pod("plain", json!({}))).await).is_empty());
    let mut template = with_port("unused");
    template["metadata"] = json!({"labels": {"a": "b"}});
    let mut deployment = json!({"metadata": {"name": "w"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}});
    let path = "/apis/apps/v1/namespaces/d/deployments";
    let made = api.post(path, deployment.clone()).await;
    assert_eq!((made.code, warnings(&made)), (201, said.map(str::to_owned).to_vec()));
    let scaled = api.patch(&format!("{path}/w"), "merge", json!({"spec": {"replicas": 2}})).await;
    assert_eq!(warnings(&scaled), said);
    let status = api.patch(&format!("{path}/w/status"), "merge", json!({"status": {"replicas": 1}})).await;
    assert!(status.code == 200 && warnings(&status).is_empty());
    deployment["apiVersion"] = json!("apps/v1");
    deployment["kind"] = json!("Deployment");
    deployment["metadata"]["name"] = json!("applied");
    for code in [201, 200] {
        let headers = [("content-type", "application/apply-patch+yaml")];
        let path = format!("{path}/applied?fieldManager=m");
        let applied = api.send("PATCH", &path, &headers, deployment.to_string()).await;
        assert_eq!((applied.code, warnings(&applied)), (code, said.map(str::to_owned).to_vec()));
    }
}

#[tokio::test]
async fn what_makes_pods_that_would_be_refused_is_let_through_with_a_warning() {
    let api = api().await;
    label(&api, json!({ENFORCE: "baseline"})).await;
    api.fixture.registry.catch_up().await.unwrap();
    let mut template = pod("unused", json!({"privileged": true}));
    template["metadata"] = json!({"labels": {"a": "b"}});
    let set = json!({"metadata": {"name": "w"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}});
    let made = api.post("/apis/apps/v1/namespaces/d/replicasets", set).await;
    let said = "299 - \"would violate PodSecurity \\\"baseline:latest\\\": privileged (container \\\"c\\\" must not set \
        securityContext.privileged=true)\"";
    assert_eq!((made.code, warnings(&made)), (201, vec![said.to_owned()]));
    let refused = api.post(PODS, pod("p", json!({"privileged": true}))).await;
    assert!(refused.code == 403 && warnings(&refused).is_empty(), "it is said once");
}

#[tokio::test]
async fn there_is_one_default_priority() {
    let api = api().await;
    let path = "/apis/scheduling.k8s.io/v1/priorityclasses";
    let class =
        |name: &str, default: bool| json!({"metadata": {"name": name}, "value": 1, "globalDefault": default});
    for (name, default) in [("a", true), ("b", false)] {
        assert_eq!(api.post(path, class(name, default)).await.code, 201);
    }
    api.fixture.registry.catch_up().await.unwrap();
    let why = "is forbidden: PriorityClass a is already marked as default. Only one default can exist";
    let second = api.post(path, class("c", true)).await;
    assert_eq!(
        (second.code, second.message()),
        (403, format!("priorityclasses.scheduling.k8s.io \"c\" {why}"))
    );
    let raised = api.patch(&format!("{path}/b"), "merge", json!({"globalDefault": true})).await;
    assert_eq!(raised.code, 403, "{}", raised.message());
    let own = api.patch(&format!("{path}/a"), "merge", json!({"description": "the default"})).await;
    assert_eq!(own.code, 200);
}

#[tokio::test]
async fn a_container_for_debugging_is_held_to_the_level_too() {
    let api = api().await;
    assert_eq!(api.post(PODS, pod("p", json!({}))).await.code, 201);
    label(&api, json!({ENFORCE: "baseline"})).await;
    api.fixture.registry.catch_up().await.unwrap();
    let debug = |security: Value| json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "i", "securityContext": security}]}});
    let path = format!("{PODS}/p/ephemeralcontainers");
    let refused = api.patch(&path, "strategic-merge", debug(json!({"privileged": true}))).await;
    assert_eq!(
        (refused.code, refused.message().as_str()),
        (
            403,
            "pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": privileged (container \"e\" must not set \
             securityContext.privileged=true)"
        )
    );
    let made = api.patch(&path, "strategic-merge", debug(json!({}))).await;
    assert_eq!(made.code, 200, "{}", made.message());
}
