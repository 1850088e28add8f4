//! The cluster's DNS, on every node for its own pods: names of Services and pods from what the agent knows anyway, all others
//! from the node's name servers, remembered for as long as they say.
//!
//! Pods ask the ClusterIP of `kube-system/kube-dns`; the dataplane gives each node's own server as its backend
//! ([`endpoints`], [`with_endpoints`]), so that a question never leaves the node. hickory speaks the protocol.

mod metrics;
mod names;
mod upstream;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{Header, HeaderCounts, Metadata, OpCode, ResponseCode};
use hickory_server::proto::rr::rdata::{A, AAAA, CNAME, PTR, SOA, SRV, TXT};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use ipnet::IpNet;
use oarlock_api::k8s::api::discovery::v1::EndpointSlice;
use oarlock_api::service::Family;
use oarlock_daemon::Tasks;
use oarlock_daemon::admin::Health;
use parking_lot::{Mutex, RwLock};
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, UdpSocket};

use crate::desired::Snapshot;
use crate::dual_ip::DualIp;
use metrics::Metrics;
use names::{Answer, Data, Kind, Names};
use upstream::Upstream;

/// The Service that pods ask.
const SERVICE: (&str, &str) = ("kube-system", "kube-dns");
/// What the slices of this node's server, which only this node knows of, are called before their family.
const SLICE: (&str, &str) = ("kube-system", "kube-dns-of-this-node");
/// How long answers about the cluster are remembered, in seconds; CoreDNS' default for Kubernetes.
const TTL: u32 = 5;
/// How many aliases are followed.
const MAX_ALIASES: usize = 8;
/// A client that says nothing for so long is disconnected.
const IDLE: Duration = Duration::from_secs(10);
/// How many answers wait for one connection's client.
const WAITING: usize = 32;
/// How soon a server that cannot listen tries again.
const AGAIN: Duration = Duration::from_secs(5);

/// What is known of the cluster's names, and who may ask. Shared by reference.
#[derive(Debug)]
pub(crate) struct Dns {
    names: RwLock<Names>,
    /// The pods' ranges: others are refused, so that the node is no open resolver.
    pods: Mutex<Vec<IpNet>>,
    own: DualIp,
    upstream: Upstream,
    metrics: Metrics,
    turn: AtomicUsize,
}

impl Dns {
    /// Of a node. Names outside the cluster are asked of these servers, or of those in `/etc/resolv.conf`.
    pub(crate) fn new(own: DualIp, upstream: &[SocketAddr], registry: &mut Registry) -> Arc<Self> {
        let metrics = Metrics::default();
        metrics.register(registry);
        Arc::new(Self {
            names: RwLock::default(),
            pods: Mutex::default(),
            own,
            upstream: Upstream::new(upstream),
            metrics,
            turn: AtomicUsize::new(0),
        })
    }

    /// Takes a snapshot over.
    pub(crate) fn update(&self, zone: &str, pods: Vec<IpNet>, snapshot: &Snapshot, complete: bool) {
        *self.pods.lock() = pods;
        self.names.write().update(zone, snapshot, complete);
    }

