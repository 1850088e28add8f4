//! Looking at links. Only ever one link at a time: the kernel refuses a second listing on a socket with EBUSY while a first is
//! under way, and pods are plugged at the same time.

use futures_util::TryStreamExt as _;
use rtnetlink::Handle;
use rtnetlink::packet_route::link::LinkAttribute;

use super::NetError;

/// What is known of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    /// Its hardware address.
    pub(super) mac: Vec<u8>,
    /// In bytes.
    pub(super) mtu: u32,
    /// The number of a veth's other end, in whatever namespace that is.
    other_end: Option<u32>,
}

impl Link {
    /// Whether this is one end of a veth pair and `other` the other.
    pub(super) fn is_paired_with(&self, other: &Self) -> bool {
        self.other_end == Some(other.index) && other.other_end == Some(self.index)
    }
}

/// The link of this name in the handle's namespace; none is no error, not to be able to look is one.
pub(super) async fn find(handle: &Handle, name: &str) -> Result<Option<Link>, NetError> {
    let message = match handle.link().get().match_name(name.to_owned()).execute().try_next().await {
        Ok(Some(message)) => message,
        Ok(None) => return Ok(None),
        Err(rtnetlink::Error::NetlinkError(no)) if no.raw_code() == -nix::libc::ENODEV => return Ok(None),
        Err(source) => return Err(NetError::Netlink { what: format!("find the link {name}"), source }),
    };
    let mut link = Link { index: message.header.index, mac: Vec::new(), mtu: 1500, other_end: None };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::Address(mac) => link.mac = mac,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Link(index) => link.other_end = Some(index),
            _ => {}
        }
    }
    Ok(Some(link))
}

/// What the kernel said, with what was tried.
pub(super) fn check<T>(what: String, outcome: Result<T, rtnetlink::Error>) -> Result<T, NetError> {
    outcome.map_err(|source| NetError::Netlink { what, source })
}

/// The link of this name, which has to be there.
pub(super) async fn get(handle: &Handle, name: &str) -> Result<Link, NetError> {
    find(handle, name).await?.ok_or_else(|| NetError::Io {
        what: format!("find the link {name}"),
        source: std::io::Error::new(std::io::ErrorKind::NotFound, "no such link"),
    })
}

/// What a link has received and sent, in bytes; nothing when it is gone.
pub(super) async fn counters(handle: &Handle, name: &str) -> Option<(u64, u64)> {
    let message = handle.link().get().match_name(name.to_owned()).execute().try_next().await.ok()??;
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Stats64(stats) => Some((stats.rx_bytes, stats.tx_bytes)),
        _ => None,
    })
}
