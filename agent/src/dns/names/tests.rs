//! The specification's examples, and any history of Services and slices against a fresh look at what is left of it.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const ZONE: &str = "cluster.local";

fn snapshot(services: &[(&str, Value)], slices: &[(&str, &str, Value)]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let key = |name: &str| ("shop".to_owned(), name.to_owned());
    for (name, spec) in services {
        let service = json!({"metadata": {"name": name, "namespace": "shop"}, "spec": spec});
        snapshot.services.insert(key(name), Arc::new(serde_json::from_value(service).unwrap()));
    }
    for (name, service, endpoints) in slices {
        let first = endpoints[0]["addresses"][0].as_str().unwrap_or_default();
        let family = if first.contains(':') { "IPv6" } else { "IPv4" };
        let slice = json!({"metadata": {"name": name, "labels": {SERVICE_LABEL: service}}, "addressType": family,
            "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}], "endpoints": endpoints});
        snapshot.endpoint_slices.insert(key(name), Arc::new(serde_json::from_value(slice).unwrap()));
    }
    snapshot
}

fn names(snapshot: &Snapshot) -> Names {
    let mut names = Names::default();
    names.update("Cluster.Local.", snapshot, true);
    names
}

fn shop() -> Names {
    let web = json!({"clusterIP": "10.96.0.80", "clusterIPs": ["10.96.0.80", "fd00::80"],
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]});
    let db = json!({"clusterIP": "None", "ports": [{"name": "sql", "port": 3306, "protocol": "TCP"}]});
    let endpoints = json!([
        {"addresses": ["10.244.1.5"], "hostname": "db-0", "conditions": {"ready": true}},
        {"addresses": ["10.244.1.6"], "conditions": {}},
        {"addresses": ["10.244.1.7"], "conditions": {"ready": false}},
    ]);
    let endpoints6 = json!([
        {"addresses": ["fd00:10:244:1::5"], "hostname": "db-0", "conditions": {"ready": true}},
        {"addresses": ["fd00:10:244:1::6"], "conditions": {}},
    ]);
    names(&snapshot(
        &[
            ("web", web),
            ("db", db),
            ("empty", json!({"clusterIP": "None"})),
            ("away", json!({"type": "ExternalName", "externalName": "db.Example.COM."})),
        ],
        &[("db-1", "db", endpoints), ("db-2", "db", endpoints6)],
    ))
}

/// What is answered, in one line.
fn said(answer: Answer) -> String {
    match answer {
        Answer::Found { answers, additionals } => {
            let data = |(_, data): Said| match data {
                Data::A(ip) => ip.to_string(),
                Data::Aaaa(ip) => ip.to_string(),
                Data::Srv { port, target } => format!("{port}@{target}"),
                Data::Ptr(name) | Data::Cname(name) | Data::Txt(name) => name,
            };
            let more = if additionals.is_empty() { "" } else { " +" };
            let words: Vec<String> = answers.into_iter().map(data).collect();
            let helps: Vec<String> = additionals.into_iter().map(data).collect();
            words.join(" ") + more + &helps.join(" ")
        }
        Answer::Missing => "missing".to_owned(),
        Answer::Foreign => "foreign".to_owned(),
        Answer::Unknown => "unknown".to_owned(),
    }
}

#[test]
fn names_mean_what_the_specification_says() {
    let names = shop();
    for (name, kind, wanted) in [
        ("dns-version.cluster.local", Kind::Txt, "1.1.0"),
        ("cluster.local", Kind::A, ""),
        ("svc.cluster.local", Kind::A, ""),
        ("shop.svc.cluster.local", Kind::A, ""),
        ("nobody.svc.cluster.local", Kind::A, "missing"),
        ("web.shop.svc.cluster.local", Kind::A, "10.96.0.80"),
        ("web.shop.svc.cluster.local", Kind::Aaaa, "fd00::80"),
        ("web.shop.svc.cluster.local", Kind::Other, ""),
        ("other.shop.svc.cluster.local", Kind::A, "missing"),
        ("db.shop.svc.cluster.local", Kind::A, "10.244.1.5 10.244.1.6"),
        ("db.shop.svc.cluster.local", Kind::Aaaa, "fd00:10:244:1::5 fd00:10:244:1::6"),
        ("db.shop.svc.cluster.local", Kind::Txt, ""),
        ("empty.shop.svc.cluster.local", Kind::A, "missing"),
        ("db-0.db.shop.svc.cluster.local", Kind::A, "10.244.1.5"),
        ("db-0.db.shop.svc.cluster.local", Kind::Aaaa, "fd00:10:244:1::5"),
        ("10-244-1-6.db.shop.svc.cluster.local", Kind::A, "10.244.1.6"),
        ("10-244-1-6.db.shop.svc.cluster.local", Kind::Aaaa, ""),
        ("fd00-10-244-1--6.db.shop.svc.cluster.local", Kind::Aaaa, "fd00:10:244:1::6"),
        ("10-244-1-5.db.shop.svc.cluster.local", Kind::A, "missing"),
        ("10-244-1-7.db.shop.svc.cluster.local", Kind::A, "missing"),
        (
            "_http._tcp.web.shop.svc.cluster.local",
            Kind::Srv,
            "80@web.shop.svc.cluster.local +10.96.0.80 fd00::80",
        ),
        ("_http._udp.web.shop.svc.cluster.local", Kind::Srv, "missing"),
        ("_tcp.web.shop.svc.cluster.local", Kind::Srv, ""),
        ("_http._tcp.web.shop.svc.cluster.local", Kind::A, ""),
        (
            "_sql._tcp.db.shop.svc.cluster.local",
            Kind::Srv,
            "5432@10-244-1-6.db.shop.svc.cluster.local 5432@db-0.db.shop.svc.cluster.local \
             5432@fd00-10-244-1--6.db.shop.svc.cluster.local +10.244.1.6 10.244.1.5 fd00:10:244:1::5 fd00:10:244:1::6",
        ),
        ("away.shop.svc.cluster.local", Kind::A, "db.example.com"),
        ("x.away.shop.svc.cluster.local", Kind::A, "missing"),
        ("10-244-9-9.shop.pod.cluster.local", Kind::A, "10.244.9.9"),
        ("10-244-9-9.shop.pod.cluster.local", Kind::Aaaa, ""),
        ("fd00-10-244-1--9.shop.pod.cluster.local", Kind::Aaaa, "fd00:10:244:1::9"),
        ("words.shop.pod.cluster.local", Kind::A, "missing"),
        ("80.0.96.10.in-addr.arpa", Kind::Ptr, "web.shop.svc.cluster.local"),
        ("5.1.244.10.in-addr.arpa", Kind::Ptr, "db-0.db.shop.svc.cluster.local"),
        ("6.1.244.10.in-addr.arpa", Kind::Ptr, "10-244-1-6.db.shop.svc.cluster.local"),
        ("7.1.244.10.in-addr.arpa", Kind::Ptr, "foreign"),
        (
            "0.8.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa",
            Kind::Ptr,
            "web.shop.svc.cluster.local",
        ),
        (
            "5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.4.4.2.0.0.1.0.0.0.0.d.f.ip6.arpa",
            Kind::Ptr,
            "db-0.db.shop.svc.cluster.local",
        ),
        ("0.8.d.f.ip6.arpa", Kind::Ptr, "foreign"),
        ("1.244.10.in-addr.arpa", Kind::Ptr, "foreign"),
        ("example.com", Kind::A, "foreign"),
        ("notcluster.local", Kind::A, "foreign"),
        ("", Kind::A, "foreign"),
    ] {
        assert_eq!(said(names.answer(name, kind)), wanted, "{name} {kind:?}");
    }
}

#[test]
fn nothing_is_said_to_be_missing_before_everything_is_known() {
    let mut names = Names::default();
    assert_eq!(names.answer("web.shop.svc.cluster.local", Kind::A), Answer::Unknown);
    names.update(ZONE, &Snapshot::default(), false);
    assert_eq!(names.answer("web.shop.svc.cluster.local", Kind::A), Answer::Unknown);
    assert_eq!(names.answer("example.com", Kind::A), Answer::Foreign);
    names.update(ZONE, &Snapshot::default(), true);
    assert_eq!(names.answer("web.shop.svc.cluster.local", Kind::A), Answer::Missing);
}

/// Some Services, and slices of them.
type State = (Vec<(u8, u8)>, Vec<(u8, u8, Vec<u8>)>);

fn state() -> impl Strategy<Value = State> {
    let services = prop::collection::vec((0..3_u8, 0..4_u8), 0..4);
    let slices = prop::collection::vec((0..4_u8, 0..3_u8, prop::collection::vec(0..6_u8, 0..4)), 0..5);
    (services, slices)
}

fn compose((services, slices): &State) -> Snapshot {
    let services: Vec<(String, Value)> = services
        .iter()
        .map(|(name, ip)| {
            let ip = if *ip == 0 { "None".to_owned() } else { format!("10.96.0.{ip}") };
            (format!("s{name}"), json!({"clusterIP": ip, "ports": [{"name": "sql", "port": 80}]}))
        })
        .collect();
    let slices: Vec<(String, String, Value)> = slices
        .iter()
        .map(|(name, service, ips)| {
            let one = |ip: &u8| json!({"addresses": [format!("10.244.0.{ip}")], "conditions": {"ready": ip % 5 != 4}});
            (format!("e{name}"), format!("s{service}"), ips.iter().map(one).collect())
        })
        .collect();
    let services: Vec<(&str, Value)> =
        services.iter().map(|(name, spec)| (name.as_str(), spec.clone())).collect();
    let slices: Vec<(&str, &str, Value)> =
        slices.iter().map(|(name, service, ips)| (name.as_str(), service.as_str(), ips.clone())).collect();
    snapshot(&services, &slices)
}

proptest! {
    #[test]
    fn any_history_ends_in_the_answers_of_a_fresh_look(history in prop::collection::vec(state(), 1..5)) {
        let mut followed = Names::default();
        for state in &history {
            followed.update(ZONE, &compose(state), true);
        }
        let fresh = names(&compose(history.last().unwrap()));
        let of_services = (0..3).flat_map(|s| {
            let name = format!("s{s}.shop.svc.{ZONE}");
            [format!("_sql._tcp.{name}"), format!("10-244-0-1.{name}"), name]
        });
        let reversed = (0..6).flat_map(|n| [format!("{n}.0.96.10.in-addr.arpa"), format!("{n}.0.244.10.in-addr.arpa")]);
        for name in of_services.chain(reversed) {
            for kind in [Kind::A, Kind::Srv, Kind::Ptr] {
                prop_assert_eq!(followed.answer(&name, kind), fresh.answer(&name, kind), "{} {:?}", name, kind);
            }
        }
        prop_assert_eq!(&followed.cluster_ips, &fresh.cluster_ips);
        prop_assert_eq!(&followed.endpoints, &fresh.endpoints);
    }

    #[test]
    fn no_name_makes_it_panic(name in "([a-z0-9_-]{0,6}\\.){0,7}(cluster\\.local|in-addr\\.arpa|[a-z.]{0,9})") {
        let names = shop();
        for kind in [Kind::A, Kind::Srv, Kind::Ptr, Kind::Txt, Kind::Other] {
            names.answer(&name, kind);
        }
    }
}
