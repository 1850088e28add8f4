//! What nodes are told, against what a naive look at all objects finds.

use std::collections::BTreeMap;
use std::time::Duration;

use oarlock_api::catalogue::{Catalogue, Kind};
use oarlock_api::network_policy::MEMBERS;
use oarlock_api::node::control_message::Message;
use oarlock_daemon::Tasks;
use oarlock_daemon::admin::Health;
use oarlock_store::{Embedded, Op, Outcome, Retention, Store};
use proptest::prelude::*;
use serde_json::json;

use super::super::policies::Policies;
use super::*;

/// One thing that happens in the cluster.
#[derive(Debug, Clone)]
enum Step {
    Put(&'static Kind, &'static str, String, Value),
    Delete(&'static Kind, &'static str, String),
}

const SPACES: [&str; 2] = ["a", "b"];
const APPS: [&str; 3] = ["web", "db", "none"];

fn step() -> impl Strategy<Value = Step> {
    let (space, app) = (prop::sample::select(&SPACES[..]), prop::sample::select(&APPS[..]));
    let pod = (space.clone(), 0..4_u8, app.clone(), any::<bool>()).prop_map(|(space, n, app, has_ip)| {
        let phase = if has_ip { "Running" } else { "Succeeded" };
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"app": app}},
            "spec": {"containers": [{"ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}]}]},
            "status": {"phase": phase, "podIP": format!("10.244.0.{n}"), "podIPs": [{"ip": format!("10.244.0.{n}")}, {"ip": format!("fd00::{n}")}]}});
        Step::Put(&PODS, space, format!("p{n}"), pod)
    });
    let no_pod = (space.clone(), 0..4_u8).prop_map(|(space, n)| Step::Delete(&PODS, space, format!("p{n}")));
    let namespace = (space.clone(), app.clone()).prop_map(|(space, team)| {
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"labels": {"team": team}}});
        Step::Put(&NAMESPACES, "", space.to_owned(), namespace)
    });
    let peer = prop_oneof![
        app.clone().prop_map(|app| json!({"podSelector": {"matchLabels": {"app": app}}})),
        app.clone().prop_map(|team| json!({"namespaceSelector": {"matchLabels": {"team": team}}})),
        Just(json!({"namespaceSelector": {}})),
        Just(json!({"ipBlock": {"cidr": "10.0.0.0/8"}})),
    ];
    let policy = (space.clone(), 0..2_u8, prop::collection::vec(peer, 0..3)).prop_map(|(space, n, peers)| {
        let policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"namespace": space},
            "spec": {"podSelector": {}, "ingress": [{"from": peers}]}});
        Step::Put(&NETWORK_POLICIES, space, format!("n{n}"), policy)
    });
    let no_policy =
        (space, 0..2_u8).prop_map(|(space, n)| Step::Delete(&NETWORK_POLICIES, space, format!("n{n}")));
    prop_oneof![4 => pod, 1 => no_pod, 1 => namespace, 2 => policy, 1 => no_policy]
}

/// All objects, by kind, namespace and name.
type Model = BTreeMap<(&'static str, &'static str, String), Value>;

/// What a node with pods in these namespaces has to know, found by looking at everything.
fn expected(model: &Model, spaces: &[&str]) -> (BTreeSet<String>, BTreeSet<(String, String)>) {
    let (mut policies, mut members) = (BTreeSet::new(), BTreeSet::new());
    for ((_, space, name), policy) in model.iter().filter(|((kind, ..), _)| *kind == NETWORK_POLICIES.plural)
    {
        if !spaces.contains(space) {
            continue;
        }
        policies.insert(format!("{space}/{name}"));
        for peer in policy["spec"]["ingress"][0]["from"].as_array().unwrap() {
            let parsed = serde_json::from_value(peer.clone()).unwrap();
            let Some(group) = PodGroup::of(space, &parsed) else { continue };
            for ((_, of, name), pod) in model.iter().filter(|((kind, ..), _)| *kind == PODS.plural) {
                let namespace = model.get(&(NAMESPACES.plural, "", (*of).to_owned()));
                let team = namespace.and_then(|n| n["metadata"]["labels"]["team"].as_str());
                let selects = match (&peer["podSelector"], &peer["namespaceSelector"]) {
                    (pods, Value::Null) => {
                        of == space && pods["matchLabels"]["app"] == pod["metadata"]["labels"]["app"]
                    }
                    (_, namespaces) => {
                        let wanted = namespaces["matchLabels"]["team"].as_str();
                        wanted.is_none() || wanted == team
                    }
                };
                if selects && pod["status"]["phase"] == "Running" {
                    members.insert((group.id(), format!("{of}/{name}")));
                }
            }
        }
    }
    (policies, members)
}

/// A node that believes what it is told.
#[derive(Default)]
struct Told {
    policies: BTreeSet<String>,
    members: BTreeSet<(String, String)>,
}

