//! Sets of addresses of both families, as ranges.
//!
//! Only what analysis asks of them: is one within another, do two meet, is
//! everything there. The families never meet: an IPv4 address is no IPv6 address.

use std::net::IpAddr;

use ipnet::IpNet;

/// Disjoint ranges in order, first and last included.
type List = Vec<(u128, u128)>;

/// A set of addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ranges {
    v4: List,
    v6: List,
}

impl Ranges {
    /// Returns the addresses of a block that lie in none of the blocks cut out of it.
    pub(super) fn block(cidr: IpNet, except: &[IpNet]) -> Self {
        let mut ranges = Self::default();
        let (list, whole) = ranges.list_of(cidr);
        let mut cuts: List = except.iter().map(|cut| bounds(*cut).1).collect();
        cuts.sort_unstable();
        let mut first = Some(whole.0);
        for (from, to) in cuts {
            let Some(start) = first else { break };
            if start < from {
                list.push((start, from - 1));
            }
            if to >= start {
                first = to.checked_add(1).filter(|next| *next <= whole.1);
            }
        }
        list.extend(first.map(|start| (start, whole.1)));
        ranges
    }

    /// Everything in any of these.
    pub(super) fn union(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut all = Self::default();
        for part in parts {
            all.v4.extend(part.v4);
            all.v6.extend(part.v6);
        }
        merge(&mut all.v4);
        merge(&mut all.v6);
        all
    }

    fn list_of(&mut self, cidr: IpNet) -> (&mut List, (u128, u128)) {
        let (is_v4, whole) = bounds(cidr);
        let list = if is_v4 { &mut self.v4 } else { &mut self.v6 };
        (list, whole)
    }

    pub(super) fn v4(&self) -> &[(u128, u128)] {
        &self.v4
    }

    pub(super) fn v6(&self) -> &[(u128, u128)] {
        &self.v6
    }

    pub(super) fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    /// Returns `true` if every address of both families is in the set.
    pub(super) fn is_everything(&self) -> bool {
        self.v4 == [(0, u128::from(u32::MAX))] && self.v6 == [(0, u128::MAX)]
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        let (list, address) = match address {
            IpAddr::V4(v4) => (&self.v4, u128::from(u32::from(v4))),
            IpAddr::V6(v6) => (&self.v6, u128::from(v6)),
        };
        holds(list, (address, address))
    }

    /// Returns `true` if all addresses of `other` are in this set.
    pub(super) fn covers(&self, other: &Self) -> bool {
        other.v4.iter().all(|range| holds(&self.v4, *range))
            && other.v6.iter().all(|range| holds(&self.v6, *range))
    }

    /// Returns `true` if an address is in both sets.
    pub(super) fn meets(&self, other: &Self) -> bool {
        let meet = |a: &List, b: &List| {
            a.iter()
                .any(|(first, last)| b.iter().any(|(from, to)| first <= to && from <= last))
        };
        meet(&self.v4, &other.v4) || meet(&self.v6, &other.v6)
    }
}

/// Returns `true` for IPv4, and the first and last address.
fn bounds(cidr: IpNet) -> (bool, (u128, u128)) {
    match cidr {
        IpNet::V4(net) => (
            true,
            (
                u32::from(net.network()).into(),
                u32::from(net.broadcast()).into(),
            ),
        ),
        IpNet::V6(net) => (
            false,
            (u128::from(net.network()), u128::from(net.broadcast())),
        ),
    }
}

/// Returns `true` if one range of a merged list holds all of `range`.
fn holds(list: &List, range: (u128, u128)) -> bool {
    let after = list.partition_point(|(first, _)| *first <= range.0);
    after > 0 && range.1 <= list[after - 1].1
}

/// Sorts, and joins what touches.
fn merge(list: &mut List) {
    list.sort_unstable();
    let mut merged: List = Vec::with_capacity(list.len());
    for &(first, last) in &*list {
        match merged.last_mut() {
            Some((_, end)) if end.checked_add(1).is_none_or(|next| first <= next) => {
                *end = last.max(*end);
            }
            _ => merged.push((first, last)),
        }
    }
    *list = merged;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn block(cidr: &str, except: &[&str]) -> Ranges {
        let except: Vec<IpNet> = except.iter().map(|text| net(text)).collect();
        Ranges::block(net(cidr), &except)
    }

    #[test]
    fn exceptions_may_leave_nothing() {
        assert!(block("10.0.0.0/24", &["10.0.0.0/25", "10.0.0.128/25"]).is_empty());
        assert!(block("::/0", &["8000::/1", "::/1"]).is_empty());
        let left = block(
            "10.0.0.0/24",
            &["10.0.0.0/25", "10.0.0.0/30", "10.0.0.192/26"],
        );
        assert!(left.contains("10.0.0.128".parse().unwrap()));
        assert!(left.contains("10.0.0.191".parse().unwrap()));
        for out in ["10.0.0.127", "10.0.0.192", "::a00:80"] {
            assert!(!left.contains(out.parse().unwrap()), "{out}");
        }
    }

    #[test]
    fn halves_are_the_whole_and_one_family_is_not_everything() {
        let v4 = Ranges::union([block("0.0.0.0/1", &[]), block("128.0.0.0/1", &[])]);
        assert!(v4.covers(&block("0.0.0.0/0", &[])));
        assert!(!v4.is_everything());
        assert!(Ranges::union([v4, block("::/0", &[])]).is_everything());
    }

    #[test]
    fn a_gap_of_one_address_is_not_covered() {
        let with_gap = block("10.0.0.0/24", &["10.0.0.7/32"]);
        assert!(!with_gap.covers(&block("10.0.0.0/28", &[])));
        assert!(with_gap.covers(&block("10.0.0.8/29", &[])));
        assert!(!with_gap.meets(&block("10.0.0.7/32", &[])));
        assert!(with_gap.meets(&block("10.0.0.6/31", &[])));
    }
}