    /// Answers at these addresses until shutdown.
    pub(crate) async fn serve(self: Arc<Self>, at: Vec<SocketAddr>, health: Health, tasks: Tasks) {
        let stop = tasks.token();
        loop {
            let outcome = tokio::select! {
                () = stop.cancelled() => return,
                outcome = self.listen(&at, &health) => outcome,
            };
            let why = outcome.err().unwrap_or_else(|| "the server ended".to_owned());
            tracing::warn!(?at, why, "no DNS for the pods of this node; trying again");
            health.set("dns", Err(format!("cannot serve DNS: {why}")));
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }

    async fn listen(self: &Arc<Self>, at: &[SocketAddr], health: &Health) -> Result<(), String> {
        let mut server = Server::new(Handler(Arc::clone(self)));
        for at in at {
            let text = |e: std::io::Error| format!("{at}: {e}");
            server.register_socket(UdpSocket::bind(at).await.map_err(text)?);
            server.register_listener(TcpListener::bind(at).await.map_err(text)?, IDLE, WAITING);
        }
        health.set("dns", Ok(()));
        server.block_until_done().await.map_err(|e| e.to_string())
    }

    fn may_ask(&self, who: IpAddr) -> bool {
        let is_own = who.is_loopback() || self.own.all().any(|own| own == who);
        is_own || self.pods.lock().iter().any(|range| range.contains(&who))
    }

    /// The whole answer to a question: aliases are followed, as the resolvers of pods do not do that themselves.
    async fn answer(&self, question: &Name, kind: RecordType) -> Response {
        let (mut name, mut response) = (question.clone(), Response::default());
        for _ in 0..MAX_ALIASES {
            let text = name.to_ascii().trim_end_matches('.').to_ascii_lowercase();
            let found = self.names.read().answer(&text, kind_of(kind));
            match found {
                Answer::Found { answers, additionals } => {
                    response.authoritative = true;
                    let alias = answers.iter().find_map(|(_, data)| match data {
                        Data::Cname(target) if kind != RecordType::CNAME => Some(target.clone()),
                        _ => None,
                    });
                    response.answers.extend(self.records(answers));
                    response.additionals.extend(self.records(additionals));
                    let Some(target) = alias.and_then(|target| Name::from_ascii(target + ".").ok()) else {
                        return self.ended(response);
                    };
                    name = target;
                }
                Answer::Missing => {
                    response.code = ResponseCode::NXDomain;
                    response.authoritative = true;
                    return self.ended(response);
                }
                Answer::Unknown => {
                    response.code = ResponseCode::ServFail;
                    return response;
                }
                Answer::Foreign => {
                    self.upstream.ask(&name, kind, &mut response).await;
                    return response;
                }
            }
        }
        response.code = ResponseCode::ServFail;
        response
    }

    /// An answer without records says how long that holds (RFC 2308).
    fn ended(&self, mut response: Response) -> Response {
        if response.answers.is_empty() {
            let zone = self.names.read().zone().to_owned();
            response.authorities.extend(start_of(&zone));
        }
        response
    }

    /// Records of the protocol, in another order each time: clients take the first.
    fn records(&self, said: Vec<(String, Data)>) -> Vec<Record> {
        let record = |(name, data): (String, Data)| {
            Some(Record::from_rdata(Name::from_ascii(name + ".").ok()?, TTL, rdata(data)?))
        };
        let mut records: Vec<Record> = said.into_iter().filter_map(record).collect();
        if !records.is_empty() {
            let by = self.turn.fetch_add(1, Ordering::Relaxed) % records.len();
            records.rotate_left(by);
        }
        records
    }
}

/// What is answered.
#[derive(Debug, Default)]
struct Response {
    code: ResponseCode,
    authoritative: bool,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
}

/// The record that a zone begins with.
fn start_of(zone: &str) -> Option<Record> {
    let name = Name::from_ascii(format!("{zone}.")).ok()?;
    let (server, admin) = (name.prepend_label("ns").ok()?, name.prepend_label("hostmaster").ok()?);
    let soa = SOA::new(server, admin, 1, 7200, 1800, 86_400, TTL);
    Some(Record::from_rdata(name, TTL, RData::SOA(soa)))
}

fn rdata(data: Data) -> Option<RData> {
    let name = |name: String| Name::from_ascii(name + ".").ok();
    Some(match data {
        Data::A(ip) => RData::A(A(ip)),
        Data::Aaaa(ip) => RData::AAAA(AAAA(ip)),
        Data::Srv { port, target } => RData::SRV(SRV::new(0, 100, port, name(target)?)),
        Data::Ptr(target) => RData::PTR(PTR(name(target)?)),
        Data::Txt(text) => RData::TXT(TXT::new(vec![text])),
        Data::Cname(target) => RData::CNAME(CNAME(name(target)?)),
    })
}

fn kind_of(kind: RecordType) -> Kind {
    match kind {
        RecordType::A => Kind::A,
        RecordType::AAAA => Kind::Aaaa,
        RecordType::SRV => Kind::Srv,
        RecordType::PTR => Kind::Ptr,
        RecordType::TXT => Kind::Txt,
        _ => Kind::Other,
    }
}

/// What hickory calls.
struct Handler(Arc<Dns>);

#[async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut reply: R,
    ) -> ResponseInfo {
        let began = Instant::now();
        let asked = request
            .request_info()
            .ok()
            .map(|info| (info.query.original().name().clone(), info.query.query_type()));
        let response = match asked {
            _ if !self.0.may_ask(request.src().ip()) => {
                Response { code: ResponseCode::Refused, ..Response::default() }
            }
            _ if request.metadata.op_code != OpCode::Query => {
                Response { code: ResponseCode::NotImp, ..Response::default() }
            }
            Some((ref name, kind)) => self.0.answer(name, kind).await,
            None => Response { code: ResponseCode::FormErr, ..Response::default() },
        };
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = response.code;
        metadata.authoritative = response.authoritative;
        metadata.recursion_available = true;
        let kind = asked.map_or(RecordType::ANY, |(_, kind)| kind);
        self.0.metrics.answered(kind, response.code, began.elapsed());
        let message = MessageResponseBuilder::from_message_request(request).build(
            metadata,
            &response.answers,
            &response.authorities,
            &[],
            &response.additionals,
        );
        match reply.send_response(message).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, "an answer was not sent");
                Header { metadata, counts: HeaderCounts::default() }.into()
            }
        }
    }
}

