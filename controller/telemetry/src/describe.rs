//! Records of packets with names: what an event says, in the words of the documents.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;

use cofferdam_compiler::RuleEntry;
use cofferdam_inventory::Owner;
use cofferdam_protocol::output::{FlowEnd, FlowRecord, IcmpKind, RecordType, RuleName, Schema};
use cofferdam_verdict::counter::Hook;
use cofferdam_verdict::event::{EventRecord, flag, kind};
use cofferdam_verdict::hits::dropped_direction;
use cofferdam_verdict::packet::{ethertype, protocol};
use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::verdict::{Action, Direction, Verdict};

use crate::snapshots::{SlotName, Snapshot, Snapshots};
use crate::time;

/// Returns a record with names, or `None` if no program of ours can have written the event.
#[must_use]
pub(crate) fn describe(
    event: &EventRecord,
    names: &Snapshots,
    now: SystemTime,
) -> Option<FlowRecord> {
    let verdict = Verdict::from_any_word(event.verdict)?;
    // An allowed packet is reported for the flow that it has begun, or for what audit policies
    // would have denied: those are what the reader looks for.
    let (kind, decided) = match (event.kind, verdict.action) {
        (kind::BEGUN, _) => (RecordType::New, verdict),
        (_, Action::Deny) => (RecordType::Denied, verdict),
        (_, Action::Allow) => (RecordType::Audit, Verdict::from_any_word(event.audited)?),
    };
    let of_revision = match event.revision {
        0 => None,
        revision => names.of(revision),
    };
    let hook = Hook::of_number(event.hook.into());
    let of_policy = if event.direction == Direction::Ingress as u8 {
        Direction::Ingress
    } else {
        Direction::Egress
    };
    let direction = match verdict.action {
        Action::Deny => dropped_direction(hook, decided.reason, of_policy),
        Action::Allow => of_policy,
    };
    let is_sender = (event.hook == Hook::FromWorkload as u8) != (event.reversed != 0);
    let endpoint = names.endpoint(event.ifindex, event.incarnation);
    // Whose interface it is is certain, whatever the packet says.
    let (at_source, at_destination) = if is_sender {
        (endpoint, None)
    } else {
        (None, endpoint)
    };
    let (source_port, destination_port) = match event.protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => {
            (Some(event.source_port), Some(event.destination_port))
        }
        _ => (None, None),
    };
    let slot = |number: u32| of_revision.as_ref().and_then(|names| names.slot(number));
    let source = end(
        slot(event.source_slot).or(at_source).as_ref(),
        address(event.family, event.source),
        source_port,
    );
    let destination = end(
        slot(event.destination_slot).or(at_destination).as_ref(),
        address(event.family, event.destination),
        destination_port,
    );
    let is_icmp = matches!(event.protocol, protocol::ICMP | protocol::ICMPV6);
    let [icmp_type, code] = event.destination_port.to_be_bytes();
    let (rule, isolated_by) = of_revision
        .as_deref()
        .map_or((None, Vec::new()), |names| deciding(names, decided));
    Some(FlowRecord {
        schema: Schema,
        time: time::rfc3339(now),
        kind,
        node: names.node().to_owned(),
        hook,
        direction,
        verdict: verdict.action,
        reason: decided.reason,
        revision: of_revision.map_or(event.revision.into(), |names| names.revision),
        count: 1,
        rule,
        isolated_by,
        source,
        destination,
        protocol: match event.family {
            0 if event.ethertype == ethertype::ARP => "arp".to_owned(),
            0 => format!("ethertype/0x{:04x}", event.ethertype),
            _ => protocol_name(event.protocol),
        },
        tcp_flags: (event.protocol == protocol::TCP).then(|| tcp_flags(event.tcp_flags)),
        icmp: is_icmp.then_some(IcmpKind {
            kind: icmp_type,
            code,
        }),
        packets: 1,
        bytes: event.bytes.into(),
        duration_ms: 0,
        newly_denied: kind == RecordType::Denied && event.flags & flag::CUT != 0,
        opener: None,
        reply: None,
    })
}

