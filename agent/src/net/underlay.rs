//! What carries the traffic between nodes: the uplinks, their addresses and what they take, as they are now; and a bell that
//! rings when they change.

use std::net::{IpAddr, Ipv4Addr};

use futures_util::{StreamExt as _, TryStreamExt as _};
use ipnet::Ipv4Net;
use oarlock_daemon::Tasks;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::watch;

use super::links::{self, check};
use super::{NetError, Routing, tunnel};

/// How this node is connected to the others.
#[derive(Debug, Clone)]
pub struct Underlay {
    /// The uplinks' names.
    pub uplinks: Vec<String>,
    /// The node's address.
    pub node_ip: Ipv4Addr,
    /// How pods of other nodes are reached.
    pub routing: Routing,
}

impl Underlay {
    /// By one uplink, with the ways that addresses suggest.
    #[must_use]
    pub fn by(uplink: &str, node_ip: Ipv4Addr) -> Self {
        Self { uplinks: vec![uplink.to_owned()], node_ip, routing: Routing::Auto }
    }
}

/// The uplinks as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Present {
    /// Their addresses and prefixes.
    pub(super) networks: Vec<Ipv4Net>,
    /// What the narrowest of them takes.
    pub(super) mtu: u32,
}

/// Looks at the uplinks. Lists addresses: not beside another listing on the same socket.
pub(super) async fn look(handle: &Handle, uplinks: &[String]) -> Result<Present, NetError> {
    let (mut networks, mut mtu) = (Vec::new(), u32::MAX);
    for name in uplinks {
        let link = links::get(handle, name).await?;
        mtu = mtu.min(link.mtu);
        let all = handle.address().get().set_link_index_filter(link.index).execute();
        let all: Vec<AddressMessage> =
            check(format!("list the addresses of {name}"), all.try_collect::<Vec<_>>().await)?;
        networks.extend(all.iter().filter_map(network));
    }
    Ok(Present { networks, mtu })
}

fn network(message: &AddressMessage) -> Option<Ipv4Net> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(IpAddr::V4(ip)) => Some(*ip),
        _ => None,
    })?;
    Ipv4Net::new(local, message.header.prefix_len).ok()
}

/// Rings when an uplink changes, or our end of the tunnels. What is lost is found at the next look.
pub(super) fn watch(tasks: &Tasks, uplinks: &[String], bell: watch::Sender<u64>) -> Result<(), NetError> {
    let failed = |source| NetError::Io { what: "listen to changes of links".to_owned(), source };
    let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr];
    let (connection, handle, mut messages) = rtnetlink::new_multicast_connection(&groups).map_err(failed)?;
    tasks.job("netlink/changes", connection);
    let names: Vec<String> = uplinks.iter().cloned().chain([tunnel::LINK.to_owned()]).collect();
    let token = tasks.token();
    tasks.job("uplinks", async move {
        // The connection ends with it.
        let _handle = handle;
        loop {
            let message = tokio::select! {
                message = messages.next() => message,
                () = token.cancelled() => return,
            };
            let Some((message, _)) = message else { return };
            if names.iter().any(|name| is_about(&message.payload, name)) {
                bell.send_modify(|count| *count = count.wrapping_add(1));
            }
        }
    });
    Ok(())
}

fn is_about(message: &NetlinkPayload<RouteNetlinkMessage>, name: &str) -> bool {
    let is_named = |index: u32| nix::net::if_::if_nametoindex(name).is_ok_and(|number| number == index);
    match message {
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link),
        ) => link
            .attributes
            .iter()
            .any(|attribute| matches!(attribute, LinkAttribute::IfName(of) if of == name)),
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address),
        ) => is_named(address.header.index),
        _ => false,
    }
}
