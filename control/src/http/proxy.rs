//! `nodes/proxy`: what a node says of its dataplane. Nothing dials a node: the question takes the way of logs. Of what upstream's
//! kubelets answer there nothing else is served. `pods` hands requests on to pods and Services.

pub(super) mod pods;

use http::{Method, Response};
use oarlock_api::catalogue::NODES;
use oarlock_api::node::LookRequest;
use oarlock_api::node::stream_open::Request as Open;
use oarlock_api::status::Status;

use super::logs;
use super::resource::Request;
use super::respond::Body;

/// Answers `GET nodes/<name>/proxy/dataplane/<path>`.
pub(super) async fn proxy(request: &Request<'_>, node: &str) -> Result<Response<Body>, Status> {
    if *request.method != Method::GET {
        return Err(Status::method_not_allowed());
    }
    let path = request.path.below.and_then(|below| below.strip_prefix("dataplane/"));
    let path = path.filter(|path| !path.is_empty()).ok_or_else(Status::no_resource)?;
    request.registry.get(&NODES, "", node).await?;
    let query = request.head.uri.query().unwrap_or_default();
    let look = Open::Look(LookRequest { path: path.to_owned(), query: query.to_owned() });
    logs::answer("application/json", request.nodes.open(node, look).await?).await
}
