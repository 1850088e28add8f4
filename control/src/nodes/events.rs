//! Events: who says what about which object. The same thing said again is counted, not repeated.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use oarlock_api::catalogue::EVENTS;
use oarlock_api::meta;
use oarlock_api::node::EventReport;
use oarlock_api::status::Status;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::registry::{Registry, Sub, WriteOptions};

/// Events remembered for counting; beyond it the memory starts over and new objects are written.
const REMEMBERED: usize = 4096;
/// How many events about one object its source may write at once, and how long it takes until it may write one more: upstream's
/// EventSourceObjectSpamFilter. A ReplicaSet of ten thousand pods says of the first ones that it made them.
const BURST: f64 = 25.0;
const REFILL: Duration = Duration::from_secs(300);

/// Writes Events. Shared by reference.
pub struct Events {
    registry: Arc<Registry>,
    /// What was said, and the Event that says it: (namespace, name).
    known: Mutex<HashMap<String, (String, String)>>,
    /// How many events each source may still write about an object, as of when.
    left: Mutex<HashMap<String, (f64, Instant)>>,
}

/// An event to write.
#[derive(Debug, Clone)]
pub struct Event<'e> {
    /// `metav1` reference of the object that it is about.
    pub object: Value,
    /// Normal or Warning.
    pub kind: &'e str,
    /// One word.
    pub reason: &'e str,
    /// A sentence.
    pub message: &'e str,
    /// Who says it: kubelet, default-scheduler, ...
    pub component: &'e str,
    /// The node where it was seen; empty for the control plane.
    pub host: &'e str,
}

/// Whether a source may write one more event about an object.
fn may_write(left: &mut HashMap<String, (f64, Instant)>, source: String, now: Instant) -> bool {
    if left.len() >= REMEMBERED && !left.contains_key(&source) {
        left.clear();
    }
    let (tokens, since) = left.entry(source).or_insert((BURST, now));
    let gained = now.duration_since(*since).as_secs_f64() / REFILL.as_secs_f64();
    (*tokens, *since) = ((*tokens + gained).min(BURST), now);
    if *tokens < 1.0 {
        return false;
    }
    *tokens -= 1.0;
    true
}

impl Events {
    /// A writer of Events.
    #[must_use]
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry, known: Mutex::default(), left: Mutex::default() }
    }

    /// An agent's report.
    pub(super) async fn report(&self, node: &str, report: &EventReport) -> Result<(), Status> {
        let parse =
            |e: serde_json::Error| Status::bad_request(format!("the event's object does not parse: {e}"));
        let event = Event {
            object: serde_json::from_slice(&report.involved_object).map_err(parse)?,
            kind: &report.r#type,
            reason: &report.reason,
            message: &report.message,
            component: if report.component.is_empty() { "kubelet" } else { &report.component },
            host: node,
        };
        self.write(&event).await
    }

    /// Writes an event, or counts it when it was said before.
    ///
    /// # Errors
    /// The store is away, or the namespace is.
    pub async fn write(&self, event: &Event<'_>) -> Result<(), Status> {
        let source = format!("{}|{}|{}", event.component, event.host, event.object["uid"]);
        if !may_write(&mut self.left.lock(), source, Instant::now()) {
            tracing::debug!(
                reason = event.reason,
                component = event.component,
                "one event too many about one object"
            );
            return Ok(());
        }
        let now = Timestamp::now();
        let identity = format!(
            "{}|{}|{}|{}|{}|{}",
            event.object["uid"],
            event.object["fieldPath"],
            event.kind,
            event.reason,
            event.message,
            event.component
        );
        let known = self.known.lock().get(&identity).cloned();
        if let Some((namespace, name)) = known {
            let count = |mut present: Value| {
                present["count"] = json!(present["count"].as_i64().unwrap_or(1) + 1);
                present["lastTimestamp"] = json!(meta::time(now));
                Ok(present)
            };
            match self
                .registry
                .modify(&EVENTS, &namespace, &name, Sub::Main, &WriteOptions::default(), count)
                .await
            {
                Err(status) if status.is("NotFound") => {}
                other => return other.map(drop),
            }
        }
        let about = event.object["name"].as_str().unwrap_or("unknown");
        let namespace =
            event.object["namespace"].as_str().filter(|n| !n.is_empty()).unwrap_or("default").to_owned();
        let name = format!("{about}.{:x}", now.as_nanosecond());
        let mut source = json!({"component": event.component});
        if !event.host.is_empty() {
            source["host"] = json!(event.host);
        }
        let object = json!({
            "metadata": {"name": name},
            "involvedObject": event.object,
            "reason": event.reason,
            "message": event.message,
            "source": source,
            "firstTimestamp": meta::time(now),
            "lastTimestamp": meta::time(now),
            "count": 1,
            "type": event.kind,
            "eventTime": null,
            "reportingComponent": event.component,
            "reportingInstance": event.host,
        });
        self.registry.create(&EVENTS, &namespace, object, &WriteOptions::default()).await?;
        let mut known = self.known.lock();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(identity, (namespace, name));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_says_too_much_of_an_object_is_slowed_down() {
        let (mut left, start) = (HashMap::new(), Instant::now());
        let mut said = |source: &str, at: u64, times: usize| {
            let now = start + Duration::from_secs(at);
            (0..times).filter(|_| may_write(&mut left, source.to_owned(), now)).count()
        };
        assert_eq!((said("rs|a", 0, 100), said("rs|b", 0, 100)), (25, 25));
        assert_eq!((said("rs|a", 299, 3), said("rs|a", 301, 3), said("rs|a", 100_000, 100)), (0, 1, 25));
    }
}
