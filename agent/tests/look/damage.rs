//! Tables that somebody else has written to: each difference is found and named, and what changes rightly is none.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData};
use oarlock_agent::dataplane::{self, Dataplane};
use oarlock_agent::desired::Snapshot;
use oarlock_agent::look;
use oarlock_daemon::Tasks;
use oarlock_daemon::admin::{self, Health};
use oarlock_daemon::plain_http;
use oarlock_ebpf::affinity::{Member, SourceRange, source_range, source_range_bits};
use oarlock_ebpf::flow::{EXTERNAL_CLUSTER_IP, NODE, Owner, Settings, TUNNEL_END};
use oarlock_ebpf::layout::{Backend, FrontendKey, ServiceLine};
use oarlock_ebpf::{maps, opted_out};
use parking_lot::Mutex;
use serde_json::json;

use crate::{Node, put_node, put_service, put_slice};

/// One Service with everything, two backends; another Service without any, another node.
fn cluster() -> Snapshot {
    let mut snapshot = Snapshot::default();
    let spec = json!({"type": "LoadBalancer", "clusterIP": "127.96.0.1", "sessionAffinity": "ClientIP",
        "ports": [{"name": "p", "port": 80, "protocol": "TCP"}], "loadBalancerSourceRanges": ["198.51.100.0/24"]});
    put_service(&mut snapshot, "web", spec, &["127.0.2.1"]);
    let spec = json!({"clusterIP": "127.96.0.2", "ports": [{"name": "p", "port": 80, "protocol": "TCP"}]});
    put_service(&mut snapshot, "other", spec, &[]);
    let endpoint =
        |last: u8| json!({"addresses": [format!("127.244.0.{last}")], "conditions": {"ready": true}});
    put_slice(&mut snapshot, "web-1", "web", vec![endpoint(1), endpoint(2)]);
    put_node(&mut snapshot, "other", "127.30.78.2");
    snapshot
}

fn synced(node: &Node) -> (Dataplane, Snapshot) {
    let (mut dataplane, snapshot) = (node.open(), cluster());
    dataplane.sync(&snapshot).unwrap();
    assert_eq!(node.said(&snapshot), [] as [&str; 0]);
    (dataplane, snapshot)
}

fn open<M: TryFrom<Map>>(node: &Node, name: &str, kind: fn(MapData) -> Map) -> M
where
    M::Error: std::fmt::Debug,
{
    M::try_from(kind(MapData::from_pin(node.pins().join(name)).unwrap())).unwrap()
}

const CLUSTER_IP: FrontendKey = FrontendKey::new([127, 96, 0, 1], 80, 6);

#[test]
fn each_damaged_table_is_named_with_the_service_and_a_new_agent_mends_it() {
    let node = Node::new("damage");
    let (mut dataplane, snapshot) = synced(&node);
    let mut frontends: HashMap<_, FrontendKey, u32> = open(&node, maps::FRONTENDS, Map::HashMap);
    let mut lines: Array<_, ServiceLine> = open(&node, maps::SERVICE_TABLE, Map::Array);
    let mut slots: Array<_, u32> = open(&node, maps::SLOTS, Map::Array);
    let mut backends: Array<_, Backend> = open(&node, maps::BACKENDS, Map::Array);
    let index = frontends.get(&CLUSTER_IP, 0).unwrap();
    let line = lines.get(&index, 0).unwrap();
    let (first, backend) = (line.inside.base(), slots.get(&line.inside.base(), 0).unwrap());

    let of = "TCP 127.96.0.1:80 of d/web:p";
    frontends.remove(&CLUSTER_IP).unwrap();
    let said = node.said(&snapshot);
    assert!(said.contains(&format!("FRONTENDS: {of} is missing")), "{said:?}");
    frontends.insert(CLUSTER_IP, index, 0).unwrap();

    let stranger = FrontendKey::new([127, 96, 0, 9], 80, 6);
    frontends.insert(stranger, index, 0).unwrap();
    let at = "TCP 127.96.0.9:80 of d/web:p";
    let expected = [
        format!("FRONTENDS: {at} has the line of another frontend"),
        format!("FRONTENDS: {at} is not wanted"),
    ];
    assert_eq!(node.said(&snapshot), expected);
    frontends.remove(&stranger).unwrap();

    let changed = ServiceLine::new(line.inside, line.outside, line.service, 5, line.flags);
    let changed = changed.counted_as(line.counted);
    lines.set(index, changed, 0).unwrap();
    let expected = format!("SERVICE_TABLE: {of} has an affinity in seconds of 5, should have 10800");
    assert_eq!(node.said(&snapshot), [expected]);
    lines.set(index, line, 0).unwrap();

    let index_of_other = frontends.get(&FrontendKey::new([127, 96, 0, 2], 80, 6), 0).unwrap();
    let other = lines.get(&index_of_other, 0).unwrap();
    lines.set(index_of_other, other.counted_as(line.counted), 0).unwrap();
    let expected = format!(
        "SERVICE_TABLE: TCP 127.96.0.2:80 of d/other:p is counted under {}, which is another Service's",
        line.counted
    );
    assert_eq!(node.said(&snapshot), [expected]);
    lines.set(index_of_other, other, 0).unwrap();

    slots.set(first, slots.get(&(first + 1), 0).unwrap(), 0).unwrap();
    let said = node.said(&snapshot);
    let expected = format!(
        "SLOTS or BACKENDS: {of} has for clients inside 127.244.0.2:8080 127.244.0.2:8080, should have 127.244.0.1:8080 127.244.0.2:8080"
    );
    assert!(said.contains(&expected), "{said:?}");
    slots.set(first, 4_000_000, 0).unwrap();
    let said = node.said(&snapshot);
    let expected = format!("SLOTS: {of} slot {first} leads to backend 4000000, which does not exist");
    assert!(said.contains(&expected), "{said:?}");
    slots.set(first, backend, 0).unwrap();

    let whole = backends.get(&backend, 0).unwrap();
    backends.set(backend, Backend::default(), 0).unwrap();
    let said = node.said(&snapshot);
    let expected = format!("BACKENDS: {of} slot {first} leads to backend {backend}, which is empty");
    assert!(said.contains(&expected), "{said:?}");
    backends.set(backend, whole, 0).unwrap();
    assert_eq!(node.said(&snapshot), [] as [&str; 0], "all of it was put right");

    frontends.remove(&CLUSTER_IP).unwrap();
    drop(dataplane);
    dataplane = node.open();
    dataplane.sync(&snapshot).unwrap();
    assert_eq!(node.said(&snapshot), [] as [&str; 0], "an agent that began anew has mended it");
}

