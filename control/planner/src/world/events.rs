//! Events, of which there are more than of everything else: of each, which it is and when it happened last. Nothing else is asked of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use oarlock_api::meta;
use serde_json::Value;

use super::Key;

/// All events, by name and by age.
#[derive(Debug, Default)]
pub(crate) struct Events {
    known: BTreeMap<Arc<Key>, Known>,
    /// By the second in which they happened last.
    aged: BTreeSet<(i64, Arc<Key>)>,
}

#[derive(Debug)]
struct Known {
    uid: Box<str>,
    /// None: it does not say so in a way that can be read, and stays; or it is being deleted already.
    last: Option<i64>,
}

/// When it happened or was written, whatever is later: somebody may tell of the past.
fn last(event: &Value) -> Option<i64> {
    if meta::is_terminating(event) {
        return None;
    }
    let metadata = &event["metadata"];
    let written = metadata["managedFields"].as_array().into_iter().flatten().map(|entry| &entry["time"]);
    let times = [&event["lastTimestamp"], &metadata["creationTimestamp"]].into_iter().chain(written);
    times.filter_map(|time| meta::parse_time(time.as_str()?)).max().map(jiff::Timestamp::as_second)
}

impl Events {
    pub(super) fn put(&mut self, key: &Key, event: &Value) {
        self.remove(key);
        let (key, last) = (Arc::new(key.clone()), last(event));
        self.aged.extend(last.map(|last| (last, Arc::clone(&key))));
        self.known.insert(key, Known { uid: meta::uid(event).into(), last });
    }

    pub(super) fn remove(&mut self, key: &Key) {
        if let Some((key, known)) = self.known.remove_entry(key)
            && let Some(last) = known.last
        {
            self.aged.remove(&(last, key));
        }
    }

    /// The oldest first: the second in which it happened last, its key and its uid.
    pub(crate) fn by_age(&self) -> impl Iterator<Item = (i64, &Key, &str)> {
        let known = |(last, key): &(i64, Arc<Key>)| Some((*last, self.known.get_key_value(&**key)?));
        self.aged.iter().filter_map(known).map(|(last, (key, known))| (last, &**key, &*known.uid))
    }

    /// Those of a namespace: key and uid.
    pub(crate) fn of_namespace<'e>(&'e self, namespace: &'e str) -> impl Iterator<Item = (&'e Key, &'e str)> {
        let start = (namespace.to_owned(), String::new());
        let range = self.known.range::<Key, _>(start..);
        range.take_while(move |(key, _)| key.0 == namespace).map(|(key, known)| (&**key, &*known.uid))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(namespace: &str, name: &str) -> Key {
        (namespace.to_owned(), name.to_owned())
    }

    fn order(events: &Events) -> Vec<(&str, &str)> {
        events.by_age().map(|(_, key, uid)| (key.1.as_str(), uid)).collect()
    }

    #[test]
    fn the_oldest_comes_first_and_one_that_happens_again_is_young() {
        let mut events = Events::default();
        let event = |uid: &str, last: &str| json!({"metadata": {"uid": uid, "creationTimestamp": "2026-01-01T00:00:00Z"}, "lastTimestamp": last});
        events.put(&key("d", "a"), &event("1", "2026-01-01T00:00:02Z"));
        events.put(&key("d", "b"), &event("2", "2026-01-01T00:00:01Z"));
        events.put(
            &key("e", "c"),
            &json!({"metadata": {"uid": "3", "creationTimestamp": "2026-01-01T00:00:00Z"}}),
        );
        events.put(&key("d", "timeless"), &json!({"metadata": {"uid": "4"}}));
        assert_eq!(order(&events), [("c", "3"), ("b", "2"), ("a", "1")]);
        events.put(&key("d", "b"), &event("2", "2026-01-01T00:00:09Z"));
        assert_eq!(order(&events), [("c", "3"), ("a", "1"), ("b", "2")]);
        let of_d: Vec<&str> = events.of_namespace("d").map(|(_, uid)| uid).collect();
        assert_eq!(of_d, ["1", "2", "4"]);
        let mut held = event("1", "2026-01-01T00:00:02Z");
        held["metadata"]["deletionTimestamp"] = json!("2026-01-01T01:00:02Z");
        events.put(&key("d", "a"), &held);
        assert_eq!(
            order(&events),
            [("c", "3"), ("b", "2")],
            "it is on its way, and not to be in the way of others"
        );
        let mut told = event("2", "2017-09-19T13:49:16Z");
        told["metadata"]["managedFields"] =
            json!([{"time": "2026-01-01T00:00:01Z"}, {"time": "2026-01-01T00:00:03Z"}]);
        events.put(&key("d", "b"), &told);
        assert_eq!(
            events.by_age().map(|(last, ..)| last % 60).collect::<Vec<_>>(),
            [0, 3],
            "told now of long ago"
        );
        events.remove(&key("d", "a"));
        events.remove(&key("d", "timeless"));
        events.remove(&key("d", "nobody"));
        assert_eq!(order(&events), [("c", "3"), ("b", "2")]);
    }
}
