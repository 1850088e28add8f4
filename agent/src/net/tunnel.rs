//! Our end of the tunnels to nodes on other networks: a VXLAN link that learns nothing and floods nowhere. Whom it knows, it was
//! told: a neighbour (who has the next hop's address) and an entry of the forwarding table (at which node that is) a peer.
//!
//! The next hop of a route into the tunnel is the other node's address, on this link: no further address is spent on it. The
//! node's own address inside is the first of its podCIDR, so that answers to it come back through the tunnel.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt as _;
use ipnet::Ipv4Net;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::AddressScope;
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::{Handle, LinkUnspec, LinkVxlan};

use super::links::{self, Link, check};
use super::reach::hardware_address;
use super::{NetError, sysctl};

/// The link's name.
pub(super) const LINK: &str = "oarlock-vx";
/// The network's number, and the port at which nodes listen: of the whole cluster, as each node has to guess those of others.
const NETWORK: u32 = 7749;
/// What Linux and other pod networks use by default. That of the standard, 4789, is Docker's.
const PORT: u16 = 8472;

/// This node's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    /// The node's address, between which and those of other nodes packets travel.
    pub(super) node: Ipv4Addr,
    /// The node's podCIDR.
    pub(super) pod_cidr: Ipv4Net,
    /// How long packets may be inside.
    pub(super) mtu: u32,
}

impl End {
    /// The node's address inside.
    pub(super) fn address(&self) -> Ipv4Addr {
        self.pod_cidr.network()
    }
}

/// Makes the link, or what is wrong of it. Returns its number.
pub(super) async fn ensure(handle: &Handle, end: End) -> Result<u32, NetError> {
    let mac = hardware_address(end.node);
    let link = match links::find(handle, LINK).await? {
        Some(link) if link.mac == mac => link,
        // Of another address of the node.
        Some(_) => {
            remove(handle).await?;
            make(handle, end, mac).await?
        }
        None => make(handle, end, mac).await?,
    };
    let mut address = handle.address().add(link.index, IpAddr::V4(end.address()), 32).replace();
    // The kernel is not to take it for the sender's of what leaves by other links.
    address.message_mut().header.scope = AddressScope::Link;
    check(format!("give {LINK} its address {}", end.address()), address.execute().await)?;
    sysctl::prepare_link(LINK, false)?;
    let up = LinkUnspec::new_with_index(link.index).mtu(end.mtu).up().build();
    check(format!("bring up {LINK}"), handle.link().set(up).execute().await)?;
    Ok(link.index)
}

async fn make(handle: &Handle, end: End, mac: [u8; 6]) -> Result<Link, NetError> {
    let link = LinkVxlan::new(LINK, NETWORK)
        .port(PORT)
        .local(end.node)
        .learning(false)
        .address(mac.to_vec())
        .mtu(end.mtu)
        .build();
    check(format!("create the link {LINK}"), handle.link().add(link).execute().await)?;
    links::get(handle, LINK).await
}

/// Takes the link away; routes and neighbours go with it. None is no error.
pub(super) async fn remove(handle: &Handle) -> Result<(), NetError> {
    let Some(link) = links::find(handle, LINK).await? else { return Ok(()) };
    check(format!("remove the link {LINK}"), handle.link().del(link.index).execute().await)
}

/// One of the two things that are told the link of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Entry {
    /// Who has the address.
    Neighbour(Ipv4Addr, [u8; 6]),
    /// At which node that is.
    Place([u8; 6], Ipv4Addr),
}

/// What the link is to know of these nodes.
fn entries(nodes: &BTreeSet<Ipv4Addr>) -> BTreeSet<Entry> {
    let both = |node: &Ipv4Addr| {
        let mac = hardware_address(*node);
        [Entry::Neighbour(*node, mac), Entry::Place(mac, *node)]
    };
    nodes.iter().flat_map(both).collect()
}

/// What the link knows that it should not; see [`tell`].
pub(super) struct Stale(Vec<NeighbourMessage>);

/// Tells the link of these nodes. Of whom else it knows is returned, to be forgotten when no route leads there.
pub(super) async fn tell(handle: &Handle, link: u32, nodes: &BTreeSet<Ipv4Addr>) -> Result<Stale, NetError> {
    let mut missing = entries(nodes);
    let mut stale = Vec::new();
    for (entry, message) in known(handle, link).await? {
        if !missing.remove(&entry) {
            stale.push(message);
        }
    }
    for entry in &missing {
        let request = match *entry {
            Entry::Neighbour(ip, mac) => handle.neighbours().add(link, ip.into()).link_layer_address(&mac),
            Entry::Place(mac, ip) => {
                handle.neighbours().add_bridge(link, &mac).destination(ip.into()).flags(NeighbourFlags::Own)
            }
        };
        let what = format!("tell {LINK} of a node: {entry:?}");
        check(what, request.state(NeighbourState::Permanent).replace().execute().await)?;
    }
    // One that was replaced in place is there no more.
    stale.retain(|message| {
        read(message).is_none_or(|entry| match entry {
            Entry::Neighbour(ip, _) => !nodes.contains(&ip),
            Entry::Place(mac, _) => !nodes.iter().any(|node| hardware_address(*node) == mac),
        })
    });
    Ok(Stale(stale))
}

/// Has the link forget.
pub(super) async fn forget(handle: &Handle, stale: Stale) -> Result<(), NetError> {
    for message in stale.0 {
        match handle.neighbours().del(message).execute().await {
            // It is gone by itself.
            Err(rtnetlink::Error::NetlinkError(no)) if no.raw_code() == -nix::libc::ENOENT => {}
            other => check(format!("have {LINK} forget a node"), other)?,
        }
    }
    Ok(())
}

/// The nodes of which the link knows both things.
pub(super) async fn nodes(handle: &Handle, link: u32) -> Result<BTreeSet<Ipv4Addr>, NetError> {
    let known: BTreeSet<Entry> = known(handle, link).await?.into_iter().map(|(entry, _)| entry).collect();
    let addresses = known.iter().filter_map(|entry| match entry {
        Entry::Neighbour(ip, mac) => known.contains(&Entry::Place(*mac, *ip)).then_some(*ip),
        Entry::Place(..) => None,
    });
    Ok(addresses.collect())
}

async fn known(handle: &Handle, link: u32) -> Result<Vec<(Entry, NeighbourMessage)>, NetError> {
    let mut found = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Bridge] {
        let all = handle.neighbours().get().set_address_family(family).execute();
        let all: Vec<NeighbourMessage> =
            check(format!("list what {LINK} knows"), all.try_collect::<Vec<_>>().await)?;
        let here = all.into_iter().filter(|message| {
            message.header.ifindex == link && message.header.state == NeighbourState::Permanent
        });
        found.extend(here.filter_map(|message| Some((read(&message)?, message))));
    }
    Ok(found)
}

fn read(message: &NeighbourMessage) -> Option<Entry> {
    let (mut ip, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => ip = Some(*address),
            // Of what family it is in a forwarding table, only its length says.
            NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
                ip = <[u8; 4]>::try_from(bytes.as_slice()).ok().map(Ipv4Addr::from);
            }
            NeighbourAttribute::LinkLayerAddress(address) => mac = address.as_slice().try_into().ok(),
            _ => {}
        }
    }
    match message.header.family {
        AddressFamily::Bridge => Some(Entry::Place(mac?, ip?)),
        _ => Some(Entry::Neighbour(ip?, mac?)),
    }
}
