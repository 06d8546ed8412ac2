//! Records of flows that have ended: what an entry of the flow table says, with names.

use std::time::{Duration, SystemTime};

use cofferdam_protocol::output::{FlowRecord, IcmpKind, RecordType, Schema, Sent};
use cofferdam_verdict::counter::Hook;
use cofferdam_verdict::event::EndRecord;
use cofferdam_verdict::flow::{StateWord, TOLD_ELSEWHERE, TRANSLATED, flow_mark};
use cofferdam_verdict::packet::{icmp, icmpv6, protocol};
use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::verdict::{Action, Direction};

use crate::describe::{address, end as named, protocol_name, rule_name};
use crate::snapshots::Snapshots;
use crate::time;

/// Returns a record with names, or `None` if another hook of this node tells of the flow.
/// `tick` is the length of a jiffy.
///
/// The reason is that of the rule that allowed the flow last, or `flow` where there was none.
#[must_use]
pub(crate) fn describe(
    end: &EndRecord,
    names: &Snapshots,
    tick: Duration,
    now: SystemTime,
) -> Option<FlowRecord> {
    if end.packets[0] & TOLD_ELSEWHERE != 0 {
        return None;
    }
    let word = StateWord(end.state);
    let marks = word.marks();
    let of_revision = names.of_entry(word);
    let [a, b, c, d, e] = (end.key).map(|pair| [pair as u32, (pair >> 32) as u32]);
    let [ports, kind] = e;
    let [number, family, ..] = kind.to_le_bytes();
    let peer = address(family, [a[0], a[1], b[0], b[1]]);
    let local = address(family, [c[0], c[1], d[0], d[1]]);
    let is_sent = marks & flow_mark::OPENED_BY_ENDPOINT != 0;
    let hook = match is_sent {
        _ if kind & TRANSLATED != 0 => Hook::UplinkEgress,
        true => Hook::FromWorkload,
        false => Hook::ToWorkload,
    };
    let has_ports = matches!(number, protocol::TCP | protocol::UDP | protocol::SCTP);
    let port = |port: u32| has_ports.then_some(port as u16);
    let at = |address| {
        let names = of_revision.as_deref();
        names
            .zip(address)
            .and_then(|(names, at)| names.address(&at))
    };
    let endpoint = names.endpoint(end.ifindex, end.incarnation);
    let slot = of_revision
        .as_deref()
        .and_then(|names| names.slot(end.peer_slot));
    let near = named(
        endpoint.or_else(|| at(local)).as_ref(),
        local,
        port(ports >> 16),
    );
    let far = named(slot.as_ref(), peer, port(ports));
    let (source, destination) = if is_sent { (near, far) } else { (far, near) };
    let rule = match word.rule() {
        0 => None,
        number => of_revision
            .as_deref()
            .and_then(|names| names.rules.rule(number)),
    };
    let reason = match word.rule() {
        0 if marks & flow_mark::OWN_NODE != 0 => Reason::OwnNode,
        0 => Reason::Flow,
        _ => Reason::Rule,
    };
    let echo = match number {
        protocol::ICMP => Some(icmp::ECHO_REQUEST),
        protocol::ICMPV6 => Some(icmpv6::ECHO_REQUEST),
        _ => None,
    };
    let since = |then: u32, first: u32| tick.saturating_mul(then.wrapping_sub(first));
    let [opener, reply] = [0, 1].map(|side| Sent {
        packets: end.packets[side],
        bytes: end.bytes[side],
    });
    let age = since(end.jiffies as u32, end.opened);
    let duration = since(end.last_seen, end.opened);
    Some(FlowRecord {
        schema: Schema,
        time: time::rfc3339(now.checked_sub(age).unwrap_or(now)),
        kind: RecordType::Ended,
        node: names.node().to_owned(),
        hook,
        direction: match is_sent {
            true => Direction::Egress,
            false => Direction::Ingress,
        },
        verdict: Action::Allow,
        reason,
        revision: of_revision.as_deref().map_or(0, |names| names.revision),
        count: 1,
        rule: rule.map(rule_name),
        isolated_by: Vec::new(),
        source,
        destination,
        protocol: protocol_name(number),
        tcp_flags: None,
        icmp: echo.map(|kind| IcmpKind { kind, code: 0 }),
        packets: opener.packets + reply.packets,
        bytes: opener.bytes + reply.bytes,
        duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        newly_denied: false,
        opener: Some(opener),
        reply: Some(reply),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cofferdam_verdict::address::Family;
    use cofferdam_verdict::flow::FlowState;
    use zerocopy::FromZeros as _;

    /// An answered question to 10.0.0.1:53 from 10.0.0.2:4000.
    fn end() -> EndRecord {
        let kind = (Family::V4 as u32) << 8 | u32::from(protocol::UDP);
        EndRecord {
            jiffies: (1 << 32) + 200,
            state: StateWord::new(1, 7, 3, 5, FlowState::Answered, 0)
                .locked()
                .0,
            key: [
                0x0a00_0002,
                0,
                0x0a00_0001,
                0,
                0x0035_0fa0 | u64::from(kind) << 32,
            ],
            packets: [3, 2],
            bytes: [300, 500],
            opened: u32::MAX - 99,
            last_seen: 50,
            ..EndRecord::new_zeroed()
        }
    }

    fn told(end: &EndRecord) -> Option<serde_json::Value> {
        let names = Snapshots::new("n1");
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(9);
        let record = describe(end, &names, Duration::from_millis(4), now);
        record.map(|record| serde_json::to_value(record).unwrap())
    }

    #[test]
    fn a_record_has_both_directions_of_the_flow() {
        let expected = serde_json::json!({
            "schema": "cofferdam/v1", "time": "1970-01-01T00:00:07.800000000Z",
            "type": "ended", "node": "n1", "hook": "to_workload", "direction": "ingress",
            "verdict": "allow", "reason": "rule", "revision": 0, "count": 1, "rule": null,
            "isolated_by": [],
            "source": {"namespace": null, "workload": null, "address": "10.0.0.2",
                       "port": 4000, "labels": {}},
            "destination": {"namespace": null, "workload": null, "address": "10.0.0.1",
                            "port": 53, "labels": {}},
            "protocol": "udp", "tcp_flags": null, "icmp": null,
            "packets": 5, "bytes": 800, "duration_ms": 600,
            "opener": {"packets": 3, "bytes": 300}, "reply": {"packets": 2, "bytes": 500}
        });
        assert_eq!(told(&end()), Some(expected));
    }

    #[test]
    fn the_endpoint_is_the_source_of_what_it_has_opened() {
        let mut end = end();
        let marks = flow_mark::OPENED_BY_ENDPOINT;
        end.state = StateWord::new(1, 7, 3, 0, FlowState::Answered, marks).0;
        let record = told(&end).unwrap();
        let what = ["hook", "direction", "reason"].map(|field| &record[field]);
        assert_eq!(what, ["from_workload", "egress", "flow"]);
        assert_eq!(record["source"]["address"], "10.0.0.1");
        end.key[4] |= u64::from(TRANSLATED) << 32;
        assert_eq!(told(&end).unwrap()["hook"], "uplink_egress");
        end.packets[0] |= TOLD_ELSEWHERE;
        assert_eq!(told(&end), None);
    }
}
