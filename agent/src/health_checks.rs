//! Answers load balancers that ask whether this node has endpoints of a Service with `externalTrafficPolicy: Local`
//! (`spec.healthCheckNodePort`): 200 with some, 503 with none, in kube-proxy's words.
//!
//! Source: k8s.io/kubernetes/pkg/proxy/healthcheck/service_health.go.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, StatusCode};
use oarlock_daemon::Tasks;
use oarlock_daemon::plain_http::{self, Answer};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::dataplane::{HealthCheck, health_checks};
use crate::desired::{Desired, Topic};

/// How often a port that could not be had is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// A port that is listened on, and what it answers.
struct Served {
    check: Arc<Mutex<HealthCheck>>,
    stop: CancellationToken,
}

/// What is answered at each address.
fn at_each(wanted: BTreeMap<u16, HealthCheck>, node_ips: &[IpAddr]) -> Vec<(SocketAddr, HealthCheck)> {
    let mut all = Vec::with_capacity(wanted.len() * node_ips.len());
    for (port, check) in wanted {
        all.extend(node_ips.iter().map(|ip| (SocketAddr::new(*ip, port), check.clone())));
    }
    all
}

/// Follows the Services until shutdown. `node_ips` is where they are answered.
pub(crate) async fn run(tasks: Tasks, desired: Arc<Desired>, node: String, node_ips: Vec<IpAddr>) {
    let mut changed = desired.subscribe(Topic::Services);
    let token = tasks.token();
    let mut served: BTreeMap<SocketAddr, Served> = BTreeMap::new();
    loop {
        let (snapshot, complete) = desired.snapshot();
        let mut missing = false;
        if complete {
            let wanted = health_checks(&snapshot, &node);
            for (_, gone) in served.extract_if(.., |at, _| !wanted.contains_key(&at.port())) {
                gone.stop.cancel();
            }
            for (at, check) in at_each(wanted, &node_ips) {
                if let Some(present) = served.get(&at) {
                    *present.check.lock() = check;
                    continue;
                }
                match listen(&tasks, at, check).await {
                    Ok(new) => drop(served.insert(at, new)),
                    Err(error) => {
                        tracing::warn!(%at, %error, "healthCheckNodePort cannot be listened on; trying again");
                        missing = true;
                    }
                }
            }
        }
        tokio::select! {
            _ = changed.changed() => {}
            () = tokio::time::sleep(AGAIN), if missing => {}
            () = token.cancelled() => return,
        }
    }
}

async fn listen(tasks: &Tasks, address: SocketAddr, check: HealthCheck) -> std::io::Result<Served> {
    let listener = TcpListener::bind(address).await?;
    let stop = tasks.token().child_token();
    let check = Arc::new(Mutex::new(check));
    let answered = Arc::clone(&check);
    let serve =
        plain_http::serve(tasks.clone(), stop.clone(), listener, move |_, _| answer(&answered.lock()));
    tasks.job("health-check", serve);
    Ok(Served { check, stop })
}

fn answer(check: &HealthCheck) -> Answer {
    let status = if check.local_endpoints == 0 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let body = serde_json::json!({
        "service": {"namespace": check.namespace, "name": check.name},
        "localEndpoints": check.local_endpoints,
        "serviceProxyHealthy": true,
    });
    let mut answer = plain_http::typed(status, "application/json", body.to_string());
    let headers = answer.headers_mut();
    headers.insert("X-Content-Type-Options", HeaderValue::from_static("nosniff"));
    headers.insert("X-Load-Balancing-Endpoint-Weight", HeaderValue::from(check.local_endpoints));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn ask(port: u16) -> String {
        for _ in 0..100 {
            if let Ok(mut stream) = tokio::net::TcpStream::connect(("127.0.0.1", port)).await {
                stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
                let mut text = String::new();
                stream.read_to_string(&mut text).await.unwrap();
                return text;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        "nobody answers".to_owned()
    }

    async fn until(port: u16, wanted: &str) -> String {
        for _ in 0..100 {
            let said = ask(port).await;
            if said.contains(wanted) {
                return said;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{wanted} was never said");
    }

    #[tokio::test]
    async fn a_port_answers_as_long_as_its_service_asks_for_it() {
        let tasks = Tasks::new();
        let desired = Arc::new(Desired::default());
        let node_ips = vec!["127.0.0.1".parse().unwrap()];
        tasks.spawn("health-checks", run(tasks.clone(), Arc::clone(&desired), "node1".to_owned(), node_ips));
        // A port that is free now.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let service = format!(
            r#"{{"metadata":{{"name":"web","namespace":"d"}},"spec":{{"type":"LoadBalancer",
                "externalTrafficPolicy":"Local","healthCheckNodePort":{port},"ports":[{{"port":80}}]}}}}"#
        );
        desired.begin();
        desired.update("services", "d", "web", service.as_bytes()).unwrap();
        desired.end_snapshot();
        let said = until(port, "503").await;
        assert!(said.contains(r#"{"service":{"namespace":"d","name":"web"},"localEndpoints":0,"#), "{said}");
        let slice = r#"{"metadata":{"labels":{"kubernetes.io/service-name":"web"}},"addressType":"IPv4",
            "endpoints":[{"addresses":["10.0.0.1"],"nodeName":"node1"},{"addresses":["10.0.0.2"],"nodeName":"node2"}]}"#;
        desired.update("endpointslices", "d", "web-1", slice.as_bytes()).unwrap();
        let said = until(port, "200 OK").await;
        assert!(said.to_lowercase().contains("x-load-balancing-endpoint-weight: 1"), "{said}");
        desired.delete("services", "d", "web").unwrap();
        for _ in 0..100 {
            if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                tasks.shut_down();
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the port is still answered");
    }
}
