//! What a node or a pod is reached at: an address of IPv4, and where the cluster has dual stack one of IPv6 too. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address of IPv4, and perhaps one of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DualIp {
    /// Of IPv4.
    pub v4: Ipv4Addr,
    /// Of IPv6.
    pub v6: Option<Ipv6Addr>,
}

impl DualIp {
    /// The first of each family among these; none without one of IPv4.
    #[must_use]
    pub fn of(ips: impl Iterator<Item = IpAddr> + Clone) -> Option<Self> {
        let v4 = ips.clone().find_map(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None });
        let v6 = ips.clone().find_map(|ip| if let IpAddr::V6(ip) = ip { Some(ip) } else { None });
        v4.map(|v4| Self { v4, v6 })
    }

    /// All of them.
    pub fn all(self) -> impl Iterator<Item = IpAddr> {
        std::iter::once(IpAddr::V4(self.v4)).chain(self.v6.map(IpAddr::V6))
    }
}

impl From<Ipv4Addr> for DualIp {
    fn from(v4: Ipv4Addr) -> Self {
        Self { v4, v6: None }
    }
}

/// `10.0.0.1` or `10.0.0.1,fd00::1`.
impl fmt::Display for DualIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.v4)?;
        self.v6.map_or(Ok(()), |v6| write!(f, ",{v6}"))
    }
}

/// Why a text is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address of IPv4, nor one with one of IPv6: give it as 10.0.0.1 or 10.0.0.1,fd00::1")]
pub struct BadDualIp(String);

impl FromStr for DualIp {
    type Err = BadDualIp;

    fn from_str(text: &str) -> Result<Self, BadDualIp> {
        let bad = || BadDualIp(text.to_owned());
        let parsed = text.split(',').map(|ip| ip.trim().parse());
        let ips = parsed.collect::<Result<Vec<IpAddr>, _>>().map_err(|_| bad())?;
        let both = Self::of(ips.iter().copied()).ok_or_else(bad)?;
        if both.all().count() == ips.len() { Ok(both) } else { Err(bad()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_of_ipv4_and_at_most_one_of_ipv6() {
        for text in ["10.0.0.1", "10.0.0.1,fd00::1"] {
            assert_eq!(text.parse::<DualIp>().unwrap().to_string(), text);
        }
        assert_eq!("fd00::1, 10.0.0.1".parse::<DualIp>().unwrap().to_string(), "10.0.0.1,fd00::1");
        for bad in ["", "fd00::1", "10.0.0.1,10.0.0.2", "10.0.0.1,fd00::1,fd00::2", "10.0.0.1,x"] {
            assert!(bad.parse::<DualIp>().unwrap_err().to_string().contains("fd00::1"), "{bad}");
        }
    }
}
