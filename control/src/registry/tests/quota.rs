//! Quotas and limits over a real store.

use oarlock_api::catalogue::{LIMIT_RANGES, PRIORITY_CLASSES, RESOURCE_QUOTAS};
use oarlock_api::quantity::Quantity;
use proptest::prelude::*;

use super::*;

/// A namespace with a quota whose status is known, and somebody who keeps it true.
async fn bounded(hard: Value) -> Fixture {
    let f = fixture().await;
    let (registry, stop) = (Arc::clone(&f.registry), f.tasks.token());
    f.tasks.job("quotas", async move { crate::quotas::run(&registry, &stop).await });
    f.create(&RESOURCE_QUOTAS, "d", json!({"metadata": {"name": "q"}, "spec": {"hard": hard}}))
        .await
        .unwrap();
    f.used(|used| used.as_object().is_some_and(|used| !used.is_empty())).await;
    f
}

impl Fixture {
    async fn used(&self, so: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..500 {
            let quota = self.registry.get(&RESOURCE_QUOTAS, "d", "q").await.unwrap();
            if so(&quota["status"]["used"]) {
                return quota["status"]["used"].clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the quota's status never became as wanted");
    }
}

fn asking(name: &str, millis: u32) -> Value {
    let mut pod = pod(name);
    pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": format!("{millis}m")}});
    pod
}

#[tokio::test]
async fn of_many_who_want_the_last_of_a_quota_one_gets_it() {
    let f = bounded(json!({"pods": 5, "count/configmaps": "2"})).await;
    let names: Vec<String> = (0..20).map(|n| format!("p{n}")).collect();
    let made = futures_util::future::join_all(names.iter().map(|name| f.create(&PODS, "d", pod(name)))).await;
    let (well, refused): (Vec<_>, Vec<_>) = made.into_iter().partition(Result::is_ok);
    assert_eq!(well.len(), 5);
    for status in refused.into_iter().map(Result::unwrap_err) {
        assert_eq!((status.code, status.reason), (403, "Forbidden"));
        assert!(
            status.message.ends_with(
                "is forbidden: exceeded quota: q, requested: pods=1, used: pods=5, limited: pods=5"
            ),
            "{status}"
        );
    }
    let dry = WriteOptions { dry_run: true, ..WriteOptions::default() };
    assert!(f.registry.create(&PODS, "d", pod("dry"), &dry).await.is_err());
    let gone = meta_name(&well[0]);
    let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
    f.registry.delete(&PODS, "d", &gone, &now).await.unwrap();
    assert_eq!(f.used(|used| used["pods"] == "4").await, json!({"pods": "4", "count/configmaps": "0"}));
    f.create(&PODS, "d", pod("again")).await.unwrap();
    for name in ["a", "b"] {
        f.create(&CONFIG_MAPS, "d", json!({"metadata": {"name": name}})).await.unwrap();
    }
    let third = f.create(&CONFIG_MAPS, "d", json!({"metadata": {"name": "c"}})).await.unwrap_err();
    assert_eq!(
        third.message,
        "configmaps \"c\" is forbidden: exceeded quota: q, requested: count/configmaps=1, used: count/configmaps=2, limited: \
         count/configmaps=2"
    );
    // What a quota bounds now is what counts, and what is over it stays.
    let hard = json!({"spec": {"hard": {"pods": "1", "count/configmaps": null}}});
    f.patch(&RESOURCE_QUOTAS, "q", hard).await.unwrap();
    assert_eq!(f.used(|used| used.get("count/configmaps").is_none()).await, json!({"pods": "5"}));
}

fn meta_name(made: &Result<Value, Status>) -> String {
    made.as_ref().unwrap()["metadata"]["name"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_services_change_is_charged_and_a_pod_must_say_what_it_needs() {
    let f = bounded(json!({"services.nodeports": "1", "requests.cpu": "1"})).await;
    let silent = f.create(&PODS, "d", pod("p")).await.unwrap_err();
    assert_eq!(silent.message, "pods \"p\" is forbidden: failed quota: q: must specify requests.cpu for: c");
    let service = |name: &str, kind: &str| json!({"metadata": {"name": name}, "spec": {"type": kind, "ports": [{"port": 80}]}});
    f.create(&SERVICES, "d", service("a", "NodePort")).await.unwrap();
    f.create(&SERVICES, "d", service("b", "ClusterIP")).await.unwrap();
    let more = f.patch(&SERVICES, "b", json!({"spec": {"type": "NodePort"}})).await.unwrap_err();
    assert_eq!(
        more.message,
        "services \"b\" is forbidden: exceeded quota: q, requested: services.nodeports=1, used: services.nodeports=1, limited: \
         services.nodeports=1"
    );
    f.patch(
        &SERVICES,
        "a",
        json!({"spec": {"type": "ClusterIP", "ports": [{"port": 80, "nodePort": null}]}}),
    )
    .await
    .unwrap();
    f.used(|used| used["services.nodeports"] == "0").await;
    f.patch(&SERVICES, "b", json!({"spec": {"type": "NodePort"}})).await.unwrap();
}

#[tokio::test]
async fn limits_complete_pods_and_refuse_them() {
    let f = fixture().await;
    let limit = json!({"type": "Container", "max": {"cpu": "1"}, "min": {"cpu": "100m"}});
    let range = json!({"metadata": {"name": "l"}, "spec": {"limits": [limit]}});
    let made = f.create(&LIMIT_RANGES, "d", range).await.unwrap();
    let of = &made["spec"]["limits"][0];
    assert_eq!((&of["default"], &of["defaultRequest"]), (&json!({"cpu": "1"}), &json!({"cpu": "1"})));
    f.registry.catch_up().await.unwrap();
    let made = f.create(&PODS, "d", pod("p")).await.unwrap();
    assert_eq!(
        made["spec"]["containers"][0]["resources"],
        json!({"requests": {"cpu": "1"}, "limits": {"cpu": "1"}})
    );
    assert_eq!(
        made["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu request for container c; cpu limit for container c"
    );
    let mut big = asking("big", 50);
    big["spec"]["containers"][0]["resources"]["limits"] = json!({"cpu": "2"});
    assert_eq!(
        f.create(&PODS, "d", big).await.unwrap_err().message,
        "pods \"big\" is forbidden: [minimum cpu usage per Container is 100m, but request is 50m, maximum cpu usage per Container is 1, \
         but limit is 2]"
    );
}

#[tokio::test]
async fn bounds_that_do_not_fit_each_other_are_refused() {
    let f = fixture().await;
    for (kind, spec, message) in [
        (
            &LIMIT_RANGES,
            json!({"limits": [{"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}, "default": {"cpu": "1"}, "defaultRequest": {"cpu": "1"}}]}),
            "LimitRange \"x\" is invalid: [spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1, \
             spec.limits[0].defaultRequest[cpu]: Invalid value: \"1\": min value 2 is greater than default request value 1, \
             spec.limits[0].default[cpu]: Invalid value: \"2\": min value 2 is greater than default value 1]",
        ),
        (
            &LIMIT_RANGES,
            json!({"limits": [{"type": "Pod", "default": {"cpu": "1"}}]}),
            "LimitRange \"x\" is invalid: spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'",
        ),
        (
            &RESOURCE_QUOTAS,
            json!({"hard": {"gold": "1"}}),
            "ResourceQuota \"x\" is invalid: spec.hard[gold]: Invalid value: \"gold\": must be a standard resource for quota",
        ),
        (
            &RESOURCE_QUOTAS,
            json!({"hard": {"pods": "500m"}}),
            "ResourceQuota \"x\" is invalid: spec.hard[pods]: Invalid value: \"500m\": must be an integer",
        ),
        (
            &RESOURCE_QUOTAS,
            json!({"hard": {"pods": "1"}, "scopes": ["BestEffort", "NotBestEffort"]}),
            "ResourceQuota \"x\" is invalid: spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: conflicting scopes",
        ),
    ] {
        let refused =
            f.create(kind, "d", json!({"metadata": {"name": "x"}, "spec": spec})).await.unwrap_err();
        assert_eq!((refused.code, refused.message.as_str()), (422, message));
    }
}

#[tokio::test]
async fn a_pod_has_the_priority_of_its_class() {
    let f = fixture().await;
    let plain = f.create(&PODS, "d", pod("plain")).await.unwrap();
    assert_eq!(
        (&plain["spec"]["priority"], &plain["spec"]["preemptionPolicy"]),
        (&json!(0), &json!("PreemptLowerPriority"))
    );
    f.create(&PRIORITY_CLASSES, "", json!({"metadata": {"name": "high"}, "value": 1000})).await.unwrap();
    let mut high = pod("high");
    high["spec"]["priorityClassName"] = json!("high");
    assert_eq!(f.create(&PODS, "d", high.clone()).await.unwrap()["spec"]["priority"], 1000);
    high["metadata"]["name"] = json!("none");
    high["spec"]["priorityClassName"] = json!("none");
    let refused = f.create(&PODS, "d", high).await.unwrap_err();
    assert_eq!(refused.message, "pods \"none\" is forbidden: no PriorityClass with name none was found");
    let mut foreign = pod("foreign");
    foreign["spec"]["serviceAccountName"] = json!("nobody");
    let refused = f.create(&PODS, "d", foreign).await.unwrap_err();
    assert_eq!(
        refused.message,
        "pods \"foreign\" is forbidden: error looking up service account d/nobody: serviceaccount \"nobody\" not found"
    );
}

/// What is done to pods at the same time.
async fn crowd(sizes: &[u32], drop: &[bool]) {
    let f = bounded(json!({"requests.cpu": "1"})).await;
    let names: Vec<String> = (0..sizes.len()).map(|n| format!("p{n}")).collect();
    let one = |(index, name): (usize, &String)| {
        let (f, name, millis, drop) = (&f, name.clone(), sizes[index], drop[index]);
        async move {
            let made = f.create(&PODS, "d", asking(&name, millis)).await;
            if made.is_ok() && drop {
                let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
                f.registry.delete(&PODS, "d", &name, &now).await.unwrap();
            }
            // At no time is there more than the quota has.
            let present: u32 = f.millis().await;
            assert!(present <= 1000, "{present}");
        }
    };
    futures_util::future::join_all(names.iter().enumerate().map(one)).await;
    let present = Quantity::milli(f.millis().await.into()).to_string();
    f.used(|used| used["requests.cpu"] == present.as_str()).await;
}

impl Fixture {
    /// What the pods ask for that are there.
    async fn millis(&self) -> u32 {
        let pods = self.registry.list(&PODS, Some("d")).await.unwrap();
        let of = |pod: &Value| {
            let text =
                pod["spec"]["containers"][0]["resources"]["requests"]["cpu"].as_str().unwrap().to_owned();
            u32::try_from(text.parse::<Quantity>().unwrap().milli_value()).unwrap()
        };
        pods.iter().map(|pod| of(&pod.value())).sum()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_at_once_a_quota_is_never_exceeded(
        pods in proptest::collection::vec((50_u32..600, any::<bool>()), 4..16),
    ) {
        let (sizes, drop): (Vec<u32>, Vec<bool>) = pods.into_iter().unzip();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(crowd(&sizes, &drop));
    }
}
