//! What each of several control planes on one store hears of its own agents alone, told to the others: by way of the one that leads, as
//! its controllers need all of it.
//!
//! In: the board, and who leads. Out: a stream to or from another control plane, on the port of agents: each side says what it has heard
//! and the other has not. Who leads is asked by the others; nobody asks who leads nobody.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::Stream;
use jiff::Timestamp;
use oarlock_api::node::SharedReport;
use oarlock_api::node::peer_client::PeerClient;
use oarlock_daemon::pki::{Ca, Identity};
use oarlock_store::Store;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use super::Board;
use crate::leader;

/// The user and the group of a control plane among its like.
const USER: &str = "system:apiserver";
pub(crate) const GROUP: &str = "system:masters";
/// How often the other side is told what is new.
const TELL: Duration = Duration::from_secs(2);
/// How often it is looked who leads.
const LOOK: Duration = Duration::from_secs(5);
/// How long a connection may take, and a peer to answer a ping.
const PATIENCE: Duration = Duration::from_secs(5);
/// Reports on their way.
const IN_FLIGHT: usize = 64;
/// The name that every control plane's certificate has.
const NAME: &str = "kubernetes";

/// A conversation: what comes from it is not told to it.
pub(crate) type Conversation = u64;

fn conversation() -> Conversation {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Takes what the other side says until it ends, and tells it what is new.
pub(crate) async fn converse(
    board: &Board,
    heard: impl Stream<Item = Result<SharedReport, Status>>,
    say: &mpsc::Sender<SharedReport>,
) -> Result<(), Status> {
    let own = conversation();
    let listening = async {
        let mut heard = pin!(heard);
        while let Some(shared) = heard.next().await {
            take(board, own, shared?);
        }
        Ok(())
    };
    let telling = async {
        let mut told = 0;
        loop {
            board.prune(Timestamp::now());
            let (news, last) = board.news(told, own);
            for (node, usage) in news {
                let age = Timestamp::now().duration_since(usage.at).as_millis();
                let age_ms = u32::try_from(age).unwrap_or(if age < 0 { 0 } else { u32::MAX });
                let shared = SharedReport { node, age_ms, report: Some(usage.report.clone()) };
                if say.send(shared).await.is_err() {
                    return Ok(());
                }
            }
            told = last;
            tokio::time::sleep(TELL).await;
        }
    };
    tokio::select! {
        ended = listening => ended,
        ended = telling => ended,
    }
}

fn take(board: &Board, from: Conversation, shared: SharedReport) {
    let Some(report) = shared.report else { return };
    let at = Timestamp::now() - Duration::from_millis(shared.age_ms.into());
    board.take_shared(&shared.node, report, at, from);
}

/// Converses with whoever leads, as long as that is another, until `stop`.
pub(crate) async fn follow(
    board: Arc<Board>,
    store: Arc<dyn Store>,
    identity: String,
    ca: Arc<Ca>,
    stop: CancellationToken,
) {
    let following = async {
        let mut said = String::new();
        loop {
            let leader = leader(&*store).await.filter(|leader| *leader != identity);
            let Some(leader) = leader else {
                tokio::time::sleep(LOOK).await;
                continue;
            };
            let over = tokio::select! {
                over = ask(&board, &leader, &ca) => over,
                () = leads_no_more(&*store, &leader) => Ok(()),
            };
            if let Err(error) = over {
                let why = format!("{error:#}");
                if why != said {
                    tracing::warn!(
                        %leader, why,
                        "the control plane that leads does not hear what the nodes of this one use: autoscalers and kubectl top miss \
                         their pods. Both need the same pki folder, and the leader's --advertise-address has to be reached from here"
                    );
                }
                said = why;
            }
            tokio::time::sleep(TELL).await;
        }
    };
    tokio::select! {
        () = following => {}
        () = stop.cancelled() => {}
    }
}

async fn leader(store: &dyn Store) -> Option<String> {
    let (record, _) = store.get(leader::KEY).await.ok()?;
    String::from_utf8(record?.value.to_vec()).ok()
}

/// A store that is away says nothing about who leads.
async fn leads_no_more(store: &dyn Store, before: &str) {
    loop {
        tokio::time::sleep(LOOK).await;
        if let Ok((record, _)) = store.get(leader::KEY).await
            && record.is_none_or(|record| record.value != before.as_bytes())
        {
            return;
        }
    }
}

async fn ask(board: &Board, leader: &str, ca: &Ca) -> anyhow::Result<()> {
    let (address, _) = leader.split_once('/').unwrap_or((leader, ""));
    let identity = Identity { user: USER.to_owned(), groups: vec![GROUP.to_owned()] };
    let own = ca.issue_client(&identity)?;
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(ca.certificate_pem()))
        .identity(tonic::transport::Identity::from_pem(&own.certificate_pem, &own.key_pem))
        .domain_name(NAME);
    let channel = Endpoint::from_shared(format!("https://{address}"))?
        .tls_config(tls)?
        .connect_timeout(PATIENCE)
        .http2_keep_alive_interval(PATIENCE)
        .keep_alive_timeout(PATIENCE)
        .tcp_nodelay(true)
        .connect()
        .await?;
    let (say, receiver) = mpsc::channel(IN_FLIGHT);
    let mut client = PeerClient::new(channel).max_decoding_message_size(crate::nodes::MAX_MESSAGE);
    let heard = client.share_usage(ReceiverStream::new(receiver)).await?.into_inner();
    tracing::info!(leader, "sharing with the control plane that leads what nodes use");
    Ok(converse(board, heard, &say).await?)
}
