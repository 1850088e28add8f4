//! Who hears of what.

use oarlock_api::catalogue::{EVENTS, Kind, LEASES};
use oarlock_store::Record;

use super::*;
use crate::cache::ObjectKey;

fn object(kind: &'static Kind, name: &str, value: Value, revision: u64) -> Arc<Object> {
    let namespace = if kind.namespaced { "d" } else { "" };
    let record = Record {
        key: kind.key(namespace, name),
        value: value.to_string().into(),
        created: Revision(1),
        modified: Revision(revision),
    };
    let key = ObjectKey { kind, namespace: namespace.to_owned(), name: name.to_owned() };
    Arc::new(Object::decode(key, &record).unwrap())
}

fn put(inner: &mut Inner, new: &Arc<Object>, old: Option<&Arc<Object>>) {
    inner.hand_out(&Arc::new(Change::Put { new: Arc::clone(new), old: old.cloned() }));
}

/// What has come in, as text; a message about other nodes as agents read it.
fn heard(inbox: &mut mpsc::Receiver<News>) -> Vec<String> {
    std::iter::from_fn(|| inbox.try_recv().ok())
        .map(|news| match news {
            News::Change(change) => {
                format!("{} {}", change.object().key.kind.plural, change.object().key.name)
            }
            News::Nodes(others) => said(&others),
        })
        .collect()
}

fn said(others: &Others) -> String {
    let read = node::Others::decode(&*block::decompress_size_prepended(&others.packed).unwrap()).unwrap();
    let nodes = read.nodes.iter().zip(&others.nodes);
    let one = |(read, other): (&OtherNode, &Other)| {
        assert_eq!((&*read.name, read.revision), (&*other.name, other.revision.0));
        assert_eq!(read.object, other.object.clone().unwrap_or_default());
        format!("{}{}", if read.object.is_empty() { "no " } else { "other " }, read.name)
    };
    nodes.map(one).collect::<Vec<_>>().join(", ")
}

