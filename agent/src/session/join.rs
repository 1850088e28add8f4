//! Becoming a member: a private key, a certificate for it in exchange for the join token, and renewal in time.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use oarlock_api::node::join_client::JoinClient;
use oarlock_api::node::node_client::NodeClient;
use oarlock_api::node::{JoinRequest, JoinResponse, RenewRequest};
use oarlock_daemon::files::{read_if_present, write_atomic};
use oarlock_daemon::pki::{self, CertifiedKey};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A peer that does not answer a ping for this long is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How to become and stay a member.
#[derive(Debug, Clone)]
pub(crate) struct Joining {
    pub(crate) node_name: String,
    /// `https://host:port` of the agents' port.
    pub(crate) server: String,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) ca_hash: Option<String>,
    /// Folder of node.pem (certificate and key, in one file so that they change at once) and ca.crt.
    pub(crate) pki_dir: PathBuf,
}

/// How often a certificate is looked at while a session is open, which may be for months.
const LOOK: Duration = Duration::from_secs(60 * 60);
/// What a certificate and a key in one file begin with.
const KEY_BEGINS: &str = "-----BEGIN PRIVATE KEY-----";

/// How much a certificate is worth.
#[derive(Debug, PartialEq, Eq)]
enum Worth {
    Good,
    /// Less than a third of its life is left.
    Old,
    /// Nobody takes it any more.
    Over,
}

/// What a member holds.
#[derive(Debug, Clone)]
pub(crate) struct Credentials {
    own: CertifiedKey,
    ca_pem: String,
}

impl Joining {
    /// The credentials on disk, or new ones for the token.
    pub(crate) async fn credentials(&self) -> anyhow::Result<Credentials> {
        if let Some(present) = self.read()? {
            return Ok(present);
        }
        let token_file =
            self.token_file.as_deref().context("this node has not joined yet: --token-file is needed")?;
        let token =
            read_if_present(token_file)?.with_context(|| format!("{} is missing", token_file.display()))?;
        let ca_pem = self.trusted_ca().await?;
        let (key_pem, csr_pem) = pki::new_request(&self.identity())?;
        let channel =
            endpoint(&self.server, ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&ca_pem)))?
                .connect()
                .await
                .with_context(|| format!("cannot reach {} to join", self.server))?;
        let request =
            JoinRequest { token: token.trim().to_owned(), node_name: self.node_name.clone(), csr_pem };
        let response = JoinClient::new(channel)
            .join(request)
            .await
            .map_err(|status| anyhow::anyhow!("the control plane refused the join: {}", status.message()))?;
        tracing::info!(node = %self.node_name, "joined the cluster");
        self.keep(response.into_inner(), key_pem)
    }

    /// Renews the certificate in time, for as long as the channel lives; the next connection uses the new one.
    pub(crate) async fn stay_member(&self, channel: Channel) {
        loop {
            if let Ok(Some(present)) = self.read()
                && worth(&present.own.certificate_pem) == Worth::Old
            {
                match self.renew(channel.clone()).await {
                    Ok(_) => tracing::info!("the node's certificate was renewed"),
                    Err(error) => {
                        let error = format!("{error:#}");
                        tracing::warn!(
                            error,
                            "the node's certificate could not be renewed yet; trying again"
                        );
                    }
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Who this node is.
    fn identity(&self) -> pki::Identity {
        pki::Identity { user: format!("system:node:{}", self.node_name), groups: Vec::new() }
    }

    async fn renew(&self, channel: Channel) -> anyhow::Result<Credentials> {
        let (key_pem, csr_pem) = pki::new_request(&self.identity())?;
        let response = NodeClient::new(channel).renew(RenewRequest { csr_pem }).await?;
        self.keep(response.into_inner(), key_pem)
    }

    /// The credentials on disk, if there are any that are worth something.
    fn read(&self) -> anyhow::Result<Option<Credentials>> {
        let read = |name: &str| read_if_present(&self.pki_dir.join(name));
        let (Some(both), Some(ca_pem)) = (read("node.pem")?, read("ca.crt")?) else { return Ok(None) };
        let Some((certificate_pem, key)) = both.split_once(KEY_BEGINS) else { return Ok(None) };
        if worth(certificate_pem) == Worth::Over {
            tracing::warn!("the node's certificate has run out: joining again");
            return Ok(None);
        }
        let own = CertifiedKey {
            certificate_pem: certificate_pem.to_owned(),
            key_pem: format!("{KEY_BEGINS}{key}"),
        };
        Ok(Some(Credentials { own, ca_pem }))
    }

    fn keep(&self, response: JoinResponse, key_pem: String) -> anyhow::Result<Credentials> {
        let certificate_pem = response.certificate_pem;
        anyhow::ensure!(
            worth(&certificate_pem) != Worth::Over,
            "the control plane sent no valid certificate"
        );
        write_atomic(&self.pki_dir.join("ca.crt"), response.ca_pem.as_bytes(), 0o644)?;
        let both = format!("{}\n{key_pem}", certificate_pem.trim_end());
        write_atomic(&self.pki_dir.join("node.pem"), both.as_bytes(), 0o600)?;
        let own = CertifiedKey { certificate_pem, key_pem };
        Ok(Credentials { own, ca_pem: response.ca_pem })
    }

    async fn trusted_ca(&self) -> anyhow::Result<String> {
        if let Some(path) = self.ca_file.as_deref() {
            return read_ca(path);
        }
        let hash = self
            .ca_hash
            .as_deref()
            .context("this node has not joined yet: --ca-file or --ca-hash is needed")?;
        let address = self.server.strip_prefix("https://").unwrap_or(&self.server).trim_end_matches('/');
        Ok(pki::fetch_ca(address, hash).await?)
    }
}

/// A channel that both sides have authenticated.
pub(super) async fn connect(server: &str, credentials: &Credentials) -> anyhow::Result<Channel> {
    let identity = Identity::from_pem(&credentials.own.certificate_pem, &credentials.own.key_pem);
    let tls =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&credentials.ca_pem)).identity(identity);
    endpoint(server, tls)?
        .connect()
        .await
        .with_context(|| format!("cannot reach the control plane at {server}"))
}

fn endpoint(server: &str, tls: ClientTlsConfig) -> anyhow::Result<Endpoint> {
    let endpoint = Endpoint::from_shared(server.to_owned())
        .with_context(|| format!("--server {server} is no address: give it as https://HOST:6444"))?
        .tls_config(tls)?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true);
    Ok(endpoint)
}

