//! Streams into pods: commands, attached containers, connections. Logs are next door.
//!
//! In: what the control plane opened. Out: bytes both ways until one side ends. A process that nobody talks to any more loses
//! its input and output; it is not killed, as kubelet does not.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use oarlock_api::k8s::api::core::v1::Pod;
use oarlock_api::node::stream_open::Request;
use oarlock_api::node::{AttachRequest, DialRequest, ExecRequest};
use oarlock_daemon::mux::{ERROR, Piece, RESIZE, STDERR, STDIN, STDOUT, Sender, Stream};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::Pods;
use super::logs::{broken, refused};
use crate::net::dial_loopback;
use crate::plan::{Observed, definition};
use crate::runtime::{Runtime, Session, Talk, Wanted, Written};
use crate::session::streams::{StreamError, StreamSource};

/// How long a command that has closed its outputs may take to end before nobody waits for its exit code.
const ENDING: Duration = Duration::from_secs(5);
/// How long a terminal may take to be there before its size is forgotten.
const TERMINAL: Duration = Duration::from_secs(2);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);

#[async_trait]
impl StreamSource for Pods {
    async fn serve(&self, request: Request, stream: &Stream) -> Result<(), StreamError> {
        match request {
            Request::Log(request) => self.log(request, stream).await,
            Request::Exec(request) => self.exec(request, stream).await,
            Request::Attach(request) => self.attach(request, stream).await,
            Request::Dial(request) => self.dial(request, stream).await,
            Request::Look(_) => Err(refused(501, "pods know nothing of the dataplane".to_owned())),
        }
    }
}

