//! Routes to the pods of other nodes: by the node as next hop, on the network that it shares with us or inside a tunnel.
//!
//! The difference between wanted and present is computed purely; only routes that carry our protocol number are ever
//! removed.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteType,
};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::links::{self, check};
use super::reach::{self, NodeRoute, Way};
use super::{NetError, tunnel};

/// Marks our routes (`ip route show proto 201`); unassigned in rtnetlink.h.
pub(super) const PROTOCOL: RouteProtocol = RouteProtocol::Other(201);

/// What to change.
#[derive(Debug, PartialEq, Eq)]
struct Difference {
    add: Vec<NodeRoute>,
    remove: Vec<NodeRoute>,
}

fn difference(wanted: &BTreeSet<NodeRoute>, present: &BTreeSet<NodeRoute>) -> Difference {
    let replaced: BTreeSet<IpNet> = wanted.iter().map(|r| r.pod_cidr).collect();
    Difference {
        add: wanted.difference(present).copied().collect(),
        // A route that is written again with another gateway is replaced in place, without a moment of absence.
        remove: present.difference(wanted).filter(|r| !replaced.contains(&r.pod_cidr)).copied().collect(),
    }
}

/// Our end of the tunnels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tunnel {
    pub(super) link: u32,
    /// The node's addresses inside.
    pub(super) address: Ipv4Addr,
    pub(super) address6: Option<Ipv6Addr>,
}

/// Makes our routes those of `wanted`. All are tried; the first failure is returned.
pub(super) async fn sync(
    handle: &Handle,
    wanted: &BTreeSet<NodeRoute>,
    through: Option<Tunnel>,
) -> Result<(), NetError> {
    let link = links::find(handle, tunnel::LINK).await?.map(|link| link.index);
    let present = list(handle, link).await?;
    let change = difference(wanted, &present.iter().map(|(route, _)| *route).collect());
    let mut outcome = Ok(());
    for route in change.add {
        let done = lead(handle, &route, through).await;
        outcome = outcome.and(done);
    }
    for (route, message) in present {
        if change.remove.contains(&route) {
            let done = handle.route().del(message).execute().await;
            let what = format!("remove the route {} via {}", route.pod_cidr, route.via);
            outcome = outcome.and(check(what, done));
        }
    }
    outcome
}

async fn lead(handle: &Handle, route: &NodeRoute, through: Option<Tunnel>) -> Result<(), NetError> {
    let what = || format!("route {} via {} ({})", route.pod_cidr, route.via, route.way.name());
    let mut message = to(route.pod_cidr).build();
    message.attributes.push(RouteAttribute::Gateway(route.hop().into()));
    if let (Way::Vxlan, Some(Tunnel { link, address, address6 })) = (route.way, through) {
        message.attributes.push(RouteAttribute::Oif(link));
        let own = match route.pod_cidr {
            IpNet::V4(_) => Some(IpAddr::V4(address)),
            IpNet::V6(_) => address6.map(IpAddr::V6),
        };
        message.attributes.extend(own.map(|own| RouteAttribute::PrefSource(own.into())));
        // The next hop of IPv4 is in no range of the link; that of IPv6 is the link's own.
        if route.pod_cidr.network().is_ipv4() {
            message.header.flags |= RouteFlags::Onlink;
        }
    }
    check(what(), handle.route().add(message).replace().execute().await)
}

/// Packets to addresses of a range that nobody has (pods of ours, Services) are refused at once instead of wandering to a default route.
pub(super) async fn refuse_unused(handle: &Handle, range: impl Into<IpNet>) -> Result<(), NetError> {
    let range = range.into();
    let message = to(range).kind(RouteType::Unreachable).build();
    let done = handle.route().add(message).replace().execute().await;
    check(format!("make {range} unreachable where nobody has the address"), done)
}

/// A route of ours to a range.
fn to(range: IpNet) -> RouteMessageBuilder<IpAddr> {
    let mut builder = RouteMessageBuilder::<IpAddr>::new().protocol(PROTOCOL);
    let message = builder.get_mut();
    message.header.address_family = family(range.addr());
    message.header.destination_prefix_length = range.prefix_len();
    message.attributes.push(RouteAttribute::Destination(range.network().into()));
    builder
}

const fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// The routes that we have made, where this link is our end of the tunnels.
pub(super) async fn list(
    handle: &Handle,
    tunnel: Option<u32>,
) -> Result<Vec<(NodeRoute, RouteMessage)>, NetError> {
    let ours = all(handle).await?.into_iter().filter_map(|message| Some((ours(&message, tunnel)?, message)));
    Ok(ours.collect())
}

/// All routes of both families.
pub(super) async fn all(handle: &Handle) -> Result<Vec<RouteMessage>, NetError> {
    let mut found = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut all = RouteMessage::default();
        all.header.address_family = family;
        let routes: Vec<RouteMessage> =
            check("list routes".to_owned(), handle.route().get(all).execute().try_collect().await)?;
        // A kernel without the family tells those of all that it has.
        found.extend(routes.into_iter().filter(|message| message.header.address_family == family));
    }
    Ok(found)
}

fn ours(message: &RouteMessage, tunnel: Option<u32>) -> Option<NodeRoute> {
    if message.header.protocol != PROTOCOL || message.header.kind != RouteType::Unicast {
        return None;
    }
    let mut destination = None;
    let (mut via, mut link) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(ip) => destination = address(ip),
            RouteAttribute::Gateway(ip) => via = address(ip),
            RouteAttribute::Oif(index) => link = Some(*index),
            _ => {}
        }
    }
    let pod_cidr = IpNet::new(destination?, message.header.destination_prefix_length).ok()?;
    let way = if tunnel.is_some() && link == tunnel { Way::Vxlan } else { Way::Direct };
    let via = match way {
        Way::Direct => via?,
        Way::Vxlan => reach::node_at(via?)?.into(),
    };
    Some(NodeRoute { pod_cidr, via, way })
}

const fn address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(net: u8, via: u8) -> NodeRoute {
        NodeRoute {
            pod_cidr: IpNet::new(Ipv4Addr::new(10, 244, net, 0).into(), 24).unwrap(),
            via: Ipv4Addr::new(172, 30, 77, via).into(),
            way: Way::Direct,
        }
    }

    #[test]
    fn a_moved_node_is_replaced_and_a_gone_one_removed() {
        let present = BTreeSet::from([route(1, 11), route(2, 12), route(3, 13)]);
        let wanted = BTreeSet::from([route(1, 11), route(2, 22)]);
        let change = difference(&wanted, &present);
        assert_eq!(change, Difference { add: vec![route(2, 22)], remove: vec![route(3, 13)] });
        assert_eq!(difference(&wanted, &wanted), Difference { add: vec![], remove: vec![] });
        let tunnelled = NodeRoute { way: Way::Vxlan, ..route(1, 11) };
        let change = difference(&BTreeSet::from([tunnelled]), &BTreeSet::from([route(1, 11)]));
        assert_eq!(change, Difference { add: vec![tunnelled], remove: vec![] }, "replaced in place");
    }
}
