//! Finds workloads that scan: denied at many distinct ports or peers within a minute.
//!
//! Invariant: memory is bounded whatever workloads send. Of so many workloads as are kept, each
//! has at most one port and one peer more than the limit.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use cofferdam_protocol::output::FlowRecord;
use cofferdam_verdict::packet::protocol;
use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::verdict::Action;

/// Workloads that are kept; the one that was denied longest ago makes room.
const WORKLOADS: usize = 4_096;
/// Time within which ports and peers are counted together.
const WINDOW: Duration = Duration::from_secs(60);

/// A workload that scans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub workload: String,
    /// Distinct ports at which it was denied within a minute, up to one more than the limit.
    pub ports: usize,
    /// Distinct peers at which it was denied within a minute, up to one more than the limit.
    pub peers: usize,
}

/// Distinct values, each with the time at which it was last seen.
#[derive(Debug)]
struct Distinct<T>(Vec<(T, Instant)>);

impl<T: PartialEq> Distinct<T> {
    /// Adds a value; returns `true` if there are more than `limit` of the last minute.
    fn add(&mut self, value: T, now: Instant, limit: usize) -> bool {
        if let Some((_, seen)) = self.0.iter_mut().find(|(one, _)| *one == value) {
            *seen = now;
            return false;
        }
        self.0
            .retain(|(_, seen)| now.saturating_duration_since(*seen) < WINDOW);
        self.0.push((value, now));
        self.0.len() > limit
    }
}

/// Ports and peers that a workload was denied.
#[derive(Debug)]
struct Denied {
    last: Instant,
    ports: Distinct<(u8, u16)>,
    peers: Distinct<IpAddr>,
    /// Time at which it was last told of.
    told: Option<Instant>,
}

/// Denials of the last minute by workload.
#[derive(Debug)]
pub struct Scans {
    limit: usize,
    workloads: HashMap<(String, String), Denied>,
}

impl Scans {
    /// Counts no denials yet. More than `limit` distinct ports or peers are a scan; 0 finds
    /// none.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            workloads: HashMap::new(),
        }
    }

    /// Takes in a record; returns the scan that it makes, once a minute for each workload.
    pub fn note(&mut self, record: &FlowRecord, now: Instant) -> Option<Scan> {
        if self.limit == 0 || !opens(record) {
            return None;
        }
        let source = &record.source;
        let name = (source.namespace.clone()?, source.workload.clone()?);
        if self.workloads.len() >= WORKLOADS && !self.workloads.contains_key(&name) {
            let oldest = self
                .workloads
                .iter()
                .min_by_key(|(_, denied)| denied.last)
                .map(|(name, _)| name.clone());
            self.workloads.remove(&oldest?);
        }
        let denied = self.workloads.entry(name).or_insert_with(|| Denied {
            last: now,
            ports: Distinct(Vec::new()),
            peers: Distinct(Vec::new()),
            told: None,
        });
        denied.last = now;
        if (denied.told).is_some_and(|told| now.saturating_duration_since(told) < WINDOW) {
            return None;
        }
        let target = &record.destination;
        let protocol = match record.protocol.as_str() {
            "tcp" => protocol::TCP,
            "udp" => protocol::UDP,
            "sctp" => protocol::SCTP,
            _ => 0,
        };
        let port = target.port.map(|port| (protocol, port));
        let of_ports = port.is_some_and(|port| denied.ports.add(port, now, self.limit));
        let of_peers =
            (target.address).is_some_and(|address| denied.peers.add(address, now, self.limit));
        if !of_ports && !of_peers {
            return None;
        }
        let scan = Scan {
            namespace: source.namespace.clone()?,
            workload: source.workload.clone()?,
            ports: denied.ports.0.len(),
            peers: denied.peers.0.len(),
        };
        denied.ports.0 = Vec::new();
        denied.peers.0 = Vec::new();
        denied.told = Some(now);
        Some(scan)
    }
}

