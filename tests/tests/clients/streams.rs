//! Streams into the pod `two` by kube-rs: exec, attach, logs, port-forward.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests panic, as tests do")]

use std::path::Path;
use std::time::Duration;

use futures_util::{AsyncBufReadExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use kube::api::{Api, AttachParams, AttachedProcess, LogParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const PATIENCE: Duration = Duration::from_secs(60);

/// All of it, in time.
pub(super) fn streams_work(kubeconfig: &Path) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(PATIENCE, all(kubeconfig)).await.expect("in time");
    });
}

async fn all(kubeconfig: &Path) {
    let config = Kubeconfig::read_from(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await.unwrap();
    let pods: Api<Pod> = Api::default_namespaced(Client::try_from(config).unwrap());
    commands_run(&pods).await;
    ports_are_forwarded(&pods).await;
    let logs = LogParams { container: Some("web".to_owned()), ..LogParams::default() };
    let whole = pods.logs("two", &logs).await.unwrap();
    let lines: Vec<String> =
        pods.log_stream("two", &logs).await.unwrap().lines().try_collect().await.unwrap();
    assert!(whole.lines().zip(&lines).all(|(one, other)| one == other), "{whole} {lines:?}");
}

fn params() -> AttachParams {
    AttachParams::default().container("tool")
}

async fn ended(mut process: AttachedProcess) -> (String, Status) {
    let (mut stdout, status) = (process.stdout().unwrap(), process.take_status().unwrap());
    let mut output = String::new();
    stdout.read_to_string(&mut output).await.unwrap();
    (output, status.await.unwrap())
}

async fn commands_run(pods: &Api<Pod>) {
    let (output, status) = ended(pods.exec("two", ["echo", "hello"], &params()).await.unwrap()).await;
    assert_eq!((output.as_str(), status.status.as_deref()), ("hello\n", Some("Success")), "{status:?}");
    let (_, status) = ended(pods.exec("two", ["sh", "-c", "exit 3"], &params()).await.unwrap()).await;
    assert_eq!(
        (status.reason.as_deref(), status.status.as_deref()),
        (Some("NonZeroExitCode"), Some("Failure")),
        "{status:?}"
    );
    // Its end of input is heard, and all that was said before.
    let mut process = pods.exec("two", ["sha256sum"], &params().stdin(true)).await.unwrap();
    let mut stdin = process.stdin().unwrap();
    stdin.write_all(&vec![7; 3_000_000]).await.unwrap();
    stdin.shutdown().await.unwrap();
    drop(stdin);
    let (output, status) = ended(process).await;
    assert!(output.starts_with("892f2f"), "{output} {status:?}");
    let refused = pods.exec("nothing", ["true"], &params()).await.map(drop);
    assert!(
        matches!(&refused, Err(kube::Error::Api(status)) if status.is_not_found())
            || matches!(&refused, Err(kube::Error::UpgradeConnection(_))),
        "{refused:?}"
    );
}

async fn ports_are_forwarded(pods: &Api<Pod>) {
    let mut forward = pods.portforward("two", &[80, 81]).await.unwrap();
    let refused = forward.take_error(81).unwrap();
    let mut web = forward.take_stream(80).unwrap();
    web.write_all(b"GET /healthz HTTP/1.1\r\nHost: two\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = [0; 15];
    web.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200 OK");
    let why = refused.await.unwrap();
    assert!(why.contains("error forwarding port 81 to pod two"), "{why}");
    drop(web);
    forward.abort();
}
