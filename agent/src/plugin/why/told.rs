//! What objects say of themselves: conditions, events, ages. Pure.

use jiff::Timestamp;
use oarlock_api::meta;
use oarlock_api::quantity::Quantity;
use oarlock_api::table::human_duration;
use serde_json::Value;

use super::{Evidence, Finding};

/// The elements of a list; none where there is none.
pub(super) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A text; empty where there is none.
pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

pub(super) fn condition<'v>(object: &'v Value, kind: &str) -> Option<&'v Value> {
    list(&object["status"]["conditions"]).find(|condition| condition["type"] == kind)
}

pub(super) fn is_true(object: &Value, kind: &str) -> bool {
    condition(object, kind).is_some_and(|condition| condition["status"] == "True")
}

/// How many seconds ago a time was; negative when it is to come.
pub(super) fn seconds_since(time: &Value, now: Timestamp) -> Option<i64> {
    Some(now.as_second() - meta::parse_time(text(time))?.as_second())
}

/// `, for 3m` since a time; nothing where it is not known.
pub(super) fn lasting(time: &Value, now: Timestamp) -> String {
    seconds_since(time, now).map_or_else(String::new, |seconds| format!(", for {}", human_duration(seconds)))
}

/// The reason and the message of a condition or a state, as far as there are.
pub(super) fn reasons(of: &Value) -> String {
    match (text(&of["reason"]), text(&of["message"])) {
        ("", "") => "no reason is given".to_owned(),
        (reason, "") => reason.to_owned(),
        ("", message) => message.to_owned(),
        (reason, message) => format!("{message} ({reason})"),
    }
}

pub(super) fn quantity(value: &Value) -> Option<Quantity> {
    text(value).parse().ok()
}

/// `a, b and c`.
pub(super) fn and<S: AsRef<str>>(words: &[S]) -> String {
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    match words.as_slice() {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// `1 pod`, `2 pods`.
pub(super) fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

fn last_seen(event: &Value) -> Option<Timestamp> {
    let times = [&event["series"]["lastObservedTime"], &event["lastTimestamp"], &event["eventTime"]];
    let created = &event["metadata"]["creationTimestamp"];
    times.into_iter().chain([created]).find_map(|time| meta::parse_time(text(time)))
}

impl Evidence {
    /// Events about an object, the latest first.
    fn events_of<'e>(&'e self, object: &'e Value) -> Vec<&'e Value> {
        let uid = meta::uid(object);
        let mut events: Vec<&Value> =
            self.events.iter().filter(|event| event["involvedObject"]["uid"] == uid).collect();
        events.sort_by_key(|event| std::cmp::Reverse(last_seen(event)));
        events
    }

    /// The latest event about an object for one of these reasons.
    pub(super) fn latest<'e>(&'e self, object: &'e Value, reasons: &[&str]) -> Option<&'e Value> {
        self.events_of(object).into_iter().find(|event| reasons.contains(&text(&event["reason"])))
    }

    /// The latest event about a container of a pod for one of these reasons.
    pub(super) fn latest_of_container<'e>(
        &'e self,
        pod: &'e Value,
        container: &str,
        reasons: &[&str],
    ) -> Option<&'e Value> {
        let within = format!("{{{container}}}");
        let about = |event: &&Value| text(&event["involvedObject"]["fieldPath"]).ends_with(&within);
        let events = self.events_of(pod).into_iter().filter(about);
        events.into_iter().find(|event| reasons.contains(&text(&event["reason"])))
    }

    /// How often and when an event was: `12 times, last 3s ago`.
    pub(super) fn times(&self, event: &Value) -> String {
        let count = event["series"]["count"].as_i64().or(event["count"].as_i64()).unwrap_or(1);
        let ago = last_seen(event).map_or_else(
            || "at an unknown time".to_owned(),
            |at| format!("{} ago", human_duration(self.now.as_second() - at.as_second())),
        );
        if count > 1 { format!("{count} times, last {ago}") } else { ago }
    }

    /// Up to three of the latest warnings about an object, for whom nothing else was found.
    pub(super) fn warnings(&self, object: &Value) -> Vec<Finding> {
        let warnings = self.events_of(object).into_iter().filter(|event| event["type"] == "Warning");
        let told = |event: &Value| {
            let (reason, message) = (text(&event["reason"]), text(&event["message"]));
            Finding::new(format!("a warning, {}: {reason}: {message}", self.times(event)))
        };
        warnings.take(3).map(told).collect()
    }

    pub(super) fn node(&self, name: &str) -> Option<&Value> {
        self.nodes.iter().find(|node| meta::name(node) == name)
    }
}
