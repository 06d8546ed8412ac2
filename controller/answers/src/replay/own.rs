//! Cofferdam's own flow records.

use std::net::IpAddr;

use cofferdam_inventory::Protocol;
use cofferdam_protocol::output::{FlowEnd, FlowRecord, RecordType};
use cofferdam_reach::Probe;
use cofferdam_verdict::address::Family;

use super::observed::{
    AllowedAs, Event, Form, Missing, Observed, PassedOver, PodName, Time, ToldLabels, Who,
    family_of, is_icmp_answer,
};
use crate::record::is_by_policy;

/// Returns what a record says of a connection, or why it says nothing of one.
///
/// # Errors
/// If its time or protocol is none.
pub(super) fn observed(record: &FlowRecord) -> Result<Result<Observed, PassedOver>, String> {
    let first = Time::parse(&record.time)
        .ok_or_else(|| format!("`{}` is no time of RFC 3339 in UTC", record.time))?;
    if !is_by_policy(record) {
        return Ok(Err(PassedOver::NotByPolicy));
    }
    let (Some(from), Some(to)) = (record.source.address, record.destination.address) else {
        return Ok(Err(PassedOver::NotAsked));
    };
    let family = family_of(to);
    let Some(probe) = probe(record, family)? else {
        return Ok(Err(PassedOver::NotAsked));
    };
    if is_answer(record, family) {
        return Ok(Err(PassedOver::Answer));
    }
    let (event, count) = match record.kind {
        RecordType::New => (Event::Allowed(AllowedAs::Begun, None), record.count),
        RecordType::Ended => (Event::Allowed(AllowedAs::Ended, None), record.count),
        RecordType::Audit => (Event::Allowed(AllowedAs::Audited, None), record.packets),
        RecordType::Denied => (Event::Denied(Some(record.direction)), record.packets),
    };
    Ok(Ok(Observed {
        form: Form::Cofferdam,
        last: first.clone(),
        first,
        source: who(&record.source, from),
        destination: who(&record.destination, to),
        probe,
        family: Some(family),
        event,
        count,
    }))
}

fn who(end: &FlowEnd, address: IpAddr) -> Who {
    match (&end.namespace, &end.workload, &end.node) {
        (Some(namespace), Some(name), _) => Who::Workload {
            namespace: namespace.clone(),
            name: PodName::Whole(name.clone()),
            owner: None,
            labels: Some(ToldLabels {
                labels: end.labels.clone(),
                missing: Missing::None,
            }),
            namespace_labels: None,
        },
        (_, _, Some(node)) => Who::Node {
            name: Some(node.clone()),
            address: Some(address),
        },
        _ => Who::Address(address),
    }
}

/// Returns the attempt; `None` if policy cannot be asked about it.
fn probe(record: &FlowRecord, family: Family) -> Result<Option<Probe>, String> {
    let port = |protocol| {
        let port = record.destination.port.filter(|port| *port != 0);
        port.map(|port| Probe::Port(protocol, port))
    };
    Ok(match (&*record.protocol, record.icmp, family) {
        ("tcp", ..) => port(Protocol::Tcp),
        ("udp", ..) => port(Protocol::Udp),
        ("sctp", ..) => port(Protocol::Sctp),
        ("icmp", Some(icmp), Family::V4) => Some(Probe::Icmp(icmp.kind, Some(icmp.code))),
        ("icmpv6", Some(icmp), Family::V6) => Some(Probe::Icmpv6(icmp.kind, Some(icmp.code))),
        ("icmp" | "icmpv6", ..) => None,
        (number, ..) => match number.parse::<u8>() {
            // None of a protocol that has ports or types: they are missing then.
            Ok(number) => format!("proto/{number}").parse().ok(),
            Err(_) if is_below_ip(number) => None,
            Err(_) => return Err(format!("`{number}` is no protocol")),
        },
    })
}

fn is_below_ip(protocol: &str) -> bool {
    protocol == "arp" || protocol.starts_with("ethertype/")
}

/// Returns `true` of a packet that opens nothing. A flow is told from its opener on.
fn is_answer(record: &FlowRecord, family: Family) -> bool {
    if matches!(record.kind, RecordType::New | RecordType::Ended) {
        return false;
    }
    let flags = record.tcp_flags.as_deref();
    let opens = |flags: &str| flags.contains('S') && !flags.contains(['A', 'R', 'F']);
    let is_error = |kind| is_icmp_answer(family, kind);
    flags.is_some_and(|flags| !opens(flags)) || record.icmp.is_some_and(|icmp| is_error(icmp.kind))
}
