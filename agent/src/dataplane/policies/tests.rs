//! Policies as users write them, and what the kernel would find in the tables, against a naive reading of the same policies.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr as _;

use oarlock_api::network_policy::{PodGroup, groups, isolates, named_port};
use oarlock_ebpf::policy::{EGRESS, INGRESS, ONE_PORT, Rule, rule};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const LINK: u32 = 7;
const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 5);

fn parse<T: serde::de::DeserializeOwned>(value: Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value).unwrap())
}

/// The address of IPv6 of a pod with this one.
fn six(ip: Ipv4Addr) -> Ipv6Addr {
    let [a, b, c, d] = ip.octets().map(u16::from);
    Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, a << 8 | b, c << 8 | d)
}

/// One pod of this node, "db" in namespace "d" with a port "sql", and policies that may select it.
fn snapshot(specs: &[Value]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let key = |name: &str| ("d".to_owned(), name.to_owned());
    let pod = json!({"metadata": {"name": "db", "namespace": "d", "uid": "u", "labels": {"app": "db"}},
        "spec": {"containers": [{"name": "c", "ports": [{"name": "sql", "containerPort": 5432, "protocol": "TCP"}]}]}});
    snapshot.pods.insert(key("db"), parse(pod));
    for (i, spec) in specs.iter().enumerate() {
        let name = format!("p{i}");
        let policy = json!({"metadata": {"name": name, "namespace": "d"}, "spec": spec});
        snapshot.network_policies.insert(key(&name), parse(policy));
    }
    snapshot
}

/// A pod of a group that a peer names.
fn join(snapshot: &mut Snapshot, peer: &Value, name: &str, ip: Ipv4Addr, http: Option<u16>) {
    let group = PodGroup::of("d", &parse(peer.clone())).unwrap().id();
    let ports = http.map(|port| (named_port("TCP", "http"), port)).into_iter().collect();
    snapshot
        .network_peers
        .insert((group, name.to_owned()), Arc::new(Member { ip, ip6: Some(six(ip)), ports }));
}

fn links() -> BTreeMap<u32, (DualIp, String)> {
    BTreeMap::from([(LINK, (DualIp { v4: POD, v6: Some(six(POD)) }, "u".to_owned()))])
}

/// The tables, read as the programs read them.
struct Kernel {
    wanted: Wanted,
    lines: BTreeSet<(u32, Rule)>,
}

impl Kernel {
    fn of(wanted: &Wanted) -> Self {
        let numbers = wanted.numbers.iter().map(|(number, rules)| (*number, &**rules));
        let identities = wanted.identities.iter().map(|(identity, peers)| (*identity, &**peers));
        Self { wanted: wanted.clone(), lines: rules::lines(numbers, identities) }
    }

    fn compiled(snapshot: &Snapshot) -> Self {
        Self::of(Compiler::default().update(snapshot, links()))
    }

    fn identity(&self, address: IpAddr) -> u32 {
        let nets = self.wanted.prefixes.iter().filter(|(net, _)| net.contains(&address));
        nets.max_by_key(|(net, _)| net.prefix_len()).map_or(NOBODY, |(_, identity)| *identity)
    }

    fn has_line(&self, data: Rule) -> bool {
        let compares = |bits: u32, line: &Rule| {
            let bit = |data: &Rule, i: u32| data[i as usize / 8] >> (7 - i % 8) & 1;
            (0..bits).all(|i| bit(&data, i) == bit(line, i))
        };
        self.lines.iter().any(|(bits, line)| *bits <= ONE_PORT && compares(*bits, line))
    }

    fn allows(&self, comes: bool, peer: impl Into<IpAddr>, protocol: u8, port: u16) -> bool {
        let Some(isolation) = self.wanted.isolated.get(&LINK) else { return true };
        let number = if comes { isolation.ingress } else { isolation.egress };
        let identity = self.identity(peer.into());
        number == 0
            || self.has_line(rule(number, ANYBODY, protocol, port))
            || identity != NOBODY && self.has_line(rule(number, identity, protocol, port))
    }
}

const FRIEND: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 9);
const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 10);

#[test]
fn what_no_policy_selects_is_free_and_what_one_selects_is_closed() {
    let free = Kernel::compiled(&snapshot(&[json!({"podSelector": {"matchLabels": {"app": "web"}}})]));
    assert!(free.allows(true, STRANGER, 6, 80) && free.allows(false, STRANGER, 6, 80));
    assert_eq!(free.wanted, Wanted { links: BTreeSet::from([LINK]), ..Wanted::default() });
    let closed = Kernel::compiled(&snapshot(&[json!({"podSelector": {}})]));
    assert!(!closed.allows(true, STRANGER, 6, 80) && closed.allows(false, STRANGER, 6, 80));
    let silent = Kernel::compiled(&snapshot(&[json!({"podSelector": {}, "policyTypes": ["Egress"]})]));
    assert!(silent.allows(true, STRANGER, 6, 80) && !silent.allows(false, STRANGER, 17, 53));
}

