//! The admin endpoint of a daemon: `/healthz`, `/livez`, `/readyz` and `/metrics` over plain HTTP, meant for loopback.
//!
//! In: a bound listener, the registry, the health checks. Out: short text answers. Nothing here changes anything.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use http::{Method, StatusCode};
use tokio::net::TcpListener;

use crate::Tasks;
use crate::metrics::{SharedRegistry, encode};
use crate::plain_http::{self, Answer, text, typed};

/// What is well and what is not, by component. Clones share the same state.
#[derive(Debug, Clone, Default)]
pub struct Health {
    checks: Arc<Mutex<Vec<Check>>>,
}

/// A component's name and why it is not well.
type Check = (&'static str, Result<(), String>);

impl Health {
    /// Records the state of a component; the first call also adds it. A process is ready when every component is.
    pub fn set(&self, component: &'static str, state: Result<(), String>) {
        let mut checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        match checks.iter_mut().find(|(name, _)| *name == component) {
            Some((_, present)) => *present = state,
            None => checks.push((component, state)),
        }
    }

    /// Whether all components are well.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner).iter().all(|(_, state)| state.is_ok())
    }

    /// The report in the format of kube-apiserver's `?verbose`: `[+]etcd ok` or `[-]etcd failed: why`.
    #[must_use]
    pub fn report(&self, endpoint: &str) -> String {
        let checks = self.checks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        for (name, state) in checks.iter() {
            let _ = match state {
                Ok(()) => writeln!(text, "[+]{name} ok"),
                Err(why) => writeln!(text, "[-]{name} failed: {why}"),
            };
        }
        let passed = checks.iter().all(|(_, state)| state.is_ok());
        let _ = writeln!(text, "{endpoint} check {}", if passed { "passed" } else { "failed" });
        text
    }
}

/// Serves until shutdown.
pub async fn serve(tasks: Tasks, listener: TcpListener, registry: SharedRegistry, health: Health) {
    serve_with(tasks, listener, registry, health, |_| None).await;
}

/// The same, with more that can be asked: what `more` does not know is answered as above.
pub async fn serve_with(
    tasks: Tasks,
    listener: TcpListener,
    registry: SharedRegistry,
    health: Health,
    more: impl Fn(&http::Uri) -> Option<Answer> + Send + Sync + 'static,
) {
    let token = tasks.token();
    let answer = move |method: &Method, uri: &http::Uri| {
        let known = if *method == Method::GET { more(uri) } else { None };
        known.unwrap_or_else(|| answer(method, uri, &registry, &health))
    };
    plain_http::serve(tasks, token, listener, answer).await;
}

fn answer(
    method: &Method,
    uri: &http::Uri,
    registry: &prometheus_client::registry::Registry,
    health: &Health,
) -> Answer {
    if method != Method::GET && method != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n".into());
    }
    let verbose =
        uri.query().is_some_and(|q| q.split('&').any(|p| p == "verbose" || p.starts_with("verbose=")));
    match uri.path() {
        "/metrics" => {
            let openmetrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            typed(StatusCode::OK, openmetrics, encode(registry))
        }
        "/livez" => text(StatusCode::OK, "ok".into()),
        path @ ("/healthz" | "/readyz") => {
            let ready = health.is_ready();
            let status = if ready { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
            let short = ready && !verbose;
            text(status, if short { "ok".into() } else { health.report(path.trim_start_matches('/')) })
        }
        _ => text(StatusCode::NOT_FOUND, "try /healthz, /livez, /readyz or /metrics\n".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get(path: &str, health: &Health) -> StatusCode {
        let registry = prometheus_client::registry::Registry::default();
        answer(&Method::GET, &path.parse().unwrap(), &registry, health).status()
    }

    #[test]
    fn a_component_that_is_not_well_makes_the_process_not_ready_but_alive() {
        let health = Health::default();
        health.set("store", Err("connection refused".into()));
        health.set("cache", Ok(()));
        assert_eq!(get("/readyz", &health), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(get("/livez", &health), StatusCode::OK);
        assert_eq!(
            health.report("readyz"),
            "[-]store failed: connection refused\n[+]cache ok\nreadyz check failed\n"
        );
        health.set("store", Ok(()));
        assert_eq!(get("/readyz?verbose", &health), StatusCode::OK);
    }

    #[tokio::test]
    async fn metrics_are_served_over_a_real_socket_until_shutdown() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let tasks = Tasks::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let registry = Arc::new(crate::metrics::registry());
        tasks.spawn("admin", serve(tasks.clone(), listener, registry, Health::default()));
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("process_resident_memory_bytes"));
        tasks.shut_down();
        assert_eq!(tasks.finish(std::time::Duration::from_secs(2)).await, Ok(()));
    }
}
