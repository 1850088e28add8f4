//! The ranges of addresses that a cluster gives away: one, or one of each family. Pure.

use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;

use crate::service::Family;

/// One range, or one of each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressRanges {
    /// Of the cluster's primary family.
    pub primary: IpNet,
    /// Of the other one.
    pub secondary: Option<IpNet>,
}

/// Why a text is none. The text is for who wrote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRanges {
    /// Something else.
    #[error(
        "{0:?} is no range of addresses: give it as 10.96.0.0/16, or two of different families as 10.96.0.0/16,fd00:10:96::/112"
    )]
    Malformed(String),
    /// Too small.
    #[error("{0} has no room: at least four addresses are needed")]
    Small(IpNet),
}

impl AddressRanges {
    /// The primary one first.
    #[must_use]
    pub fn all(&self) -> Vec<IpNet> {
        std::iter::once(self.primary).chain(self.secondary).collect()
    }

    /// The one of a family.
    #[must_use]
    pub fn of(&self, family: Family) -> Option<IpNet> {
        self.all().into_iter().find(|range| Family::of(range.network()) == family)
    }
}

impl FromStr for AddressRanges {
    type Err = BadRanges;

    fn from_str(text: &str) -> Result<Self, BadRanges> {
        let bad = || BadRanges::Malformed(text.to_owned());
        let parse = |range: &str| range.trim().parse::<IpNet>().map(|range| range.trunc()).map_err(|_| bad());
        let mut ranges = text.split(',').map(parse);
        let primary = ranges.next().ok_or_else(bad)??;
        let secondary = ranges.next().transpose()?;
        let family = |range: IpNet| Family::of(range.network());
        if ranges.next().is_some() || secondary.is_some_and(|range| family(range) == family(primary)) {
            return Err(bad());
        }
        let small = |range: &IpNet| range.max_prefix_len() - range.prefix_len() < 2;
        match [Some(primary), secondary].into_iter().flatten().find(small) {
            Some(range) => Err(BadRanges::Small(range)),
            None => Ok(Self { primary, secondary }),
        }
    }
}

impl fmt::Display for AddressRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.primary)?;
        self.secondary.map_or(Ok(()), |range| write!(f, ",{range}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_range_or_one_of_each_family() {
        let parse = |text: &str| text.parse::<AddressRanges>();
        let dual = parse("fd00:10:96::/112, 10.96.0.0/16").unwrap();
        assert_eq!(dual.to_string(), "fd00:10:96::/112,10.96.0.0/16");
        assert_eq!(dual.of(Family::V4).map(|range| range.to_string()), Some("10.96.0.0/16".to_owned()));
        assert_eq!((dual.all().len(), dual.of(Family::V6)), (2, Some(dual.primary)));
        let single = parse("10.96.7.0/16").unwrap();
        assert_eq!((single.to_string(), single.of(Family::V6)), ("10.96.0.0/16".to_owned(), None));
        for bad in ["", "10.96.0.0", "10.96.0.0/16,10.97.0.0/16", "10.96.0.0/16,fd00::/112,fd01::/112"] {
            assert!(parse(bad).unwrap_err().to_string().contains("10.96.0.0/16"), "{bad}");
        }
        assert!(parse("10.96.0.0/31").unwrap_err().to_string().contains("no room"));
    }
}
