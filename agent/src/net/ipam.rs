//! Which address a pod gets: the next free one of the podCIDR after the one given last. Pure.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// Picks a free host address. The search starts behind `last`, so that an address rests as long as possible before it is
/// used again: a stale connection to a dead pod should meet nobody rather than a stranger. The network's first and last
/// addresses are never given.
pub(super) fn pick(cidr: Ipv4Net, used: &BTreeSet<Ipv4Addr>, last: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
    let (first, end) = (u32::from(cidr.network()).checked_add(1)?, u32::from(cidr.broadcast()));
    let start = last.map(u32::from).filter(|l| (first..end).contains(l)).map_or(first, |l| l + 1);
    (start..end).chain(first..start.min(end)).map(Ipv4Addr::from).find(|ip| !used.contains(ip))
}

/// The address of IPv6 that goes with one of IPv4: the node's range, and those four bytes at the end. As long as one is a pod's
/// alone so is the other, and whoever reads one knows the other. None where the range has no room for them.
pub(super) fn paired(cidr: Ipv6Net, ip: Ipv4Addr) -> Option<Ipv6Addr> {
    (cidr.prefix_len() <= 96).then(|| Ipv6Addr::from(u128::from(cidr.network()) | u128::from(u32::from(ip))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cidr(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_are_given_in_order_and_wrap_around() {
        let range = cidr("10.244.1.0/29");
        let mut used = BTreeSet::new();
        let mut last = None;
        for expected in 1..=6u8 {
            let ip = pick(range, &used, last).unwrap();
            assert_eq!(ip, Ipv4Addr::new(10, 244, 1, expected));
            used.insert(ip);
            last = Some(ip);
        }
        assert_eq!(pick(range, &used, last), None);
        used.remove(&Ipv4Addr::new(10, 244, 1, 2));
        assert_eq!(pick(range, &used, last), Some(Ipv4Addr::new(10, 244, 1, 2)));
    }

    #[test]
    fn ranges_without_host_addresses_give_none() {
        for text in ["10.0.0.0/31", "10.0.0.0/32", "255.255.255.255/32"] {
            assert_eq!(pick(cidr(text), &BTreeSet::new(), None), None, "{text}");
        }
    }

    #[test]
    fn an_address_of_ipv6_holds_the_one_of_ipv4() {
        let paired = |range: &str| paired(range.parse().unwrap(), Ipv4Addr::new(10, 244, 1, 5));
        assert_eq!(paired("fd00:10:244:1::/64"), Some("fd00:10:244:1::10.244.1.5".parse().unwrap()));
        assert_eq!(paired("fd00:10:244:1::/112"), None);
    }

    proptest! {
        #[test]
        fn a_picked_address_is_free_and_inside(prefix in 20u8..=30, used in proptest::collection::btree_set(0u32..4096, 0..600), last in 0u32..5000) {
            let range = Ipv4Net::new(Ipv4Addr::new(10, 1, 0, 0), prefix).unwrap();
            let base = u32::from(range.network());
            let used: BTreeSet<_> = used.into_iter().map(|o| Ipv4Addr::from(base + o)).collect();
            match pick(range, &used, Some(Ipv4Addr::from(base + last))) {
                Some(ip) => prop_assert!(range.contains(&ip) && !used.contains(&ip) && ip != range.network() && ip != range.broadcast()),
                None => prop_assert!(range.hosts().all(|ip| used.contains(&ip))),
            }
        }
    }
}
