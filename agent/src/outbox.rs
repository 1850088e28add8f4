//! What the agent has to tell the control plane: the latest state per subject, so that nothing grows while it is away.
//!
//! In: statuses, events, departures from anywhere in the agent. Out: messages, one at a time. A new session sends every
//! latest status again; only events may be lost, oldest first, and their loss is counted.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use oarlock_api::node::agent_message::Message;
use oarlock_api::node::{
    Ack, EventReport, NodeStatus, PodGone, PodStatus, StaticPods, StatsReport, VolumeGone,
};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Events kept while the control plane is away.
const MAX_EVENTS: usize = 1000;

/// The outbox. Shared by reference.
#[derive(Debug, Default)]
pub struct Outbox {
    inner: Mutex<Inner>,
    bell: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    node_status: Option<NodeStatus>,
    pods: BTreeMap<String, Subject>,
    /// Volumes whose directories are gone: names by uid.
    volumes: BTreeMap<String, String>,
    /// The mirrors of the pods of the node's own folder, once it was looked at.
    static_pods: Option<Vec<Bytes>>,
    events: VecDeque<EventReport>,
    lost_events: u64,
    /// The latest, until it was sent: the next one comes soon.
    stats: Option<StatsReport>,
    acked: u64,
    unsent: Unsent,
}

#[derive(Debug, Default)]
struct Unsent {
    node_status: bool,
    static_pods: bool,
    ack: bool,
    pods: BTreeSet<String>,
    volumes: BTreeSet<String>,
}

/// A pod as last reported: its status, and whether it has left for good.
#[derive(Debug)]
struct Subject {
    namespace: String,
    name: String,
    status: Option<Bytes>,
    /// The control plane of this session has not been told the status.
    untold: bool,
    gone: bool,
}

impl Outbox {
    /// The node's status and the annotations in which it tells of itself, JSON-encoded.
    pub fn node_status(&self, status: Bytes, annotations: Bytes) {
        let mut inner = self.inner.lock();
        let report = NodeStatus { status, annotations };
        if inner.node_status.as_ref() != Some(&report) {
            inner.node_status = Some(report);
            inner.unsent.node_status = true;
            drop(inner);
            self.bell.notify_one();
        }
    }

    /// A pod's status, JSON-encoded. The same status twice is sent once.
    pub fn pod_status(&self, namespace: &str, name: &str, uid: &str, status: Bytes) {
        self.report(namespace, name, uid, |subject| {
            let news = subject.status.as_ref() != Some(&status);
            subject.untold |= news;
            subject.status = Some(status);
            news
        });
    }

    /// The pod's containers and network are gone: its object may be removed.
    pub fn pod_gone(&self, namespace: &str, name: &str, uid: &str) {
        self.report(namespace, name, uid, |subject| {
            subject.gone = true;
            true
        });
    }

    /// The pods of the node's own folder, as the API should mirror them, JSON-encoded; said again, it is sent again.
    pub fn static_pods(&self, mirrors: Vec<Bytes>) {
        let mut inner = self.inner.lock();
        inner.static_pods = Some(mirrors);
        inner.unsent.static_pods = true;
        drop(inner);
        self.bell.notify_one();
    }

    /// Says a pod's status again: what it is about is new to the API.
    pub fn say_again(&self, uid: &str) {
        let mut inner = self.inner.lock();
        if let Some(subject) = inner.pods.get_mut(uid) {
            subject.untold = true;
            inner.unsent.pods.insert(uid.to_owned());
            drop(inner);
            self.bell.notify_one();
        }
    }

    /// What the node and its pods use now.
    pub fn stats(&self, report: StatsReport) {
        self.inner.lock().stats = Some(report);
        self.bell.notify_one();
    }

    /// The directory of a volume is gone: its object may be removed.
    pub fn volume_gone(&self, name: &str, uid: &str) {
        let mut inner = self.inner.lock();
        inner.volumes.insert(uid.to_owned(), name.to_owned());
        inner.unsent.volumes.insert(uid.to_owned());
        drop(inner);
        self.bell.notify_one();
    }

    /// Forgets volumes that the control plane does not know any more.
    pub fn retain_volumes(&self, is_known: impl Fn(&str) -> bool) {
        self.inner.lock().volumes.retain(|uid, _| is_known(uid));
    }

