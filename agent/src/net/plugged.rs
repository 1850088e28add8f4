//! Whether a pod's link is there already, whole: an agent that starts again must not pull the plug of pods that run.

use std::net::Ipv4Addr;

use futures_util::TryStreamExt as _;
use oarlock_daemon::Tasks;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::netns;

/// Whether the link `name` of this namespace is up, its other end is `eth0` of the process' namespace, and the route to the
/// pod, which is set last of all, leads to it. Whatever cannot be looked at is not there.
pub(super) async fn is_plugged(tasks: &Tasks, handle: &Handle, name: &str, ip: Ipv4Addr, pid: u32) -> bool {
    let Some(link) = find(handle, name).await else { return false };
    let other_end = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Link(index) => Some(*index),
        _ => None,
    });
    if !link.header.flags.contains(LinkFlags::Up) || !leads(handle, ip, link.header.index).await {
        return false;
    }
    let Ok(pod) = netns::handle_in(tasks, pid).await else { return false };
    find(&pod, "eth0").await.is_some_and(|eth0| Some(eth0.header.index) == other_end)
}

async fn find(handle: &Handle, name: &str) -> Option<LinkMessage> {
    handle.link().get().match_name(name.to_owned()).execute().try_next().await.ok()?
}

/// Whether there is a route to just this address by this link.
async fn leads(handle: &Handle, ip: Ipv4Addr, link: u32) -> bool {
    let mut routes = handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
    while let Ok(Some(route)) = routes.try_next().await {
        let has = |wanted: &RouteAttribute| route.attributes.contains(wanted);
        if route.header.destination_prefix_length == 32
            && has(&RouteAttribute::Destination(RouteAddress::Inet(ip)))
            && has(&RouteAttribute::Oif(link))
        {
            return true;
        }
    }
    false
}