fn read_ca(path: &Path) -> anyhow::Result<String> {
    read_if_present(path)?.with_context(|| format!("--ca-file {} is missing", path.display()))
}

fn worth(certificate_pem: &str) -> Worth {
    worth_of(pki::life_left(certificate_pem))
}

/// By the part of its life that is left; what cannot be read is worth nothing.
fn worth_of(life_left: Option<f64>) -> Worth {
    match life_left {
        Some(left) if left >= 1.0 / 3.0 => Worth::Good,
        Some(left) if left > 0.0 => Worth::Old,
        _ => Worth::Over,
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use oarlock_api::node::node_server::{Node, NodeServer};
    use oarlock_api::node::{AgentMessage, ControlMessage, StreamFrame};
    use oarlock_daemon::pki::{Ca, Identity};
    use tonic::{Request, Response, Status, Streaming};

    use super::*;

    /// A control plane that renews, and nothing else.
    struct Renews(Ca);

    type Nothing<T> = Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

    #[tonic::async_trait]
    impl Node for Renews {
        type SessionStream = Nothing<ControlMessage>;
        type StreamsStream = Nothing<StreamFrame>;

        async fn session(
            &self,
            _: Request<Streaming<AgentMessage>>,
        ) -> Result<Response<Self::SessionStream>, Status> {
            Err(Status::unimplemented("not here"))
        }

        async fn streams(
            &self,
            _: Request<Streaming<StreamFrame>>,
        ) -> Result<Response<Self::StreamsStream>, Status> {
            Err(Status::unimplemented("not here"))
        }

        async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<JoinResponse>, Status> {
            let identity = Identity { user: "system:node:n".to_owned(), groups: Vec::new() };
            let certificate_pem = self.0.sign_request(&request.into_inner().csr_pem, &identity);
            let certificate_pem = certificate_pem.map_err(|e| Status::invalid_argument(e.to_string()))?;
            Ok(Response::new(JoinResponse { certificate_pem, ca_pem: self.0.certificate_pem().to_owned() }))
        }
    }

    fn joining(folder: &Path) -> Joining {
        Joining {
            node_name: "n".to_owned(),
            server: String::new(),
            token_file: None,
            ca_file: None,
            ca_hash: None,
            pki_dir: folder.to_owned(),
        }
    }

    #[tokio::test]
    async fn a_renewed_certificate_and_its_key_replace_the_old_ones_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let ca = Ca::load_or_create(&folder.path().join("ca")).unwrap();
        let joining = joining(folder.path());
        let identity = Identity { user: "system:node:n".to_owned(), groups: Vec::new() };
        let (key_pem, csr) = pki::new_request(&identity).unwrap();
        let certificate_pem = ca.sign_request(&csr, &identity).unwrap();
        let joined = JoinResponse { certificate_pem, ca_pem: ca.certificate_pem().to_owned() };
        let first = joining.keep(joined, key_pem).unwrap();
        let read = joining.read().unwrap().unwrap();
        assert_eq!(read.own.key_pem, first.own.key_pem);
        assert_eq!(read.own.certificate_pem.trim(), first.own.certificate_pem.trim());

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let serving = tonic::transport::Server::builder()
            .add_service(NodeServer::new(Renews(ca)))
            .serve_with_incoming(incoming);
        let renewing = async {
            let channel = Endpoint::from_shared(server).unwrap().connect().await.unwrap();
            joining.renew(channel).await.unwrap()
        };
        let renewed = tokio::select! {
            ended = serving => panic!("{ended:?}"),
            renewed = renewing => renewed,
        };
        assert_ne!(renewed.own.key_pem, first.own.key_pem, "a key of its own");
        let read = joining.read().unwrap().unwrap();
        assert_eq!(read.own.key_pem, renewed.own.key_pem);
        // Certificate and key belong together, or no TLS can be had of them.
        pki::client_config(&read.ca_pem, Some(&read.own)).unwrap();
        let mode = std::os::unix::fs::MetadataExt::mode(&folder.path().join("node.pem").metadata().unwrap());
        assert_eq!(mode & 0o777, 0o600);

        std::fs::write(folder.path().join("node.pem"), "nonsense").unwrap();
        assert!(joining.read().unwrap().is_none(), "what cannot be read is joined for anew");
    }

    #[test]
    fn a_certificate_is_renewed_in_the_last_third_of_its_life_and_worthless_after_it() {
        assert_eq!(worth_of(Some(1.0)), Worth::Good);
        assert_eq!(worth_of(Some(0.34)), Worth::Good);
        assert_eq!(worth_of(Some(0.33)), Worth::Old);
        assert_eq!(worth_of(Some(0.0)), Worth::Over);
        assert_eq!(worth_of(Some(-1.0)), Worth::Over);
        assert_eq!(worth_of(None), Worth::Over);
    }
}
