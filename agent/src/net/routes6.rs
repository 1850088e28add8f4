//! Routes of IPv6 to the pods of other nodes that stand on the same layer-2 network: no tunnel carries them. Those of a node that is
//! elsewhere are refused at once, instead of wandering to a default route.
//!
//! Which network a node stands on the kernel says itself: it takes no next hop that is not on a link.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use futures_util::TryStreamExt as _;
use ipnet::Ipv6Net;
use nix::libc::{EHOSTUNREACH, EINVAL, ENETUNREACH};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::NetError;
use super::links::check;
use super::routes::PROTOCOL;

/// The ranges of other nodes' pods, and the nodes' addresses.
pub type Peers6 = BTreeMap<Ipv6Net, Ipv6Addr>;

/// Makes our routes those to these peers; that which guards our own range stays. All are tried; the first failure is returned.
pub(super) async fn sync(handle: &Handle, own: Option<Ipv6Net>, peers: &Peers6) -> Result<(), NetError> {
    let present = list(handle).await?;
    let mut outcome = Ok(());
    for (range, via) in peers {
        let is = present.get(range).map(|(via, _)| *via);
        if is != Some(Some(*via)) {
            outcome = outcome.and(lead(handle, *range, *via, is.is_some()).await);
        }
    }
    for (range, (_, message)) in present {
        if !peers.contains_key(&range) && own != Some(range) {
            let done = handle.route().del(message).execute().await;
            outcome = outcome.and(check(format!("remove the route {range}"), done));
        }
    }
    outcome
}

async fn lead(handle: &Handle, range: Ipv6Net, via: Ipv6Addr, is_guarded: bool) -> Result<(), NetError> {
    let message = to(range).gateway(via).protocol(PROTOCOL).build();
    match handle.route().add(message).replace().execute().await {
        Err(rtnetlink::Error::NetlinkError(no))
            if [EHOSTUNREACH, ENETUNREACH, EINVAL].contains(&-no.raw_code()) =>
        {
            if is_guarded {
                return Ok(());
            }
            tracing::info!(%range, %via, "the node is on another network: its pods are not reached over IPv6");
            refuse(handle, range).await
        }
        done => check(format!("route {range} via {via}"), done),
    }
}

/// Packets to addresses of a range that no longer route leads to are refused at once.
pub(super) async fn refuse(handle: &Handle, range: Ipv6Net) -> Result<(), NetError> {
    let message = to(range).kind(RouteType::Unreachable).protocol(PROTOCOL).build();
    let done = handle.route().add(message).replace().execute().await;
    check(format!("make {range} unreachable where nothing else leads to its addresses"), done)
}

fn to(range: Ipv6Net) -> RouteMessageBuilder<Ipv6Addr> {
    RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(range.network(), range.prefix_len())
}

/// Our routes: by which node, if by any.
async fn list(handle: &Handle) -> Result<BTreeMap<Ipv6Net, (Option<Ipv6Addr>, RouteMessage)>, NetError> {
    let all = RouteMessageBuilder::<Ipv6Addr>::new().build();
    let routes: Vec<RouteMessage> =
        check("list routes of IPv6".to_owned(), handle.route().get(all).execute().try_collect().await)?;
    let ours = routes.into_iter().filter(|message| message.header.protocol == PROTOCOL);
    Ok(ours.filter_map(|message| Some((range(&message)?, (via(&message), message)))).collect())
}

fn range(message: &RouteMessage) -> Option<Ipv6Net> {
    let ip = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet6(ip)) => Some(*ip),
        _ => None,
    })?;
    Ipv6Net::new(ip, message.header.destination_prefix_length).ok()
}

fn via(message: &RouteMessage) -> Option<Ipv6Addr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet6(ip)) => Some(*ip),
        _ => None,
    })
}