/// The rule that decided, or the policies that a default denial is due to.
fn deciding(names: &Snapshot, verdict: Verdict) -> (Option<RuleName>, Vec<RuleName>) {
    match verdict.reason {
        Reason::Rule => (names.rules.rule(verdict.rule).map(rule_name), Vec::new()),
        Reason::Isolated => {
            let policies = names.rules.isolated_by(verdict.rule);
            (None, policies.map(|(_, entry)| rule_name(entry)).collect())
        }
        _ => (None, Vec::new()),
    }
}

pub(crate) fn rule_name(entry: &RuleEntry) -> RuleName {
    RuleName {
        kind: entry.key.kind.as_str().to_owned(),
        namespace: entry.key.namespace().map(str::to_owned),
        name: entry.key.policy.name.to_string(),
        index: entry.key.index,
        file: entry.place.file.to_string(),
        line: entry.place.line,
    }
}

pub(crate) fn end(name: Option<&SlotName>, address: Option<IpAddr>, port: Option<u16>) -> FlowEnd {
    let (mut namespace, mut workload, mut node) = (None, None, None);
    let mut labels = BTreeMap::new();
    if let Some(SlotName {
        owner,
        labels: owned,
    }) = name
    {
        match owner {
            Owner::Workload(name) => {
                namespace = Some(name.namespace.to_string());
                workload = Some(name.name.to_string());
                let owned = owned.iter();
                labels = owned.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
            }
            Owner::Node(name) => node = Some(name.to_string()),
        }
    }
    FlowEnd {
        namespace,
        workload,
        node,
        address,
        port,
        labels,
    }
}

pub(crate) fn address(family: u8, words: [u32; 4]) -> Option<IpAddr> {
    use cofferdam_verdict::address::Family;
    if family == Family::V4 as u8 {
        Some(IpAddr::from(words[0].to_be_bytes()))
    } else if family == Family::V6 as u8 {
        let [a, b, c, d] = words.map(u128::from);
        Some(IpAddr::from(
            (a << 96 | b << 64 | c << 32 | d).to_be_bytes(),
        ))
    } else {
        None
    }
}

/// Returns the name of an IP protocol, or its number.
pub(crate) fn protocol_name(number: u8) -> String {
    match number {
        protocol::TCP => "tcp".to_owned(),
        protocol::UDP => "udp".to_owned(),
        protocol::SCTP => "sctp".to_owned(),
        protocol::ICMP => "icmp".to_owned(),
        protocol::ICMPV6 => "icmpv6".to_owned(),
        number => number.to_string(),
    }
}

/// The flags that are set, by their letters, lowest bit first.
fn tcp_flags(flags: u8) -> String {
    (0..)
        .zip("FSRPAUEC".chars())
        .filter(|(bit, _)| flags >> bit & 1 == 1)
        .map(|(_, letter)| letter)
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::snapshots::{EndpointNames, NamedEndpoint};
    use cofferdam_compiler::{Input, SlotPlan, compile};
    use cofferdam_documents::{assemble, parse};
    use cofferdam_inventory::selectors::Labels;
    use cofferdam_inventory::{
        ClusterNetworkPolicy, ClusterRule, Inventory, Mode, ObjectName, RuleAction, Tier,
        WorkloadSelector,
    };
    use cofferdam_syntax::diagnostic::Place;
    use cofferdam_verdict::capacity::Limits;
    use zerocopy::FromZeros as _;

    const DOCUMENTS: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: x}
