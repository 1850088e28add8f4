//! Images of a registry that asks who one is. It listens on the loopback alone, where Docker needs no certificate.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::Digest as _;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::harness::{self, Node};

const USER: &str = "robot:secret";

/// What is where: content and its type.
type Files = BTreeMap<String, (Vec<u8>, &'static str)>;

fn digest(data: &[u8]) -> String {
    let digest = sha2::Sha256::digest(data);
    format!("sha256:{}", digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// One image, as the registry API has it (image manifest version 2, schema 2).
fn files() -> Files {
    let layer = harness::layer(Path::new("/bin/busybox"));
    let config = json!({"architecture": "amd64", "os": "linux", "config": {"Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]}});
    let config = config.to_string().into_bytes();
    let (kind, of) = ("application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker");
    let manifest = json!({"schemaVersion": 2, "mediaType": kind,
        "config": {"mediaType": format!("{of}.container.image.v1+json"), "size": config.len(), "digest": digest(&config)},
        "layers": [{"mediaType": format!("{of}.image.rootfs.diff.tar"), "size": layer.len(), "digest": digest(&layer)}]});
    let manifest = manifest.to_string().into_bytes();
    let blob = |data: &[u8]| format!("/v2/team/app/blobs/{}", digest(data));
    Files::from([
        ("/v2/".to_owned(), (b"{}".to_vec(), "application/json")),
        (format!("/v2/team/app/manifests/{}", digest(&manifest)), (manifest.clone(), kind)),
        ("/v2/team/app/manifests/1".to_owned(), (manifest, kind)),
        (blob(&config), (config, "application/octet-stream")),
        (blob(&layer), (layer, "application/octet-stream")),
    ])
}

async fn answer(stream: TcpStream, files: Arc<Files>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let (mut first, mut authorization) = (String::new(), String::new());
    stream.read_line(&mut first).await?;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        match line.split_once(':') {
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => {
                value.trim().clone_into(&mut authorization)
            }
            Some(_) => {}
            None => break,
        }
    }
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let known = authorization == format!("Basic {}", STANDARD.encode(USER));
    let (status, more, body) = match files.get(path) {
        _ if !known => {
            ("401 Unauthorized", "WWW-Authenticate: Basic realm=\"test\"\r\n".to_owned(), &b""[..])
        }
        Some((data, kind)) => (
            "200 OK",
            format!("Content-Type: {kind}\r\nDocker-Content-Digest: {}\r\n", digest(data)),
            &data[..],
        ),
        None => ("404 Not Found", String::new(), &b""[..]),
    };
    let head =
        format!("HTTP/1.1 {status}\r\n{more}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await?;
    if method != "HEAD" {
        stream.write_all(body).await?;
    }
    stream.shutdown().await
}

async fn serve(listener: TcpListener) {
    let files = Arc::new(files());
    while let Ok((stream, _)) = listener.accept().await {
        // Who leaves before the answer is none of the server's troubles.
        let _ = answer(stream, Arc::clone(&files)).await;
    }
}

#[tokio::test]
async fn images_are_pulled_with_the_secrets_that_the_pod_names() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let registry = listener.local_addr().unwrap().to_string();
    let node = Node::start("pulls").await;
    let image = format!("{registry}/team/app:1");
    let spec = |secrets: Value| {
        json!({"restartPolicy": "Never", "imagePullSecrets": secrets,
            "containers": [{"name": "c", "image": image, "command": ["echo", "pulled"]}]})
    };
    let (known, unknown) =
        (node.pod("known", spec(json!([{"name": "login"}]))), node.pod("unknown", spec(json!([]))));
    let auths = json!({"auths": {registry.as_str(): {"auth": STANDARD.encode(USER)}, "other.example": {"auth": "eDp5"}}});
    node.secret_of("login", "kubernetes.io/dockerconfigjson", ".dockerconfigjson", &auths.to_string());
    let test = async {
        node.want(std::slice::from_ref(&unknown));
        let waiting = |s: &Value| s["containerStatuses"][0]["state"]["waiting"].clone();
        let refused =
            |s: &Value| ["ErrImagePull", "ImagePullBackOff"].iter().any(|r| waiting(s)["reason"] == *r);
        let status = node.until(&unknown, "refused", refused).await;
        assert!(
            waiting(&status)["message"].as_str().unwrap().contains("no basic auth credentials"),
            "{status}"
        );
        node.want(&[unknown.clone(), known.clone()]);
        node.until(&known, "pulled", |s| s["phase"] == "Succeeded").await;
        node.want(&[]);
        node.until_gone(&known).await;
        node.until_gone(&unknown).await;
    };
    tokio::select! {
        () = serve(listener) => panic!("the registry ended"),
        () = test => {}
    }
    let removed =
        tokio::process::Command::new("docker").args(["image", "rm", &image]).output().await.unwrap();
    assert!(removed.status.success(), "{removed:?}");
    node.stop().await;
}
