//! The server on the loopback, asked by hickory's own resolver and with bytes of no protocol.

use futures_util::{FutureExt as _, StreamExt as _};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ProtocolConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_server::net::BufDnsStreamHandle;
use hickory_server::net::runtime::TokioTime;
use hickory_server::net::xfer::Protocol;
use hickory_server::proto::op::Message;
use hickory_server::server::ResponseHandle;
use oarlock_fuzz::Target;
use proptest::prelude::*;
use serde_json::json;
use tokio::net::UdpSocket;

use std::net::Ipv4Addr;

use super::*;

const ZONE: &str = "cluster.local";

/// A free port of the loopback, by UDP and TCP.
fn free() -> SocketAddr {
    loop {
        let at = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        if std::net::TcpListener::bind(at).is_ok() {
            return at;
        }
    }
}

struct Served {
    dns: Arc<Dns>,
    at: SocketAddr,
    tasks: Tasks,
}

impl Served {
    /// A server that asks another one for names outside the cluster.
    async fn new(upstream: SocketAddr) -> Self {
        let dns = Dns::new(Ipv4Addr::LOCALHOST.into(), &[upstream], &mut Registry::default());
        let (at, tasks, health) = (free(), Tasks::new(), Health::default());
        tasks.spawn("dns", Arc::clone(&dns).serve(vec![at], health.clone(), tasks.clone()));
        // Not by connecting: a socket of the loopback that asks for a port of nobody may be given that very port, and meet itself.
        while health.report("dns") != "[+]dns ok\ndns check passed\n" {
            tokio::task::yield_now().await;
        }
        Self { dns, at, tasks }
    }

    fn knows(&self, services: serde_json::Value) {
        let mut snapshot = Snapshot::default();
        for (name, spec) in services.as_object().unwrap() {
            let service = json!({"metadata": {"name": name, "namespace": "d"}, "spec": spec});
            let service = Arc::new(serde_json::from_value(service).unwrap());
            snapshot.services.insert(("d".to_owned(), name.clone()), service);
        }
        self.dns.update(
            ZONE,
            vec!["10.244.0.0/16".parse().unwrap(), "fd00:10:244::/56".parse().unwrap()],
            &snapshot,
            true,
        );
    }

    /// Ends it, and waits for that.
    async fn end(self) {
        self.tasks.shut_down();
        self.tasks.finish(Duration::from_secs(30)).await.unwrap();
    }

    /// A client by UDP or TCP.
    fn client(&self, protocol: ProtocolConfig) -> TokioResolver {
        let mut server = NameServerConfig::udp_and_tcp(self.at.ip());
        server.connections.retain(|connection| {
            std::mem::discriminant(&connection.protocol) == std::mem::discriminant(&protocol)
        });
        for connection in &mut server.connections {
            connection.port = self.at.port();
        }
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        builder.options_mut().cache_size = 0;
        // The server itself asks others for some seconds before it says that nobody answers.
        builder.options_mut().timeout = Duration::from_secs(30);
        builder.build().unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.tasks.shut_down();
    }
}