    /// An event for `kubectl describe`.
    pub fn event(&self, event: EventReport) {
        let mut inner = self.inner.lock();
        if inner.events.len() >= MAX_EVENTS {
            inner.events.pop_front();
            inner.lost_events += 1;
        }
        inner.events.push_back(event);
        drop(inner);
        self.bell.notify_one();
    }

    /// An event about the node itself, whose uid is its name, as in upstream's.
    pub fn node_event(&self, node: &str, kind: &str, reason: &str, message: &str) {
        let object = serde_json::json!({"kind": "Node", "apiVersion": "v1", "name": node, "uid": node});
        self.event(EventReport {
            involved_object: object.to_string().into_bytes().into(),
            r#type: kind.to_owned(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            component: "kubelet".to_owned(),
        });
    }

    /// The agent has applied everything up to this version of the running session.
    pub fn ack(&self, version: u64) {
        let mut inner = self.inner.lock();
        if inner.acked != version {
            inner.acked = version;
            inner.unsent.ack = true;
            drop(inner);
            self.bell.notify_one();
        }
    }

    /// Forgets pods that the control plane does not know any more: nobody would listen.
    pub fn retain_pods(&self, is_known: impl Fn(&str) -> bool) {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        inner.pods.retain(|uid, _| is_known(uid));
        inner.unsent.pods.retain(|uid| inner.pods.contains_key(uid));
    }

    /// A new session knows nothing: everything but past events and acks is to be said again.
    pub fn say_all_again(&self) {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        for subject in inner.pods.values_mut() {
            subject.untold = true;
        }
        inner.unsent = Unsent {
            node_status: inner.node_status.is_some(),
            static_pods: inner.static_pods.is_some(),
            ack: false,
            pods: inner.pods.keys().cloned().collect(),
            volumes: inner.volumes.keys().cloned().collect(),
        };
        inner.acked = 0;
        self.bell.notify_one();
    }

    /// How many events were lost because the control plane was away for too long.
    pub fn lost_events(&self) -> u64 {
        self.inner.lock().lost_events
    }

    /// The next message; waits until there is one. Cancel-safe: a message is taken only when it is returned.
    pub async fn next(&self) -> Message {
        loop {
            let rung = self.bell.notified();
            if let Some(message) = self.inner.lock().take() {
                return message;
            }
            rung.await;
        }
    }

    fn report(&self, namespace: &str, name: &str, uid: &str, change: impl FnOnce(&mut Subject) -> bool) {
        let mut inner = self.inner.lock();
        let subject = inner.pods.entry(uid.to_owned()).or_insert_with(|| Subject {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            status: None,
            untold: false,
            gone: false,
        });
        if change(subject) {
            inner.unsent.pods.insert(uid.to_owned());
            drop(inner);
            self.bell.notify_one();
        }
    }
}

impl Inner {
    fn take(&mut self) -> Option<Message> {
        if self.unsent.node_status {
            self.unsent.node_status = false;
            return Some(Message::NodeStatus(self.node_status.clone().unwrap_or_default()));
        }
        // Before the statuses, which are of their mirrors.
        if std::mem::take(&mut self.unsent.static_pods) {
            return Some(Message::StaticPods(StaticPods {
                pods: self.static_pods.clone().unwrap_or_default(),
            }));
        }
        while let Some(uid) = self.unsent.pods.pop_first() {
            let Some(message) = self.pods.get_mut(&uid).and_then(|subject| subject.message(&uid)) else {
                continue;
            };
            if self.pods.get(&uid).is_some_and(|subject| subject.gone)
                && matches!(message, Message::PodStatus(_))
            {
                self.unsent.pods.insert(uid);
            }
            return Some(message);
        }
        while let Some(uid) = self.unsent.volumes.pop_first() {
            if let Some(name) = self.volumes.get(&uid).cloned() {
                return Some(Message::VolumeGone(VolumeGone { name, uid }));
            }
        }
        if let Some(event) = self.events.pop_front() {
            return Some(Message::Event(event));
        }
        if let Some(report) = self.stats.take() {
            return Some(Message::Stats(report));
        }
        if self.unsent.ack {
            self.unsent.ack = false;
            return Some(Message::Ack(Ack { version: self.acked }));
        }
        None
    }
}

