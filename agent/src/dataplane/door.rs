//! Where clients knock: an address of either family, a port and a protocol. In the kernel the two families have a table each, as
//! the shorter keys of IPv4 cost less.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use aya::maps::{HashMap, MapData, MapError};
use oarlock_ebpf::layout::{Backend, FrontendKey, FrontendKey6};
use oarlock_ebpf::maps;

use super::picture;

/// An address, a port and a protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Door {
    /// The address.
    pub ip: IpAddr,
    /// The port.
    pub port: u16,
    /// 6 TCP, 17 UDP.
    pub protocol: u8,
}

impl Door {
    /// A place to knock at.
    #[must_use]
    pub fn new(ip: impl Into<IpAddr>, port: u16, protocol: u8) -> Self {
        Self { ip: ip.into(), port, protocol }
    }

    /// The table that holds it.
    #[must_use]
    pub const fn map(&self) -> &'static str {
        if self.ip.is_ipv4() { maps::FRONTENDS } else { maps::FRONTENDS6 }
    }
}

/// `TCP 10.96.0.10:80`.
impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", picture::protocol(self.protocol), SocketAddr::new(self.ip, self.port))
    }
}

/// The kernel's tables of them: door to line of the service table.
pub(super) struct Doors {
    pub(super) four: HashMap<MapData, FrontendKey, u32>,
    pub(super) six: HashMap<MapData, FrontendKey6, u32>,
}

impl Doors {
    /// All of them.
    pub(super) fn all(&self) -> Result<Vec<(Door, u32)>, MapError> {
        let four = self.four.iter().map(|found| {
            found.map(|(key, line)| (Door::new(key.address(), key.port(), key.protocol()), line))
        });
        let six = self.six.iter().map(|found| {
            found.map(|(key, line)| (Door::new(key.address(), key.port(), key.protocol()), line))
        });
        four.chain(six).collect()
    }

    pub(super) fn insert(&mut self, door: Door, line: u32) -> Result<(), MapError> {
        let Door { ip, port, protocol } = door;
        match ip {
            IpAddr::V4(ip) => self.four.insert(FrontendKey::new(ip.octets(), port, protocol), line, 0),
            IpAddr::V6(ip) => self.six.insert(FrontendKey6::new(ip.octets(), port, protocol), line, 0),
        }
    }

    pub(super) fn remove(&mut self, door: &Door) -> Result<(), MapError> {
        let Door { ip, port, protocol } = *door;
        match ip {
            IpAddr::V4(ip) => self.four.remove(&FrontendKey::new(ip.octets(), port, protocol)),
            IpAddr::V6(ip) => self.six.remove(&FrontendKey6::new(ip.octets(), port, protocol)),
        }
    }
}

/// A backend as the kernel keeps it.
pub(super) fn backend((ip, port): (IpAddr, u16), generation: u32) -> Backend {
    match ip {
        IpAddr::V4(ip) => Backend::new(ip.octets(), port, generation),
        IpAddr::V6(ip) => Backend::new6(ip.octets(), port, generation),
    }
}

/// Who that is.
pub(super) fn peer(backend: &Backend) -> (IpAddr, u16) {
    (IpAddr::from(backend.address6()).to_canonical(), backend.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_of_both_families_are_read_as_they_were_written() {
        for text in ["10.244.1.5:80", "[fd00:10:244:1::5]:8080"] {
            let at: SocketAddr = text.parse().unwrap();
            assert_eq!(peer(&backend((at.ip(), at.port()), 7)), (at.ip(), at.port()));
        }
    }

    #[test]
    fn a_door_says_where_it_is() {
        let door = Door::new("fd00::1".parse::<IpAddr>().unwrap(), 80, 6);
        assert_eq!((door.to_string().as_str(), door.map()), ("TCP [fd00::1]:80", maps::FRONTENDS6));
    }
}