/// The slices of this node's server, one for each of its addresses.
pub(crate) fn endpoints(node: &str, at: &[SocketAddr]) -> Vec<Arc<EndpointSlice>> {
    at.iter().map(|at| endpoint(node, *at)).collect()
}

fn endpoint(node: &str, at: SocketAddr) -> Arc<EndpointSlice> {
    let family = Family::of(at.ip()).name();
    let port = |protocol: &str| {
        serde_json::json!({"name": format!("dns{}", if protocol == "TCP" { "-tcp" } else { "" }),
        "port": at.port(), "protocol": protocol})
    };
    let slice = serde_json::json!({
        "metadata": {"namespace": SLICE.0, "name": format!("{}-{}", SLICE.1, family.to_lowercase()), "labels": {"kubernetes.io/service-name": SERVICE.1}},
        "addressType": family,
        "endpoints": [{"addresses": [at.ip().to_string()], "conditions": {"ready": true}, "nodeName": node}],
        "ports": [port("UDP"), port("TCP")],
    });
    // It is one of this type.
    Arc::new(serde_json::from_value(slice).unwrap_or_default())
}

/// The snapshot, in which pods that ask the cluster's DNS are led to this node's server. Not where somebody runs another one: a
/// Service that selects pods.
pub(crate) fn with_endpoints(snapshot: Arc<Snapshot>, endpoints: &[Arc<EndpointSlice>]) -> Arc<Snapshot> {
    let key = |(namespace, name): (&str, &str)| (namespace.to_owned(), name.to_owned());
    let spec = snapshot.services.get(&key(SERVICE)).and_then(|service| service.spec.as_ref());
    if endpoints.is_empty() {
        return snapshot;
    }
    if spec.is_none_or(|spec| spec.selector.as_ref().is_some_and(|selector| !selector.is_empty())) {
        return snapshot;
    }
    let mut led = (*snapshot).clone();
    for endpoint in endpoints {
        let name = endpoint.metadata.name.clone().unwrap_or_default();
        led.endpoint_slices.insert(key((SLICE.0, &name)), Arc::clone(endpoint));
    }
    Arc::new(led)
}

#[cfg(test)]
mod tests;
