//! Facts about links that outlive their endpoints' descriptions and the agent. Pure.
//!
//! A link is known by the index and the MAC address of the node's side. As long as it
//! lives it has one stamp, the number that its workload's packets carry on this node, and
//! one deadline for adopting connections from before; removing its endpoint and adding it
//! again changes neither.
//!
//! Invariant, rest: the stamp of a link that has gone is given to another
//! [`REST_SECONDS`] later at the earliest. Packets with it may wait in reassembly, in a
//! queue to user space, or in a shaper.

use std::collections::{BTreeMap, BTreeSet};

use cofferdam_verdict::endpoint::MAX_LISTENERS;
use serde::{Deserialize, Serialize};

/// Greatest stamp. The one above it is spared, and the bit above that says that the
/// packet's receiver is not known yet.
pub const LAST_STAMP: u16 = 0x7ffe;

/// Time that a stamp rests after its link has gone, on the clock that goes on while the
/// machine sleeps.
pub const REST_SECONDS: u64 = 120;

/// One link of the node's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// MAC address of the node's side.
    pub host_mac: [u8; 6],
    /// Stamp of packets from the link's workload.
    pub stamp: u16,
    /// End of the time in which connections from before are adopted, on the clock of
    /// flows, and 0 once it is over; `None` until filters first go on the interface.
    pub adopt_until: Option<u32>,
    /// TCP ports at which the workload took connections before filters first went on the
    /// interface, as the programs have them.
    #[serde(default)]
    pub listeners: [u32; MAX_LISTENERS],
}

/// All links that ever were endpoints' and have not gone, and stamps at rest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Links {
    /// Links by the index of the node's side.
    living: BTreeMap<u32, Link>,
    /// Stamps at rest, and the second of the machine's uptime in which each is free.
    resting: BTreeMap<u16, u64>,
    /// Last stamp given out.
    last: u16,
}

impl Links {
    /// Returns the link of an interface, `None` if the interface never was an endpoint's.
    #[must_use]
    pub fn get(&self, ifindex: u32) -> Option<&Link> {
        self.living.get(&ifindex)
    }

    /// Returns the link of an interface; one that is new gets the stamp that was given out
    /// longest ago. `None` if every stamp is in use or at rest.
    pub fn take(&mut self, ifindex: u32, host_mac: [u8; 6], now: u64) -> Option<&mut Link> {
        let known = self.living.get(&ifindex);
        if known.is_some_and(|link| link.host_mac != host_mac) {
            self.end(ifindex, now);
        }
        if !self.living.contains_key(&ifindex) {
            let stamp = self.free_stamp(now)?;
            self.last = stamp;
            let link = Link {
                host_mac,
                stamp,
                adopt_until: None,
                listeners: <_>::default(),
            };
            self.living.insert(ifindex, link);
        }
        self.living.get_mut(&ifindex)
    }

    fn free_stamp(&mut self, now: u64) -> Option<u16> {
        self.resting.retain(|_, free_at| *free_at > now);
        let in_use: BTreeSet<u16> = self.living.values().map(|link| link.stamp).collect();
        let after_last = (self.last.saturating_add(1)..=LAST_STAMP).chain(1..=self.last);
        let mut free = after_last.filter(|stamp| (1..=LAST_STAMP).contains(stamp));
        free.find(|stamp| !in_use.contains(stamp) && !self.resting.contains_key(stamp))
    }

    /// Takes over a link whose stamp is in force although nothing of it is remembered.
    pub fn adopt(&mut self, ifindex: u32, link: Link) {
        let is_known = |known: &Link| known.stamp == link.stamp;
        if !self.living.values().any(is_known) {
            self.living.insert(ifindex, link);
        }
    }

    /// Takes note of where the workload behind a link takes TCP connections, if no filters
    /// have been on its interface.
    pub fn note_listeners(
        &mut self,
        ifindex: u32,
        host_mac: [u8; 6],
        listeners: [u32; MAX_LISTENERS],
        now: u64,
    ) {
        if let Some(link) = self.take(ifindex, host_mac, now)
            && link.adopt_until.is_none()
        {
            link.listeners = listeners;
        }
    }

    /// Changes the deadline of a link.
    pub fn set_deadline(&mut self, ifindex: u32, adopt_until: u32) {
        if let Some(link) = self.living.get_mut(&ifindex) {
            link.adopt_until = Some(adopt_until);
        }
    }

    /// Returns `true` if a deadline has not been ended yet.
    #[must_use]
    pub fn has_deadlines(&self) -> bool {
        let mut links = self.living.values();
        links.any(|link| link.adopt_until.is_some_and(|end| end != 0))
    }

    /// Ends deadlines that have passed: the clock of flows comes round. Returns the
    /// interfaces concerned.
    pub fn end_deadlines(&mut self, jiffies: u32) -> Vec<u32> {
        let is_over = |end: u32| end != 0 && end.wrapping_sub(jiffies).cast_signed() <= 0;
        let links = self.living.iter_mut();
        let over = links.filter(|(_, link)| link.adopt_until.is_some_and(is_over));
        over.map(|(ifindex, link)| {
            link.adopt_until = Some(0);
            *ifindex
        })
        .collect()
    }

