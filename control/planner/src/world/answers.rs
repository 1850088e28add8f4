//! What autoscalers ask of metrics that others serve, and what they were told. Not in the store: who leads anew asks anew.

use std::fmt;

use jiff::Timestamp;
use oarlock_api::quantity::Quantity;
use serde_json::Value;

/// What was heard longer ago is asked for again: within the time of a turn, so that a turn that its own write repeats asks once.
const FRESH_SECONDS: i64 = 10;
/// Over what time a metric was measured that does not say so.
const WINDOW: i64 = 60;

/// Which of the APIs is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsApi {
    /// Metrics of objects of the cluster.
    Custom,
    /// Metrics of what is no object of it.
    External,
}

impl MetricsApi {
    /// The group that serves it.
    #[must_use]
    pub fn group(self) -> &'static str {
        match self {
            Self::Custom => "custom.metrics.k8s.io",
            Self::External => "external.metrics.k8s.io",
        }
    }

    /// Its versions, best first.
    #[must_use]
    pub fn versions(self) -> &'static [&'static str] {
        match self {
            Self::Custom => &["v1beta2", "v1beta1"],
            Self::External => &["v1beta1"],
        }
    }
}

impl fmt::Display for MetricsApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Custom => "custom",
            Self::External => "external",
        })
    }
}

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Whom.
    pub api: MetricsApi,
    /// The segments of the path below the version, as they are meant.
    pub path: Vec<String>,
    /// The parameters; those that are empty are left out.
    pub parameters: Vec<(&'static str, String)>,
    /// What is asked for, as clients name it: `pods.custom.metrics.k8s.io *`.
    pub about: String,
}

/// One value of a metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// The object that it is of; empty where it is of none.
    pub object: String,
    /// In thousandths.
    pub value: i64,
    /// When it was measured.
    pub at: Timestamp,
    /// Over how many seconds.
    pub window: i64,
}

/// What was said to a question, or why nothing was.
pub type Answer = Result<Vec<Sample>, String>;

/// What was said to all questions of a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answers {
    /// When.
    pub at: Timestamp,
    /// Questions and answers.
    pub all: Vec<(Query, Answer)>,
}

impl Answers {
    /// What was said to a question.
    #[must_use]
    pub fn to(&self, query: &Query) -> Option<&Answer> {
        self.all.iter().find(|(asked, _)| asked == query).map(|(_, answer)| answer)
    }

    /// Whether all of these were asked a moment ago.
    #[must_use]
    pub fn serve(&self, queries: &[Query], now: Timestamp) -> bool {
        let age = now.as_second() - self.at.as_second();
        age <= FRESH_SECONDS && queries.iter().all(|query| self.to(query).is_some())
    }
}

/// Reads a list of values of a metric (`MetricValueList`, `ExternalMetricValueList`).
///
/// # Errors
/// A value that is no quantity.
pub fn samples(list: &Value) -> Answer {
    let sample = |item: &Value| {
        let value = Quantity::read(&item["value"]).map_err(|_| {
            format!("the metrics API answered a value that is no quantity: {}", item["value"])
        })?;
        let window = [&item["windowSeconds"], &item["window"]].into_iter().find_map(Value::as_i64);
        let at = item["timestamp"].as_str().and_then(|at| at.parse().ok());
        Ok(Sample {
            object: item["describedObject"]["name"].as_str().unwrap_or("").to_owned(),
            value: value.milli_value(),
            at: at.unwrap_or(Timestamp::UNIX_EPOCH),
            window: window.unwrap_or(WINDOW),
        })
    };
    list["items"].as_array().into_iter().flatten().map(sample).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_of_all_versions_are_read() {
        let at = "2026-01-01T00:00:00Z";
        let pod = |name: &str| json!({"kind": "Pod", "namespace": "d", "name": name});
        let list = json!({"items": [
            {"describedObject": pod("a"), "metric": {"name": "rate"}, "value": "1500m", "timestamp": at, "windowSeconds": 30},
            {"describedObject": pod("b"), "metricName": "rate", "value": 2, "timestamp": at, "window": 15},
            {"metricName": "depth", "metricLabels": {}, "value": "1k", "timestamp": at}]});
        let read: Vec<_> =
            samples(&list).unwrap().into_iter().map(|s| (s.object, s.value, s.window)).collect();
        let expected = [("a", 1500, 30), ("b", 2000, 15), ("", 1_000_000, 60)];
        assert_eq!(read, expected.map(|(name, value, window)| (name.to_owned(), value, window)));
        assert_eq!(samples(&json!({"items": []})), Ok(vec![]));
        let why = samples(&json!({"items": [{"value": "many"}]})).unwrap_err();
        assert_eq!(why, "the metrics API answered a value that is no quantity: \"many\"");
    }
}