impl Pods {
    /// The containers of a pod. Whose mirror a pod is, its annotations say, which its author wrote: the names have to agree.
    pub(super) async fn observed(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> Result<Observed, StreamError> {
        let mut found = self.shared.runtime.pod(uid).await.map_err(|e| broken(&e))?;
        found.retain(|container| container.is_of(namespace, name));
        Ok(Observed::new(found))
    }

    /// A pod as the control plane has it.
    pub(super) fn wanted(&self, uid: &str) -> Option<Arc<Pod>> {
        let snapshot = self.shared.snapshot();
        snapshot.pods.values().find(|pod| pod.metadata.uid.as_deref() == Some(uid)).cloned()
    }

    async fn running(
        &self,
        (namespace, pod, uid): (&str, &str, &str),
        container: &str,
    ) -> Result<String, StreamError> {
        let observed = self.observed(namespace, pod, uid).await?;
        let found = observed.latest(container).filter(|c| c.is_running());
        let found = found.ok_or_else(|| refused(404, format!("container not found ({container:?})")))?;
        Ok(found.id.clone())
    }

    /// Whether a container hears that its input has ended. Where it does not, Docker takes the end of the input for the end of
    /// the conversation (moby, daemon/container/stream/attach.go, `CopyStreams`).
    fn input_ends(&self, uid: &str, container: &str) -> bool {
        let pod = self.wanted(uid);
        let spec = pod.as_ref().and_then(|pod| pod.spec.as_ref());
        let definition = spec.and_then(|spec| definition(spec, container));
        definition.is_some_and(|d| d.stdin_once == Some(true) && d.tty != Some(true))
    }

    async fn exec(&self, request: ExecRequest, stream: &Stream) -> Result<(), StreamError> {
        let whose = (&*request.namespace, &*request.pod, &*request.uid);
        let id = self.running(whose, &request.container).await?;
        let ExecRequest { stdin, stdout, stderr, tty, .. } = request;
        let wanted = Wanted { stdin, stdout, stderr, tty };
        let runtime = &*self.shared.runtime;
        let talk = runtime.talk(&id, &request.command, wanted).await.map_err(|e| broken(&e))?;
        let session = talk.session.clone();
        pump(runtime, talk, wanted, !tty, stream).await?;
        let status = match exit_code(runtime, &session).await? {
            0 => json!({"metadata": {}, "status": "Success"}),
            code => ended_with(code, &request.command),
        };
        say(&stream.sender(), &status).await;
        Ok(())
    }

    async fn attach(&self, request: AttachRequest, stream: &Stream) -> Result<(), StreamError> {
        let whose = (&*request.namespace, &*request.pod, &*request.uid);
        let id = self.running(whose, &request.container).await?;
        let AttachRequest { stdin, stdout, stderr, tty, .. } = request;
        let wanted = Wanted { stdin, stdout, stderr, tty };
        let runtime = &*self.shared.runtime;
        let talk = runtime.attach(&id, wanted).await.map_err(|e| broken(&e))?;
        let ends = self.input_ends(&request.uid, &request.container);
        pump(runtime, talk, wanted, ends, stream).await?;
        say(&stream.sender(), &json!({"metadata": {}, "status": "Success"})).await;
        Ok(())
    }

    async fn dial(&self, request: DialRequest, stream: &Stream) -> Result<(), StreamError> {
        let observed = self.observed(&request.namespace, &request.pod, &request.uid).await?;
        let gone = || refused(404, format!("pod {} has no network here: it does not run", request.pod));
        let (_, pid) = observed.sandbox().ok_or_else(gone)?;
        let port = u16::try_from(request.port).unwrap_or(0);
        let failed = |why: &str| refused(502, format!("dial tcp4 127.0.0.1:{port}: connect: {why}"));
        let connection = match tokio::time::timeout(CONNECT, dial_loopback(pid, port)).await {
            Err(_) => return Err(failed("timed out")),
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                return Err(failed("connection refused"));
            }
            Ok(connection) => connection.map_err(|e| failed(&e.to_string()))?,
        };
        // Whatever the other side says about it, it breaks for the pod as it would without us in between.
        let _ = connection.set_nodelay(true);
        let (mut from_pod, mut to_pod) = connection.into_split();
        let sender = stream.sender();
        stream.receive().await;
        let down = async {
            while let Some(Piece::Data(_, bytes)) = stream.read(&[STDIN]).await {
                to_pod.write_all(&bytes).await?;
            }
            to_pod.shutdown().await
        };
        let up = async {
            let mut buffer = bytes::BytesMut::new();
            loop {
                buffer.reserve(32 * 1024);
                if from_pod.read_buf(&mut buffer).await? == 0
                    || sender.send(STDOUT, buffer.split().freeze()).await.is_none()
                {
                    break;
                }
            }
            sender.end_of(STDOUT).await;
            Ok(())
        };
        let broke = |e: std::io::Error| refused(502, format!("the connection to the pod broke: {e}"));
        tokio::try_join!(down, up).map(drop).map_err(broke)
    }
}

/// Carries bytes both ways until the process has closed its outputs.
async fn pump(
    runtime: &dyn Runtime,
    talk: Talk,
    wanted: Wanted,
    input_ends: bool,
    stream: &Stream,
) -> Result<(), StreamError> {
    let Talk { session, mut input, mut output } = talk;
    stream.receive().await;
    let feed = async {
        while let Some(Piece::Data(_, bytes)) = stream.read(&[STDIN]).await {
            // A process that has closed its input reads no more; the sender need not know.
            if wanted.stdin && input.write_all(&bytes).await.is_ok() {
                let _ = input.flush().await;
            }
        }
        if input_ends {
            let _ = input.shutdown().await;
        }
        std::future::pending::<()>().await;
    };
    let sizes = async {
        while let Some(Piece::Data(_, size)) = stream.read(&[RESIZE]).await {
            if wanted.tty {
                resize(runtime, &session, &size).await;
            }
        }
        std::future::pending::<()>().await;
    };
    let sender = stream.sender();
    let show = async {
        while let Some(piece) = output.next().await {
            let sent = match piece.map_err(|e| broken(&e))? {
                Written::Out(bytes) if wanted.stdout => sender.send(STDOUT, bytes).await,
                Written::Err(bytes) if wanted.stderr => sender.send(STDERR, bytes).await,
                Written::Out(_) | Written::Err(_) => Some(()),
            };
            if sent.is_none() {
                break;
            }
        }
        for channel in [STDOUT, STDERR] {
            sender.end_of(channel).await;
        }
        Ok(())
    };
    tokio::select! {
        shown = show => shown,
        () = feed => Ok(()),
        () = sizes => Ok(()),
    }
}

