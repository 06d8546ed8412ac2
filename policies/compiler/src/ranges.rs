//! The address space of both families, cut where any CIDR begins or ends.
//!
//! Between two neighbouring cuts lies an *elementary range*: every CIDR contains
//! all of it or nothing. A block with its exceptions, and any union of blocks, is
//! then a few intervals of range numbers, however many addresses that is.
//!
//! Invariants: ranges are numbered by address, those of IPv4 first; together they
//! cover both families, without overlap; no interval reaches over both.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use ipnet::IpNet;

use super::signatures::number;

/// The cuts of both families.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ranges {
    /// First address of each range, ascending; the first is 0.
    v4: Vec<u32>,
    v6: Vec<u128>,
}

/// Intervals of range numbers: ascending, apart from each other, none empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct RangeSet {
    intervals: Vec<Range<u32>>,
}

impl Ranges {
    /// Cuts at the ends of all these CIDRs.
    pub(super) fn new<'a>(cidrs: impl IntoIterator<Item = &'a IpNet>) -> Self {
        let mut ranges = Self {
            v4: vec![0],
            v6: vec![0],
        };
        for cidr in cidrs {
            match cidr {
                IpNet::V4(net) => {
                    ranges.v4.push(net.network().into());
                    ranges.v4.extend(u32::from(net.broadcast()).checked_add(1));
                }
                IpNet::V6(net) => {
                    ranges.v6.push(net.network().into());
                    ranges.v6.extend(u128::from(net.broadcast()).checked_add(1));
                }
            }
        }
        ranges.v4.sort_unstable();
        ranges.v4.dedup();
        ranges.v6.sort_unstable();
        ranges.v6.dedup();
        ranges
    }

    /// Returns the number of ranges.
    pub(super) fn count(&self) -> u32 {
        number(self.v4.len() + self.v6.len())
    }

    /// The numbers of a family's ranges.
    pub(super) fn family_of(&self, range: u32) -> Range<u32> {
        let v4 = number(self.v4.len());
        if range < v4 { 0..v4 } else { v4..self.count() }
    }

    /// First addresses of the IPv4 ranges, from number 0 on.
    pub(super) fn v4_starts(&self) -> &[u32] {
        &self.v4
    }

    /// First addresses of the IPv6 ranges, which follow those of IPv4.
    pub(super) fn v6_starts(&self) -> &[u128] {
        &self.v6
    }

    /// The range that an address lies in.
    pub(super) fn of(&self, address: IpAddr) -> u32 {
        // The first start is 0, so at least one is not above the address.
        match address {
            IpAddr::V4(address) => {
                number(self.v4.partition_point(|start| *start <= address.into()) - 1)
            }
            IpAddr::V6(address) => {
                let within = self.v6.partition_point(|start| *start <= address.into()) - 1;
                number(self.v4.len() + within)
            }
        }
    }

    /// Finds the ranges of ascending addresses.
    pub(super) fn along(&self) -> Along<'_> {
        Along {
            ranges: self,
            v4: 0,
            v6: 0,
        }
    }

    /// An address of a range, its first.
    pub(super) fn first_address(&self, range: u32) -> IpAddr {
        match (range as usize).checked_sub(self.v4.len()) {
            None => Ipv4Addr::from(self.v4[range as usize]).into(),
            Some(range) => Ipv6Addr::from(self.v6[range]).into(),
        }
    }

    /// The ranges of one CIDR that was cut at.
    fn interval(&self, cidr: &IpNet) -> Range<u32> {
        self.of(cidr.network())..self.of(cidr.broadcast()) + 1
    }

    /// The ranges of a block without its exceptions, as intervals in order.
    pub(super) fn block(&self, cidr: &IpNet, except: &[IpNet]) -> Vec<Range<u32>> {
        let mut cuts: Vec<_> = except.iter().map(|cut| self.interval(cut)).collect();
        cuts.sort_by_key(|cut| cut.start);
        let whole = self.interval(cidr);
        let mut left = Vec::new();
        let mut from = whole.start;
        for cut in cuts {
            if cut.start > from {
                left.push(from..cut.start);
            }
            from = from.max(cut.end);
        }
        if from < whole.end {
            left.push(from..whole.end);
        }
        left
    }
}

/// A place between the ranges of both families, which only moves on.
pub(super) struct Along<'r> {
    ranges: &'r Ranges,
    v4: usize,
    v6: usize,
}

impl Along<'_> {
    /// The range that an address lies in; none of its family before it is greater.
    pub(super) fn of(&mut self, address: IpAddr) -> u32 {
        fn move_on<T: Ord>(starts: &[T], at: &mut usize, address: &T) {
            while starts.get(*at + 1).is_some_and(|next| next <= address) {
                *at += 1;
            }
        }
        match address {
            IpAddr::V4(address) => {
                move_on(&self.ranges.v4, &mut self.v4, &address.into());
                number(self.v4)
            }
            IpAddr::V6(address) => {
                move_on(&self.ranges.v6, &mut self.v6, &address.into());
                number(self.ranges.v4.len() + self.v6)
            }
        }
    }
}

