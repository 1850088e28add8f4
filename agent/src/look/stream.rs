//! The same questions by the control plane, over the agent's own connection.

use std::sync::Arc;

use async_trait::async_trait;
use http::StatusCode;
use oarlock_api::node::LookRequest;
use oarlock_api::node::stream_open::Request;
use oarlock_daemon::mux::{STDOUT, Stream};

use super::Look;
use crate::session::streams::{StreamError, StreamSource};

/// Who serves which streams.
pub(crate) struct Sources {
    pub(crate) pods: Arc<dyn StreamSource>,
    pub(crate) look: Arc<Look>,
}

#[async_trait]
impl StreamSource for Sources {
    async fn serve(&self, request: Request, stream: &Stream) -> Result<(), StreamError> {
        let Request::Look(asked) = request else { return self.pods.serve(request, stream).await };
        let answer = answer(Arc::clone(&self.look), asked).await?;
        // Nobody may read it any more.
        let _ = stream.sender().send(STDOUT, answer.into()).await;
        Ok(())
    }
}

/// On a thread that may wait: maps are read.
async fn answer(look: Arc<Look>, asked: LookRequest) -> Result<String, StreamError> {
    let answered = tokio::task::spawn_blocking(move || look.answer(&asked.path, &asked.query)).await;
    let lost = |e: tokio::task::JoinError| StreamError {
        code: StatusCode::INTERNAL_SERVER_ERROR.as_u16(),
        message: e.to_string(),
    };
    let refused =
        |refusal: super::Refusal| StreamError { code: refusal.code.as_u16(), message: refusal.message };
    answered.map_err(lost)?.map_err(refused)
}