/// The size of a terminal as clients send it.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Size {
    width: u16,
    height: u16,
}

/// The process of a command may not be there yet when the first size arrives.
async fn resize(runtime: &dyn Runtime, session: &Session, size: &[u8]) {
    let size = match serde_json::from_slice::<Size>(size) {
        Ok(size) if size.width > 0 && size.height > 0 => size,
        Ok(_) | Err(_) => return,
    };
    let repeat = async {
        while runtime.resize(session, size.width, size.height).await.is_err() {
            tokio::time::sleep(PAUSE).await;
        }
    };
    if tokio::time::timeout(TERMINAL, repeat).await.is_err() {
        tracing::debug!("a terminal did not take its size");
    }
}

/// The runtime notes a moment after a command's outputs are closed how it ended.
async fn exit_code(runtime: &dyn Runtime, session: &Session) -> Result<i64, StreamError> {
    let ask = async {
        loop {
            if let Some(code) = runtime.exit_code(session).await.map_err(|e| broken(&e))? {
                return Ok(code);
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    let late = || refused(500, "the command closed its output but did not end".to_owned());
    tokio::time::timeout(ENDING, ask).await.map_err(|_| late())?
}

/// What upstream's kubelet says (k8s.io/apimachinery, `NonZeroExitCodeReason`).
fn ended_with(code: i64, command: &[String]) -> Value {
    let what = "command terminated with non-zero exit code: error executing command";
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("{what} [{}], exit code {code}", command.join(" ")),
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}

async fn say(sender: &Sender, status: &Value) {
    sender.send(ERROR, status.to_string().into()).await;
}

#[cfg(test)]
mod tests {
    use oarlock_daemon::Tasks;
    use oarlock_daemon::mux::local;

    use super::*;
    use crate::runtime::fake::Fake;

    #[tokio::test]
    async fn output_comes_before_its_end_and_the_exit_code_is_told() {
        let tasks = Tasks::new();
        let (control, mut opened) = local(&tasks);
        let near = control.open(Request::Exec(ExecRequest::default())).await.unwrap();
        let (far, _) = opened.recv().await.unwrap();
        let runtime = Fake::default();
        let wanted = Wanted { stdin: true, stdout: true, stderr: true, tty: false };
        let talk = runtime.talk("c", &["3".to_owned()], wanted).await.unwrap();
        let session = talk.session.clone();
        pump(&runtime, talk, wanted, true, &far).await.unwrap();
        let code = exit_code(&runtime, &session).await.unwrap();
        say(&far.sender(), &ended_with(code, &["3".to_owned()])).await;
        far.finish(0, "").await;
        let all = [STDOUT, STDERR, ERROR];
        for expected in [Piece::Data(STDOUT, "3".into()), Piece::End(STDOUT), Piece::Data(STDERR, "3".into())]
        {
            assert_eq!(near.read(&all).await, Some(expected));
        }
        assert_eq!(near.read(&all).await, Some(Piece::End(STDERR)));
        let Some(Piece::Data(ERROR, status)) = near.read(&all).await else { panic!("no status") };
        let status: Value = serde_json::from_slice(&status).unwrap();
        assert_eq!(status["details"]["causes"][0]["message"], "3");
        assert_eq!(near.read(&all).await, None);
    }

    #[tokio::test]
    async fn sizes_that_are_none_are_let_be() {
        let runtime = Fake::default();
        runtime.fail("resize");
        let session = Session::Command("c".to_owned());
        for wrong in ["", "{}", "{\"Width\":-1}", "{\"Width\":0,\"Height\":9}"] {
            resize(&runtime, &session, wrong.as_bytes()).await;
        }
        // The first is refused and said again.
        resize(&runtime, &session, b"{\"Width\":80,\"Height\":24}").await;
        assert!(runtime.resize(&session, 1, 1).await.is_ok());
    }
}
