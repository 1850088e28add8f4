//! Whether the kernel's tables are those that are wanted. What is wanted is compiled anew, from the objects, by nothing that the
//! running tables were made with but the compiler itself. Comparing is pure; only what differs each time it is read counts, as
//! tables change while they are read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use oarlock_ebpf::flow::Owner;
use oarlock_ebpf::{LAYOUT_VERSION, flow, maps};

use super::compile::{self, Compiler};
use super::opted_out;
use super::picture::{self, FrontendPicture, NodePicture, OverlayPicture, Picture, PodPicture};
use super::policies;
use super::read::Kernel;
use super::{Answering, DataplaneConfig, Overlay, PodLink, addresses};
use crate::desired::Snapshot;
use crate::net::NodeRoute;
use ipnet::{IpNet, Ipv4Net};

/// Something that the kernel has otherwise than it should.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// The map's name.
    pub map: String,
    /// Which entry.
    pub entry: String,
    /// The Service's `namespace/name:port`, or its number where nobody knows the name.
    pub service: Option<String>,
    /// What is wrong with it.
    pub problem: String,
}

impl Difference {
    pub(super) fn of(map: &str, frontend: &FrontendPicture, problem: String) -> Self {
        let service = frontend.name.as_ref().unwrap_or(&frontend.service).clone();
        Self { map: map.to_owned(), entry: frontend.place(), service: Some(service), problem }
    }

    pub(super) fn plain(map: &str, entry: impl fmt::Display, problem: impl Into<String>) -> Self {
        Self { map: map.to_owned(), entry: entry.to_string(), service: None, problem: problem.into() }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.map, self.entry)?;
        self.service.as_ref().map_or(Ok(()), |service| write!(f, " of {service}"))?;
        write!(f, " {}", self.problem)
    }
}

/// What an agent knows beside the objects of the cluster.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// The ranges of all pods.
    pub cluster_cidrs: &'a [IpNet],
    /// By which link pods of other nodes are reached.
    pub overlay: Option<&'a Overlay>,
    /// The cookie of the node's network namespace.
    pub namespace: u64,
    /// The pods that this node plugs, and those that others have plugged.
    pub pods: (&'a BTreeMap<Ipv4Addr, PodLink>, &'a BTreeSet<IpAddr>),
}

/// The tables that are wanted, compiled anew.
#[must_use]
pub fn wanted(config: &DataplaneConfig, snapshot: &Snapshot, around: Surroundings<'_>) -> Picture {
    let mut compiler = Compiler::new(&config.node_name, config.node_ips());
    let (linked_pods, foreign) = around.pods;
    let keys = compiler.update(snapshot, &compile::by_uid(linked_pods));
    let frontends = keys.into_iter().filter_map(|key| {
        let wanted = compiler.frontend(&key)?;
        let peers = |peers: &[(IpAddr, u16)]| peers.iter().copied().map(SocketAddr::from).collect();
        Some(FrontendPicture {
            address: key.ip,
            port: key.port,
            protocol: picture::protocol(key.protocol),
            service: picture::service(wanted.service),
            name: Some(wanted.name.to_string()),
            algorithm: wanted.algorithm,
            affinity_seconds: wanted.affinity,
            external: wanted.external,
            source_ranges: wanted.ranges.clone(),
            inside: peers(&wanted.inside),
            outside: peers(&wanted.outside),
        })
    });
    let linked = linked_pods.iter().flat_map(|(ip, link)| {
        // A link that is not there yet is not expected to be known.
        let number = nix::net::if_::if_nametoindex(link.name.as_str()).ok();
        let owner = number.map(|number| super::attach::owner(link, number));
        let ips = [Some(IpAddr::V4(*ip)), link.ip6.map(IpAddr::V6)].into_iter().flatten();
        owner.into_iter().flat_map(move |owner| ips.clone().map(move |ip| PodPicture::of(ip, &owner)))
    });
    let per_packet = linked_pods.values().filter_map(|link| {
        let number = nix::net::if_::if_nametoindex(link.name.as_str()).ok()?;
        Some(opted_out::keys(number, link.per_packet?))
    });
    let per_packet = per_packet.flatten().map(opted_out::name).collect();
    let foreign = foreign.iter().map(|ip| PodPicture::of(*ip, &Owner::by_routes(flow::LOCAL_POD)));
    let pods: BTreeMap<IpAddr, PodPicture> = linked.chain(foreign).map(|pod| (pod.address, pod)).collect();
    let (nodes, tunnel_ends) = Overlay::nodes(around.overlay, snapshot);
    let (mut cluster, mut cluster6) = (None, None);
    for range in around.cluster_cidrs {
        match range {
            IpNet::V4(range) => cluster = Some(*range),
            IpNet::V6(range) => cluster6 = Some(*range),
        }
    }
    let settings = super::settings(config, cluster, around.overlay, around.namespace);
    let settings6 = super::six::settings(config, cluster6, around.overlay);
    Picture {
        layout_version: LAYOUT_VERSION,
        node: NodePicture::of(&settings, &settings6),
        frontends: frontends.collect(),
        nodes: nodes.into_iter().filter(|ip| !pods.contains_key(ip)).collect(),
        tunnel_ends: tunnel_ends.into_iter().filter(|ip| !pods.contains_key(&IpAddr::V4(*ip))).collect(),
        per_packet,
        direct: match around.overlay.and_then(|overlay| overlay.tunnel.as_ref()) {
            Some(Answering::These(ranges)) => BTreeMap::clone(ranges),
            Some(Answering::Unchanged) | None => BTreeMap::new(),
        },
        routes: None,
        pods: pods.into_values().collect(),
        policies: policies::wanted(snapshot, linked_pods),
        leaving: Vec::new(),
    }
}

