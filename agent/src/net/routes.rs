//! Routes to the pods of other nodes: by the node as next hop, on the network that it shares with us or inside a tunnel.
//!
//! The difference between wanted and present is computed purely; only routes that carry our protocol number are ever
//! removed.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use futures_util::TryStreamExt as _;
use ipnet::Ipv4Net;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::links::{self, check};
use super::reach::{NodeRoute, Way};
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
    let replaced: BTreeSet<Ipv4Net> = wanted.iter().map(|r| r.pod_cidr).collect();
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
    /// The node's address inside.
    pub(super) address: Ipv4Addr,
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
        let message = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(route.pod_cidr.network(), route.pod_cidr.prefix_len())
            .gateway(route.via)
            .protocol(PROTOCOL);
        let message = match (route.way, through) {
            (Way::Vxlan, Some(Tunnel { link, address })) => {
                message.output_interface(link).onlink().pref_source(address)
            }
            _ => message,
        };
        let done = handle.route().add(message.build()).replace().execute().await;
        let what = format!("route {} via {} ({})", route.pod_cidr, route.via, route.way.name());
        outcome = outcome.and(check(what, done));
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

/// Packets to addresses of our podCIDR that no pod has are refused at once instead of wandering to a default route.
pub(super) async fn refuse_unused(handle: &Handle, pod_cidr: Ipv4Net) -> Result<(), NetError> {
    let message = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(pod_cidr.network(), pod_cidr.prefix_len())
        .kind(RouteType::Unreachable)
        .protocol(PROTOCOL)
        .build();
    let done = handle.route().add(message).replace().execute().await;
    check(format!("make {pod_cidr} unreachable where no pod has the address"), done)
}

/// The routes that we have made, where this link is our end of the tunnels.
pub(super) async fn list(
    handle: &Handle,
    tunnel: Option<u32>,
) -> Result<Vec<(NodeRoute, RouteMessage)>, NetError> {
    let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let routes: Vec<RouteMessage> =
        check("list routes".to_owned(), handle.route().get(all).execute().try_collect().await)?;
    let ours = routes.into_iter().filter_map(|message| Some((ours(&message, tunnel)?, message)));
    Ok(ours.collect())
}

fn ours(message: &RouteMessage, tunnel: Option<u32>) -> Option<NodeRoute> {
    if message.header.protocol != PROTOCOL || message.header.kind != RouteType::Unicast {
        return None;
    }
    let mut destination = None;
    let (mut via, mut link) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => destination = Some(*ip),
            RouteAttribute::Gateway(RouteAddress::Inet(ip)) => via = Some(*ip),
            RouteAttribute::Oif(index) => link = Some(*index),
            _ => {}
        }
    }
    let pod_cidr = Ipv4Net::new(destination?, message.header.destination_prefix_length).ok()?;
    let way = if tunnel.is_some() && link == tunnel { Way::Vxlan } else { Way::Direct };
    Some(NodeRoute { pod_cidr, via: via?, way })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(net: u8, via: u8) -> NodeRoute {
        NodeRoute {
            pod_cidr: Ipv4Net::new(Ipv4Addr::new(10, 244, net, 0), 24).unwrap(),
            via: Ipv4Addr::new(172, 30, 77, via),
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
