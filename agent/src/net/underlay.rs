//! What carries the traffic between nodes: the uplinks, their addresses and what they take, as they are now; and a bell that
//! rings when they change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use futures_util::{StreamExt as _, TryStreamExt as _};
use ipnet::IpNet;
use oarlock_daemon::Tasks;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::watch;

use super::links::{self, check};
use super::{NetError, NorthSouth, Routing, tunnel};

/// How this node is connected to the others.
#[derive(Debug, Clone)]
pub struct Underlay {
    /// The uplinks' names.
    pub uplinks: Vec<String>,
    /// The node's address.
    pub node_ip: Ipv4Addr,
    /// How pods of other nodes are reached.
    pub routing: Routing,
    /// Who answers clients outside.
    pub north_south: NorthSouth,
}

impl Underlay {
    /// By one uplink, with the ways that addresses suggest.
    #[must_use]
    pub fn by(uplink: &str, node_ip: Ipv4Addr) -> Self {
        Self {
            uplinks: vec![uplink.to_owned()],
            node_ip,
            routing: Routing::Auto,
            north_south: NorthSouth::Snat,
        }
    }
}

/// The uplinks as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Present {
    /// Their addresses and prefixes.
    pub(super) networks: Vec<IpNet>,
    /// What the narrowest of them takes.
    pub(super) mtu: u32,
}

/// Looks at the uplinks. Lists addresses: not beside another listing on the same socket.
pub(super) async fn look(handle: &Handle, uplinks: &[String]) -> Result<Present, NetError> {
    let (mut networks, mut mtu) = (Vec::new(), u32::MAX);
    for name in uplinks {
        let link = links::get(handle, name).await?;
        mtu = mtu.min(link.mtu);
        networks.extend(addresses(handle, (link.index, name)).await?);
    }
    Ok(Present { networks, mtu })
}

/// The addresses of a link and their prefixes, those that count on the link alone left out.
pub(super) async fn addresses(handle: &Handle, (index, name): (u32, &str)) -> Result<Vec<IpNet>, NetError> {
    let all = handle.address().get().set_link_index_filter(index).execute();
    let all: Vec<AddressMessage> =
        check(format!("list the addresses of {name}"), all.try_collect::<Vec<_>>().await)?;
    let all = all.iter().filter_map(network);
    Ok(all.filter(|net| !matches!(net, IpNet::V6(net) if net.addr().is_unicast_link_local())).collect())
}

/// Of a link between two points the attribute for the address is the other one's (include/uapi/linux/if_addr.h).
fn network(message: &AddressMessage) -> Option<IpNet> {
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => address = Some(*ip),
            _ => {}
        }
    }
    IpNet::new(local.or(address)?, message.header.prefix_len).ok()
}

/// Rings when an uplink changes, or our end of the tunnels. What is lost is found at the next look.
pub(super) fn watch(tasks: &Tasks, uplinks: &[String], bell: watch::Sender<u64>) -> Result<(), NetError> {
    let failed = |source| NetError::Io { what: "listen to changes of links".to_owned(), source };
    let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
    let (connection, handle, mut messages) = rtnetlink::new_multicast_connection(&groups).map_err(failed)?;
    tasks.job("netlink/changes", connection);
    let names = uplinks.iter().cloned().chain([tunnel::LINK.to_owned()]);
    let mut links = Links { told: names.map(|name| (name, None)).collect(), addresses: BTreeSet::new() };
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
            if links.have_changed(&message.payload) {
                bell.send_modify(|count| *count = count.wrapping_add(1));
            }
        }
    });
    Ok(())
}

/// The links that are listened to, as they were told of last, and addresses of theirs: by the link's number, and how long the prefix is.
struct Links {
    told: BTreeMap<String, Option<Told>>,
    addresses: BTreeSet<(u32, IpAddr, u8)>,
}

/// What counts of a link: its number, what it takes, its hardware address, whether it is up.
type Told = (u32, Option<u32>, Option<Vec<u8>>, bool);

impl Links {
    /// Whether the message says something new of one of them. The kernel also tells of a link or an address when somebody asks for what it
    /// already is, as we do after each change.
    fn have_changed(&mut self, message: &NetlinkPayload<RouteNetlinkMessage>) -> bool {
        let NetlinkPayload::InnerMessage(message) = message else { return false };
        match message {
            RouteNetlinkMessage::NewLink(link) => {
                self.of(link).is_some_and(|(before, told)| before.replace(told.clone()) != Some(told))
            }
            RouteNetlinkMessage::DelLink(link) => {
                self.addresses.retain(|(number, ..)| *number != link.header.index);
                self.of(link).is_some_and(|(before, _)| before.take().is_some())
            }
            RouteNetlinkMessage::NewAddress(address) => {
                self.address(address).is_some_and(|address| self.addresses.insert(address))
            }
            // It may have been there before we listened.
            RouteNetlinkMessage::DelAddress(address) => {
                self.address(address).inspect(|address| _ = self.addresses.remove(address)).is_some()
            }
            _ => false,
        }
    }