/// Returns `true` if policy denied what would have opened a connection. An answer to many
/// callers whose connections were cut is no scan.
fn opens(record: &FlowRecord) -> bool {
    let is_denied =
        record.verdict == Action::Deny && matches!(record.reason, Reason::Rule | Reason::Isolated);
    let is_answer = |flags: &String| !flags.contains('S') || flags.contains('A');
    is_denied && !record.tcp_flags.as_ref().is_some_and(is_answer)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;

    use cofferdam_protocol::output::{FlowEnd, RecordType, Schema};
    use cofferdam_verdict::counter::Hook;
    use cofferdam_verdict::verdict::Direction;

    use super::*;

    /// A SYN of a workload by its number, denied at a port of a peer.
    pub(crate) fn denied(workload: usize, port: u16) -> FlowRecord {
        let end = |workload: Option<String>, port| FlowEnd {
            namespace: workload.as_ref().map(|_| "x".to_owned()),
            workload,
            node: None,
            address: Some(IpAddr::from([10, 0, 0, 1])),
            port: Some(port),
            labels: BTreeMap::new(),
        };
        FlowRecord {
            schema: Schema,
            time: String::new(),
            kind: RecordType::Denied,
            node: String::new(),
            hook: Hook::FromWorkload,
            direction: Direction::Egress,
            verdict: Action::Deny,
            reason: Reason::Isolated,
            revision: 1,
            count: 1,
            rule: None,
            isolated_by: Vec::new(),
            source: end(Some(format!("w{workload}")), 40_000),
            destination: end(None, port),
            protocol: "tcp".to_owned(),
            tcp_flags: Some("S".to_owned()),
            icmp: None,
            packets: 1,
            bytes: 60,
            duration_ms: 0,
            newly_denied: false,
            opener: None,
            reply: None,
        }
    }

    fn after(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Notes denials at these ports, one a second; returns the times at which a scan is found.
    fn noted(scans: &mut Scans, begin: Instant, ports: impl IntoIterator<Item = u16>) -> Vec<u64> {
        let found = (0..).zip(ports).filter(|(second, port)| {
            let scan = scans.note(&denied(0, *port), begin + after(*second));
            scan.is_some()
        });
        found.map(|(second, _)| second).collect()
    }

    #[test]
    fn more_ports_than_the_limit_within_a_minute_are_a_scan() {
        let begin = Instant::now();
        let mut scans = Scans::new(5);
        // The same ports again and again are none.
        assert!(noted(&mut scans, begin, (0..100).map(|port| port % 5)).is_empty());
        let begin = begin + after(1_000);
        let scan = noted(&mut scans, begin, 100..150);
        assert_eq!(scan, [5], "once a minute");
        assert_eq!(noted(&mut scans, begin + after(65), 100..110), [5]);
    }

    #[test]
    fn ports_over_more_than_a_minute_are_none() {
        let begin = Instant::now();
        let mut scans = Scans::new(5);
        for port in 0..100 {
            let now = begin + after(u64::from(port) * 12);
            assert_eq!(scans.note(&denied(0, port), now), None, "{port}");
        }
    }

    #[test]
    fn many_peers_are_a_scan_and_answers_are_none() {
        let now = Instant::now();
        let mut scans = Scans::new(5);
        let mut found = 0;
        for number in 0..10 {
            let mut record = denied(0, 80);
            record.destination.address = Some(IpAddr::from([10, 0, 1, number]));
            found += usize::from(scans.note(&record, now).is_some());
        }
        assert_eq!(found, 1);
        for (flags, reason) in [("SA", Reason::Isolated), ("S", Reason::SpoofedSource)] {
            for port in 0..100 {
                let mut record = denied(1, port);
                record.tcp_flags = Some(flags.to_owned());
                record.reason = reason;
                assert_eq!(scans.note(&record, now), None, "{flags} {reason:?}");
            }
        }
    }

    #[test]
    fn memory_is_bounded_whatever_workloads_send() {
        let begin = Instant::now();
        let mut scans = Scans::new(5);
        for number in 0..2 * WORKLOADS {
            let now = begin + Duration::from_millis(number as u64);
            scans.note(&denied(number, 80), now);
            scans.note(&denied(0, number as u16), now);
        }
        assert_eq!(scans.workloads.len(), WORKLOADS);
        let most = scans
            .workloads
            .values()
            .map(|denied| denied.ports.0.len() + denied.peers.0.len());
        assert!(most.max() <= Some(6));
        // One that was denied a moment ago stays.
        assert!(
            scans
                .workloads
                .contains_key(&("x".to_owned(), "w0".to_owned()))
        );
    }

    #[test]
    fn a_limit_of_none_finds_none() {
        let mut scans = Scans::new(0);
        assert!(noted(&mut scans, Instant::now(), 0..1_000).is_empty());
        assert_eq!(scans.workloads.len(), 0);
    }
}
