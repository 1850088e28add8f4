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

/// What has come in, as text.
fn heard(inbox: &mut mpsc::Receiver<News>) -> Vec<String> {
    std::iter::from_fn(|| inbox.try_recv().ok())
        .map(|news| match news {
            News::Change(change) => {
                format!("{} {}", change.object().key.kind.plural, change.object().key.name)
            }
            News::Node(other) => {
                format!("{}{}", if other.object.is_some() { "other " } else { "no " }, other.name)
            }
        })
        .collect()
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
    assert_eq!(heard(&mut a), ["pods p", "services s"]);
    assert_eq!(heard(&mut b), ["services s"]);
    inner.hand_out(&Arc::new(Change::Delete { old: pod("a", 3), revision: Revision(7) }));
    assert_eq!((heard(&mut a), heard(&mut b)), (vec!["pods p".to_owned()], vec![]));
}

#[test]
fn of_another_node_only_what_one_needs_to_reach_it_is_said() {
    let router = Router::default();
    let ((mut a, _), (mut b, _)) = (router.subscribe("a"), router.subscribe("b"));
    let node = |range: &str, ready: &str, revision| {
        let ready = json!({"type": "Ready", "status": ready});
        let value = json!({"metadata": {"name": "a", "uid": "u"}, "spec": {"podCIDR": range},
            "status": {"conditions": [ready], "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}});
        object(&NODES, "a", value, revision)
    };
    let mut inner = router.inner.lock();
    put(&mut inner, &node("10.0.0.0/24", "True", 2), None);
    put(&mut inner, &node("10.0.0.0/24", "Unknown", 3), None);
    assert_eq!(heard(&mut a), ["nodes a", "nodes a"], "its own as it is");
    assert_eq!(heard(&mut b), ["other a"]);
    put(&mut inner, &node("10.0.1.0/24", "Unknown", 4), None);
    inner.hand_out(&Arc::new(Change::Delete {
        old: node("10.0.1.0/24", "Unknown", 4),
        revision: Revision(5),
    }));
    put(&mut inner, &node("10.0.1.0/24", "True", 6), None);
    assert_eq!(heard(&mut b), ["other a", "no a", "other a"]);
    drop(inner);
    let (_, all) = router.subscribe("c");
    let value: Value = serde_json::from_slice(all[0].object.as_ref().unwrap()).unwrap();
    assert_eq!((&value["spec"]["podCIDR"], &value["metadata"]["uid"]), (&json!("10.0.1.0/24"), &json!("u")));
    assert_eq!(value["status"]["addresses"][0]["address"], "192.0.2.1");
    assert!(value["status"].get("conditions").is_none());
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
