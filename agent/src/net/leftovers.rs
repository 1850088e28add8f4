//! What the network of pods is made of, found on a host without its agent, and how it goes: for `oarlock-agent reset`.
//!
//! Links are known by their names (one node has a network namespace to itself), routes by their protocol.

use futures_util::TryStreamExt as _;
use nix::libc::{ENODEV, ESRCH};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::links::check;
use super::uplinks::asking;
use super::{NetError, pod_veth, routes, tunnel};

/// Links and routes, as `ip` shows them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// The names of links.
    pub links: Vec<String>,
    /// Routes to other nodes' pods, and those that refuse what no pod has.
    pub routes: Vec<String>,
}

/// What there is in the present namespace.
///
/// # Errors
/// Links or routes cannot be listed.
pub async fn leftovers() -> Result<Leftovers, NetError> {
    asking("look for what is left of the network", async |handle| {
        let links = links(&handle).await?.into_iter().map(|(_, name)| name).collect();
        let routes = routes(&handle).await?.iter().map(shown).collect();
        Ok(Leftovers { links, routes })
    })
    .await
}

/// Removes all of it. What is gone meanwhile, as a link is with its pod, is as good.
///
/// # Errors
/// The kernel refuses.
pub async fn remove_leftovers() -> Result<(), NetError> {
    asking("remove what is left of the network", async |handle| {
        for (number, name) in links(&handle).await? {
            let done = handle.link().del(number).execute().await;
            gone(format!("remove the link {name}"), done, ENODEV)?;
        }
        for route in routes(&handle).await? {
            let what = format!("remove the route {}", shown(&route));
            gone(what, handle.route().del(route).execute().await, ESRCH)?;
        }
        Ok(())
    })
    .await
}

fn gone(what: String, done: Result<(), rtnetlink::Error>, missing: i32) -> Result<(), NetError> {
    match done {
        Err(rtnetlink::Error::NetlinkError(no)) if no.raw_code() == -missing => Ok(()),
        other => check(what, other),
    }
}

async fn links(handle: &Handle) -> Result<Vec<(u32, String)>, NetError> {
    let all = handle.link().get().execute().try_collect::<Vec<_>>().await;
    let all: Vec<LinkMessage> = check("list links".to_owned(), all)?;
    let ours = all.into_iter().filter_map(|link| {
        let name = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        })?;
        (name == tunnel::LINK || pod_veth::is_interface_name(&name)).then_some((link.header.index, name))
    });
    Ok(ours.collect())
}

async fn routes(handle: &Handle) -> Result<Vec<RouteMessage>, NetError> {
    let mut found = Vec::new();
    let four = RouteMessageBuilder::<std::net::Ipv4Addr>::new().build();
    let six = RouteMessageBuilder::<std::net::Ipv6Addr>::new().build();
    for (family, all) in [(AddressFamily::Inet, four), (AddressFamily::Inet6, six)] {
        let all = handle.route().get(all).execute().try_collect::<Vec<_>>().await;
        let all: Vec<RouteMessage> = check("list routes".to_owned(), all)?;
        // A kernel without IPv6 answers with routes of other families.
        let is_ours = |route: &RouteMessage| {
            route.header.protocol == routes::PROTOCOL && route.header.address_family == family
        };
        found.extend(all.into_iter().filter(is_ours));
    }
    Ok(found)
}

fn shown(route: &RouteMessage) -> String {
    let destination = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(ip.to_string()),
        RouteAttribute::Destination(RouteAddress::Inet6(ip)) => Some(ip.to_string()),
        _ => None,
    });
    let length = route.header.destination_prefix_length;
    format!("{}/{length} proto {}", destination.unwrap_or_default(), u8::from(routes::PROTOCOL))
}
