//! The side of the leader in the conversation of control planes: who shows a certificate of a control plane is told what nodes use,
//! and heard.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use oarlock_api::node::SharedReport;
use oarlock_api::node::peer_server::Peer;
use oarlock_daemon::pki::peer_identity;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::Nodes;
use crate::usage::share;

/// Reports on their way to one control plane.
const IN_FLIGHT: usize = 64;

/// The service that other control planes call.
pub(super) struct Service(pub(super) Arc<Nodes>);

#[tonic::async_trait]
impl Peer for Service {
    type ShareUsageStream = Pin<Box<dyn Stream<Item = Result<SharedReport, Status>> + Send>>;

    async fn share_usage(
        &self,
        request: Request<Streaming<SharedReport>>,
    ) -> Result<Response<Self::ShareUsageStream>, Status> {
        let from = request.remote_addr();
        let certificates = request.peer_certs();
        let identity = certificates.as_ref().and_then(|certs| peer_identity(certs.first()?));
        if !identity.is_some_and(|identity| identity.groups.iter().any(|group| group == share::GROUP)) {
            return Err(Status::permission_denied(
                "only control planes of this cluster are told what nodes use",
            ));
        }
        let heard = request.into_inner();
        let (sender, receiver) = mpsc::channel(IN_FLIGHT);
        let nodes = Arc::clone(&self.0);
        let stop = nodes.tasks.token();
        nodes.tasks.clone().job("node/peer", async move {
            let ended = tokio::select! {
                ended = share::converse(&nodes.usage, heard, &sender) => ended,
                () = sender.closed() => Ok(()),
                () = stop.cancelled() => Ok(()),
            };
            tracing::debug!(?from, ?ended, "another control plane is told no more what nodes use");
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver).map(Ok))))
    }
}