    /// Lets every link adopt connections once more: what was known of flows is lost.
    pub fn forget_deadlines(&mut self) {
        for link in self.living.values_mut() {
            link.adopt_until = None;
        }
    }

    /// Forgets links that have gone; their stamps rest.
    pub fn retain(&mut self, is_there: impl Fn(u32, &Link) -> bool, now: u64) {
        let gone = self
            .living
            .iter()
            .filter(|(ifindex, link)| !is_there(**ifindex, link));
        let gone: Vec<u32> = gone.map(|(ifindex, _)| *ifindex).collect();
        for ifindex in gone {
            self.end(ifindex, now);
        }
    }

    fn end(&mut self, ifindex: u32, now: u64) {
        if let Some(link) = self.living.remove(&ifindex) {
            self.resting.insert(link.stamp, now + REST_SECONDS);
        }
    }

    /// Begins to give out stamps after this one, where nothing is remembered of those that
    /// were given out last.
    pub fn begin_after(&mut self, last: u16) {
        self.last = last.min(LAST_STAMP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn stamp(links: &mut Links, ifindex: u32, now: u64) -> Option<u16> {
        links.take(ifindex, MAC, now).map(|link| link.stamp)
    }

    /// Ends a link.
    fn end(links: &mut Links, gone: u32, now: u64) {
        links.retain(|ifindex, _| ifindex != gone, now);
    }

    #[test]
    fn a_link_keeps_its_stamp_and_no_other_has_it() {
        let mut links = Links::default();
        let first = stamp(&mut links, 7, 0).unwrap();
        let second = stamp(&mut links, 8, 0).unwrap();
        assert_ne!(first, second);
        assert_eq!(stamp(&mut links, 7, 9), Some(first));
        // Another link of the same index.
        let other = links.take(7, [9; 6], 9).unwrap().stamp;
        assert!(other != first && other != second);
    }

    #[test]
    fn a_stamp_rests_for_two_minutes_after_its_link_also_over_a_restart() {
        let link = |stamp| Link {
            host_mac: MAC,
            stamp,
            adopt_until: None,
            listeners: <_>::default(),
        };
        let living = (1..=LAST_STAMP).map(|stamp| (stamp.into(), link(stamp)));
        let mut links = Links {
            living: living.collect(),
            ..Links::default()
        };
        assert_eq!(stamp(&mut links, 40_000, 5), None, "all are in use");
        let freed = links.get(77).unwrap().stamp;
        end(&mut links, 77, 10);
        let saved = serde_json::to_string(&links).unwrap();
        let mut links: Links = serde_json::from_str(&saved).unwrap();
        assert_eq!(stamp(&mut links, 40_000, 9 + REST_SECONDS), None);
        assert_eq!(stamp(&mut links, 40_000, 10 + REST_SECONDS), Some(freed));
    }

    #[test]
    fn stamps_go_round_and_are_never_zero_or_greater_than_the_last() {
        let mut links = Links::default();
        links.begin_after(LAST_STAMP - 1);
        let stamps: Vec<_> = (1..=3)
            .map(|ifindex| stamp(&mut links, ifindex, 0))
            .collect();
        assert_eq!(stamps, [Some(LAST_STAMP), Some(1), Some(2)]);
        links.begin_after(u16::MAX);
        assert_eq!(stamp(&mut links, 4, 0), Some(3));
    }

    #[test]
    fn a_deadline_is_set_once_and_never_comes_round() {
        let mut links = Links::default();
        let end = 10;
        links.take(7, MAC, 0).unwrap().adopt_until = Some(end);
        assert!(links.end_deadlines(end.wrapping_sub(1)).is_empty());
        assert_eq!(links.end_deadlines(end), [7]);
        assert_eq!(links.take(7, MAC, 0).unwrap().adopt_until, Some(0));
        assert!(links.end_deadlines(end + 1).is_empty());
    }

    #[test]
    fn listeners_are_those_of_before_the_filters_alone() {
        let mut links = Links::default();
        let [first, later] = [[80; MAX_LISTENERS], [81; MAX_LISTENERS]];
        links.note_listeners(7, MAC, first, 0);
        links.take(7, MAC, 0).unwrap().adopt_until = Some(10);
        links.note_listeners(7, MAC, later, 0);
        assert_eq!(links.get(7).unwrap().listeners, first);
        links.end_deadlines(10);
        links.note_listeners(7, MAC, later, 0);
        assert_eq!(links.get(7).unwrap().listeners, first);
        // Another link of the same index.
        links.note_listeners(7, [9; 6], later, 0);
        assert_eq!(links.get(7).unwrap().listeners, later);
    }

    #[test]
    fn a_stamp_that_is_in_force_and_not_remembered_is_not_given_to_another() {
        let mut links = Links::default();
        let link = Link {
            host_mac: MAC,
            stamp: 1,
            adopt_until: Some(0),
            listeners: <_>::default(),
        };
        links.adopt(7, link);
        assert_eq!(stamp(&mut links, 7, 0), Some(1));
        assert_eq!(stamp(&mut links, 8, 0), Some(2));
    }
}
