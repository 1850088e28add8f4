//! Whose addresses the programs know, of both families: in the kernel a table each.

use std::net::IpAddr;

use aya::maps::{HashMap, MapData, MapError};
use oarlock_ebpf::flow::Owner;
use oarlock_ebpf::maps;

use super::DataplaneError;

/// The kernel's tables.
pub(super) struct Addresses {
    pub(super) four: HashMap<MapData, [u8; 4], Owner>,
    pub(super) six: HashMap<MapData, [u8; 16], Owner>,
}

impl Addresses {
    /// All of them, as far as they can be read.
    pub(super) fn all(&self) -> Vec<(IpAddr, Owner)> {
        let four = self.four.iter().filter_map(Result::ok).map(|(ip, owner)| (IpAddr::from(ip), owner));
        let six = self.six.iter().filter_map(Result::ok).map(|(ip, owner)| (IpAddr::from(ip), owner));
        four.chain(six).collect()
    }

    /// Whose an address is.
    pub(super) fn get(&self, ip: IpAddr) -> Option<Owner> {
        match ip {
            IpAddr::V4(ip) => self.four.get(&ip.octets(), 0).ok(),
            IpAddr::V6(ip) => self.six.get(&ip.octets(), 0).ok(),
        }
    }

    pub(super) fn insert(&mut self, ip: IpAddr, owner: Owner) -> Result<(), DataplaneError> {
        let done = match ip {
            IpAddr::V4(ip) => self.four.insert(ip.octets(), owner, 0),
            IpAddr::V6(ip) => self.six.insert(ip.octets(), owner, 0),
        };
        done.map_err(|e| failed(ip, &e))
    }

    pub(super) fn remove(&mut self, ip: IpAddr) -> Result<(), DataplaneError> {
        let done = match ip {
            IpAddr::V4(ip) => self.four.remove(&ip.octets()),
            IpAddr::V6(ip) => self.six.remove(&ip.octets()),
        };
        done.map_err(|e| failed(ip, &e))
    }
}

/// The table that holds an address.
pub(super) const fn map(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { maps::ADDRESSES } else { maps::ADDRESSES6 }
}

fn failed(ip: IpAddr, error: &MapError) -> DataplaneError {
    DataplaneError::kernel(format!("write the map {}", map(ip)), error)
}
