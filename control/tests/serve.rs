//! The whole process from outside, on both stores: the same answers; etcd that hangs or dies; kill -9 under writes; two
//! control planes on one etcd. Needs etcd.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests panic, as tests do"
)]

#[path = "support/agent.rs"]
mod agent;
#[path = "support/client.rs"]
mod client;
#[path = "support/process.rs"]
mod process;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use agent::Agent;
use bytes::Bytes;
use client::{Answer, Client};
use nix::sys::signal::Signal;
use oarlock_control::leader;
use oarlock_store::{Op, Outcome, Store as _};
use process::{Control, EtcdServer, Store};
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str, value: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"v": value}})
}

async fn create(client: &Client, name: &str) -> Answer {
    let answer = client.send("POST", MAPS, map(name, "1")).await.unwrap();
    assert_eq!(answer.code, 201, "{}", answer.body);
    answer
}

/// What does not depend on the store.
fn comparable(answer: &Answer) -> Value {
    let mut body = answer.body.clone();
    if let Some(metadata) = body["metadata"].as_object_mut() {
        metadata.retain(|key, _| !["uid", "resourceVersion", "creationTimestamp"].contains(&key.as_str()));
        for entry in metadata.get_mut("managedFields").and_then(Value::as_array_mut).into_iter().flatten() {
            entry["time"] = Value::Null;
        }
    }
    if let Some(details) = body["details"].as_object_mut() {
        details.shift_remove("uid");
    }
    if let Some(items) = body.get_mut("items").and_then(Value::as_array_mut) {
        let names = items.iter().map(|item| item["metadata"]["name"].clone()).collect::<Vec<_>>();
        *items = names.into_iter().filter(|name| name != "kube-root-ca.crt").collect();
    }
    json!([answer.code, body])
}