    /// An address of one of them.
    fn address(&self, message: &AddressMessage) -> Option<(u32, IpAddr, u8)> {
        let number = message.header.index;
        let ours = |name: &String| nix::net::if_::if_nametoindex(name.as_str()).is_ok_and(|of| of == number);
        let network = network(message)?;
        self.told.keys().any(ours).then_some((number, network.addr(), network.prefix_len()))
    }

    fn of(&mut self, link: &LinkMessage) -> Option<(&mut Option<Told>, Told)> {
        let mut told = (link.header.index, None, None, link.header.flags.contains(LinkFlags::Up));
        let mut name = None;
        for attribute in &link.attributes {
            match attribute {
                LinkAttribute::IfName(of) => name = Some(of),
                LinkAttribute::Mtu(mtu) => told.1 = Some(*mtu),
                LinkAttribute::Address(address) => told.2 = Some(address.clone()),
                _ => {}
            }
        }
        Some((self.told.get_mut(name?)?, told))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv6Addr;

    fn link(name: &str, mtu: u32, flags: LinkFlags) -> LinkMessage {
        let mut message = LinkMessage::default();
        (message.header.index, message.header.flags) = (7, flags);
        message.attributes = vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::Mtu(mtu)];
        message
    }

    fn listening(name: &str) -> Links {
        Links { told: [(name.to_owned(), None)].into(), addresses: BTreeSet::new() }
    }

    #[test]
    fn an_address_that_is_told_of_again_has_not_changed() {
        let mut links = listening("lo");
        let lo = nix::net::if_::if_nametoindex("lo").expect("loopback is everywhere");
        let mut told = |link: u32, ip: [u8; 4], gone: bool| {
            let mut address = AddressMessage::default();
            (address.header.index, address.header.prefix_len) = (link, 24);
            address.attributes = vec![AddressAttribute::Local(ip.into())];
            let message = if gone {
                RouteNetlinkMessage::DelAddress(address)
            } else {
                RouteNetlinkMessage::NewAddress(address)
            };
            links.have_changed(&NetlinkPayload::InnerMessage(message))
        };
        let (ours, other) = ([10, 1, 0, 1], [10, 1, 0, 2]);
        assert!(told(lo, ours, false), "it is there");
        assert!(!told(lo, ours, false), "it was asked for once more");
        assert!(!told(lo + 1_000, other, false), "somebody else's");
        assert!(told(lo, other, false), "a second one");
        assert!(told(lo, ours, true), "it is gone");
        assert!(told(lo, ours, false), "it is back");
        let mut six = AddressMessage::default();
        (six.header.index, six.header.prefix_len) = (lo, 64);
        six.attributes = vec![AddressAttribute::Address(Ipv6Addr::LOCALHOST.into())];
        let mut told = || {
            let message = RouteNetlinkMessage::NewAddress(six.clone());
            links.have_changed(&NetlinkPayload::InnerMessage(message))
        };
        assert!(told() && !told(), "of IPv6 there is another attribute");
    }

    #[test]
    fn a_link_that_is_told_of_again_has_not_changed() {
        let mut links = listening("eth0");
        let mut new = |name: &str, mtu, flags| {
            let message = RouteNetlinkMessage::NewLink(link(name, mtu, flags));
            links.have_changed(&NetlinkPayload::InnerMessage(message))
        };
        assert!(new("eth0", 1500, LinkFlags::Up), "it is there");
        assert!(!new("eth0", 1500, LinkFlags::Up | LinkFlags::Running), "nothing that counts");
        assert!(!new("eth1", 1400, LinkFlags::Up), "somebody else's");
        assert!(new("eth0", 1400, LinkFlags::Up), "it takes less");
        assert!(new("eth0", 1400, LinkFlags::empty()), "it is down");
        let mut gone = || {
            let message = RouteNetlinkMessage::DelLink(link("eth0", 1400, LinkFlags::empty()));
            links.have_changed(&NetlinkPayload::InnerMessage(message))
        };
        assert!(gone() && !gone());
    }
}
