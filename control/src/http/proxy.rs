//! `nodes/proxy`: what a node says of its dataplane, and what upstream's kubelets answer of what is used there. Nothing dials a node:
//! questions about the dataplane take the way of logs, the others are answered from the agent's last report. `pods` hands requests on
//! to pods and Services.

pub(super) mod pods;
mod stats;

use http::{Method, Response, StatusCode};
use jiff::Timestamp;
use oarlock_api::catalogue::NODES;
use oarlock_api::node::LookRequest;
use oarlock_api::node::stream_open::Request as Open;
use oarlock_api::status::Status;

use super::logs;
use super::resource::Request;
use super::respond::{self, Body};

/// Answers `GET nodes/<name>/proxy/dataplane/<path>`, `.../stats/summary` and `.../metrics/resource`.
pub(super) async fn proxy(request: &Request<'_>, node: &str) -> Result<Response<Body>, Status> {
    if *request.method != Method::GET {
        return Err(Status::method_not_allowed());
    }
    if let Some(about @ ("stats/summary" | "metrics/resource")) = request.path.below {
        request.registry.get(&NODES, "", node).await?;
        let usage = request.usage.node(node, Timestamp::now());
        let missing = || {
            Status::unavailable(format!("node {node} does not say what it uses now: is its agent connected?"))
        };
        let report = &usage.as_ref().ok_or_else(missing)?.report;
        return Ok(match about {
            "stats/summary" => respond::json(StatusCode::OK, &stats::summary(node, report)),
            _ => respond::bytes(StatusCode::OK, "text/plain; version=0.0.4", stats::resource(report)),
        });
    }
    let path = request.path.below.and_then(|below| below.strip_prefix("dataplane/"));
    let path = path.filter(|path| !path.is_empty()).ok_or_else(Status::no_resource)?;
    request.registry.get(&NODES, "", node).await?;
    let query = request.head.uri.query().unwrap_or_default();
    let look = Open::Look(LookRequest { path: path.to_owned(), query: query.to_owned() });
    logs::answer("application/json", request.nodes.open(node, look).await?).await
}