/// What differs, sorted.
#[must_use]
pub fn compare(kernel: &Kernel, wanted: &Picture) -> BTreeSet<Difference> {
    let names: BTreeMap<&String, &String> =
        wanted.frontends.iter().filter_map(|f| Some((&f.service, f.name.as_ref()?))).collect();
    let mut all: BTreeSet<Difference> = kernel.flaws.iter().cloned().collect();
    let tables = &kernel.tables;
    if tables.layout_version != wanted.layout_version {
        let problem = format!("is {}, should be {}", tables.layout_version, wanted.layout_version);
        all.insert(Difference::plain("all", "the layout's version", problem));
        return all;
    }
    all.extend(of_node(&tables.node, &wanted.node));
    all.extend(of_frontends(&tables.frontends, &wanted.frontends));
    all.extend(of_addresses(tables, wanted));
    let problem = |name: &String, what: &str| Difference::plain(maps::OPTED_OUT, name, what);
    let (is, should) = (&tables.per_packet, &wanted.per_packet);
    all.extend(should.difference(is).map(|name| problem(name, "is missing")));
    all.extend(is.difference(should).map(|name| problem(name, "is not wanted")));
    all.extend(of_direct(&tables.direct, &wanted.direct));
    all.extend(of_routes(tables.routes.as_ref(), wanted.routes.as_ref()));
    all.extend(tables.policies.compare(&wanted.policies));
    // What the kernel knows by number has a name for people.
    let named = |mut difference: Difference| {
        if let Some(name) = difference.service.as_ref().and_then(|number| names.get(number)) {
            difference.service = Some((*name).clone());
        }
        difference
    };
    all.into_iter().map(named).collect()
}

fn of_node(present: &NodePicture, wanted: &NodePicture) -> Vec<Difference> {
    let mut all = Vec::new();
    let mut check = |what: &str, present: String, wanted: String| {
        if present != wanted {
            let problem = format!("is {present}, should be {wanted}");
            all.push(Difference::plain(maps::SETTINGS, what, problem));
        }
    };
    check("the node's address", present.address.to_string(), wanted.address.to_string());
    let own6 = |node: &NodePicture| node.address6.map_or("none".to_owned(), |ip| ip.to_string());
    check("the node's address of IPv6", own6(present), own6(wanted));
    let cidr = |node: &NodePicture| {
        let all: Vec<String> = node.clusters().map(|range| range.to_string()).collect();
        if all.is_empty() { "not known".to_owned() } else { all.join(" and ") }
    };
    check("the range of all pods", cidr(present), cidr(wanted));
    let outsiders = |node: &NodePicture| node.external_cluster_ips.to_string();
    check("whether ClusterIPs are answered for outsiders", outsiders(present), outsiders(wanted));
    let cookie = |node: &NodePicture| node.namespace_cookie.to_string();
    check("the cookie of the node's network namespace", cookie(present), cookie(wanted));
    let overlay = |node: &NodePicture| {
        let overlay = node.overlay.as_ref();
        let kind = |o: &OverlayPicture| if o.tunnel { ", our own" } else { "" };
        overlay.map_or("none".to_owned(), |o| format!("link {} as {}{}", o.link, o.addresses(), kind(o)))
    };
    check("the overlay", overlay(present), overlay(wanted));
    all
}

