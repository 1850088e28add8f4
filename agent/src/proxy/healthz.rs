//! `/healthz` and `/livez` in kube-proxy's words, for load balancers and for who restarts the proxy.
//!
//! In: whether the tables could be written, what the Node says of its end. Out: 200 or 503. An API server that is away makes
//! nothing unhealthy: the node answers Services without it.
//!
//! Source: k8s.io/kubernetes/pkg/proxy/healthcheck/proxy_health.go.

use std::sync::Arc;

use http::{HeaderValue, Method, StatusCode, Uri};
use jiff::Timestamp;
use oarlock_daemon::Tasks;
use oarlock_daemon::plain_http::{self, Answer};
use parking_lot::Mutex;
use serde_json::json;
use tokio::net::TcpListener;

/// What is known. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Healthz(Arc<Mutex<Known>>);

#[derive(Debug)]
struct Known {
    /// Whether what was wanted last is in the kernel; before the first time, whether an earlier proxy's tables serve.
    is_healthy: bool,
    updated: Timestamp,
    is_eligible: bool,
}

impl Healthz {
    /// At the start: whether an earlier proxy's tables serve on.
    pub(super) fn starting(serves: bool) -> Self {
        let known = Known { is_healthy: serves, updated: Timestamp::UNIX_EPOCH, is_eligible: true };
        Self(Arc::new(Mutex::new(known)))
    }

    /// The tables were to be written.
    pub(super) fn written(&self, well: bool, now: Timestamp) {
        let mut known = self.0.lock();
        known.is_healthy = well;
        if well {
            known.updated = now;
        }
    }

    /// Whether the node should get traffic from load balancers, as its Node says.
    pub(super) fn eligible(&self, is_eligible: bool) {
        self.0.lock().is_eligible = is_eligible;
    }

    /// Serves until shutdown.
    pub(super) async fn serve(self, tasks: Tasks, listener: TcpListener) {
        let token = tasks.token();
        let answer = move |method: &Method, uri: &Uri| self.answer(method, uri, Timestamp::now());
        plain_http::serve(tasks, token, listener, answer).await;
    }

    fn answer(&self, method: &Method, uri: &Uri, now: Timestamp) -> Answer {
        if method != Method::GET && method != Method::HEAD {
            return plain_http::text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
        }
        let known = self.0.lock();
        // What has nothing to do is up to date.
        let updated = if known.is_healthy { now } else { known.updated };
        let mut body = json!({"lastUpdated": updated.to_string(), "currentTime": now.to_string()});
        let well = match uri.path() {
            "/livez" => known.is_healthy,
            "/healthz" => {
                body["nodeEligible"] = known.is_eligible.into();
                known.is_healthy && known.is_eligible
            }
            _ => return plain_http::text(StatusCode::NOT_FOUND, "try /healthz or /livez\n".to_owned()),
        };
        let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let mut answer = plain_http::typed(status, "application/json", body.to_string());
        answer.headers_mut().insert("X-Content-Type-Options", HeaderValue::from_static("nosniff"));
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;
    use serde_json::Value;

    const ONE: Timestamp = Timestamp::constant(1_700_000_000, 0);
    const TWO: Timestamp = Timestamp::constant(1_700_000_060, 0);

    async fn get(healthz: &Healthz, path: &str) -> (u16, Value) {
        let answer = healthz.answer(&Method::GET, &path.parse().unwrap(), TWO);
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    #[tokio::test]
    async fn a_proxy_that_has_written_nothing_yet_is_healthy_only_on_an_earlier_ones_tables() {
        assert_eq!(get(&Healthz::starting(true), "/healthz").await.0, 200);
        let fresh = Healthz::starting(false);
        assert_eq!(get(&fresh, "/healthz").await.0, 503);
        fresh.written(true, ONE);
        let body =
            json!({"lastUpdated": TWO.to_string(), "currentTime": TWO.to_string(), "nodeEligible": true});
        assert_eq!(get(&fresh, "/healthz").await, (200, body));
    }

    #[tokio::test]
    async fn tables_that_cannot_be_written_are_told_with_the_time_of_the_last_that_could() {
        let healthz = Healthz::starting(true);
        healthz.written(true, ONE);
        healthz.written(false, TWO);
        let (status, body) = get(&healthz, "/livez").await;
        assert_eq!((status, body["lastUpdated"].as_str()), (503, Some("2023-11-14T22:13:20Z")));
    }

    #[tokio::test]
    async fn a_node_that_ends_sends_load_balancers_away_but_the_proxy_lives() {
        let healthz = Healthz::starting(true);
        healthz.eligible(false);
        assert_eq!(get(&healthz, "/healthz").await.0, 503);
        let (status, body) = get(&healthz, "/livez").await;
        assert_eq!((status, body.get("nodeEligible")), (200, None));
        assert_eq!(get(&healthz, "/metrics").await.0, 404);
    }
}