fn node(name: &str, range: &str, ready: &str, revision: u64) -> Arc<Object> {
    let ready = json!({"type": "Ready", "status": ready});
    let value = json!({"metadata": {"name": name, "uid": "u"}, "spec": {"podCIDR": range},
        "status": {"conditions": [ready], "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}});
    object(&NODES, name, value, revision)
}

#[test]
fn a_node_hears_of_its_own_pods_and_of_what_all_need() {
    let router = Router::default();
    let ((mut a, _), (mut b, _)) = (router.subscribe("a"), router.subscribe("b"));
    let mut inner = router.inner.lock();
    let pod = |node: &str, revision| object(&PODS, "p", json!({"spec": {"nodeName": node}}), revision);
    put(&mut inner, &pod("", 2), None);
    assert_eq!((heard(&mut a), heard(&mut b)), (vec![], vec![]), "nobody has it");
    put(&mut inner, &pod("a", 3), Some(&pod("", 2)));
    put(&mut inner, &object(&LEASES, "a", json!({}), 4), None);
    put(&mut inner, &object(&EVENTS, "e", json!({}), 5), None);
    put(&mut inner, &object(&SERVICES, "s", json!({}), 6), None);
    let kept = json!({"metadata": {"labels": {"endpoints.kubernetes.io/managed-by": "endpoint-controller"}}});
    put(&mut inner, &object(&ENDPOINTS, "s", kept, 6), None);
    put(&mut inner, &object(&ENDPOINTS, "storage", json!({}), 6), None);
    assert_eq!(heard(&mut a), ["pods p", "services s", "endpoints storage"]);
    assert_eq!(heard(&mut b), ["services s", "endpoints storage"]);
    inner.hand_out(&Arc::new(Change::Delete { old: pod("a", 3), revision: Revision(7) }));
    assert_eq!((heard(&mut a), heard(&mut b)), (vec!["pods p".to_owned()], vec![]));
}

#[test]
fn of_another_node_only_what_one_needs_to_reach_it_is_said() {
    let router = Router::default();
    let ((mut a, _), (mut b, _)) = (router.subscribe("a"), router.subscribe("b"));
    let mut inner = router.inner.lock();
    let now = |inner: &mut Inner, range: &str, ready: &str, revision| {
        put(inner, &node("a", range, ready, revision), None);
        inner.tell_collected();
    };
    now(&mut inner, "10.0.0.0/24", "True", 2);
    now(&mut inner, "10.0.0.0/24", "Unknown", 3);
    assert_eq!(heard(&mut a), ["nodes a", "other a", "nodes a"], "its own as it is");
    assert_eq!(heard(&mut b), ["other a"]);
    now(&mut inner, "10.0.1.0/24", "Unknown", 4);
    let old = node("a", "10.0.1.0/24", "Unknown", 4);
    inner.hand_out(&Arc::new(Change::Delete { old, revision: Revision(5) }));
    inner.tell_collected();
    now(&mut inner, "10.0.1.0/24", "True", 6);
    assert_eq!(heard(&mut b), ["other a", "no a", "other a"]);
    drop(inner);
    let (_, all) = router.subscribe("c");
    let value: Value = serde_json::from_slice(all[0].nodes[0].object.as_ref().unwrap()).unwrap();
    assert_eq!((&value["spec"]["podCIDR"], &value["metadata"]["uid"]), (&json!("10.0.1.0/24"), &json!("u")));
    assert_eq!(value["status"]["addresses"][0]["address"], "192.0.2.1");
    assert!(value["status"].get("conditions").is_none());
}

#[test]
fn nodes_that_change_together_are_told_together_and_each_as_it_is_by_then() {
    let router = Router::default();
    let (mut inbox, _) = router.subscribe("z");
    let mut inner = router.inner.lock();
    for (name, range, revision) in [("a", "10.0.0.0/24", 2), ("b", "10.0.1.0/24", 3), ("a", "10.0.2.0/24", 4)]
    {
        put(&mut inner, &node(name, range, "True", revision), None);
    }
    let old = node("b", "10.0.1.0/24", "True", 3);
    inner.hand_out(&Arc::new(Change::Delete { old, revision: Revision(5) }));
    assert!(heard(&mut inbox).is_empty(), "not yet");
    inner.tell_collected();
    assert_eq!(heard(&mut inbox), ["other a, no b"]);
    inner.tell_collected();
    assert!(heard(&mut inbox).is_empty(), "nothing twice");
}

#[test]
fn a_new_session_is_told_of_all_nodes_in_parts_that_are_written_once() {
    let router = Router::default();
    for number in 0..500 {
        put(&mut router.inner.lock(), &node(&format!("n{number}"), "10.0.0.0/24", "True", 2), None);
    }
    let (first, second) = (router.subscribe("x").1, router.subscribe("y").1);
    let mut names: Vec<String> = first
        .iter()
        .flat_map(|others| said(others).split(", ").map(str::to_owned).collect::<Vec<_>>())
        .collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 500);
    assert!(first.len() <= PARTS && first.iter().zip(&second).all(|(a, b)| Arc::ptr_eq(a, b)));
    put(&mut router.inner.lock(), &node("n7", "10.0.9.0/24", "True", 3), None);
    let third = router.subscribe("z").1;
    let same = first.iter().zip(&third).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
    assert_eq!(same, first.len() - 1, "only the part of the node that changed is written again");
}

#[test]
fn messages_about_nodes_are_bounded_however_much_is_said_of_each() {
    let long = "x".repeat(200 << 10);
    let other = |number: u32| Other {
        name: format!("n{number}").as_str().into(),
        revision: Revision(1),
        object: Some(long.clone().into()),
    };
    let all = Others::of((0..20).map(other));
    let whole = |others: &Others| block::decompress_size_prepended(&others.packed).unwrap().len();
    assert!(all.iter().all(|others| whole(others) < 2 * LONGEST), "each is far below what a message may be");
    assert_eq!(all.iter().map(|others| others.nodes.len()).sum::<usize>(), 20);
}

#[test]
fn a_session_that_is_too_far_behind_ends_and_others_go_on() {
    let router = Router::default();
    let ((mut slow, _), (mut other, _)) = (router.subscribe("a"), router.subscribe("b"));
    let service = object(&SERVICES, "s", json!({}), 2);
    for _ in 0..=INBOX {
        put(&mut router.inner.lock(), &service, None);
        assert_eq!(heard(&mut other).len(), 1);
    }
    assert_eq!(heard(&mut slow).len(), INBOX);
    assert!(matches!(slow.try_recv(), Err(mpsc::error::TryRecvError::Disconnected)));
    router.tidy("a");
    assert!(!router.inner.lock().inboxes.contains_key("a"));
}