#[test]
fn policies_add_up() {
    let peer = json!({"podSelector": {"matchLabels": {"app": "web"}}});
    let mut snapshot = snapshot(&[
        json!({"podSelector": {}}),
        json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{"from": [peer], "ports": [{"port": "sql"}]}]}),
        json!({"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{"ports": [{"protocol": "UDP", "port": 53}]}]}),
    ]);
    join(&mut snapshot, &peer, "d/web", FRIEND, None);
    let kernel = Kernel::compiled(&snapshot);
    assert!(kernel.allows(true, FRIEND, 6, 5432), "by the name of the port");
    assert!(!kernel.allows(true, FRIEND, 6, 5433) && !kernel.allows(true, STRANGER, 6, 5432));
    assert!(kernel.allows(true, STRANGER, 17, 53) && !kernel.allows(true, STRANGER, 6, 53));
}

#[test]
fn exceptions_of_a_block_are_closed_even_where_another_policy_knows_them() {
    let kernel = Kernel::compiled(&snapshot(&[json!({"podSelector": {}, "ingress": [
        {"from": [{"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.128/25"]}}]},
        {"from": [{"ipBlock": {"cidr": "192.0.2.192/26"}}], "ports": [{"port": 443}]},
    ]})]));
    let allows = |last: u8, port: u16| kernel.allows(true, Ipv4Addr::new(192, 0, 2, last), 6, port);
    assert!(allows(1, 80) && allows(127, 443) && !allows(128, 443) && !allows(191, 443));
    assert!(allows(192, 443) && !allows(192, 80));
    assert!(!kernel.allows(true, FRIEND, 6, 443));
}

#[test]
fn a_pod_in_a_block_is_as_much_of_it_as_any_address() {
    let peer = json!({"podSelector": {}});
    let mut snapshot = snapshot(&[
        json!({"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 80}]},
                                               {"from": [peer], "ports": [{"port": 81}]}]}),
    ]);
    join(&mut snapshot, &peer, "d/web", FRIEND, None);
    let kernel = Kernel::compiled(&snapshot);
    assert!(kernel.allows(true, FRIEND, 6, 80) && kernel.allows(true, FRIEND, 6, 81));
    assert!(kernel.allows(true, STRANGER, 6, 80) && !kernel.allows(true, STRANGER, 6, 81));
}

#[test]
fn ports_that_go_to_names_are_those_of_each_pod() {
    let peer = json!({"podSelector": {"matchLabels": {"app": "web"}}});
    let everybody = json!({"namespaceSelector": {}});
    let spec = |rule: Value| json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [rule]});
    for (peer, rule) in [
        (peer.clone(), json!({"to": [peer], "ports": [{"port": "http"}]})),
        (everybody, json!({"ports": [{"port": "http"}]})),
    ] {
        let mut snapshot = snapshot(&[spec(rule)]);
        join(&mut snapshot, &peer, "d/a", FRIEND, Some(8080));
        join(&mut snapshot, &peer, "d/b", STRANGER, Some(9090));
        let kernel = Kernel::compiled(&snapshot);
        assert!(kernel.allows(false, FRIEND, 6, 8080) && !kernel.allows(false, FRIEND, 6, 9090));
        assert!(kernel.allows(false, STRANGER, 6, 9090) && !kernel.allows(false, STRANGER, 6, 8080));
        assert!(!kernel.allows(false, FRIEND, 17, 8080));
    }
}

#[test]
fn another_agent_comes_to_the_same_numbers() {
    let peer = json!({"podSelector": {"matchLabels": {"app": "web"}}});
    let mut snapshot = snapshot(&[json!({"podSelector": {}, "ingress": [{"from": [peer]}]})]);
    join(&mut snapshot, &peer, "d/web", FRIEND, None);
    assert_eq!(Kernel::compiled(&snapshot).wanted, Kernel::compiled(&snapshot).wanted);
}

// ---- Against a naive reading ----------------------------------------------------------------------------------------

const APPS: [&str; 3] = ["web", "db", "job"];

fn address() -> impl Strategy<Value = Ipv4Addr> {
    (0..2_u8, 0..8_u8).prop_map(|(c, d)| Ipv4Addr::new(10, 244, c, d))
}

