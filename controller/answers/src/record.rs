//! Explains what is in force now for the ends of a flow record.
//!
//! A record names a packet's ends as they were when it was seen. Policy knows them by what
//! they are called now, and addresses that nobody owns as such.

use std::collections::BTreeMap;
use std::net::IpAddr;

use cofferdam_inventory::{Inventory, ObjectName, Owner};
use cofferdam_protocol::Question;
use cofferdam_protocol::output::{Diagnostic, FlowEnd, FlowRecord, RecordType};
use cofferdam_reach::PodNetworks;
use cofferdam_verdict::reason::Reason;
use thiserror::Error;

use crate::explain::{ExplainError, explain};
use crate::reach::{ExplainReport, RecordReport, Word};

/// Reasons for which a record is no question to the policies.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RecordError {
    /// The packet was none that policy is about.
    #[error("the record is of a packet of {protocol}, which policy says nothing about")]
    NotIp {
        /// Its protocol, or what stood in its place.
        protocol: String,
    },
    /// An end has gone.
    #[error(
        "{workload}, which had {address} then, is not there any more{}; ask about the address \
         with --from, --to and --port",
        held(.holder)
    )]
    Gone {
        /// The workload.
        workload: ObjectName,
        /// Its address.
        address: IpAddr,
        /// The owner of the address now.
        holder: Option<Owner>,
    },
    /// An end has another address now.
    #[error(
        "{workload} does not have {address} any more{}; ask about it with --from, --to and --port",
        held(.holder)
    )]
    Moved {
        /// The workload.
        workload: ObjectName,
        /// The address that it had.
        address: IpAddr,
        /// The owner of the address now.
        holder: Option<Owner>,
    },
    /// Policy cannot be asked about its ends.
    #[error(transparent)]
    Explain(#[from] ExplainError),
}

fn held(holder: &Option<Owner>) -> String {
    match holder {
        Some(owner) => format!(", and the address is that of {owner} now"),
        None => ", and nobody has the address now".to_owned(),
    }
}

/// A flow record that is to be explained.
#[derive(Debug, Clone, Copy)]
pub struct RecordQuestion<'a> {
    /// The record.
    pub record: &'a FlowRecord,
    /// Revision of the table that answers; `None` without an agent.
    pub revision: Option<u64>,
}

/// Explains what is in force for the ends, the port and the direction of a record. Networks are those of
/// pods without an address in the documents.
///
/// # Errors
/// When policy says nothing of such a packet, an end has gone, or the documents cannot be asked.
pub fn explain_record(
    inventory: &Inventory,
    asked: RecordQuestion<'_>,
    own_node_allowed: bool,
    networks: &PodNetworks,
    diagnostics: Vec<Diagnostic>,
) -> Result<ExplainReport, RecordError> {
    let RecordQuestion { record, revision } = asked;
    let question = question(inventory, record)?;
    let mut report = explain(
        inventory,
        &question,
        own_node_allowed,
        networks,
        diagnostics,
    )?;
    report.record = Some(compared(record, revision, &report));
    Ok(report)
}

fn question(inventory: &Inventory, record: &FlowRecord) -> Result<Question, RecordError> {
    let not_ip = || RecordError::NotIp {
        protocol: record.protocol.clone(),
    };
    let address = |end: &FlowEnd| end.address.ok_or_else(not_ip);
    let [from, to] = [&record.source, &record.destination];
    let [sent_from, sent_to] = [address(from)?, address(to)?];
    let protocol = &record.protocol;
    let port = match (record.icmp, record.destination.port) {
        (Some(kind), _) => format!("{protocol}/{}/{}", kind.kind, kind.code),
        (None, Some(port)) => format!("{protocol}/{port}"),
        (None, None) if protocol.parse::<u8>().is_ok() => format!("proto/{protocol}"),
        // A later fragment, of which only the protocol is known.
        (None, None) => return Err(not_ip()),
    };
    Ok(Question {
        from: called(inventory, from, sent_from)?,
        to: called(inventory, to, sent_to)?,
        port,
        family: Some(if sent_to.is_ipv4() { 4 } else { 6 }),
        externals: BTreeMap::new(),
    })
}