#[test]
fn members_ranges_addresses_and_settings_are_compared_too() {
    let node = Node::new("others");
    let (_dataplane, snapshot) = synced(&node);
    let mut members: HashMap<_, Member, u32> = open(&node, maps::MEMBERS, Map::HashMap);
    let member = members.keys().next().unwrap().unwrap();
    members.remove(&member).unwrap();
    let said = node.said(&snapshot);
    assert!(
        said[0].starts_with("MEMBERS: backend ") && said[0].ends_with(" of d/web:p is missing"),
        "{said:?}"
    );
    members.insert(member, 1, 0).unwrap();

    let mut ranges: LpmTrie<_, SourceRange, u32> = open(&node, maps::SOURCE_RANGES, Map::LpmTrie);
    let range = Key::new(source_range_bits(16), source_range(member.service(), [10, 9, 0, 0]));
    ranges.insert(&range, 1, 0).unwrap();
    assert_eq!(
        node.said(&snapshot),
        [
            "SOURCE_RANGES: TCP 127.0.2.1:80 of d/web:p has the ranges 10.9.0.0/16 198.51.100.0/24, should have 198.51.100.0/24"
        ]
    );
    ranges.remove(&range).unwrap();

    let mut addresses: HashMap<_, [u8; 4], Owner> = open(&node, maps::ADDRESSES, Map::HashMap);
    addresses.remove(&[127, 30, 78, 2]).unwrap();
    addresses.insert([127, 30, 78, 3], Owner::by_routes(NODE), 0).unwrap();
    assert_eq!(
        node.said(&snapshot),
        [
            "ADDRESSES: 127.30.78.2 is missing: it is a node",
            "ADDRESSES: 127.30.78.3 is not wanted: it is a node"
        ]
    );
    addresses.remove(&[127, 30, 78, 3]).unwrap();
    addresses.insert([127, 30, 78, 2], Owner::by_routes(NODE), 0).unwrap();
    addresses.insert([127, 244, 2, 0], Owner::by_routes(NODE), 0).unwrap();
    let taken = "ADDRESSES: 127.244.2.0 is a node, should be an end of the tunnel";
    assert_eq!(node.said(&snapshot), [taken], "the first address of the pods' range of a node");
    addresses.insert([127, 244, 2, 0], Owner::by_routes(TUNNEL_END), 0).unwrap();

    let mut direct: LpmTrie<_, [u8; 4], [u8; 4]> = open(&node, maps::DIRECT, Map::LpmTrie);
    let range = Key::new(24, [127, 244, 9, 0]);
    direct.insert(&range, [127, 30, 78, 2], 0).unwrap();
    let expected = "DIRECT: 127.244.9.0/24 is answered by 127.30.78.2 itself, should be answered here";
    assert_eq!(node.said(&snapshot), [expected]);
    direct.remove(&range).unwrap();

    let mut settings: Array<_, Settings> = open(&node, maps::SETTINGS, Map::Array);
    let present = settings.get(&0, 0).unwrap();
    settings.set(0, Settings { flags: EXTERNAL_CLUSTER_IP, ..present }, 0).unwrap();
    let expected = "SETTINGS: whether ClusterIPs are answered for outsiders is true, should be false";
    assert_eq!(node.said(&snapshot), [expected]);
    settings.set(0, present, 0).unwrap();

    let mut table: HashMap<_, u64, u32> = open(&node, maps::OPTED_OUT, Map::HashMap);
    table.insert(opted_out::of_link(9), 1, 0).unwrap();
    table.insert(opted_out::of_namespace(4242), 1, 0).unwrap();
    assert_eq!(
        node.said(&snapshot),
        [
            "OPTED_OUT: link 9 is not wanted",
            "OPTED_OUT: namespace 4242 is not wanted",
            "SETTINGS: whether pods are served packet by packet is not as OPTED_OUT has pods"
        ]
    );
}

