//! Routes to the pods of other nodes that stand on the same layer-2 network.
//!
//! The difference between wanted and present is computed purely; only routes that carry our protocol number are ever
//! removed.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use futures_util::TryStreamExt as _;
use ipnet::Ipv4Net;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::NetError;

/// Marks our routes (`ip route show proto 201`); unassigned in rtnetlink.h.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(201);

/// The pods of another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeRoute {
    /// The node's podCIDR.
    pub pod_cidr: Ipv4Net,
    /// The node's address on the shared network.
    pub via: Ipv4Addr,
}

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

/// Makes our routes those of `wanted`. All are tried; the first failure is returned.
pub(super) async fn sync(handle: &Handle, wanted: &BTreeSet<NodeRoute>) -> Result<(), NetError> {
    let present = list(handle).await?;
    let change = difference(wanted, &present.iter().map(|(route, _)| *route).collect());
    let mut outcome = Ok(());
    for route in change.add {
        let message = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(route.pod_cidr.network(), route.pod_cidr.prefix_len())
            .gateway(route.via)
            .protocol(PROTOCOL)
            .build();
        let done = handle.route().add(message).replace().execute().await.map_err(|source| {
            NetError::Netlink { what: format!("route {} via {}", route.pod_cidr, route.via), source }
        });
        outcome = outcome.and(done);
    }
    for (route, message) in present {
        if change.remove.contains(&route) {
            let done = handle.route().del(message).execute().await.map_err(|source| NetError::Netlink {
                what: format!("remove the route {} via {}", route.pod_cidr, route.via),
                source,
            });
            outcome = outcome.and(done);
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
    let what = || format!("make {pod_cidr} unreachable where no pod has the address");
    handle
        .route()
        .add(message)
        .replace()
        .execute()
        .await
        .map_err(|source| NetError::Netlink { what: what(), source })
}

async fn list(handle: &Handle) -> Result<Vec<(NodeRoute, RouteMessage)>, NetError> {
    let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let routes: Vec<RouteMessage> = handle
        .route()
        .get(all)
        .execute()
        .try_collect()
        .await
        .map_err(|source| NetError::Netlink { what: "list routes".to_owned(), source })?;
    Ok(routes.into_iter().filter_map(|message| ours(&message).map(|route| (route, message))).collect())
}

fn ours(message: &RouteMessage) -> Option<NodeRoute> {
    if message.header.protocol != PROTOCOL || message.header.kind != RouteType::Unicast {
        return None;
    }
    let mut destination = None;
    let mut via = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => destination = Some(*ip),
            RouteAttribute::Gateway(RouteAddress::Inet(ip)) => via = Some(*ip),
            _ => {}
        }
    }
    let pod_cidr = Ipv4Net::new(destination?, message.header.destination_prefix_length).ok()?;
    Some(NodeRoute { pod_cidr, via: via? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(net: u8, via: u8) -> NodeRoute {
        NodeRoute {
            pod_cidr: Ipv4Net::new(Ipv4Addr::new(10, 244, net, 0), 24).unwrap(),
            via: Ipv4Addr::new(172, 30, 77, via),
        }
    }

    #[test]
    fn a_moved_node_is_replaced_and_a_gone_one_removed() {
        let present = BTreeSet::from([route(1, 11), route(2, 12), route(3, 13)]);
        let wanted = BTreeSet::from([route(1, 11), route(2, 22)]);
        let change = difference(&wanted, &present);
        assert_eq!(change, Difference { add: vec![route(2, 22)], remove: vec![route(3, 13)] });
        assert_eq!(difference(&wanted, &wanted), Difference { add: vec![], remove: vec![] });
    }
}
