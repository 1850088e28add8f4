//! The questions of autoscalers, asked of whoever serves the metrics APIs: in the name of the controller, in bounded time and number.
//!
//! Source: k8s.io/metrics/pkg/client.

use std::time::Duration;

use futures_util::StreamExt as _;
use oarlock_planner::{Answer, MetricsApi, Query, samples};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tokio::sync::Semaphore;

use super::{Aggregator, Refusal};
use crate::auth::{ACCOUNTS, User};

/// Questions of all autoscalers under way at the same time, and of one.
static UNDER_WAY: Semaphore = Semaphore::const_new(32);
const OF_ONE: usize = 4;
/// How long one may take, and all of one autoscaler.
const PATIENCE: Duration = Duration::from_secs(5);
const ALL: Duration = Duration::from_secs(10);
/// What segments of a path and parameters hold as it is.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'*');

/// Who asks: upstream's account of the controller, to which adapters give rights.
fn controller() -> User {
    let groups = [ACCOUNTS.to_owned(), format!("{ACCOUNTS}:kube-system")];
    User::known("system:serviceaccount:kube-system:horizontal-pod-autoscaler", &groups)
}

impl Aggregator {
    /// Asks everything that an autoscaler wants to know. Every question has an answer, in the order in which they were asked.
    pub(crate) async fn measure(&self, queries: Vec<Query>) -> Vec<(Query, Answer)> {
        let late = tokio::time::Instant::now() + ALL;
        let asked = futures_util::stream::iter(queries).map(|query| async move {
            let answer = tokio::time::timeout_at(late, self.one(&query)).await;
            let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {ALL:?}")));
            (query, answer)
        });
        asked.buffered(OF_ONE).collect().await
    }

    async fn one(&self, query: &Query) -> Answer {
        let group = query.api.group();
        let found = query.api.versions().iter().find_map(|version| self.backend(group, version));
        let Some(backend) = found else { return Err(unregistered(query.api)) };
        let about = &query.about;
        if !backend.available {
            return Err(said(503, about));
        }
        // Nobody closes it.
        let _slot = UNDER_WAY.acquire().await;
        let path = format!("{}{}", backend.path(), address(query));
        let body = match self.ask(&backend, &controller(), &path, PATIENCE).await {
            Ok(body) => body,
            Err(Refusal::Unreachable(why)) => return Err(why),
            Err(Refusal::Answer(code, body)) => {
                let status: Value = serde_json::from_slice(&body).unwrap_or_default();
                let message = status["message"].as_str().filter(|_| status["kind"] == "Status");
                return Err(message.map_or_else(|| said(code, about), str::to_owned));
            }
        };
        let list = serde_json::from_slice(&body).map_err(|e| format!("the answer is no JSON: {e}"))?;
        samples(&list)
    }
}

/// Nobody serves it.
pub(crate) fn unregistered(api: MetricsApi) -> String {
    format!("no {api} metrics API ({}) registered", api.group())
}

/// What a code says that nobody explains, as client-go has it.
fn said(code: u16, about: &str) -> String {
    let what = match code {
        404 => "the server could not find the requested resource",
        503 => "the server is currently unable to handle the request",
        _ => {
            return format!(
                "the server responded with the status code {code} but did not return more information (get {about})"
            );
        }
    };
    format!("{what} (get {about})")
}

/// The path below the version, and the parameters.
fn address(query: &Query) -> String {
    let encode = |text: &str| utf8_percent_encode(text, ENCODED).to_string();
    let path: String = query.path.iter().map(|segment| format!("/{}", encode(segment))).collect();
    let given = query.parameters.iter().filter(|(_, value)| !value.is_empty());
    let given: Vec<String> = given.map(|(name, value)| format!("{name}={}", encode(value))).collect();
    if given.is_empty() { path } else { format!("{path}?{}", given.join("&")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_selectors_are_encoded() {
        let query = Query {
            api: MetricsApi::Custom,
            path: ["namespaces", "d", "pods", "*", "a/b rate"].map(str::to_owned).into(),
            parameters: vec![
                ("labelSelector", "app in (a,b)".to_owned()),
                ("metricLabelSelector", String::new()),
            ],
            about: "pods.custom.metrics.k8s.io *".to_owned(),
        };
        assert_eq!(address(&query), "/namespaces/d/pods/*/a%2Fb%20rate?labelSelector=app%20in%20%28a%2Cb%29");
        assert_eq!(
            said(503, &query.about),
            "the server is currently unable to handle the request (get pods.custom.metrics.k8s.io *)"
        );
    }

    /// What an adapter answers to an autoscaler.
    #[test]
    fn fuzz_metrics_of_others() {
        oarlock_fuzz::Target::new("metrics_of_others").run(|input| {
            let value = serde_json::from_slice(input).unwrap_or_default();
            if let Ok(samples) = samples(&value) {
                assert!(samples.len() <= input.len());
            }
        });
    }
}