fn of_frontends(present: &[FrontendPicture], wanted: &[FrontendPicture]) -> Vec<Difference> {
    let by_place = |all: &[FrontendPicture]| -> BTreeMap<String, FrontendPicture> {
        all.iter().map(|frontend| (frontend.place(), frontend.clone())).collect()
    };
    let (present, wanted) = (by_place(present), by_place(wanted));
    let mut all = Vec::new();
    for (place, should) in &wanted {
        match present.get(place) {
            None => all.push(Difference::of(table(should), should, "is missing".to_owned())),
            Some(is) => of_frontend(is, should, &mut all),
        }
    }
    for (_, extra) in present.iter().filter(|(place, _)| !wanted.contains_key(*place)) {
        all.push(Difference::of(table(extra), extra, "is not wanted".to_owned()));
    }
    all
}

/// The table that holds it.
fn table(frontend: &FrontendPicture) -> &'static str {
    if frontend.address.is_ipv4() { maps::FRONTENDS } else { maps::FRONTENDS6 }
}

fn of_frontend(is: &FrontendPicture, should: &FrontendPicture, all: &mut Vec<Difference>) {
    let mut check = |map: &str, what: &str, is: String, wanted: String| {
        if is != wanted {
            all.push(Difference::of(map, should, format!("has {what} {is}, should have {wanted}")));
        }
    };
    let line = maps::SERVICE_TABLE;
    check(line, "the number", is.service.clone(), should.service.clone());
    check(
        line,
        "an affinity in seconds of",
        is.affinity_seconds.to_string(),
        should.affinity_seconds.to_string(),
    );
    check(line, "the algorithm", format!("{:?}", is.algorithm), format!("{:?}", should.algorithm));
    let outsiders = |f: &FrontendPicture| (if f.external { "yes" } else { "no" }).to_owned();
    check(line, "as answer whether clients outside are served", outsiders(is), outsiders(should));
    check(maps::SOURCE_RANGES, "the ranges", list(&is.source_ranges), list(&should.source_ranges));
    for (who, is, should) in
        [("inside", &is.inside, &should.inside), ("outside", &is.outside, &should.outside)]
    {
        let map = if is.len() == should.len() { "SLOTS or BACKENDS" } else { line };
        check(map, &format!("for clients {who}"), list(is), list(should));
    }
}

fn of_addresses(present: &Picture, wanted: &Picture) -> Vec<Difference> {
    let mut all = Vec::new();
    let owners = |picture: &Picture| -> BTreeMap<IpAddr, String> {
        let pods = picture.pods.iter().map(|pod| {
            let ends = pod.ends.as_ref().map_or("by routes".to_owned(), |ends| ends.join(" and "));
            (pod.address, format!("a pod of this node (link {}, {ends})", pod.link))
        });
        let nodes = picture.nodes.iter().map(|node| (*node, "a node".to_owned()));
        let ends =
            picture.tunnel_ends.iter().map(|end| (IpAddr::V4(*end), "an end of the tunnel".to_owned()));
        pods.chain(ends).chain(nodes).collect()
    };
    let (is, should) = (owners(present), owners(wanted));
    for (address, should) in &should {
        let problem = match is.get(address) {
            None => format!("is missing: it is {should}"),
            Some(is) if is != should => format!("is {is}, should be {should}"),
            Some(_) => continue,
        };
        all.push(Difference::plain(addresses::map(*address), address, problem));
    }
    let extra =
        is.iter().filter(|(address, _)| !should.contains_key(*address) && !wanted.leaving.contains(address));
    all.extend(extra.map(|(address, is)| {
        Difference::plain(addresses::map(*address), address, format!("is not wanted: it is {is}"))
    }));
    all
}

