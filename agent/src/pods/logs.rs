//! Logs of containers, as `kubectl logs` asks for them.

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use jiff::{SignedDuration, Timestamp};
use oarlock_api::k8s::api::core::v1::PodStatus;
use oarlock_api::node::LogRequest;
use oarlock_daemon::mux::{STDOUT, Stream};

use super::Pods;
use crate::plan::Observed;
use crate::runtime::{Container, LogOptions, Runtime, RuntimeError};
use crate::session::streams::StreamError;

/// How much of a log stands for a termination message: 80 lines, 2 KiB (kubelet's `MaxContainerTerminationMessageLogLines`).
const TAIL_LINES: u64 = 80;
const TAIL_BYTES: usize = 2048;

pub(super) fn refused(code: u16, message: String) -> StreamError {
    StreamError { code, message }
}

pub(super) fn broken(error: &RuntimeError) -> StreamError {
    refused(if error.is_away() { 503 } else { 500 }, error.to_string())
}

impl Pods {
    pub(super) async fn log(&self, request: LogRequest, stream: &Stream) -> Result<(), StreamError> {
        let mut log = self.open_log(request).await?;
        let sender = stream.sender();
        while let Some(piece) = log.next().await {
            if sender.send(STDOUT, piece?).await.is_none() {
                break;
            }
        }
        Ok(())
    }

    pub(super) async fn open_log(&self, request: LogRequest) -> Result<Pieces, StreamError> {
        let runtime = &self.shared.runtime;
        let observed = self.observed(&request.namespace, &request.pod, &request.uid).await?;
        let (container, pod) = (&request.container, &request.pod);
        let chosen = if request.previous {
            let wanted = self.wanted(&request.uid);
            let status = wanted.as_ref().and_then(|pod| pod.status.as_ref());
            before(&observed, status, container).ok_or_else(|| {
                format!("previous terminated container {container:?} in pod {pod:?} not found")
            })
        } else {
            observed.latest(container).ok_or_else(|| {
                format!("container {container:?} in pod {pod:?} is waiting to start: ContainerCreating")
            })
        };
        let chosen = chosen.map_err(|message| refused(400, message))?;
        let options = options(&request, Timestamp::now()).map_err(|message| refused(400, message))?;
        let log = runtime.logs(&chosen.id, &options).await.map_err(|e| broken(&e))?;
        let log = log.map(|piece| piece.map_err(|e| broken(&e)));
        Ok(match request.limit_bytes.and_then(|n| usize::try_from(n).ok()) {
            Some(limit) => limited(log.boxed(), limit),
            None => log.boxed(),
        })
    }
}

/// The container that ended last: of one that waits to be started again that is the newest (kubelet's `validateContainerLogStatus`).
fn before<'o>(observed: &'o Observed, status: Option<&PodStatus>, name: &str) -> Option<&'o Container> {
    let statuses = status.iter().flat_map(|status| {
        [&status.init_container_statuses, &status.container_statuses].into_iter().flatten().flatten()
    });
    let ended =
        statuses.filter(|one| one.name == name).find_map(|one| one.last_state.as_ref()?.terminated.as_ref());
    let id = ended.and_then(|ended| ended.container_id.as_deref()?.strip_prefix("docker://"));
    let of_status = id.and_then(|id| observed.containers.iter().find(|container| container.id == id));
    of_status.or_else(|| observed.previous(name))
}

fn options(request: &LogRequest, now: Timestamp) -> Result<LogOptions, String> {
    let mut since = None;
    if let Some(seconds) = request.since_seconds {
        since = now.checked_sub(SignedDuration::from_secs(seconds)).ok();
    } else if !request.since_time.is_empty() {
        let time = request.since_time.parse::<Timestamp>();
        since = Some(time.map_err(|e| format!("sinceTime {:?} is not a time: {e}", request.since_time))?);
    }
    let tail = request.tail_lines.map(|n| u64::try_from(n).unwrap_or(0));
    Ok(LogOptions { follow: request.follow, timestamps: request.timestamps, tail, since })
}

type Pieces = BoxStream<'static, Result<Bytes, StreamError>>;

/// The first bytes only.
fn limited(log: Pieces, limit: usize) -> Pieces {
    stream::unfold((log, limit), |(mut log, left)| async move {
        if left == 0 {
            return None;
        }
        match log.next().await? {
            Ok(mut piece) => {
                piece.truncate(left);
                let left = left - piece.len();
                Some((Ok(piece), (log, left)))
            }
            Err(error) => Some((Err(error), (log, 0))),
        }
    })
    .boxed()
}

/// The end of a log, for a termination message.
pub(super) async fn tail(runtime: &dyn Runtime, id: &str) -> String {
    let options = LogOptions { tail: Some(TAIL_LINES), ..LogOptions::default() };
    let Ok(mut log) = runtime.logs(id, &options).await else { return String::new() };
    let mut text = Vec::new();
    while let Some(Ok(piece)) = log.next().await {
        text.extend_from_slice(&piece);
    }
    let start = text.len().saturating_sub(TAIL_BYTES);
    String::from_utf8_lossy(text.get(start..).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_becomes_options_and_a_wrong_time_is_named() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let request = LogRequest { since_seconds: Some(60), tail_lines: Some(3), ..LogRequest::default() };
        let made = options(&request, now).unwrap();
        assert_eq!(made.since, "2026-01-01T00:00:00Z".parse().ok());
        assert_eq!(made.tail, Some(3));
        let wrong = LogRequest { since_time: "yesterday".into(), ..LogRequest::default() };
        assert!(options(&wrong, now).unwrap_err().contains("yesterday"));
    }

    #[test]
    fn the_one_before_is_the_one_that_ended_last() {
        let ended = |attempt: u32| Container {
            id: format!("c{attempt}"),
            labels: [
                ("io.kubernetes.container.name", "c".to_owned()),
                ("oarlock.io/attempt", attempt.to_string()),
            ]
            .map(|(label, value)| (label.to_owned(), value))
            .into(),
            image: String::new(),
            image_id: String::new(),
            state: crate::runtime::State::Created,
            stop_signal: None,
        };
        let observed = Observed::new(vec![ended(1), ended(2)]);
        let found = |status: serde_json::Value| {
            let status: PodStatus = serde_json::from_value(status).unwrap();
            before(&observed, Some(&status), "c").map(|container| container.id.clone())
        };
        let last = |id: &str| {
            serde_json::json!({"containerStatuses": [{"name": "c", "lastState": {"terminated": {
            "exitCode": 1, "containerID": format!("docker://{id}")}}, "image": "", "imageID": "", "ready": false, "restartCount": 2}]})
        };
        assert_eq!(found(last("c2")).as_deref(), Some("c2"), "it waits to be started again");
        assert_eq!(found(last("c1")).as_deref(), Some("c1"));
        assert_eq!(found(serde_json::json!({})).as_deref(), Some("c1"), "nobody has said anything yet");
    }

    #[tokio::test]
    async fn a_limit_cuts_in_the_middle_of_a_piece() {
        let pieces = ["hello ", "world"].map(|p| Ok(Bytes::from(p)));
        let cut: Vec<_> = limited(stream::iter(pieces).boxed(), 8).map(Result::unwrap).collect().await;
        assert_eq!(cut.concat(), b"hello wo");
    }
}