/// The requests of an ordinary day.
async fn day(client: &Client) -> Vec<Value> {
    let mut seen = Vec::new();
    let namespace = json!({"metadata": {"name": "shop"}});
    assert_eq!(client.send("POST", "/api/v1/namespaces", namespace).await.unwrap().code, 201);
    let first = create(client, "a").await;
    let mut watch = client.watch(&format!("{MAPS}?watch=1&resourceVersion={}", first.version())).await;
    let service = json!({"metadata": {"name": "s"}, "spec": {"type": "NodePort", "clusterIP": "10.96.0.77",
        "ports": [{"port": 80, "nodePort": 30080}]}});
    let mut other = service.clone();
    other["metadata"]["name"] = json!("other");
    let bad = json!({"metadata": {"name": "b"}, "data": {"v": 1}});
    let stale = json!({"metadata": {"name": "a", "resourceVersion": "1"}, "data": {"v": "9"}});
    let services = "/api/v1/namespaces/shop/services";
    for (method, path, body) in [
        ("POST", MAPS.to_owned(), map("a", "1")),
        ("POST", MAPS.to_owned(), bad),
        ("GET", format!("{MAPS}/a"), Value::Null),
        ("GET", format!("{MAPS}/nothing"), Value::Null),
        ("PATCH", format!("{MAPS}/a"), json!({"data": {"v": "2"}})),
        ("PUT", format!("{MAPS}/a"), stale),
        ("PUT", format!("{MAPS}/a"), map("a", "3")),
        ("POST", MAPS.to_owned(), map("b", "1")),
        ("GET", MAPS.to_owned(), Value::Null),
        ("POST", services.to_owned(), service.clone()),
        ("POST", services.to_owned(), other),
        ("GET", services.to_owned(), Value::Null),
        ("DELETE", format!("{services}/s"), Value::Null),
        ("DELETE", format!("{MAPS}/a"), Value::Null),
        ("DELETE", format!("{MAPS}/a"), Value::Null),
        ("POST", "/api/v1/namespaces/none/configmaps".to_owned(), map("c", "1")),
        ("GET", format!("{MAPS}?resourceVersion=99999999"), Value::Null),
    ] {
        seen.push(comparable(&client.send(method, &path, body).await.unwrap()));
    }
    for _ in 0..4 {
        let line = watch.next(Duration::from_secs(10)).await.unwrap();
        seen.push(json!([line["type"], line["object"]["metadata"]["name"], line["object"]["data"]]));
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_requests_have_the_same_answers_on_both_stores() {
    let (folder, etcd) = (tempfile::tempdir().unwrap(), EtcdServer::start().await);
    let mut days = Vec::new();
    for (name, store) in [("embedded", Store::Embedded), ("etcd", Store::Etcd(&etcd))] {
        let mut control = Control::start(folder.path(), name, store).await;
        await_account(&control.client, "default").await;
        let leads = control.client.get("/api/v1/componentstatuses/scheduler").await;
        assert_eq!(leads.body["conditions"][0]["message"], "ok", "{name}: somebody runs the scheduler");
        days.push(day(&control.client).await);
        control.process.stop();
    }
    let texts = |day: &[Value]| day.iter().map(Value::to_string).collect::<Vec<_>>();
    // The number in the refusal of a revision of the future is the store's own.
    let cut = |mut day: Vec<String>| {
        let future = day.iter().position(|line| line.contains("Too large resource version")).unwrap();
        day.remove(future);
        day
    };
    assert_eq!(cut(texts(&days[0])), cut(texts(&days[1])));
    let codes: Vec<&Value> = days[0].iter().map(|line| &line[0]).take(16).collect();
    assert_eq!(
        codes,
        [409, 400, 200, 404, 200, 409, 200, 201, 200, 201, 422, 200, 200, 200, 404, 404]
            .map(|c| json!(c))
            .iter()
            .collect::<Vec<_>>()
    );
}

/// Waits until the controllers have given a namespace its account.
async fn await_account(client: &Client, namespace: &str) -> Duration {
    let start = Instant::now();
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/default");
    while start.elapsed() < Duration::from_secs(20) {
        if client.send("GET", &path, Value::Null).await.is_ok_and(|answer| answer.code == 200) {
            return start.elapsed();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no controller has looked at {namespace}");
}

/// Refused in bounded time, as something that passes.
async fn is_refused(client: &Client, method: &str, path: &str, body: Value) {
    let start = Instant::now();
    let answer = client.send(method, path, body).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(12), "{method}: took {:?}", start.elapsed());
    assert!([503, 504].contains(&answer.code), "{method}: {}", answer.body);
    // Who has waited long already is not told to come back at once.
    let (reason, again) =
        if answer.code == 503 { ("ServiceUnavailable", json!(1)) } else { ("Timeout", Value::Null) };
    assert_eq!((answer.reason(), &answer.body["details"]["retryAfterSeconds"]), (reason, &again));
}

/// What a control plane without its store still does, and what it refuses.
async fn is_without_store(client: &Client) {
    let start = Instant::now();
    let cached = client.get(&format!("{MAPS}?resourceVersion=0")).await;
    assert_eq!(cached.code, 200, "a list of any age comes from the cache");
    assert!(start.elapsed() < Duration::from_secs(1), "at once, not after {:?}", start.elapsed());
    assert_eq!(client.text("/livez").await.unwrap(), "ok");
    tokio::join!(
        is_refused(client, "GET", MAPS, Value::Null),
        is_refused(client, "POST", MAPS, map("lost", "1")),
        is_refused(client, "PATCH", "/api/v1/namespaces/default/configmaps/a", json!({"data": {"v": "2"}})),
        is_refused(client, "DELETE", "/api/v1/namespaces/default/configmaps/b", Value::Null),
    );
}

/// Writes until a write succeeds again.
async fn recovers(client: &Client, name: &str) {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(20) {
        let answer = client.send("POST", MAPS, map(name, "1")).await.unwrap();
        // The answer to an earlier attempt may have been lost.
        if [201, 409].contains(&answer.code) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("no write succeeds again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_etcd_hangs_or_is_dead_answers_are_bounded_and_watches_live_through_it() {
    let (folder, mut etcd) = (tempfile::tempdir().unwrap(), EtcdServer::start().await);
    let control = Control::start(folder.path(), "c", Store::Etcd(&etcd)).await;
    let client = &control.client;
    let (a, b) = (create(client, "a").await, create(client, "b").await);
    let mut watch = client.watch(&format!("{MAPS}?watch=1&resourceVersion={}", b.version())).await;

    etcd.process.signal(Signal::SIGSTOP);
    is_without_store(client).await;
    etcd.process.signal(Signal::SIGCONT);
    recovers(client, "after-stop").await;
    watch.until("ADDED", "after-stop").await;

    etcd.process.kill();
    is_without_store(client).await;
    etcd.restart().await;
    recovers(client, "after-kill").await;
    watch.until("ADDED", "after-kill").await;

    let present = client.get(&format!("{MAPS}/a")).await;
    assert_eq!(present.body["metadata"]["uid"], a.body["metadata"]["uid"]);
    assert_eq!(client.get(&format!("{MAPS}/after-stop")).await.code, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_that_is_compacted_behind_a_watch_is_made_up_for() {
    let (folder, etcd) = (tempfile::tempdir().unwrap(), EtcdServer::start().await);
    let control = Control::start(folder.path(), "c", Store::Etcd(&etcd)).await;
    let client = &control.client;
    let (old, kept) = (create(client, "goes").await, create(client, "kept").await);
    let mut watch = client.watch(&format!("{MAPS}?watch=1&resourceVersion={}", kept.version())).await;
    let store = etcd.client().await;
    let key = |name: &str| format!("/registry/core/configmaps/default/{name}");
    let (record, _) = store.get(&key("kept")).await.unwrap();
    let record = record.expect("objects lie where this test looks for them");

    control.process.signal(Signal::SIGSTOP);
    let mut last = None;
    for round in 0..50 {
        let text = String::from_utf8(record.value.to_vec()).unwrap();
        let value = Bytes::from(text.replace(r#""v":"1""#, &format!(r#""v":"round {round}""#)));
        last = Some(store.txn(vec![], vec![Op::Put(key("kept"), value, None)]).await.unwrap());
    }
    store.txn(vec![], vec![Op::Delete(key("goes"))]).await.unwrap();
    let Some(Outcome::Committed(last)) = last else { panic!("no compare, no conflict") };
    store.compact(last).await.unwrap();
    control.process.signal(Signal::SIGCONT);

    watch.until("DELETED", "goes").await;
    let present = client.get(&format!("{MAPS}/kept")).await;
    assert_eq!((&present.body["data"]["v"], present.version()), (&json!("round 49"), last.0));
    let exact = format!("{MAPS}?resourceVersion={}&resourceVersionMatch=Exact", old.version());
    let refused = client.get(&exact).await;
    assert_eq!((refused.code, refused.reason()), (410, "Expired"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_write_into_the_same_etcd_holds_up_no_read() {
    let (folder, etcd) = (tempfile::tempdir().unwrap(), EtcdServer::start().await);
    let control = Control::start(folder.path(), "c", Store::Etcd(&etcd)).await;
    create(&control.client, "a").await;
    let store = etcd.client().await;
    for round in 0..5 {
        let op = Op::Put("/another/application".to_owned(), Bytes::from(round.to_string()), None);
        let outcome = store.txn(vec![], vec![op]).await.unwrap();
        let Outcome::Committed(revision) = outcome else { panic!("no compare, no conflict") };
        let start = Instant::now();
        let list = control.client.get(MAPS).await;
        assert_eq!(list.code, 200, "{}", list.body);
        assert!(list.version() >= revision.0);
        assert!(start.elapsed() < Duration::from_secs(2), "took {:?}", start.elapsed());
    }
}

/// What clients were told: names with their versions.
type Acknowledged = Mutex<BTreeMap<String, u64>>;

/// Creates objects until the server is gone.
async fn write_on(client: &Client, writer: String, acknowledged: &Acknowledged) {
    for number in 0.. {
        let name = format!("{writer}-{number}");
        let Ok(made) = client.send("POST", MAPS, map(&name, "1")).await else { return };
        assert_eq!(made.code, 201, "{}", made.body);
        acknowledged.lock().unwrap().insert(name, made.version());
    }
}

async fn killed_under_writes(control: &mut Control) {
    let acknowledged = Acknowledged::default();
    let mut newest = 0;
    for round in 0..3 {
        let mut watch = control.client.watch(&format!("{MAPS}?watch=1")).await;
        let (client, before) = (control.client.clone(), acknowledged.lock().unwrap().len());
        let writers = (0..4).map(|writer| write_on(&client, format!("r{round}-w{writer}"), &acknowledged));
        tokio::join!(futures_util::future::join_all(writers), async {
            while acknowledged.lock().unwrap().len() < before + 40 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            control.process.kill();
        });
        let mut seen = 0;
        while let Some(line) = watch.next(Duration::from_secs(5)).await {
            seen = line["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        }
        control.restart().await;

        let list = control.client.get(MAPS).await;
        let told = acknowledged.lock().unwrap().clone();
        let there: BTreeMap<&str, &str> = list.body["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| &item["metadata"])
            .map(|meta| (meta["name"].as_str().unwrap(), meta["resourceVersion"].as_str().unwrap()))
            .collect();
        for (name, version) in &told {
            assert_eq!(
                there.get(name.as_str()),
                Some(&version.to_string().as_str()),
                "{name} was acknowledged"
            );
        }
        newest = told.values().copied().max().unwrap().max(newest);
        assert!(list.version() >= newest, "versions never go back");
        // A watch goes on from where it was, or is told that it has to list.
        let mut watch = control.client.watch(&format!("{MAPS}?watch=1&resourceVersion={seen}")).await;
        let next = format!("round-{round}");
        let made = create(&control.client, &next).await;
        assert!(made.version() > newest);
        loop {
            let line = watch.next(Duration::from_secs(10)).await.expect("an event or an error");
            if line["type"] == "ERROR" {
                assert_eq!(line["object"]["code"], 410);
                break;
            }
            if line["object"]["metadata"]["name"] == next {
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_under_writes_a_control_plane_on_the_embedded_store_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    killed_under_writes(&mut Control::start(folder.path(), "c", Store::Embedded).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_under_writes_a_control_plane_on_etcd_loses_nothing() {
    let (folder, etcd) = (tempfile::tempdir().unwrap(), EtcdServer::start().await);
    killed_under_writes(&mut Control::start(folder.path(), "c", Store::Etcd(&etcd)).await).await;
}

/// Makes a namespace and waits for the controllers, wherever they run.
async fn controllers_work(client: &Client, namespace: &str) -> Duration {
    let object = json!({"metadata": {"name": namespace}});
    let made = client.send("POST", "/api/v1/namespaces", object).await.unwrap();
    assert_eq!(made.code, 201, "{}", made.body);
    await_account(client, namespace).await
}

async fn leader_of(etcd: &EtcdServer) -> Option<String> {
    let (record, _) = etcd.client().await.get(leader::KEY).await.unwrap();
    record.map(|record| String::from_utf8(record.value.to_vec()).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_control_planes_one_leads_and_the_other_takes_over() {
    let (folder, etcd) = (tempfile::tempdir().unwrap(), EtcdServer::start().await);
    let mut one = Control::start(folder.path(), "one", Store::Etcd(&etcd)).await;
    controllers_work(&one.client, "first").await;
    let first = leader_of(&etcd).await.unwrap();
    let mut two = Control::start(folder.path(), "two", Store::Etcd(&etcd)).await;
    controllers_work(&two.client, "second").await;
    assert_eq!(leader_of(&etcd).await.unwrap(), first, "who leads goes on leading");

    one.process.kill();
    let took = controllers_work(&two.client, "third").await;
    assert!(took <= Duration::from_secs(5), "took over after {took:?}");
    let second = leader_of(&etcd).await.unwrap();
    assert_ne!(second, first);

    one.restart().await;
    assert_eq!(leader_of(&etcd).await.unwrap(), second);
    two.process.stop();
    let took = controllers_work(&one.client, "fourth").await;
    assert!(took <= Duration::from_secs(2), "a leader that ends hands over at once, not after {took:?}");
}

/// Asks until the answer is there; it must not take long.
async fn found(client: &Client, path: &str) -> Value {
    let start = Instant::now();
    loop {
        let answer = client.get(path).await;
        if answer.code == 200 {
            return answer.body;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{path}: {}", answer.body);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_tells_one_control_plane_the_one_that_leads_knows_and_the_other_way_round() {
    const METRICS: &str = "/apis/metrics.k8s.io/v1beta1";
    let (folder, etcd) = (tempfile::tempdir().unwrap(), EtcdServer::start().await);
    let leader = Control::start(folder.path(), "leader", Store::Etcd(&etcd)).await;
    controllers_work(&leader.client, "first").await;
    let pki = folder.path().join("other/pki");
    std::fs::create_dir_all(&pki).unwrap();
    for file in std::fs::read_dir(leader.pki()).unwrap().flatten() {
        std::fs::copy(file.path(), pki.join(file.file_name())).unwrap();
    }
    let other = Control::start(folder.path(), "other", Store::Etcd(&etcd)).await;

    assert_eq!(Agent::listens_in(&leader).await, tonic::Code::PermissionDenied);
    let (of_other, of_leader) = (Agent::join(&other, "n1").await, Agent::join(&leader, "n2").await);
    let pods = "/api/v1/namespaces/first/pods";
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}});
    let pod = leader.client.send("POST", pods, pod).await.unwrap();
    assert_eq!(pod.code, 201, "{}", pod.body);
    of_other.runs(&pod.body).await;
    of_other.uses(250, Some(&pod.body)).await;
    of_leader.uses(500, None).await;

    let told = found(&leader.client, &format!("{METRICS}/namespaces/first/pods/p")).await;
    assert_eq!(told["containers"], json!([{"name": "c", "usage": {"cpu": "250000000n", "memory": "2Mi"}}]));
    for client in [&leader.client, &other.client] {
        for (node, cpu) in [("n1", "250000000n"), ("n2", "500000000n")] {
            assert_eq!(found(client, &format!("{METRICS}/nodes/{node}")).await["usage"]["cpu"], cpu);
        }
    }
    // What is new is told, too.
    of_other.uses(300, Some(&pod.body)).await;
    let start = Instant::now();
    while found(&leader.client, &format!("{METRICS}/nodes/n1")).await["usage"]["cpu"] != "300000000n" {
        assert!(start.elapsed() < Duration::from_secs(10), "the leader does not hear more");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_its_node_has_removed_does_not_look_as_if_it_ran_while_somebody_holds_it() {
    let folder = tempfile::tempdir().unwrap();
    let control = Control::start(folder.path(), "c", Store::Embedded).await;
    await_account(&control.client, "default").await;
    let agent = Agent::join(&control, "n1").await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "held", "finalizers": ["example.com/hold"]},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}});
    let pod = control.client.send("POST", pods, pod).await.unwrap().body;
    agent.runs(&pod).await;
    let held = format!("{pods}/held");
    let phase = async |wanted: &str| {
        let start = Instant::now();
        while control.client.get(&held).await.body["status"]["phase"] != wanted {
            assert!(start.elapsed() < Duration::from_secs(10), "{}", control.client.get(&held).await.body);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    phase("Running").await;
    assert_eq!(control.client.send("DELETE", &held, Value::Null).await.unwrap().code, 200);
    agent.removed(&pod).await;
    phase("Failed").await;
    let free = json!({"metadata": {"finalizers": null}});
    assert_eq!(control.client.send("PATCH", &held, free).await.unwrap().code, 200);
    let start = Instant::now();
    while control.client.get(&held).await.code != 404 {
        assert!(start.elapsed() < Duration::from_secs(10), "{}", control.client.get(&held).await.body);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_of_both_ages_hear_of_other_nodes() {
    let folder = tempfile::tempdir().unwrap();
    let control = Control::start(folder.path(), "c", Store::Embedded).await;
    let mut old = Agent::join_as(&control, "n1", false).await;
    let mut new = Agent::join_as(&control, "n2", true).await;
    old.knows(&["n1", "n2"]).await;
    new.knows(&["n1", "n2"]).await;
    let _third = Agent::join(&control, "n3").await;
    old.knows(&["n1", "n2", "n3"]).await;
    new.knows(&["n1", "n2", "n3"]).await;
    assert_eq!(control.client.send("DELETE", "/api/v1/nodes/n3", Value::Null).await.unwrap().code, 200);
    old.knows(&["n1", "n2"]).await;
    new.knows(&["n1", "n2"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_counted_as_lost_within_a_session_has_to_say_everything_again() {
    let folder = tempfile::tempdir().unwrap();
    let control = Control::start(folder.path(), "c", Store::Embedded).await;
    let mut agent = Agent::join(&control, "n1").await;
    let status = async |state: &str, at: String| {
        let ready = json!({"type": "Ready", "status": state, "lastTransitionTime": at});
        let written = json!({"status": {"conditions": [ready]}});
        let answer = control.client.send("PATCH", "/api/v1/nodes/n1/status", written).await.unwrap();
        assert_eq!(answer.code, 200, "{}", answer.body);
    };
    // Before this session, which has said that it lives since.
    status("Unknown", "2026-01-01T00:00:00Z".to_owned()).await;
    agent.beats().await;
    assert_eq!(agent.ended().await.map(|why| why.code()), None);
    let soon = jiff::Timestamp::now() + Duration::from_secs(1);
    status("Unknown", soon.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()).await;
    agent.beats().await;
    assert_eq!(agent.ended().await.map(|why| why.code()), Some(tonic::Code::Aborted));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_accounts_token_is_good_over_tls_and_after_a_restart_and_not_when_the_account_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let mut control = Control::start(folder.path(), "c", Store::Embedded).await;
    await_account(&control.client, "default").await;
    let account = "/api/v1/namespaces/default/serviceaccounts/default";
    let made = control.client.send("POST", &format!("{account}/token"), json!({})).await.unwrap();
    let token = made.body["status"]["token"].as_str().unwrap().to_owned();
    let bearing = control.client.bearing(&control.ca(), &token);
    let refused = bearing.get(MAPS).await;
    assert_eq!(
        refused.body["message"],
        "configmaps is forbidden: User \"system:serviceaccount:default:default\" cannot list resource \"configmaps\" in API group \"\" in \
         the namespace \"default\""
    );
    assert_eq!(bearing.get("/openid/v1/jwks").await.body["keys"][0]["alg"], "ES256");
    control.process.stop();
    control.restart().await;
    assert_eq!(bearing.get(MAPS).await.code, 403, "the key is kept");
    assert_eq!(control.client.bearing(&control.ca(), "unknown").get(MAPS).await.code, 401);
    let secret = json!({"metadata": {"name": "t", "annotations": {"kubernetes.io/service-account.name": "default"}},
        "type": "kubernetes.io/service-account-token"});
    let secrets = "/api/v1/namespaces/default/secrets";
    assert_eq!(control.client.send("POST", secrets, secret).await.unwrap().code, 201);
    let start = Instant::now();
    while control.client.get(&format!("{secrets}/t")).await.body["data"]["token"].is_null() {
        assert!(start.elapsed() < Duration::from_secs(10), "the Secret is not filled");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(control.client.send("DELETE", account, Value::Null).await.unwrap().code, 200);
    let start = Instant::now();
    while bearing.get(MAPS).await.code != 401 {
        assert!(start.elapsed() < Duration::from_secs(10), "the token outlives its account");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// `oarlock-control store copy`.
fn copied(from: &str, to: &str) -> std::process::Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_oarlock-control"));
    command.args(["--log", "error", "store", "copy", "--from", from, "--to", to]).output().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_moves_to_another_store_with_all_that_was_acknowledged() {
    let (folder, etcd) = (tempfile::tempdir().unwrap(), EtcdServer::start().await);
    let mut control = Control::start(folder.path(), "moving", Store::Embedded).await;
    await_account(&control.client, "default").await;
    let mut last = 0;
    for i in 0..50 {
        last = create(&control.client, &format!("m{i}")).await.version();
    }
    let (file, endpoint) = (control.file(), etcd.endpoint());
    let used = copied(&file, &endpoint);
    let said = String::from_utf8_lossy(&used.stderr).into_owned();
    assert!(!used.status.success() && said.contains("in use by another process"), "{said}");
    control.process.kill();
    let moved = copied(&file, &endpoint);
    assert!(moved.status.success(), "{}", String::from_utf8_lossy(&moved.stderr));
    control.restart_on(&etcd).await;
    let list = control.client.get(MAPS).await;
    let names = list.body["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].clone());
    assert_eq!(names.filter(|name| name.as_str().unwrap().starts_with('m')).count(), 50);
    assert!(list.version() > last, "no revision of before is one of now");
    let old = control.client.get(&format!("{MAPS}?watch=1&resourceVersion={last}")).await;
    assert!(old.code == 410 || old.body["object"]["code"] == 410, "{} {}", old.code, old.body);

    let back = format!("file://{}/back.redb", folder.path().display());
    let leads = copied(&endpoint, &back);
    let said = String::from_utf8_lossy(&leads.stderr).into_owned();
    assert!(!leads.status.success() && said.contains("stop all control planes on it first"), "{said}");
    control.process.stop();
    let moved = copied(&endpoint, &back);
    assert!(moved.status.success(), "{}", String::from_utf8_lossy(&moved.stderr));
    let again = copied(&endpoint, &back);
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(!again.status.success() && said.contains("is not empty"), "{said}");
}

#[tokio::test]
async fn the_service_manager_hears_that_it_serves_that_it_lives_and_that_it_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = tokio::net::UnixDatagram::bind(&path).unwrap();
    let hears = async || {
        let mut said = [0; 64];
        let length = tokio::time::timeout(Duration::from_secs(10), manager.recv(&mut said)).await;
        String::from_utf8_lossy(&said[..length.expect("it is told in time").unwrap()]).trim().to_owned()
    };
    let mut process = Control::under_a_manager(folder.path(), &path);
    assert_eq!(hears().await, "READY=1");
    assert_eq!(hears().await, "WATCHDOG=1");
    assert_eq!(hears().await, "WATCHDOG=1");
    process.signal(Signal::SIGTERM);
    while hears().await != "STOPPING=1" {}
    process.ends();
}