spec: {podSelector: {}}
---
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: x, labels: {app: web}}
status: {podIP: 10.0.0.1}
";

    /// The names of one table, and the number of its first isolation set or, without
    /// one, of its first rule.
    fn names() -> (Snapshots, u32) {
        names_of(assemble(parse("f.yaml", DOCUMENTS.as_bytes()).documents).inventory)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the agent's part, without an agent"
    )]
    fn names_of(inventory: Inventory) -> (Snapshots, u32) {
        let plan = SlotPlan::assign(&inventory);
        let compiled = compile(&Input {
            inventory: &inventory,
            slots: &plan,
            is_local: &|_| true,
            own_node: None,
            limits: Limits::DEFAULT,
            revision: 1 << 32 | 9,
        })
        .unwrap();
        let set = (1..)
            .take(compiled.rules.len())
            .find(|number| compiled.rules.isolated_by(*number).count() == 1)
            .unwrap_or(1);
        let names = Snapshots::new("n1");
        let revision = 1 << 32 | 9;
        names.add(Snapshot::new(revision, &inventory, &plan, &compiled));
        (names, set)
    }

    /// The default denial that an isolation set is due to.
    fn isolated(set: u32) -> u32 {
        let verdict = Verdict {
            action: Action::Deny,
            reason: Reason::Isolated,
            rule: set,
        };
        verdict.to_word()
    }

    #[test]
    fn a_record_names_who_what_and_which_line() {
        let (names, set) = names();
        let mut event = EventRecord::new_zeroed();
        event.revision = 9;
        event.verdict = isolated(set);
        event.direction = Direction::Ingress as u8;
        event.hook = Hook::ToWorkload as u8;
        event.family = cofferdam_verdict::address::Family::V4 as u8;
        event.source = [0xc633_6402, 0, 0, 0];
        event.destination = [0x0a00_0001, 0, 0, 0];
        event.destination_slot = 1;
        event.protocol = protocol::TCP;
        event.source_port = 40_000;
        event.destination_port = 80;
        event.tcp_flags = 0b1_0010;
        event.bytes = 74;
        let record = describe(&event, &names, SystemTime::UNIX_EPOCH).unwrap();
        let value = serde_json::to_value(&record).unwrap();
        let expected = serde_json::json!({
            "schema": "cofferdam/v1", "time": "1970-01-01T00:00:00.000000000Z",
            "type": "denied", "node": "n1", "hook": "to_workload", "direction": "ingress", "verdict": "deny",
            "reason": "isolated",
            "revision": 4_294_967_305_u64, "count": 1, "rule": null,
            "isolated_by": [{"kind": "NetworkPolicy", "namespace": "x", "name": "closed",
                             "index": null, "file": "f.yaml", "line": 4}],
            "source": {"namespace": null, "workload": null, "address": "198.51.100.2",
                       "port": 40_000, "labels": {}},
            "destination": {"namespace": "x", "workload": "a", "address": "10.0.0.1",
                            "port": 80, "labels": {"app": "web"}},
            "protocol": "tcp", "tcp_flags": "SA", "icmp": null,
            "packets": 1, "bytes": 74, "duration_ms": 0
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn a_rule_of_the_whole_cluster_has_no_namespace() {
        let mut inventory = assemble(parse("f.yaml", DOCUMENTS.as_bytes()).documents).inventory;
        let closed = ObjectName::new("x", "closed");
        let closed = inventory.remove_policy(&closed).unwrap();
        let place = Place {
            line: 7,
            ..closed.place.clone()
        };
        inventory.set_cluster_policy(ClusterNetworkPolicy {
            name: "quarantine".into(),
            place: place.clone(),
            mode: Mode::Enforce,
            tier: Tier::Admin,
            priority: 1,
            subject: WorkloadSelector::default(),
            ingress: vec![ClusterRule {
                place,
                name: None,
                action: RuleAction::Deny,
                peers: None,
                ports: None,
            }],
            egress: Vec::new(),
        });
        let (names, rule) = names_of(inventory);
        let mut event = EventRecord::new_zeroed();
        event.revision = 9;
        event.verdict = Verdict {
            action: Action::Deny,
            reason: Reason::Rule,
            rule,
        }
        .to_word();
        let record = describe(&event, &names, SystemTime::now()).unwrap();
        let value = serde_json::to_value(&record).unwrap();
        let expected = serde_json::json!({
            "kind": "ClusterNetworkPolicy", "namespace": null, "name": "quarantine",
            "index": 0, "file": "f.yaml", "line": 7
        });
        assert_eq!(
            (&value["reason"], &value["rule"]),
            (&"rule".into(), &expected)
        );
        assert_eq!(value["isolated_by"], serde_json::json!([]));
    }

    #[test]
    fn an_allowed_packet_is_told_of_by_what_audit_policies_would_have_denied() {
        let (names, set) = names();
        let mut event = EventRecord::new_zeroed();
        event.revision = 9;
        event.verdict = Verdict::allow(Reason::NotIsolated).to_word();
        event.audited = isolated(set);
        event.direction = Direction::Ingress as u8;
        event.hook = Hook::ToWorkload as u8;
        let told = |event: &EventRecord| describe(event, &names, SystemTime::now());
        let record = told(&event).unwrap();
        let what = (record.kind, record.verdict, record.reason);
        assert_eq!(what, (RecordType::Audit, Action::Allow, Reason::Isolated));
        assert_eq!((record.rule, record.isolated_by.len()), (None, 1));
        assert_eq!(record.isolated_by[0].name, "closed");

        event.audited = 0;
        assert_eq!(told(&event), None, "no program of ours writes that");
    }

    /// An endpoint of `x/a` with interface 7 and incarnation 3.
    #[derive(Debug)]
    struct EndpointOfA;

    impl NamedEndpoint for EndpointOfA {
        fn key(&self) -> (u32, u32) {
            (7, 3)
        }

        fn owner(&self) -> ObjectName {
            ObjectName::new("x", "a")
        }

        fn labels(&self) -> Labels {
            [("from", "call")].into_iter().collect()
        }
    }

    fn endpoint_of_a() -> EndpointNames {
        EndpointNames::new(&Inventory::default(), [Arc::new(EndpointOfA)])
    }

    /// The interface is that of the end which sent the reply; the record tells of the
    /// flow as it was opened.
    #[test]
    fn a_reply_is_told_of_from_the_openers_side() {
        let (names, _) = names();
        names.set_endpoints(endpoint_of_a());
        let mut event = EventRecord::new_zeroed();
        event.verdict = Verdict::allow(Reason::NotIsolated).to_word();
        event.audited = Verdict::deny(Reason::Rule).to_word();
        (event.ifindex, event.incarnation) = (7, 3);
        for (hook, reversed, sends) in [
            (Hook::FromWorkload, 0, true),
            (Hook::FromWorkload, 1, false),
            (Hook::ToWorkload, 0, false),
            (Hook::ToWorkload, 1, true),
        ] {
            (event.hook, event.reversed) = (hook as u8, reversed);
            let record = describe(&event, &names, SystemTime::now()).unwrap();
            let ends = [record.source, record.destination].map(|end| end.workload.is_some());
            assert_eq!(ends, [sends, !sends], "{hook:?} {reversed}");
        }
    }

    #[test]
    fn what_was_not_looked_up_is_named_by_the_interface() {
        let (names, _) = names();
        names.set_endpoints(endpoint_of_a());
        let mut event = EventRecord::new_zeroed();
        event.verdict = Verdict::deny(Reason::Ethertype).to_word();
        event.direction = Direction::Egress as u8;
        event.hook = Hook::FromWorkload as u8;
        event.ethertype = 0x88cc;
        (event.ifindex, event.incarnation) = (7, 3);
        let record = describe(&event, &names, SystemTime::now()).unwrap();
        assert_eq!(record.source.workload.as_deref(), Some("a"));
        assert_eq!(record.source.labels["from"], "call");
        assert_eq!(record.source.address, None);
        assert_eq!(record.destination.workload, None);
        assert_eq!(record.protocol, "ethertype/0x88cc");
        event.incarnation = 4;
        let record = describe(&event, &names, SystemTime::now()).unwrap();
        assert_eq!(record.source.workload, None, "another endpoint");
        event.verdict = 0;
        assert_eq!(describe(&event, &names, SystemTime::now()), None);
    }
}
