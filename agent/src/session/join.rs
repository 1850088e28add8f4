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
    /// Folder of node.crt, node.key and ca.crt.
    pub(crate) pki_dir: PathBuf,
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
        let (key_pem, csr_pem) = pki::new_request(&format!("system:node:{}", self.node_name))?;
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

    /// Renews a certificate that has less than a third of its life left; the next connection uses the new one.
    pub(crate) async fn renew_if_old(&self, channel: Channel, credentials: &Credentials) {
        if !is_old(&credentials.own.certificate_pem) {
            return;
        }
        let renewed = async {
            let (key_pem, csr_pem) = pki::new_request(&format!("system:node:{}", self.node_name))?;
            let response = NodeClient::new(channel).renew(RenewRequest { csr_pem }).await?;
            self.keep(response.into_inner(), key_pem)
        };
        match renewed.await {
            Ok(_) => tracing::info!("the node's certificate was renewed"),
            Err(error) => {
                tracing::warn!(error = %format!("{error:#}"), "the node's certificate could not be renewed yet")
            }
        }
    }

    fn read(&self) -> anyhow::Result<Option<Credentials>> {
        let read = |name: &str| read_if_present(&self.pki_dir.join(name));
        let (Some(certificate_pem), Some(key_pem), Some(ca_pem)) =
            (read("node.crt")?, read("node.key")?, read("ca.crt")?)
        else {
            return Ok(None);
        };
        Ok(Some(Credentials { own: CertifiedKey { certificate_pem, key_pem }, ca_pem }))
    }

    fn keep(&self, response: JoinResponse, key_pem: String) -> anyhow::Result<Credentials> {
        let write =
            |name: &str, text: &str, mode| write_atomic(&self.pki_dir.join(name), text.as_bytes(), mode);
        // The certificate comes last: without it the others count for nothing, and the node joins again.
        write("ca.crt", &response.ca_pem, 0o644)?;
        write("node.key", &key_pem, 0o600)?;
        write("node.crt", &response.certificate_pem, 0o644)?;
        let own = CertifiedKey { certificate_pem: response.certificate_pem, key_pem };
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

fn is_old(certificate_pem: &str) -> bool {
    pki::life_left(certificate_pem).is_some_and(|left| left < 1.0 / 3.0)
}