fn of_direct(is: &BTreeMap<Ipv4Net, Ipv4Addr>, should: &BTreeMap<Ipv4Net, Ipv4Addr>) -> Vec<Difference> {
    let ranges: BTreeSet<&Ipv4Net> = is.keys().chain(should.keys()).collect();
    let named = |node: Option<&Ipv4Addr>| {
        node.map_or("answered here".to_owned(), |node| format!("answered by {node} itself"))
    };
    let differs = ranges.into_iter().filter(|range| is.get(range) != should.get(range));
    let told = differs.map(|range| {
        let problem = format!("is {}, should be {}", named(is.get(range)), named(should.get(range)));
        Difference::plain(maps::DIRECT, range, problem)
    });
    told.collect()
}

/// Of one who does not know the kernel's routes, or does not want any, nothing is told.
fn of_routes(is: Option<&BTreeSet<NodeRoute>>, should: Option<&BTreeSet<NodeRoute>>) -> Vec<Difference> {
    let (Some(is), Some(should)) = (is, should) else { return Vec::new() };
    let by_range = |all: &BTreeSet<NodeRoute>| -> BTreeMap<IpNet, String> {
        let told = |route: &NodeRoute| (route.pod_cidr, format!("via {} ({})", route.via, route.way.name()));
        all.iter().map(told).collect()
    };
    let (is, should) = (by_range(is), by_range(should));
    let mut all = Vec::new();
    for (range, should) in &should {
        let problem = match is.get(range) {
            None => format!("is missing, or the tunnel does not know the node: should be {should}"),
            Some(is) if is != should => format!("is {is}, should be {should}"),
            Some(_) => continue,
        };
        all.push(Difference::plain("routes", range, problem));
    }
    let extra = is.iter().filter(|(range, _)| !should.contains_key(*range));
    all.extend(extra.map(|(range, is)| Difference::plain("routes", range, format!("is not wanted: {is}"))));
    all
}

fn list<T: ToString>(all: &[T]) -> String {
    if all.is_empty() {
        return "nobody".to_owned();
    }
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// Of readings one after the other: what each of them has found at the same entry of the same map, as the last one told it.
#[must_use]
pub fn lasting(readings: &[BTreeSet<Difference>]) -> Vec<Difference> {
    let Some((last, before)) = readings.split_last() else { return Vec::new() };
    let same = |a: &Difference, b: &Difference| (&a.map, &a.entry) == (&b.map, &b.entry);
    let stays = |one: &&Difference| before.iter().all(|each| each.iter().any(|other| same(one, other)));
    last.iter().filter(stays).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(entry: &str, problem: &str) -> Difference {
        Difference::plain("M", entry, problem)
    }

    #[test]
    fn what_passes_between_two_readings_is_no_difference() {
        let first = BTreeSet::from([difference("a", "is missing"), difference("b", "is missing")]);
        let second = BTreeSet::from([difference("b", "is not wanted"), difference("c", "is missing")]);
        assert_eq!(lasting(&[first.clone(), second]), [difference("b", "is not wanted")]);
        assert_eq!(lasting(&[first, BTreeSet::new()]), []);
        assert_eq!(lasting(&[]), []);
    }

    #[test]
    fn a_difference_reads_as_a_sentence_that_names_map_entry_and_service() {
        let frontend = FrontendPicture {
            address: Ipv4Addr::new(10, 96, 0, 10).into(),
            port: 80,
            protocol: "TCP".to_owned(),
            service: "00ff".to_owned(),
            name: Some("default/web:http".to_owned()),
            algorithm: compile::Algorithm::default(),
            affinity_seconds: 0,
            external: false,
            source_ranges: vec![],
            inside: vec!["10.244.1.5:80".parse().unwrap()],
            outside: vec![],
        };
        let wanted = Picture { frontends: vec![frontend.clone()], ..Picture::default() };
        let told = |frontends| {
            let kernel = Kernel { tables: Picture { frontends, ..Picture::default() }, flaws: vec![] };
            compare(&kernel, &wanted).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(told(vec![]), ["FRONTENDS: TCP 10.96.0.10:80 of default/web:http is missing"]);
        let anonymous = FrontendPicture { name: None, inside: vec![], affinity_seconds: 5, ..frontend };
        assert_eq!(
            told(vec![anonymous]),
            [
                "SERVICE_TABLE: TCP 10.96.0.10:80 of default/web:http has an affinity in seconds of 5, should have 0",
                "SERVICE_TABLE: TCP 10.96.0.10:80 of default/web:http has for clients inside nobody, should have 10.244.1.5:80",
            ]
        );
    }
}
