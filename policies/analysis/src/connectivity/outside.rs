//! Ranges of addresses that no workload, node or Service has, in CIDRs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use cofferdam_verdict::address::Family;
use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

/// Addresses of one family from first to last, both included.
pub(super) type Range = (u128, u128);

/// Ranges of one family: in order, apart from each other, none empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Outside {
    family: Family,
    ranges: Vec<Range>,
}

impl Outside {
    /// The union of ranges in any order.
    pub(super) fn new(family: Family, mut ranges: Vec<Range>) -> Self {
        ranges.sort_unstable();
        let mut joined: Vec<Range> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match joined.last_mut() {
                Some(before) if before.1.checked_add(1).is_none_or(|next| first <= next) => {
                    before.1 = before.1.max(last);
                }
                _ => joined.push((first, last)),
            }
        }
        Self {
            family,
            ranges: joined,
        }
    }

    /// The family.
    #[must_use]
    pub fn family(&self) -> Family {
        self.family
    }

    /// The ranges, for a union with others.
    pub(super) fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    /// All addresses of several sets.
    pub(crate) fn union(family: Family, parts: Vec<&Self>) -> Self {
        let ranges = parts.iter().flat_map(|part| part.ranges.iter().copied());
        Self::new(family, ranges.collect())
    }

    /// Returns `true` if it is half of the family's addresses or more.
    #[must_use]
    pub fn is_half(&self) -> bool {
        let half = match self.family {
            Family::V4 => 1 << 31,
            Family::V6 => 1 << 127,
        };
        // The last one of a range counts as well.
        let mut left: u128 = half;
        for (first, last) in &self.ranges {
            left = left.saturating_sub((last - first).saturating_add(1));
        }
        left == 0
    }

    /// The addresses in order, of which there may be very many.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        let address = |number: u128| match self.family {
            Family::V4 => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
            Family::V6 => Ipv6Addr::from(number).into(),
        };
        let ranges = self.ranges.iter().copied();
        ranges.flat_map(move |(first, last)| (first..=last).map(address))
    }

    /// Returns `true` if an address lies in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let (family, number) = match address {
            IpAddr::V4(address) => (Family::V4, u128::from(u32::from(address))),
            IpAddr::V6(address) => (Family::V6, u128::from(address)),
        };
        let mut ranges = self.ranges.iter();
        family == self.family && ranges.any(|(first, last)| (*first..=*last).contains(&number))
    }

    /// The fewest CIDRs that are these addresses.
    #[must_use]
    pub fn cidrs(&self) -> Vec<IpNet> {
        let ranges = self.ranges.iter();
        ranges.flat_map(|range| self.subnets(*range)).collect()
    }

    fn subnets(&self, (first, last): Range) -> Vec<IpNet> {
        match self.family {
            Family::V4 => {
                let address =
                    |number: u128| Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX));
                let subnets = Ipv4Subnets::new(address(first), address(last), 0);
                subnets.map(IpNet::V4).collect()
            }
            Family::V6 => {
                let (first, last) = (Ipv6Addr::from(first), Ipv6Addr::from(last));
                Ipv6Subnets::new(first, last, 0).map(IpNet::V6).collect()
            }
        }
    }

    /// The smallest CIDR around all of these, and the CIDRs in it that are none of these.
    fn around(&self) -> Option<(IpNet, Vec<IpNet>)> {
        let (first, last) = (self.ranges.first()?.0, self.ranges.last()?.1);
        let bits: u32 = match self.family {
            Family::V4 => 32,
            Family::V6 => 128,
        };
        let length = (first ^ last).leading_zeros() - (128 - bits);
        let host = match bits - length {
            128 => u128::MAX,
            hosts => (1 << hosts) - 1,
        };
        let (low, high) = (first & !host, first | host);
        let length = u8::try_from(length).expect("no prefix is longer than an address");
        let address: IpAddr = match self.family {
            Family::V4 => Ipv4Addr::from(u32::try_from(low).unwrap_or(u32::MAX)).into(),
            Family::V6 => Ipv6Addr::from(low).into(),
        };
        let mut holes = Vec::new();
        let mut from = Some(low);
        for (first, last) in &self.ranges {
            if let Some(from) = from.filter(|from| from < first) {
                holes.extend(self.subnets((from, first - 1)));
            }
            from = last.checked_add(1);
        }
        if let Some(from) = from.filter(|from| *from <= high) {
            holes.extend(self.subnets((from, high)));
        }
        Some((IpNet::new(address, length).ok()?, holes))
    }

    /// The addresses in words, by which they are called as an end: CIDRs, or one without
    /// others, whichever is shorter.
    #[must_use]
    pub fn id(&self) -> String {
        let own = self.cidrs();
        match self.around() {
            Some((around, holes)) if holes.len() + 1 < own.len() => {
                format!("{around} except {}", listed(&holes))
            }
            _ => listed(&own),
        }
    }
}

fn listed(cidrs: &[IpNet]) -> String {
    let words: Vec<String> = cidrs.iter().map(ToString::to_string).collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(text: &str) -> u128 {
        u128::from(u32::from(text.parse::<Ipv4Addr>().unwrap()))
    }

    fn outside(ranges: &[(&str, &str)]) -> Outside {
        let ranges = ranges.iter().map(|(first, last)| (v4(first), v4(last)));
        Outside::new(Family::V4, ranges.collect())
    }

    #[test]
    fn ranges_are_called_by_the_shorter_of_two_names() {
        for (ranges, id) in [
            (&[("0.0.0.0", "255.255.255.255")][..], "0.0.0.0/0"),
            (&[("10.0.0.0", "10.0.2.255")], "10.0.0.0/23, 10.0.2.0/24"),
            (
                &[
                    ("0.0.0.0", "9.255.255.255"),
                    ("11.0.0.0", "255.255.255.255"),
                ],
                "0.0.0.0/0 except 10.0.0.0/8",
            ),
            (
                &[
                    ("10.0.0.0", "10.8.255.255"),
                    ("10.10.0.0", "10.255.255.255"),
                ],
                "10.0.0.0/8 except 10.9.0.0/16",
            ),
        ] {
            assert_eq!(outside(ranges).id(), id);
        }
        let all = Outside::new(Family::V6, vec![(0, u128::MAX)]);
        assert_eq!((all.id().as_str(), all.is_half()), ("::/0", true));
        let half = outside(&[("128.0.0.0", "255.255.255.255")]);
        assert!(half.is_half());
        assert!(!outside(&[("128.0.0.1", "255.255.255.255")]).is_half());
    }

    #[test]
    fn neighbours_are_one_range_and_a_gap_is_none() {
        let outside = outside(&[
            ("10.0.1.0", "10.0.1.255"),
            ("10.0.0.0", "10.0.0.255"),
            ("10.0.3.0", "10.0.3.0"),
        ]);
        assert_eq!(outside.id(), "10.0.0.0/23, 10.0.3.0/32");
        for (address, is_inside) in [("10.0.1.9", true), ("10.0.2.9", false), ("::1", false)] {
            assert_eq!(
                outside.contains(address.parse().unwrap()),
                is_inside,
                "{address}"
            );
        }
    }
}