/// Of either family.
fn any_address() -> impl Strategy<Value = IpAddr> {
    (address(), any::<bool>()).prop_map(|(ip, of6)| if of6 { six(ip).into() } else { ip.into() })
}

/// Of either family; those of IPv6 as long after the prefix that all addresses have.
fn net(bits: std::ops::RangeInclusive<u8>) -> impl Strategy<Value = IpNet> {
    (any_address(), bits).prop_map(|(ip, bits)| {
        let bits = if ip.is_ipv6() { 96 + bits } else { bits };
        IpNet::new(ip, bits).unwrap().trunc()
    })
}

fn peer() -> impl Strategy<Value = Value> {
    let app = prop::sample::select(&APPS[..]);
    let block = (net(8..=30), prop::collection::vec(net(24..=32), 0..3)).prop_map(|(cidr, except)| {
        let except: Vec<String> = except
            .into_iter()
            .filter(|e| cidr.contains(e) && e.prefix_len() > cidr.prefix_len())
            .map(|e| e.to_string())
            .collect();
        json!({"ipBlock": {"cidr": cidr.to_string(), "except": except}})
    });
    prop_oneof![
        app.prop_map(|app| json!({"podSelector": {"matchLabels": {"app": app}}})),
        Just(json!({"podSelector": {}})),
        block,
    ]
}

fn ports() -> impl Strategy<Value = Vec<Value>> {
    let one = prop_oneof![
        Just(json!({"protocol": "UDP"})),
        (79..83_u16).prop_map(|port| json!({"protocol": "TCP", "port": port})),
        (78..82_u16, 0..5_u16)
            .prop_map(|(first, more)| json!({"protocol": "TCP", "port": first, "endPort": first + more})),
        Just(json!({"protocol": "TCP", "port": "http"})),
    ];
    prop::collection::vec(one, 0..3)
}

fn policy() -> impl Strategy<Value = Value> {
    let rule = |peers: &'static str| {
        (prop::collection::vec(peer(), 0..3), ports())
            .prop_map(move |(listed, ports)| json!({peers: listed, "ports": ports}))
    };
    let selector = prop_oneof![
        Just(json!({})),
        Just(json!({"matchLabels": {"app": "db"}})),
        Just(json!({"matchLabels": {"app": "no"}}))
    ];
    let types =
        prop::sample::select(vec![json!(["Ingress"]), json!(["Egress"]), json!(["Ingress", "Egress"])]);
    (selector, types, prop::collection::vec(rule("from"), 0..3), prop::collection::vec(rule("to"), 0..3)).prop_map(
        |(selector, types, ingress, egress)| {
            json!({"podSelector": selector, "policyTypes": types, "ingress": ingress, "egress": egress})
        },
    )
}