/// Names an end for a question: a workload by its name, if that has no other address of
/// the family, so that the question is about the record's address alone.
fn called(inventory: &Inventory, end: &FlowEnd, address: IpAddr) -> Result<String, RecordError> {
    let (Some(namespace), Some(name)) = (&end.namespace, &end.workload) else {
        let node = end.node.as_deref().and_then(|node| {
            let known = inventory.nodes().get(node)?;
            let of_family = |one: &&IpAddr| one.is_ipv4() == address.is_ipv4();
            let alone = known.addresses.iter().filter(of_family).eq([&address]);
            alone.then(|| format!("node/{node}"))
        });
        return Ok(node.unwrap_or_else(|| address.to_string()));
    };
    let workload = ObjectName::new(namespace, name);
    let holder = inventory.owner(address);
    let Some(known) = inventory.workloads().get(&workload) else {
        return Err(RecordError::Gone {
            workload,
            address,
            holder,
        });
    };
    let own = known.own_addresses().iter();
    let own: Vec<&IpAddr> = own
        .filter(|one| one.is_ipv4() == address.is_ipv4())
        .collect();
    match own[..] {
        [only] if *only == address => Ok(workload.to_string()),
        _ if own.contains(&&address) => Ok(address.to_string()),
        _ => Err(RecordError::Moved {
            workload,
            address,
            holder,
        }),
    }
}

/// Returns `true` if policy decided a record, and so could decide otherwise now.
#[must_use]
pub fn is_by_policy(record: &FlowRecord) -> bool {
    match record.kind {
        RecordType::Denied => matches!(
            record.reason,
            Reason::Rule | Reason::Isolated | Reason::VirtualUndecided
        ),
        RecordType::Audit | RecordType::New | RecordType::Ended => true,
    }
}

fn compared(record: &FlowRecord, revision: Option<u64>, report: &ExplainReport) -> RecordReport {
    let is_by_policy = is_by_policy(record);
    let (now, audit) = (report.cell.verdict, report.cell.audit);
    let is_as_told = match record.kind {
        RecordType::Denied => now == Word::Deny,
        RecordType::Audit => (now, audit) == (Word::Allow, Some(Word::Deny)),
        RecordType::New | RecordType::Ended => now == Word::Allow,
    };
    RecordReport {
        kind: record.kind,
        direction: record.direction,
        verdict: record.verdict,
        reason: record.reason,
        revision: record.revision,
        revision_in_force: revision,
        is_by_policy,
        differs: is_by_policy && !is_as_told,
    }
}

#[cfg(test)]
mod tests {
    use cofferdam_documents::{assemble, parse};
    use cofferdam_inventory::Workload;
    use serde_json::json;

    use super::*;

