//! Which links are uplinks, and what kind of links they are.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use futures_util::TryStreamExt as _;
use rtnetlink::Handle;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType};
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteType};

use super::reach::{NodeRoute, Way};
use super::{NetError, links, routes, tunnel, underlay};
use crate::dataplane::{Overlay, Uplink};

/// Looks at the uplinks.
///
/// # Errors
/// One of them does not exist.
pub async fn uplinks(names: &[String]) -> Result<Vec<Uplink>, NetError> {
    asking("look at the uplinks", async |handle| {
        let mut found = Vec::with_capacity(names.len());
        for name in names {
            let mut links = handle.link().get().match_name(name.clone()).execute();
            let link = links
                .try_next()
                .await
                .map_err(|source| NetError::Netlink { what: format!("find the uplink {name}"), source })?;
            let is_veth = link.iter().flat_map(|l| &l.attributes).any(|attribute| {
                matches!(attribute, LinkAttribute::LinkInfo(infos)
                    if infos.contains(&LinkInfo::Kind(InfoKind::Veth)))
            });
            found.push(Uplink { name: name.clone(), is_veth });
        }
        Ok(found)
    })
    .await
}

/// Looks at the link by which other nodes' pods are reached; none while it is not there or not up.
///
/// # Errors
/// It cannot be looked at, or is of a kind that the programs do not understand.
pub async fn overlay(name: &str) -> Result<Option<Overlay>, NetError> {
    let Ok(number) = nix::net::if_::if_nametoindex(name) else { return Ok(None) };
    asking("look at the overlay", async |handle| {
        let failed = |source| NetError::Netlink { what: format!("look at the link {name}"), source };
        let link = handle.link().get().match_index(number).execute().try_next().await.map_err(failed)?;
        let Some(link) = link.filter(|link| link.header.flags.contains(LinkFlags::Up)) else {
            return Ok(None);
        };
        if link.header.link_layer_type != LinkLayerType::Ether {
            let what = format!("use the link {name} for pods of other nodes");
            return Err(NetError::Io { what, source: std::io::Error::other("it is none of Ethernet") });
        }
        let (mut address, mut address6) = (None, None);
        for network in underlay::addresses(&handle, (number, name)).await? {
            match network.addr() {
                IpAddr::V4(ip) => address = address.or(Some(ip)),
                IpAddr::V6(ip) => address6 = address6.or(Some(ip)),
            }
        }
        let (name, nodes) = (name.to_owned(), Arc::default());
        Ok(Some(Overlay { name, link: number, address, address6, nodes, tunnel: None }))
    })
    .await
}

/// The routes to other nodes' pods that the kernel has in the present namespace. Those into a tunnel only where its end knows the
/// node.
///
/// # Errors
/// They cannot be listed.
pub async fn node_routes() -> Result<BTreeSet<NodeRoute>, NetError> {
    asking("look at the routes to other nodes' pods", async |handle| {
        let link = links::find(&handle, tunnel::LINK).await?.map(|link| link.index);
        let known = match link {
            Some(link) => Some(tunnel::known(&handle, link).await?),
            None => None,
        };
        let leads = |route: &NodeRoute| {
            route.way == Way::Direct || known.as_ref().is_some_and(|known| known.leads(route))
        };
        let routes = routes::list(&handle, link).await?.into_iter().map(|(route, _)| route);
        Ok(routes.filter(leads).collect())
    })
    .await
}

/// The names of the links that hold default routes, sorted; none where there is no such route.
///
/// # Errors
/// The routes cannot be listed.
pub async fn of_default_routes() -> Result<Vec<String>, NetError> {
    asking("look at the default routes", async |handle| {
        let routes = routes::all(&handle).await?;
        let links: BTreeSet<u32> = routes.iter().flat_map(links_of_default).collect();
        let mut names = BTreeSet::new();
        for link in links {
            let name = nix::net::if_::if_indextoname(link)
                .map_err(|no| NetError::Io { what: format!("name the link {link}"), source: no.into() })?;
            names.insert(name.to_string_lossy().into_owned());
        }
        Ok(names.into_iter().collect())
    })
    .await
}

/// The links of a route, if it is a default route of the main table.
fn links_of_default(route: &RouteMessage) -> Vec<u32> {
    let is_default = route.header.destination_prefix_length == 0
        && route.header.kind == RouteType::Unicast
        && route.header.table == RouteHeader::RT_TABLE_MAIN;
    if !is_default {
        return Vec::new();
    }
    let mut links = Vec::new();
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(link) => links.push(*link),
            RouteAttribute::MultiPath(hops) => links.extend(hops.iter().map(|hop| hop.interface_index)),
            _ => {}
        }
    }
    links
}

/// Asks the kernel something on a socket of its own.
pub(super) async fn asking<T>(
    what: &str,
    ask: impl AsyncFnOnce(Handle) -> Result<T, NetError>,
) -> Result<T, NetError> {
    let (connection, handle, _) = rtnetlink::new_connection()
        .map_err(|source| NetError::Io { what: "open a netlink socket".to_owned(), source })?;
    tokio::select! {
        found = ask(handle) => found,
        // Ends with the socket: an answer can no longer come.
        () = connection => Err(NetError::Io {
            what: what.to_owned(),
            source: std::io::ErrorKind::ConnectionAborted.into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::packet_route::route::RouteNextHop;

    fn route(length: u8, attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut route = RouteMessage::default();
        route.header.destination_prefix_length = length;
        route.header.kind = RouteType::Unicast;
        route.header.table = RouteHeader::RT_TABLE_MAIN;
        route.attributes = attributes;
        route
    }

    #[test]
    fn uplinks_are_the_links_of_default_routes_of_one_and_of_several_ways() {
        assert_eq!(links_of_default(&route(0, vec![RouteAttribute::Oif(2)])), [2]);
        assert_eq!(links_of_default(&route(24, vec![RouteAttribute::Oif(2)])), [0; 0]);
        let hop = |link| {
            let mut hop = RouteNextHop::default();
            hop.interface_index = link;
            hop
        };
        let ways = RouteAttribute::MultiPath(vec![hop(3), hop(4)]);
        assert_eq!(links_of_default(&route(0, vec![ways])), [3, 4]);
        let mut of_another_table = route(0, vec![RouteAttribute::Oif(2)]);
        of_another_table.header.table = 77;
        assert_eq!(links_of_default(&of_another_table), [0; 0]);
    }
}