/// A pod elsewhere: app, address, the number of its port "http".
type Other = (&'static str, Ipv4Addr, u16);

fn others() -> impl Strategy<Value = Vec<Other>> {
    prop::collection::vec((prop::sample::select(&APPS[..]), address(), 79..83_u16), 0..5)
}

/// What the control plane tells of these pods, as the policies ask for them.
fn tell(snapshot: &mut Snapshot, others: &[Other]) {
    snapshot.network_peers.clear();
    let groups: BTreeMap<String, PodGroup> =
        snapshot.network_policies.values().flat_map(|policy| groups(policy)).collect();
    for (id, group) in groups {
        let matcher = group.matcher().unwrap();
        for (i, (app, ip, http)) in others.iter().enumerate() {
            if matcher.matches("d", |_| None, |key| (key == "app").then_some(app)) {
                let ports = BTreeMap::from([(named_port("TCP", "http"), *http)]);
                let member = Arc::new(Member { ip: *ip, ip6: Some(six(*ip)), ports });
                snapshot.network_peers.insert((id.clone(), format!("d/{i}")), member);
            }
        }
    }
}

/// Whether the policies allow it, word by word.
fn reads(specs: &[Value], others: &[Other], comes: bool, peer: IpAddr, protocol: u8, port: u16) -> bool {
    let (rules, peers) = if comes { ("ingress", "from") } else { ("egress", "to") };
    let isolating: Vec<&Value> = specs
        .iter()
        .filter(|spec| {
            let policy = parse(json!({"metadata": {"namespace": "d"}, "spec": spec}));
            let (ingress, egress) = isolates(&policy);
            spec["podSelector"]["matchLabels"]["app"] != "no" && if comes { ingress } else { egress }
        })
        .collect();
    let is_at = |ip: Ipv4Addr| peer == ip || peer == six(ip);
    let is_peer = |listed: &Value| match listed["ipBlock"].as_object() {
        Some(block) => {
            let has = |cidr: &Value| IpNet::from_str(cidr.as_str().unwrap()).unwrap().contains(&peer);
            has(&block["cidr"]) && !block["except"].as_array().unwrap().iter().any(has)
        }
        None => others.iter().any(|(app, ip, _)| {
            let wanted = listed["podSelector"]["matchLabels"]["app"].as_str();
            is_at(*ip) && wanted.is_none_or(|wanted| wanted == *app)
        }),
    };
    let is_port = |listed: &Value, of_peer: &[&Other]| {
        let number = if listed["protocol"] == "UDP" { 17 } else { 6 };
        number == protocol
            && match (&listed["port"], &listed["endPort"]) {
                (Value::Null, _) => true,
                // The pod of this node has no port of that name.
                (Value::String(_), _) => !comes && of_peer.iter().any(|(.., http)| *http == port),
                (first, Value::Null) => first == port,
                (first, last) => (first.as_u64()..=last.as_u64()).contains(&Some(u64::from(port))),
            }
    };
    isolating.is_empty()
        || isolating.iter().flat_map(|spec| spec[rules].as_array().unwrap()).any(|rule| {
            let (listed, ports) = (rule[peers].as_array().unwrap(), rule["ports"].as_array().unwrap());
            let matching: Vec<&Value> = listed.iter().filter(|listed| is_peer(listed)).collect();
            let named = |listed: Option<&Value>| -> Vec<&Other> {
                let is = |other: &&Other| {
                    let wanted = listed.and_then(|l| l["podSelector"]["matchLabels"]["app"].as_str());
                    let is_block = listed.is_some_and(|l| l["ipBlock"].is_object());
                    is_at(other.1) && !is_block && wanted.is_none_or(|wanted| wanted == other.0)
                };
                others.iter().filter(is).collect()
            };
            let fits =
                |of_peer: &[&Other]| ports.is_empty() || ports.iter().any(|listed| is_port(listed, of_peer));
            if listed.is_empty() {
                fits(&named(None))
            } else {
                matching.iter().any(|listed| fits(&named(Some(listed))))
            }
        })
}

proptest! {
    #[test]
    fn the_kernel_allows_what_the_policies_say_after_any_history(
        history in prop::collection::vec((prop::collection::vec(policy(), 0..4), others()), 1..4),
        packets in prop::collection::vec((any::<bool>(), any_address(), prop::sample::select(&[6_u8, 17, 132][..]), 78..86_u16), 40),
    ) {
        let mut compiler = Compiler::default();
        for (specs, others) in &history {
            let mut now = snapshot(specs);
            tell(&mut now, others);
            let kernel = Kernel::of(compiler.update(&now, links()));
            prop_assert_eq!(&kernel.wanted.isolated.len(), &Kernel::compiled(&now).wanted.isolated.len());
            for (comes, peer, protocol, port) in &packets {
                let direction = if *comes { INGRESS } else { EGRESS };
                let name = [("TCP", 6), ("UDP", 17), ("SCTP", 132)].into_iter().find(|(_, n)| n == protocol).unwrap().0;
                let pod: IpAddr = if peer.is_ipv6() { six(POD).into() } else { POD.into() };
                let told = picture::of(&kernel.wanted);
                let told = told.judge(direction, pod, *peer, (name, *port)).is_none_or(|judgement| judgement.allowed);
                prop_assert_eq!(told, kernel.allows(*comes, *peer, *protocol, *port), "as a trace tells it");
                prop_assert_eq!(
                    kernel.allows(*comes, *peer, *protocol, *port),
                    reads(specs, others, *comes, *peer, *protocol, *port),
                    "comes {} peer {} protocol {} port {}", comes, peer, protocol, port
                );
            }
        }
    }
}

/// The spec of a NetworkPolicy, as if nobody had checked it.
#[test]
fn fuzz_policies() {
    oarlock_fuzz::Target::new("policies").run(|input| {
        let Ok(spec) = serde_json::from_slice::<Value>(input) else { return };
        let policy = json!({"metadata": {"name": "p", "namespace": "d"}, "spec": spec});
        let Ok(policy) = serde_json::from_value(policy) else { return };
        let mut snapshot = snapshot(&[]);
        snapshot.network_policies.insert(("d".to_owned(), "p".to_owned()), Arc::new(policy));
        join(
            &mut snapshot,
            &json!({"podSelector": {"matchLabels": {"app": "web"}}}),
            "d/web",
            FRIEND,
            Some(80),
        );
        let kernel = Kernel::compiled(&snapshot);
        let _ = (kernel.allows(true, FRIEND, 6, 80), kernel.allows(false, STRANGER, 17, 53));
    });
}
