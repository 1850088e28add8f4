//! Our end of the tunnels to nodes on other networks, and where nodes answer clients outside themselves to all: a VXLAN link that learns nothing and floods nowhere. Whom it knows, it was
//! told: a neighbour (who has the next hop's address) and an entry of the forwarding table (at which node that is) a peer.
//!
//! The next hop of a route into the tunnel is the other node's address, on this link, or for IPv6 the one that goes with its hardware
//! address: no further address is spent on it. The node's own address inside is the first of its podCIDR, so that answers to it come
//! back through the tunnel; that of IPv6 is the one of its range that goes with it, as those of pods go with theirs.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt as _;
use ipnet::{Ipv4Net, Ipv6Net};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressScope, CacheInfo};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::{Handle, LinkUnspec, LinkVxlan};

use super::links::{self, Link, check};
use super::reach::{LEAST6, NodeRoute, hardware_address};
use super::{NetError, ipam, sysctl, underlay};

/// The link's name.
pub(super) const LINK: &str = "oarlock-vx";
/// The network's number, and the port at which nodes listen: of the whole cluster, as each node has to guess those of others.
const NETWORK: u32 = 7749;
/// What Linux and other pod networks use by default. That of the standard, 4789, is Docker's.
const PORT: u16 = oarlock_ebpf::direct::PORT;

/// This node's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    /// The node's address, between which and those of other nodes packets travel.
    pub(super) node: Ipv4Addr,
    /// The node's podCIDR.
    pub(super) pod_cidr: Ipv4Net,
    /// The node's range of IPv6.
    pub(super) pod_cidr6: Option<Ipv6Net>,
    /// How long packets may be inside.
    pub(super) mtu: u32,
}

impl End {
    /// The node's address inside.
    pub(super) fn address(&self) -> Ipv4Addr {
        self.pod_cidr.network()
    }

    /// The same of IPv6.
    pub(super) fn address6(&self) -> Option<Ipv6Addr> {
        ipam::paired(self.pod_cidr6?, self.address())
    }

    /// How long packets may be on the link.
    fn mtu(&self) -> u32 {
        self.pod_cidr6.map_or(self.mtu, |_| self.mtu.max(LEAST6))
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
    let up = LinkUnspec::new_with_index(link.index).mtu(end.mtu()).up().build();
    check(format!("bring up {LINK}"), handle.link().set(up).execute().await)?;
    sysctl::prepare_link(LINK, end.pod_cidr6.is_some())?;
    let present = underlay::addresses(handle, (link.index, LINK)).await?;
    for ip in [Some(IpAddr::V4(end.address())), end.address6().map(IpAddr::V6)].into_iter().flatten() {
        if !present.iter().any(|net| net.addr() == ip) {
            give(handle, link.index, ip).await?;
        }
    }
    Ok(link.index)
}

/// Gives the link an address that the kernel does not take for the sender's of what leaves by other links: one of IPv4 by its scope, one
/// of IPv6 because it is preferred for no time (RFC 6724 5, rule 3). Routes that name it use it all the same.
async fn give(handle: &Handle, link: u32, ip: IpAddr) -> Result<(), NetError> {
    let mut address = handle.address().add(link, ip, if ip.is_ipv4() { 32 } else { 128 }).replace();
    let message = address.message_mut();
    if ip.is_ipv4() {
        message.header.scope = AddressScope::Link;
    } else {
        let mut times = CacheInfo::default();
        times.ifa_valid = u32::MAX;
        message.attributes.push(AddressAttribute::CacheInfo(times));
        // Nobody else can have it.
        message.header.flags |= AddressHeaderFlags::Nodad;
    }
    check(format!("give {LINK} its address {ip}"), address.execute().await)
}

async fn make(handle: &Handle, end: End, mac: [u8; 6]) -> Result<Link, NetError> {
    let link = LinkVxlan::new(LINK, NETWORK)
        .port(PORT)
        .local(end.node)
        .learning(false)
        .address(mac.to_vec())
        .mtu(end.mtu())
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
    Neighbour(IpAddr, [u8; 6]),
    /// At which node that is.
    Place([u8; 6], Ipv4Addr),
}

/// What the link has to know for a route; nothing for one that does not lead into it.
fn entries(route: &NodeRoute) -> Option<[Entry; 2]> {
    let node = route.end()?;
    let mac = hardware_address(node);
    Some([Entry::Neighbour(route.hop(), mac), Entry::Place(mac, node)])
}

/// What the link knows.
pub(super) struct Known(BTreeSet<Entry>);

impl Known {
    /// Whether that is enough for a route.
    pub(super) fn leads(&self, route: &NodeRoute) -> bool {
        entries(route).into_iter().flatten().all(|entry| self.0.contains(&entry))
    }

