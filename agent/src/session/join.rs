//! Becoming a member: a private key, a certificate for it in exchange for the join token, and renewal in time.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use oarlock_api::node::join_client::JoinClient;
use oarlock_api::node::node_client::NodeClient;
use oarlock_api::node::{JoinRequest, JoinResponse, RenewRequest};
use oarlock_daemon::files::{read_if_present, write_atomic};
use oarlock_daemon::pki::{self, CertifiedKey};
use sha2::{Digest as _, Sha256};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A peer that does not answer a ping for this long is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How to become and stay a member.
#[derive(Debug, Clone)]
pub(crate) struct Joining {
    pub(crate) node_name: String,
    pub(crate) token_file: Option<PathBuf>,
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) ca_hash: Option<String>,
    /// Folder of node.pem (certificate and key, in one file so that they change at once) and ca.crt.
    pub(crate) pki_dir: PathBuf,
}

/// How often a certificate is looked at while a session is open, which may be for months: clocks are set, files replaced.
const LOOK: Duration = Duration::from_secs(60 * 60);
/// How long it takes at least until a renewal that failed is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// What a certificate and a key in one file begin with.
const KEY_BEGINS: &str = "-----BEGIN PRIVATE KEY-----";

/// How much a certificate is worth.
#[derive(Debug, PartialEq, Eq)]
enum Worth {
    /// It is renewed in so long.
    Good(Duration),
    /// It should be renewed; so much of its life is left.
    Old(Duration),
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
    /// The credentials on disk, or new ones for the token from this control plane.
    pub(crate) async fn credentials(&self, server: &str) -> anyhow::Result<Credentials> {
        if let Some(present) = self.read()? {
            return Ok(present);
        }
        let token_file =
            self.token_file.as_deref().context("this node has not joined yet: --token-file is needed")?;
        let token =
            read_if_present(token_file)?.with_context(|| format!("{} is missing", token_file.display()))?;
        let ca_pem = self.trusted_ca(server).await?;
        let (key_pem, csr_pem) = pki::new_request(&self.identity())?;
        let channel =
            endpoint(server, ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&ca_pem)))?
                .connect()
                .await
                .with_context(|| format!("cannot reach {server} to join"))?;
        let request =
            JoinRequest { token: token.trim().to_owned(), node_name: self.node_name.clone(), csr_pem };
        let response = JoinClient::new(channel)
            .join(request)
            .await
            .map_err(|status| anyhow::anyhow!("the control plane refused the join: {}", status.message()))?;
        tracing::info!(node = %self.node_name, "joined the cluster");
        self.keep(response.into_inner(), key_pem)
    }

    /// Renews the certificate in time, for as long as the channel lives; the next connection uses the new one. While the control
    /// plane is away nothing is lost: most of the last tenths of a life is left for it.
    pub(crate) async fn stay_member(&self, channel: Channel, now: impl Fn() -> i64) {
        loop {
            let wait = match self.read() {
                Ok(Some(present)) => match worth(&present.own.certificate_pem, now()) {
                    Worth::Good(wait) => wait,
                    Worth::Old(left) => self.try_to_renew(channel.clone(), left).await,
                    Worth::Over => LOOK,
                },
                Ok(None) | Err(_) => LOOK,
            };
            tokio::time::sleep(wait.min(LOOK)).await;
        }
    }

    /// How long to wait then.
    async fn try_to_renew(&self, channel: Channel, left: Duration) -> Duration {
        match self.renew(channel).await {
            Ok(_) => {
                tracing::info!("the node's certificate was renewed");
                AGAIN
            }
            Err(error) => {
                let again = (left / 20).max(AGAIN);
                let error = format!("{error:#}");
                tracing::warn!(
                    error,
                    ?left,
                    ?again,
                    "the node's certificate could not be renewed yet; trying again"
                );
                again
            }
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
        if worth(certificate_pem, now()) == Worth::Over {
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
            worth(&certificate_pem, now()) != Worth::Over,
            "the control plane sent no valid certificate"
        );
        write_atomic(&self.pki_dir.join("ca.crt"), response.ca_pem.as_bytes(), 0o644)?;
        let both = format!("{}\n{key_pem}", certificate_pem.trim_end());
        write_atomic(&self.pki_dir.join("node.pem"), both.as_bytes(), 0o600)?;
        let own = CertifiedKey { certificate_pem, key_pem };
        Ok(Credentials { own, ca_pem: response.ca_pem })
    }

    async fn trusted_ca(&self, server: &str) -> anyhow::Result<String> {
        if let Some(path) = self.ca_file.as_deref() {
            return read_ca(path);
        }
        let hash = self
            .ca_hash
            .as_deref()
            .context("this node has not joined yet: --ca-file or --ca-hash is needed")?;
        let address = server.strip_prefix("https://").unwrap_or(server).trim_end_matches('/');
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

/// Seconds since 1970.
pub(super) fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// What cannot be read is worth nothing. A certificate is renewed at some point between 70 and 90 % of its life, which is the
/// certificate's own: nodes that joined together do not come together again.
fn worth(certificate_pem: &str, now: i64) -> Worth {
    let Some((start, end)) = pki::life(certificate_pem) else { return Worth::Over };
    let digest = Sha256::digest(certificate_pem.trim());
    worth_of(start, end, digest.first().copied().unwrap_or(0), now)
}

/// By where between 70 and 90 % it is due: from 0 to 255.
fn worth_of(start: i64, end: i64, place: u8, now: i64) -> Worth {
    let life = end.saturating_sub(start).max(1);
    let due = start.saturating_add(life / 10 * 7).saturating_add(life / 5 * i64::from(place) / 255);
    let until = |then: i64| Duration::from_secs(u64::try_from(then.saturating_sub(now)).unwrap_or(0));
    match now {
        _ if now >= end => Worth::Over,
        _ if now >= due => Worth::Old(until(end)),
        _ => Worth::Good(until(due)),
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;
    use std::sync::atomic::Ordering::Relaxed;

    use oarlock_api::node::node_server::{Node, NodeServer};
    use oarlock_api::node::{AgentMessage, ControlMessage, StreamFrame};
    use oarlock_daemon::pki::{Ca, Identity};
    use tokio::sync::Notify;
    use tonic::{Request, Response, Status, Streaming};

    use super::*;

    /// A control plane that renews, after it has refused so often, and nothing else; it tells when it does.
    struct Renews(Ca, AtomicU32, Arc<Notify>);

    async fn serve(renews: Renews) -> (String, impl Future<Output = Result<(), tonic::transport::Error>>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let router = tonic::transport::Server::builder().add_service(NodeServer::new(renews));
        (server, router.serve_with_incoming(incoming))
    }

    /// Credentials as a join leaves them.
    fn joined(joining: &Joining, ca: &Ca) -> Credentials {
        let identity = Identity { user: "system:node:n".to_owned(), groups: Vec::new() };
        let (key_pem, csr) = pki::new_request(&identity).unwrap();
        let certificate_pem = ca.sign_request(&csr, &identity).unwrap();
        joining
            .keep(JoinResponse { certificate_pem, ca_pem: ca.certificate_pem().to_owned() }, key_pem)
            .unwrap()
    }

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
            if self.1.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
                return Err(Status::unavailable("not now"));
            }
            let identity = Identity { user: "system:node:n".to_owned(), groups: Vec::new() };
            let certificate_pem = self.0.sign_request(&request.into_inner().csr_pem, &identity);
            let certificate_pem = certificate_pem.map_err(|e| Status::invalid_argument(e.to_string()))?;
            self.2.notify_one();
            Ok(Response::new(JoinResponse { certificate_pem, ca_pem: self.0.certificate_pem().to_owned() }))
        }
    }

    fn joining(folder: &Path) -> Joining {
        Joining {
            node_name: "n".to_owned(),
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
        let first = joined(&joining, &ca);
        let read = joining.read().unwrap().unwrap();
        assert_eq!(read.own.key_pem, first.own.key_pem);
        assert_eq!(read.own.certificate_pem.trim(), first.own.certificate_pem.trim());

        let (server, serving) = serve(Renews(ca, AtomicU32::new(0), Arc::default())).await;
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
    fn a_certificate_is_renewed_between_70_and_90_percent_of_its_life_and_worthless_after_it() {
        let seconds = Duration::from_secs;
        for (place, due) in [(0, 1700), (255, 1900)] {
            assert_eq!(worth_of(1000, 2000, place, 1000), Worth::Good(seconds(due - 1000)));
            assert_eq!(worth_of(1000, 2000, place, 1699), Worth::Good(seconds(due - 1699)));
            assert_eq!(
                worth_of(1000, 2000, place, i64::try_from(due).unwrap()),
                Worth::Old(seconds(2000 - due))
            );
            assert_eq!(worth_of(1000, 2000, place, 2000), Worth::Over);
        }
        assert_eq!(worth("nonsense", 0), Worth::Over);
        assert_eq!(worth_of(2000, 1000, 0, 1500), Worth::Over, "it ends before it begins");
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_renews_late_in_its_certificates_life_and_tries_again_while_it_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let ca = Ca::load_or_create(&folder.path().join("ca")).unwrap();
        let joining = joining(folder.path());
        joined(&joining, &ca);
        let before = joining.read().unwrap().unwrap().own.certificate_pem;
        let (start, end) = pki::life(&before).unwrap();
        let begun = tokio::time::Instant::now();
        let passed = || i64::try_from(begun.elapsed().as_secs()).unwrap();
        let (refuses, signed) = (AtomicU32::new(3), Arc::new(Notify::new()));
        let (server, serving) = serve(Renews(ca, refuses, Arc::clone(&signed))).await;
        let channel = Endpoint::from_shared(server).unwrap().connect().await.unwrap();
        let real = now();
        let renewed = async {
            signed.notified().await;
            // The clock goes on by whole pauses while real bytes are on their way: they have to be short.
            while joining.read().unwrap().unwrap().own.certificate_pem == before {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            ended = serving => panic!("{ended:?}"),
            () = joining.stay_member(channel, || real + passed()) => panic!("ended"),
            () = renewed => {}
        }
        let life = end - start;
        let part = (real + passed() - start) * 100 / life;
        assert!((70..95).contains(&part), "renewed at {part} % of its life");
        // Refused thrice, it waited each time.
        let due = match worth(&before, real) {
            Worth::Good(wait) => i64::try_from(wait.as_secs()).unwrap(),
            other => panic!("{other:?}"),
        };
        assert!(passed() - due >= 3 * 3600, "{} s after it was due", passed() - due);
    }
}
