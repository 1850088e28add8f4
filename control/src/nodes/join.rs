//! Joining: a token and a certificate request in, a node's certificate out.

use std::sync::Arc;

use oarlock_api::meta;
use oarlock_api::node::join_server::Join;
use oarlock_api::node::{JoinRequest, JoinResponse};
use oarlock_daemon::pki::Identity;
use sha2::{Digest as _, Sha256};
use tonic::{Request, Response, Status};

use super::Nodes;
use crate::auth::node::{GROUP, USER};

/// The service that anybody may call.
pub(super) struct Service(pub(super) Arc<Nodes>);

#[tonic::async_trait]
impl Join for Service {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let request = request.into_inner();
        // Hashes are compared, so that the time of the comparison says nothing about the token.
        if Sha256::digest(&request.token) != Sha256::digest(&self.0.join_token) {
            tracing::warn!(node = %request.node_name, "a join with a wrong token was refused");
            let what = "the join token is wrong: `oarlock-control token` prints the right one";
            return Err(Status::unauthenticated(what));
        }
        meta::check_dns1123_subdomain(&request.node_name)
            .map_err(|why| Status::invalid_argument(format!("node name {:?}: {why}", request.node_name)))?;
        let response = self.0.sign(&request.node_name, &request.csr_pem)?;
        tracing::info!(node = %request.node_name, "a node joined");
        Ok(Response::new(response))
    }
}

impl Nodes {
    /// A certificate that speaks for the node.
    pub(super) fn sign(&self, node: &str, csr_pem: &str) -> Result<JoinResponse, Status> {
        let identity = Identity { user: format!("{USER}{node}"), groups: vec![GROUP.to_owned()] };
        let certificate_pem =
            self.ca.sign_request(csr_pem, &identity).map_err(|e| Status::invalid_argument(e.to_string()))?;
        Ok(JoinResponse { certificate_pem, ca_pem: self.ca.certificate_pem().to_owned() })
    }
}