#[test]
fn how_full_each_map_is_can_be_told() {
    let node = Node::new("fill");
    let _dataplane = synced(&node);
    let kernel = dataplane::kernel(&node.config.bpffs, &node.config.node_name).unwrap();
    let fills = dataplane::fill(&node.config, &kernel.tables).unwrap();
    let of = |map: &str| fills.iter().find(|fill| fill.map == map).map(|fill| (fill.used, fill.capacity));
    // Two backends, at two frontends that each have slots of their own; a third one has nobody.
    assert_eq!(of(maps::FRONTENDS), Some((3, maps::MAX_SERVICES.into())));
    assert_eq!(of(maps::SERVICE_TABLE), Some((3, maps::MAX_SERVICES.into())));
    assert_eq!(of(maps::SLOTS), Some((4, maps::MAX_SLOTS.into())));
    assert_eq!(of(maps::BACKENDS), Some((2, maps::MAX_BACKENDS.into())));
    assert_eq!(of(maps::MEMBERS), Some((2, maps::MAX_MEMBERS.into())));
    assert_eq!(of(maps::SOURCE_RANGES), Some((1, maps::MAX_SOURCE_RANGES.into())));
    // Another node, and what it has in the tunnel.
    assert_eq!(of(maps::ADDRESSES), Some((2, maps::MAX_ADDRESSES.into())));
    assert_eq!(of(maps::FLOWS), Some((0, maps::MAX_FLOWS.into())));
}

/// Serves what is wanted, as an agent does.
async fn serve(tasks: &Tasks, node: &Arc<Node>, wanted: &Arc<Mutex<Snapshot>>) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (node, wanted) = (Arc::clone(node), Arc::clone(wanted));
    let more = move |uri: &http::Uri| {
        (uri.path() == "/dataplane/wanted").then(|| {
            let json = serde_json::to_string(&node.wanted(&wanted.lock())).unwrap();
            plain_http::typed(http::StatusCode::OK, "application/json", json)
        })
    };
    let registry = Arc::new(oarlock_daemon::metrics::registry());
    tasks.spawn("admin", admin::serve_with(tasks.clone(), listener, registry, Health::default(), more));
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_while_it_is_read_is_no_difference_and_what_stays_is() {
    let node = Arc::new(Node::new("busy"));
    let (mut dataplane, snapshot) = synced(&node);
    let (tasks, wanted) = (Tasks::new(), Arc::new(Mutex::new(snapshot.clone())));
    let agent = serve(&tasks, &node, &wanted).await;
    let (token, shared) = (tasks.token(), Arc::clone(&wanted));
    tasks.spawn("churn", async move {
        for turn in 0u8.. {
            let endpoint =
                json!({"addresses": [format!("127.244.1.{}", turn % 200)], "conditions": {"ready": true}});
            put_slice(&mut shared.lock(), "web-1", "web", vec![endpoint]);
            let snapshot = shared.lock().clone();
            dataplane.sync(&snapshot).unwrap();
            tokio::select! {
                () = tokio::time::sleep(std::time::Duration::from_millis(40)) => {}
                () = token.cancelled() => return,
            }
        }
    });
    let bpffs = node.config.bpffs.clone();
    for _ in 0..20 {
        let found = look::verify(agent, &bpffs, &node.config.node_name).await.unwrap();
        assert_eq!(found.differences, []);
        assert_eq!((found.compared.frontends, found.compared.nodes), (3, 1));
    }
    let mut addresses: HashMap<_, [u8; 4], Owner> = open(&node, maps::ADDRESSES, Map::HashMap);
    addresses.remove(&[127, 30, 78, 2]).unwrap();
    let command =
        ["dataplane", "verify", "--node-name", &node.config.node_name, "--agent", &agent.to_string()]
            .map(str::to_owned);
    let verify = || Command::new(env!("CARGO_BIN_EXE_oarlock-agent")).args(&command).output().unwrap();
    let said = tokio::task::block_in_place(verify);
    let text = String::from_utf8(said.stdout).unwrap();
    assert_eq!(text.lines().next(), Some("ADDRESSES: 127.30.78.2 is missing: it is a node"));
    assert!(text.contains("1 differences") && said.status.code() == Some(1), "{text}");
    addresses.insert([127, 30, 78, 2], Owner::by_routes(NODE), 0).unwrap();
    let said = tokio::task::block_in_place(verify);
    let text = String::from_utf8(said.stdout).unwrap();
    assert!(text.starts_with("the kernel's tables are as wanted: 3 frontends,"), "{text}");
    assert!(said.status.success());
    tasks.shut_down();
    tasks.finish(std::time::Duration::from_secs(5)).await.unwrap();
}