    /// Whether it says anything of the same address, of whichever kind.
    fn says(&self, entry: &Entry) -> bool {
        let range = match *entry {
            Entry::Neighbour(ip, _) => Entry::Neighbour(ip, [0; 6])..=Entry::Neighbour(ip, [0xff; 6]),
            Entry::Place(mac, _) => {
                Entry::Place(mac, Ipv4Addr::UNSPECIFIED)..=Entry::Place(mac, Ipv4Addr::BROADCAST)
            }
        };
        self.0.range(range).next().is_some()
    }
}

/// What the link knows that it should not; see [`tell`].
pub(super) struct Stale(Vec<NeighbourMessage>);

/// Tells the link of the nodes that these routes lead to, and where these nodes are. Of whom else it knows is returned, to be forgotten
/// when no route leads there.
pub(super) async fn tell(
    handle: &Handle,
    link: u32,
    (routes, nodes): (&BTreeSet<NodeRoute>, &BTreeSet<Ipv4Addr>),
) -> Result<Stale, NetError> {
    let places = nodes.iter().map(|node| Entry::Place(hardware_address(*node), *node));
    let wanted = Known(routes.iter().filter_map(entries).flatten().chain(places).collect());
    let mut missing = wanted.0.clone();
    let mut stale = Vec::new();
    for (entry, message) in list(handle, link).await? {
        // One that is replaced in place is there no more.
        if !missing.remove(&entry) && !wanted.says(&entry) {
            stale.push(message);
        }
    }
    for entry in &missing {
        let request = match *entry {
            Entry::Neighbour(ip, mac) => handle.neighbours().add(link, ip).link_layer_address(&mac),
            Entry::Place(mac, ip) => {
                handle.neighbours().add_bridge(link, &mac).destination(ip.into()).flags(NeighbourFlags::Own)
            }
        };
        let what = format!("tell {LINK} of a node: {entry:?}");
        check(what, request.state(NeighbourState::Permanent).replace().execute().await)?;
    }
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

/// What the link knows now.
pub(super) async fn known(handle: &Handle, link: u32) -> Result<Known, NetError> {
    Ok(Known(list(handle, link).await?.into_iter().map(|(entry, _)| entry).collect()))
}

async fn list(handle: &Handle, link: u32) -> Result<Vec<(Entry, NeighbourMessage)>, NetError> {
    let mut found = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6, AddressFamily::Bridge] {
        let all = handle.neighbours().get().set_address_family(family).execute();
        let all: Vec<NeighbourMessage> =
            check(format!("list what {LINK} knows"), all.try_collect::<Vec<_>>().await)?;
        let here = all.into_iter().filter(|message| {
            let of = &message.header;
            // A kernel without a family tells those of all that it has.
            of.family == family && of.ifindex == link && of.state == NeighbourState::Permanent
        });
        found.extend(here.filter_map(|message| Some((read(&message)?, message))));
    }
    Ok(found)
}

fn read(message: &NeighbourMessage) -> Option<Entry> {
    let (mut ip, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => {
                ip = Some(IpAddr::V4(*address))
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => {
                ip = Some(IpAddr::V6(*address));
            }
            // Of what family it is in a forwarding table, only its length says.
            NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
                ip = <[u8; 4]>::try_from(bytes.as_slice()).ok().map(IpAddr::from);
            }
            NeighbourAttribute::LinkLayerAddress(address) => mac = address.as_slice().try_into().ok(),
            _ => {}
        }
    }
    match (message.header.family, ip?) {
        (AddressFamily::Bridge, IpAddr::V4(node)) => Some(Entry::Place(mac?, node)),
        (AddressFamily::Bridge, IpAddr::V6(_)) => None,
        (_, ip) => Some(Entry::Neighbour(ip, mac?)),
    }
}