impl Told {
    fn hear(&mut self, message: Message) {
        match message {
            Message::Update(m) if m.resource == MEMBERS => {
                let member = serde_json::from_slice::<Member>(&m.object).unwrap();
                assert!(member.ip6.is_some(), "its pod has an address of each family");
                self.members.insert((m.namespace, m.name));
            }
            Message::Update(m) => drop(self.policies.insert(format!("{}/{}", m.namespace, m.name))),
            Message::Delete(m) if m.resource == MEMBERS => {
                assert!(self.members.remove(&(m.namespace, m.name)));
            }
            Message::Delete(m) => assert!(self.policies.remove(&format!("{}/{}", m.namespace, m.name))),
            other => panic!("{other:?}"),
        }
    }
}

async fn play(steps: Vec<Step>) {
    let folder = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> =
        Arc::new(Embedded::open(&folder.path().join("s"), Retention::default()).unwrap());
    let cache = Cache::new(Arc::new(Catalogue::builtin()));
    let (tasks, peers) = (Tasks::new(), Arc::new(Peers::default()));
    tasks.spawn("cache", Arc::clone(&cache).run(Arc::clone(&store), Health::default(), tasks.token()));
    tasks.spawn("peers", Arc::clone(&peers).run(Arc::clone(&cache), tasks.token()));
    let (mut model, mut nodes) = (Model::new(), Vec::new());
    for spaces in [&SPACES[..0], &SPACES[..1], &SPACES[..]] {
        nodes.push((spaces, Policies::default(), Told::default()));
    }
    for step in steps {
        let op = match step {
            Step::Put(kind, space, name, mut object) => {
                object["metadata"]["name"] = json!(name);
                let key = kind.key(space, &name);
                let text = Bytes::from(serde_json::to_vec(&object).unwrap());
                model.insert((kind.plural, space, name), object);
                Op::Put(key, text, None)
            }
            Step::Delete(kind, space, name) => match model.remove(&(kind.plural, space, name.clone())) {
                Some(_) => Op::Delete(kind.key(space, &name)),
                None => continue,
            },
        };
        let Outcome::Committed(revision) = store.txn(vec![], vec![op]).await.unwrap() else {
            panic!("nothing was compared")
        };
        assert!(peers.wait_for(revision, Duration::from_secs(5)).await);
        for (spaces, policies, told) in &mut nodes {
            let picture = Arc::clone(&peers.subscribe().borrow());
            for message in policies.follow(picture, &spaces.iter().copied().collect()) {
                told.hear(message);
            }
            let (wanted, members) = expected(&model, spaces);
            assert_eq!((&told.policies, &told.members), (&wanted, &members));
        }
    }
    tasks.shut_down();
    tasks.finish(Duration::from_secs(5)).await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn nodes_know_the_policies_of_their_namespaces_and_the_pods_that_those_name(steps in prop::collection::vec(step(), 1..40)) {
        tokio::runtime::Runtime::new().unwrap().block_on(play(steps));
    }
}

#[test]
fn who_is_allowed_is_told_before_the_policy_and_forgotten_after_it() {
    let object = |name: &str| {
        let text = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name, "namespace": "a"}});
        let record = oarlock_store::Record {
            key: NETWORK_POLICIES.key("a", name),
            value: Bytes::from(serde_json::to_vec(&text).unwrap()),
            created: Revision(1),
            modified: Revision(1),
        };
        let key = ObjectKey { kind: &NETWORK_POLICIES, namespace: "a".to_owned(), name: name.to_owned() };
        Arc::new(Object::decode(key, &record).unwrap())
    };
    let mut picture = Picture::default();
    let groups = Arc::new(BTreeSet::from(["g".to_owned()]));
    picture.policies.insert(("a".to_owned(), "p".to_owned()), Policy { object: object("p"), groups });
    let member = Bytes::from_static(br#"{"ip":"10.244.0.1"}"#);
    picture.groups.insert("g".to_owned(), Members::unit("a/x".to_owned(), member));
    let mut policies = Policies::default();
    let kinds = |messages: Vec<Message>| -> Vec<String> {
        let resource = |message| match message {
            Message::Update(m) => format!("+{}", m.resource),
            Message::Delete(m) => format!("-{}", m.resource),
            other => panic!("{other:?}"),
        };
        messages.into_iter().map(resource).collect()
    };
    let here = BTreeSet::from(["a"]);
    assert_eq!(
        kinds(policies.follow(Arc::new(picture.clone()), &here)),
        ["+networkpeers", "+networkpolicies"]
    );
    assert_eq!(kinds(policies.follow(Arc::new(picture.clone()), &here)), [""; 0]);
    assert_eq!(
        kinds(policies.follow(Arc::new(picture), &BTreeSet::new())),
        ["-networkpolicies", "-networkpeers"]
    );
}