impl Subject {
    /// The last status comes before the departure: how containers ended is told once more by nobody.
    fn message(&mut self, uid: &str) -> Option<Message> {
        let (namespace, name, uid) = (self.namespace.clone(), self.name.clone(), uid.to_owned());
        let status = self.status.clone().filter(|_| std::mem::take(&mut self.untold));
        if let Some(status) = status {
            return Some(Message::PodStatus(PodStatus { namespace, name, uid, status }));
        }
        self.gone.then_some(Message::PodGone(PodGone { namespace, name, uid }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(outbox: &Outbox) -> Vec<String> {
        let mut inner = outbox.inner.lock();
        std::iter::from_fn(|| inner.take())
            .map(|message| match message {
                Message::PodStatus(s) => format!("{}={}", s.name, String::from_utf8_lossy(&s.status)),
                Message::PodGone(g) => format!("{} gone", g.name),
                Message::Event(e) => e.reason,
                Message::Ack(a) => format!("ack {}", a.version),
                Message::NodeStatus(_) => "node".into(),
                Message::Stats(s) => format!("stats {}", s.at_unix_ms),
                Message::VolumeGone(v) => format!("{} removed", v.name),
                other => format!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn only_the_latest_status_is_sent_and_a_repeated_one_is_not() {
        let outbox = Outbox::default();
        for status in ["1", "2", "2"] {
            outbox.pod_status("d", "a", "u1", Bytes::from(status));
        }
        assert_eq!(drain(&outbox), ["a=2"]);
        outbox.pod_status("d", "a", "u1", Bytes::from("2"));
        assert!(drain(&outbox).is_empty());
        outbox.say_again("u1");
        outbox.say_again("nobody");
        assert_eq!(drain(&outbox), ["a=2"]);
        outbox.pod_gone("d", "a", "u1");
        assert_eq!(drain(&outbox), ["a gone"]);
    }

    #[test]
    fn how_a_pod_ended_is_told_before_it_is_gone() {
        let outbox = Outbox::default();
        outbox.pod_status("d", "a", "u1", Bytes::from("ends"));
        outbox.pod_status("d", "a", "u1", Bytes::from("ended"));
        outbox.pod_gone("d", "a", "u1");
        assert_eq!(drain(&outbox), ["a=ended", "a gone"]);
        outbox.pod_gone("d", "a", "u1");
        assert_eq!(drain(&outbox), ["a gone"], "the control plane may have missed it");
        outbox.say_all_again();
        assert_eq!(drain(&outbox), ["a=ended", "a gone"]);
    }

    #[test]
    fn a_new_session_hears_everything_but_pods_that_are_unknown() {
        let outbox = Outbox::default();
        outbox.node_status(Bytes::from("{}"), Bytes::from("{}"));
        outbox.pod_status("d", "a", "u1", Bytes::from("1"));
        outbox.pod_status("d", "b", "u2", Bytes::from("1"));
        outbox.ack(7);
        outbox.volume_gone("v", "u3");
        outbox.volume_gone("w", "u4");
        assert_eq!(drain(&outbox), ["node", "a=1", "b=1", "v removed", "w removed", "ack 7"]);
        outbox.retain_pods(|uid| uid != "u1");
        outbox.retain_volumes(|uid| uid != "u4");
        outbox.say_all_again();
        assert_eq!(drain(&outbox), ["node", "b=1", "v removed"]);
    }

    #[test]
    fn events_are_bounded_and_their_loss_is_counted() {
        let outbox = Outbox::default();
        for i in 0..MAX_EVENTS + 3 {
            outbox.event(EventReport { reason: i.to_string(), ..EventReport::default() });
        }
        assert_eq!(outbox.lost_events(), 3);
        assert_eq!(drain(&outbox).first().map(String::as_str), Some("3"));
    }

    #[test]
    fn of_reports_about_use_only_the_latest_is_sent_and_only_once() {
        let outbox = Outbox::default();
        for at_unix_ms in 1..=3 {
            outbox.stats(StatsReport { at_unix_ms, ..StatsReport::default() });
        }
        assert_eq!(drain(&outbox), ["stats 3"]);
        outbox.say_all_again();
        assert!(drain(&outbox).is_empty());
    }

    #[tokio::test]
    async fn waiting_ends_when_something_is_said() {
        let outbox = std::sync::Arc::new(Outbox::default());
        let (waiting, ()) = tokio::join!(outbox.next(), async { outbox.ack(1) });
        assert_eq!(waiting, Message::Ack(Ack { version: 1 }));
    }
}