    const SHOP: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
status: {podIPs: [{ip: 10.0.0.1}, {ip: 'fd00::1'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
status: {podIPs: [{ip: 10.0.0.2}, {ip: 10.0.1.2}]}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: 5432}]
";

    fn inventory() -> Inventory {
        let parsed = parse("shop.yaml", SHOP.as_bytes());
        assert_eq!(parsed.rejected, []);
        assemble(parsed.documents).inventory
    }

    fn record(source: serde_json::Value, destination: &str, port: u16) -> FlowRecord {
        let record = json!({
            "schema": "cofferdam/v1", "time": "2026-01-01T00:00:00.000000000Z", "type": "denied",
            "node": "n1", "hook": "to_workload", "direction": "ingress", "verdict": "deny",
            "reason": "isolated", "revision": 3, "count": 1, "rule": null, "isolated_by": [],
            "source": source,
            "destination": {"namespace": "shop", "workload": "db", "address": destination,
                            "port": port, "labels": {}},
            "protocol": "tcp", "tcp_flags": "S", "icmp": null, "packets": 1, "bytes": 74,
            "duration_ms": 0
        });
        serde_json::from_value(record).expect("a record")
    }

    fn end(workload: Option<&str>, address: &str) -> serde_json::Value {
        let namespace = workload.map(|_| "shop");
        json!({"namespace": namespace, "workload": workload, "address": address, "port": 40000,
               "labels": {}})
    }

    fn asked(inventory: &Inventory, record: &FlowRecord) -> Result<ExplainReport, RecordError> {
        let asked = RecordQuestion {
            record,
            revision: Some(5),
        };
        explain_record(inventory, asked, true, &PodNetworks::default(), Vec::new())
    }

    #[test]
    fn a_record_is_held_against_what_is_in_force_now() {
        let inventory = inventory();
        let web = || end(Some("web"), "10.0.0.1");
        let report = asked(&inventory, &record(web(), "10.0.0.2", 22)).unwrap();
        let ends = (&*report.cell.source, &*report.cell.destination);
        // Of the two addresses of the database the record's alone is asked about.
        assert_eq!(ends, ("shop/web", "10.0.0.2"));
        assert_eq!(report.cell.probe, "tcp/22");
        let of_record = report.record.unwrap();
        assert!(!of_record.differs && of_record.is_by_policy);
        assert_eq!(
            (of_record.revision, of_record.revision_in_force),
            (3, Some(5))
        );
        assert_eq!(report.nearest.unwrap().missed, ["port"]);

        let allowed = record(web(), "10.0.0.2", 5432);
        assert!(asked(&inventory, &allowed).unwrap().record.unwrap().differs);
        // What no policy has denied is none that it could allow now.
        let forged = FlowRecord {
            reason: Reason::SpoofedSource,
            ..allowed.clone()
        };
        let of_record = asked(&inventory, &forged).unwrap().record.unwrap();
        assert!(!of_record.differs && !of_record.is_by_policy);
        let begun = FlowRecord {
            kind: RecordType::New,
            ..allowed
        };
        assert!(!asked(&inventory, &begun).unwrap().record.unwrap().differs);
    }

    #[test]
    fn hosts_that_nobody_knows_and_nodes_are_ends_and_workloads_that_have_gone_are_none() {
        let mut inventory = inventory();
        let source = |source| record(source, "10.0.0.2", 5432);
        let host = asked(&inventory, &source(end(None, "203.0.113.7"))).unwrap();
        assert_eq!(host.cell.source, "203.0.113.7");
        let mut node = end(None, "192.0.2.1");
        node["node"] = "n1".into();
        let node = asked(&inventory, &source(node)).unwrap();
        assert_eq!(node.cell.source, "node/n1");

        let gone = asked(&inventory, &source(end(Some("old"), "10.0.0.1"))).unwrap_err();
        assert_eq!(
            gone.to_string(),
            "shop/old, which had 10.0.0.1 then, is not there any more, and the address is that of \
             workload shop/web now; ask about the address with --from, --to and --port"
        );
        let web = ObjectName::new("shop", "web");
        let moved = Workload {
            addresses: vec!["10.0.0.9".parse().unwrap()],
            ..inventory.workloads()[&web].clone()
        };
        inventory.set_workload(moved).unwrap();
        let moved = asked(&inventory, &source(end(Some("web"), "10.0.0.1"))).unwrap_err();
        assert_eq!(
            moved.to_string(),
            "shop/web does not have 10.0.0.1 any more, and nobody has the address now; ask about \
             it with --from, --to and --port"
        );
        let mut arp = source(end(None, "203.0.113.7"));
        arp.protocol = "arp".to_owned();
        arp.source.address = None;
        let arp = asked(&inventory, &arp).unwrap_err().to_string();
        assert_eq!(
            arp,
            "the record is of a packet of arp, which policy says nothing about"
        );
    }

    #[test]
    fn icmp_and_protocols_without_ports_are_asked_about_in_either_family() {
        let inventory = inventory();
        let mut record = record(end(None, "fd00::7"), "fd00::1", 0);
        record.destination.workload = Some("web".to_owned());
        for (protocol, kind, probe) in [
            ("icmpv6", Some((128, 0)), "icmpv6/128/0"),
            ("47", None, "proto/47"),
        ] {
            record.protocol = protocol.to_owned();
            record.icmp =
                kind.map(|(kind, code)| cofferdam_protocol::output::IcmpKind { kind, code });
            record.destination.port = None;
            let report = asked(&inventory, &record).unwrap();
            assert_eq!((report.family, &*report.cell.probe), (6, probe));
        }
        // A later fragment has no port.
        record.protocol = "udp".to_owned();
        assert!(matches!(
            asked(&inventory, &record),
            Err(RecordError::NotIp { .. })
        ));
    }
}
