//! `pods/log`: which container, then the bytes as the node sends them.

use bytes::Bytes;
use http::Response;
use oarlock_api::catalogue::PODS;
use oarlock_api::meta;
use oarlock_api::node::LogRequest;
use oarlock_api::node::stream_open::Request;
use oarlock_api::static_pod;
use oarlock_api::status::Status;
use oarlock_daemon::mux::{Piece, STDOUT, Stream};
use serde_json::Value;

use super::query::Query;
use super::respond::{self, Body};
use super::streams::{NodeStreams, failure};
use crate::registry::Registry;

/// Answers `GET pods/<name>/log`.
pub(super) async fn log(
    registry: &Registry,
    nodes: &dyn NodeStreams,
    namespace: &str,
    name: &str,
    query: &Query,
) -> Result<Response<Body>, Status> {
    let pod = registry.get(&PODS, namespace, name).await?;
    let container = container(&pod, query.get("container"))?;
    let previous = query.flag("previous");
    check_started(&pod, &container, previous)?;
    let node = pod["spec"]["nodeName"].as_str().unwrap_or("").to_owned();
    let number = |field: &str| -> Result<Option<i64>, Status> {
        Ok(query.number(field)?.map(|n| i64::try_from(n).unwrap_or(i64::MAX)))
    };
    let request = LogRequest {
        namespace: namespace.to_owned(),
        pod: name.to_owned(),
        uid: static_pod::uid_on_node(&pod).to_owned(),
        container,
        follow: query.flag("follow"),
        previous,
        timestamps: query.flag("timestamps"),
        tail_lines: number("tailLines")?,
        since_seconds: number("sinceSeconds")?,
        limit_bytes: number("limitBytes")?,
        since_time: query.get("sinceTime").unwrap_or("").to_owned(),
    };
    answer("text/plain", nodes.open(&node, Request::Log(request)).await?).await
}

/// Answers with what comes from a node.
pub(super) async fn answer(content_type: &'static str, stream: Stream) -> Result<Response<Body>, Status> {
    // A failure before the first byte is an answer of its own; one after it can only end the stream.
    let first = match stream.read(&[STDOUT]).await {
        Some(Piece::Data(_, first)) => first,
        Some(Piece::End(_)) | None => match stream.closed().await {
            close if close.code == 0 => Bytes::new(),
            close => return Err(failure(&close)),
        },
    };
    let rest = futures_util::stream::unfold(stream, |stream| async move {
        match stream.read(&[STDOUT]).await {
            Some(Piece::Data(_, piece)) => Some((piece, stream)),
            Some(Piece::End(_)) | None => None,
        }
    });
    let all = futures_util::StreamExt::chain(futures_util::stream::iter([first]), rest);
    Ok(respond::stream(content_type, all))
}

fn names(pod: &Value, field: &str) -> Vec<String> {
    let list = pod["spec"][field].as_array().into_iter().flatten();
    list.filter_map(|c| c["name"].as_str().map(str::to_owned)).collect()
}

/// The container that is asked for; the only one when none is.
pub(super) fn container(pod: &Value, asked: Option<&str>) -> Result<String, Status> {
    let (init, main) = (names(pod, "initContainers"), names(pod, "containers"));
    let added = names(pod, "ephemeralContainers");
    let name = meta::name(pod);
    match asked {
        Some(asked) if main.iter().chain(&init).chain(&added).any(|n| n == asked) => Ok(asked.to_owned()),
        Some(asked) => Err(Status::bad_request(format!("container {asked} is not valid for pod {name}"))),
        None => match main.as_slice() {
            [only] if init.is_empty() => Ok(only.clone()),
            _ => {
                let choices = format!("choose one of: [{}]", main.join(" "));
                let also = if init.is_empty() {
                    String::new()
                } else {
                    format!(" or one of the init containers: [{}]", init.join(" "))
                };
                Err(Status::bad_request(format!(
                    "a container name must be specified for pod {name}, {choices}{also}"
                )))
            }
        },
    }
}

fn check_started(pod: &Value, container: &str, previous: bool) -> Result<(), Status> {
    let name = meta::name(pod);
    let statuses = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"].into_iter();
    let status = statuses
        .flat_map(|f| pod["status"][f].as_array().into_iter().flatten())
        .find(|s| s["name"] == container);
    let scheduled = pod["spec"]["nodeName"].as_str().is_some_and(|n| !n.is_empty());
    if !scheduled {
        return Err(Status::bad_request(format!("pod {name} does not have a host assigned")));
    }
    if previous {
        let terminated = status.is_some_and(|s| !s["lastState"]["terminated"].is_null());
        let message = format!("previous terminated container {container:?} in pod {name:?} not found");
        return if terminated { Ok(()) } else { Err(Status::bad_request(message)) };
    }
    let waiting = status.map_or(Some("ContainerCreating"), |s| {
        let ran = !s["lastState"]["terminated"].is_null();
        s["state"]["waiting"]["reason"].as_str().filter(|_| !ran)
    });
    match waiting {
        Some(reason) => Err(Status::bad_request(format!(
            "container {container:?} in pod {name:?} is waiting to start: {reason}"
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_container_must_be_named_when_there_are_several() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        let error = container(&pod, None).unwrap_err();
        assert_eq!(error.message, "a container name must be specified for pod p, choose one of: [a b]");
        assert_eq!(container(&pod, Some("b")).unwrap(), "b");
        assert!(container(&pod, Some("c")).is_err());
    }

    #[test]
    fn a_container_that_never_ran_says_what_it_waits_for() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n"}, "status": {"containerStatuses": [
            {"name": "c", "state": {"waiting": {"reason": "ImagePullBackOff"}}}]}});
        let error = check_started(&pod, "c", false).unwrap_err();
        assert_eq!(error.message, "container \"c\" in pod \"p\" is waiting to start: ImagePullBackOff");
        assert!(check_started(&pod, "c", true).is_err());
    }
}