impl RangeSet {
    /// The union of intervals in any order.
    pub(super) fn union(mut intervals: Vec<Range<u32>>) -> Self {
        intervals.sort_by_key(|interval| interval.start);
        let mut merged: Vec<Range<u32>> = Vec::with_capacity(intervals.len());
        for interval in intervals {
            match merged.last_mut() {
                Some(last) if interval.start <= last.end => last.end = last.end.max(interval.end),
                _ => merged.push(interval),
            }
        }
        Self { intervals: merged }
    }

    /// Returns `true` if a range belongs to it.
    pub(super) fn contains(&self, range: u32) -> bool {
        let after = self.intervals.partition_point(|i| i.start <= range);
        after > 0 && range < self.intervals[after - 1].end
    }

    /// Ranges that tell apart the same as this set does, within a partition that
    /// tells the families apart: of each family the set or its complement,
    /// whichever is smaller. `0.0.0.0/0` without a few blocks costs as much as the
    /// few blocks.
    pub(super) fn distinguishing(&self, ranges: &Ranges) -> Vec<u32> {
        let mut distinguishing = Vec::new();
        let first_v6 = ranges.family_of(0).end;
        for family in [0..first_v6, first_v6..ranges.count()] {
            // An interval may touch both families' ends after merging.
            let inside: Vec<Range<u32>> = self
                .intervals
                .iter()
                .map(|i| i.start.max(family.start)..i.end.min(family.end))
                .filter(|i| i.start < i.end)
                .collect();
            let covered: u32 = inside.iter().map(|i| i.end - i.start).sum();
            if covered <= (family.end - family.start) / 2 {
                distinguishing.extend(inside.into_iter().flatten());
            } else {
                let mut from = family.start;
                for interval in inside {
                    distinguishing.extend(from..interval.start);
                    from = interval.end;
                }
                distinguishing.extend(from..family.end);
            }
        }
        distinguishing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn ranges(cidrs: &[&str]) -> Ranges {
        Ranges::new(&cidrs.iter().map(|c| net(c)).collect::<Vec<_>>())
    }

    fn contains(ranges: &Ranges, set: &RangeSet, address: &str) -> bool {
        set.contains(ranges.of(address.parse().unwrap()))
    }

    #[test]
    fn both_ends_of_both_families_have_a_range() {
        let ranges = ranges(&["0.0.0.0/0", "::/0", "255.255.255.255/32", "ffff::/16"]);
        for address in ["0.0.0.0", "255.255.255.255", "::", "ffff:ffff::"] {
            assert!(ranges.of(address.parse().unwrap()) < ranges.count());
        }
        let ascending = [
            "0.0.0.0",
            "9.9.9.9",
            "255.255.255.255",
            "::",
            "1::",
            "ffff::",
            "ffff::1",
        ];
        let mut along = ranges.along();
        for address in ascending.map(|text| text.parse().unwrap()) {
            assert_eq!(along.of(address), ranges.of(address), "{address}");
        }
        assert_eq!(ranges.count(), 4);
        assert_ne!(
            ranges.of("255.255.255.255".parse().unwrap()),
            ranges.of("255.255.255.254".parse().unwrap())
        );
    }

    #[test]
    fn exceptions_are_cut_out_on_either_side() {
        let cidrs = ["10.0.0.0/8", "10.0.0.0/16", "10.255.0.0/16", "10.9.0.0/24"];
        let ranges = ranges(&cidrs);
        let except: Vec<IpNet> = cidrs[1..].iter().map(|c| net(c)).collect();
        let set = RangeSet::union(ranges.block(&net(cidrs[0]), &except));
        for (address, inside) in [
            ("9.255.255.255", false),
            ("10.0.255.255", false),
            ("10.1.0.0", true),
            ("10.8.255.255", true),
            ("10.9.0.0", false),
            ("10.9.0.255", false),
            ("10.9.1.0", true),
            ("10.254.255.255", true),
            ("10.255.0.0", false),
            ("11.0.0.0", false),
            ("::10.1.0.0", false),
        ] {
            assert_eq!(contains(&ranges, &set, address), inside, "{address}");
        }
    }

    #[test]
    fn nested_exceptions_are_cut_out_once() {
        let cidrs = ["10.0.0.0/8", "10.0.0.0/9", "10.64.0.0/16"];
        let ranges = ranges(&cidrs);
        let except: Vec<IpNet> = cidrs[1..].iter().map(|c| net(c)).collect();
        let set = RangeSet::union(ranges.block(&net(cidrs[0]), &except));
        assert!(!contains(&ranges, &set, "10.100.0.0"));
        assert!(contains(&ranges, &set, "10.128.0.0"));
    }

    #[test]
    fn the_smaller_side_tells_apart_the_same() {
        let cidrs = ["0.0.0.0/0", "10.0.0.0/8", "2001:db8::/32"];
        let ranges = ranges(&cidrs);
        let wide = RangeSet::union(ranges.block(&net(cidrs[0]), &[net(cidrs[1])]));
        assert_eq!(wide.distinguishing(&ranges), [1]);
        let all = RangeSet::union(vec![1..ranges.count(), 0..1]);
        assert_eq!(all.distinguishing(&ranges), Vec::<u32>::new());
        let v6 = RangeSet::union(ranges.block(&net(cidrs[2]), &[]));
        assert_eq!(v6.distinguishing(&ranges), [4]);
    }
}