/// The addresses of a name; its negative answer where it has none.
async fn addresses(client: &TokioResolver, name: &str) -> Result<Vec<String>, ResponseCode> {
    match client.lookup(format!("{name}."), RecordType::A).await {
        Ok(found) => {
            let data = |record: &Record| match &record.data {
                RData::A(ip) => ip.0.to_string(),
                other => other.to_string(),
            };
            Ok(found.answers().iter().map(data).collect())
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(nothing))) => {
            assert_eq!(nothing.negative_ttl.is_some(), nothing.soa.is_some());
            Err(nothing.response_code)
        }
        Err(NetError::Dns(DnsError::ResponseCode(code))) => Err(code),
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_answered_by_udp_and_tcp_and_feel_a_change_at_once() {
    let other = Served::new(free()).await;
    other.knows(json!({"db": {"clusterIP": "192.0.2.5"}}));
    let served = Served::new(other.at).await;
    served.knows(json!({"web": {"clusterIP": "10.96.0.80"}}));
    for protocol in [ProtocolConfig::Udp, ProtocolConfig::Tcp] {
        let client = served.client(protocol);
        assert_eq!(addresses(&client, "WEB.d.svc.cluster.local").await.unwrap(), ["10.96.0.80"]);
        assert_eq!(addresses(&client, "nobody.d.svc.cluster.local").await, Err(ResponseCode::NXDomain));
        assert_eq!(addresses(&client, "d.svc.cluster.local").await, Err(ResponseCode::NoError));
    }
    served.knows(json!({"web": {"clusterIP": "10.96.0.81"}}));
    let client = served.client(ProtocolConfig::Udp);
    assert_eq!(addresses(&client, "web.d.svc.cluster.local").await.unwrap(), ["10.96.0.81"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_names_are_asked_of_the_name_servers_of_the_node_and_aliases_are_followed_there() {
    let other = Served::new(free()).await;
    // Another cluster's names stand in for those of the world.
    other.dns.update("example.com", Vec::new(), &Snapshot::default(), true);
    let mut world = Snapshot::default();
    let service = json!({"metadata": {"name": "db", "namespace": "d"}, "spec": {"clusterIP": "192.0.2.5"}});
    world
        .services
        .insert(("d".to_owned(), "db".to_owned()), Arc::new(serde_json::from_value(service).unwrap()));
    other.dns.update("example.com", Vec::new(), &world, true);
    let served = Served::new(other.at).await;
    served.knows(json!({"away": {"type": "ExternalName", "externalName": "db.d.svc.example.com"},
        "near": {"type": "ExternalName", "externalName": "web.d.svc.cluster.local"},
        "web": {"clusterIP": "10.96.0.80"}, "round": {"type": "ExternalName", "externalName": "round.d.svc.cluster.local"}}));
    let client = served.client(ProtocolConfig::Udp);
    assert_eq!(addresses(&client, "db.d.svc.example.com").await.unwrap(), ["192.0.2.5"]);
    assert_eq!(addresses(&client, "no.d.svc.example.com").await, Err(ResponseCode::NXDomain));
    let away = addresses(&client, "away.d.svc.cluster.local").await.unwrap();
    assert!(away.contains(&"192.0.2.5".to_owned()), "{away:?}");
    let near = addresses(&client, "near.d.svc.cluster.local").await.unwrap();
    assert!(near.contains(&"10.96.0.80".to_owned()), "{near:?}");
    assert_eq!(addresses(&client, "round.d.svc.cluster.local").await, Err(ResponseCode::ServFail));
    other.end().await;
    assert_eq!(
        addresses(&client, "new.d.svc.example.com").await,
        Err(ResponseCode::ServFail),
        "nobody to ask"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_a_datagram_does_not_hold_says_so() {
    let served = Served::new(free()).await;
    let mut snapshot = Snapshot::default();
    let service = json!({"metadata": {"name": "all", "namespace": "d"}, "spec": {"clusterIP": "None"}});
    let endpoints: Vec<_> = (1..200).map(|n| json!({"addresses": [format!("10.244.1.{n}")]})).collect();
    let slice = json!({"metadata": {"labels": {"kubernetes.io/service-name": "all"}}, "addressType": "IPv4", "ports": [],
        "endpoints": endpoints});
    let key = ("d".to_owned(), "all".to_owned());
    snapshot.services.insert(key.clone(), Arc::new(serde_json::from_value(service).unwrap()));
    snapshot.endpoint_slices.insert(key, Arc::new(serde_json::from_value(slice).unwrap()));
    served.dns.update(ZONE, Vec::new(), &snapshot, true);
    // all.d.svc.cluster.local. IN A, without EDNS: 512 bytes are all that the client takes (RFC 1035 4.2.1).
    let mut question = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in ["all", "d", "svc", "cluster", "local"] {
        question.push(label.len() as u8);
        question.extend(label.as_bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut buffer = [0; 2048];
    socket.send_to(&question, served.at).await.unwrap();
    let length = socket.recv(&mut buffer).await.unwrap();
    assert!(length <= 512 && buffer[2] & 2 != 0, "{length} bytes, flags {:#x}", buffer[2]);
    assert_eq!(
        addresses(&served.client(ProtocolConfig::Tcp), "all.d.svc.cluster.local").await.unwrap().len(),
        199
    );
}

#[test]
fn only_pods_and_the_node_may_ask() {
    let dns = Dns::new("172.30.77.11".parse().unwrap(), &[free()], &mut Registry::default());
    assert!(!dns.may_ask("10.244.1.5".parse().unwrap()), "the pods' range is not known yet");
    dns.update(
        ZONE,
        vec!["10.244.0.0/16".parse().unwrap(), "fd00:10:244::/56".parse().unwrap()],
        &Snapshot::default(),
        true,
    );
    for (who, may) in
        [("10.244.1.5", true), ("172.30.77.11", true), ("127.0.0.1", true), ("172.30.77.200", false)]
    {
        assert_eq!(dns.may_ask(who.parse().unwrap()), may, "{who}");
    }
}

#[test]
fn pods_are_led_to_their_node_unless_somebody_runs_another_server() {
    let at = ["172.30.77.11:10053", "[fd00:172:30:77::b]:10053"].map(|at| at.parse().unwrap());
    let own = endpoints("node1", &at);
    let told =
        own.iter().map(|slice| (slice.address_type.as_str(), slice.endpoints[0].addresses[0].as_str()));
    assert_eq!(told.collect::<Vec<_>>(), [("IPv4", "172.30.77.11"), ("IPv6", "fd00:172:30:77::b")]);
    let with = |spec: serde_json::Value| {
        let mut snapshot = Snapshot::default();
        let service = json!({"metadata": {"name": "kube-dns", "namespace": "kube-system"}, "spec": spec});
        let key = ("kube-system".to_owned(), "kube-dns".to_owned());
        snapshot.services.insert(key, Arc::new(serde_json::from_value(service).unwrap()));
        with_endpoints(Arc::new(snapshot), &own).endpoint_slices.len()
    };
    assert_eq!(with(json!({"clusterIP": "10.96.0.10"})), 2);
    assert_eq!(with(json!({"clusterIP": "10.96.0.10", "selector": {"k8s-app": "coredns"}})), 0);
    assert_eq!(with_endpoints(Arc::new(Snapshot::default()), &own).endpoint_slices.len(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn bytes_of_no_protocol_do_not_end_it(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let served = Served::new(free()).await;
            served.knows(json!({"web": {"clusterIP": "10.96.0.80"}}));
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            socket.send_to(&bytes, served.at).await.unwrap();
            let found = addresses(&served.client(ProtocolConfig::Udp), "web.d.svc.cluster.local").await;
            assert_eq!(found.unwrap(), ["10.96.0.80"]);
        });
    }
}

/// `web.d.svc.cluster.local. IN A`, and the like.
fn question(name: &str, kind: RecordType) -> Vec<u8> {
    let mut question = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        question.push(label.len() as u8);
        question.extend(label.as_bytes());
    }
    question.push(0);
    question.extend(u16::from(kind).to_be_bytes());
    question.extend([0, 1]);
    question
}

/// Whatever a pod sends is answered with a message that can be read, by UDP with one that fits into a datagram.
#[test]
fn fuzz_dns() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let dns = Dns::new(Ipv4Addr::LOCALHOST.into(), &[], &mut Registry::default());
    let mut snapshot = Snapshot::default();
    let mut knows = |name: &str, spec: serde_json::Value| {
        let service = json!({"metadata": {"name": name, "namespace": "d"}, "spec": spec});
        let service = serde_json::from_value(service).map(Arc::new).unwrap();
        snapshot.services.insert(("d".to_owned(), name.to_owned()), service);
    };
    knows(
        "web",
        json!({"clusterIP": "10.96.0.80", "clusterIPs": ["10.96.0.80", "fd00::80"], "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}),
    );
    knows("near", json!({"type": "ExternalName", "externalName": "web.d.svc.cluster.local"}));
    knows("round", json!({"type": "ExternalName", "externalName": "round.d.svc.cluster.local"}));
    knows("all", json!({"clusterIP": "None"}));
    let endpoints: Vec<_> = (1..200).map(|n| json!({"addresses": [format!("10.244.1.{n}")]})).collect();
    let slice = json!({"metadata": {"labels": {"kubernetes.io/service-name": "all"}}, "addressType": "IPv4", "ports": [], "endpoints": endpoints});
    snapshot
        .endpoint_slices
        .insert(("d".to_owned(), "all".to_owned()), serde_json::from_value(slice).map(Arc::new).unwrap());
    dns.update(ZONE, Vec::new(), &snapshot, true);
    let asked = [
        ("web", RecordType::A),
        ("near", RecordType::AAAA),
        ("round", RecordType::A),
        ("all", RecordType::A),
        ("_http._tcp.web", RecordType::SRV),
    ];
    let asked = asked.map(|(name, kind)| question(&format!("{name}.d.svc.{ZONE}"), kind)).into_iter();
    let others = [
        question("80.0.96.10.in-addr.arpa", RecordType::PTR),
        question("dns-version.cluster.local", RecordType::TXT),
    ];
    Target::new("dns").with(asked.chain(others)).run(|input| {
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            let client = SocketAddr::from((Ipv4Addr::LOCALHOST, 5353));
            let Ok(request) = Request::from_bytes(input.to_vec(), client, protocol) else { return };
            // What is not of the cluster somebody else would be asked.
            let foreign = request.request_info().is_ok_and(|info| {
                let name = info.query.original().name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
                dns.names.read().answer(&name, kind_of(info.query.query_type())) == Answer::Foreign
            });
            if foreign {
                return;
            }
            let (handle, mut sent) = BufDnsStreamHandle::new(client);
            let reply = ResponseHandle::new(client, handle, protocol);
            let small = request.edns.is_none() && protocol == Protocol::Udp;
            runtime.block_on(Handler(Arc::clone(&dns)).handle_request::<_, TokioTime>(&request, reply));
            let Some(Some(said)) = sent.next().now_or_never() else { continue };
            let said = said.into_parts().0;
            assert!(Message::from_vec(&said).is_ok(), "{said:?}");
            assert!(!small || said.len() <= 512, "{} bytes", said.len());
        }
    });
}
