//! Events: who says what about which object. The same thing said again is counted, not repeated.

use std::collections::HashMap;
use std::sync::Arc;

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

/// Writes Events. Shared by reference.
pub struct Events {
    registry: Arc<Registry>,
    /// What was said, and the Event that says it: (namespace, name).
    known: Mutex<HashMap<String, (String, String)>>,
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

impl Events {
    /// A writer of Events.
    #[must_use]
    pub fn new(registry: Arc<Registry>) -> Self {
        Self { registry, known: Mutex::default() }
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
