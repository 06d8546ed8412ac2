//! `policy.networking.k8s.io/v1alpha2 ClusterNetworkPolicy`.
//!
//! Read strictly, with every rule of the upstream resource definition, which no file
//! has met. Two things are read that this version cannot act on, and both become
//! narrower: domain names match nobody, and a peer without a known field, which a
//! newer release may have brought, fails closed as the API's documentation demands.
//!
//! Invariant: in a rule that accepts, what is not understood matches nothing; in one
//! that denies or passes, it makes the rule deny everything.

use std::collections::HashSet;
use std::sync::Arc;

use cofferdam_inventory::selectors::LabelSelector;
use cofferdam_inventory::{
    ClusterNetworkPolicy, ClusterPeer, ClusterRule, MAX_PRIORITY, PortRange, Ports, Protocol,
    RuleAction, Tier, WorkloadSelector,
};
use cofferdam_syntax::diagnostic::Code;
use cofferdam_syntax::names;
use cofferdam_syntax::yaml::{Mark, Node, Value};

use super::cidr::network;
use super::hints;
use super::metadata;
use super::objects::port_number;
use super::reader::{Fields, Reader, Shown};
use super::selector::selector;

/// Most rules in one direction, peers and protocols in a rule, networks and domain
/// names in a peer.
pub const MAX_ITEMS: usize = 25;
/// Longest name of a rule, in characters.
pub const MAX_RULE_NAME: usize = 100;

const PROTOCOLS: [(&str, Protocol); 3] = [
    ("tcp", Protocol::Tcp),
    ("udp", Protocol::Udp),
    ("sctp", Protocol::Sctp),
];

/// One of the two lists of rules, and what is called differently in it.
struct Section {
    key: &'static str,
    peers: &'static str,
    others_peers: &'static str,
    /// Kinds that a peer may be.
    kinds: &'static [&'static str],
}

const INGRESS: Section = Section {
    key: "ingress",
    peers: "from",
    others_peers: "to",
    kinds: &["namespaces", "pods"],
};
const EGRESS: Section = Section {
    key: "egress",
    peers: "to",
    others_peers: "from",
    kinds: &["namespaces", "pods", "networks", "nodes", "domainNames"],
};

/// Result of reading a peer.
enum Reading {
    /// It may be matched.
    Peer(ClusterPeer),
    /// It is valid, and matches nobody yet.
    Nobody,
    /// It has no known field.
    Unknown(Mark),
}

/// Reads everything of a policy but its name; `None` after errors.
pub(super) fn cluster_network_policy(
    reader: &mut Reader,
    document: Fields<'_, '_>,
    metadata: Fields<'_, '_>,
    name: Arc<str>,
) -> Option<ClusterNetworkPolicy> {
    let mode = metadata::mode(reader, metadata);
    let node = reader.required(document, "spec")?;
    let known = ["tier", "priority", "subject", "ingress", "egress"];
    let spec = reader.strict_mapping(node, "`spec`", &known)?;
    let tier = tier(reader, spec);
    let priority = priority(reader, spec);
    let subject = reader
        .required(spec, "subject")
        .and_then(|node| subject(reader, node));
    let ingress = rules(reader, spec, &INGRESS);
    let egress = rules(reader, spec, &EGRESS);
    Some(ClusterNetworkPolicy {
        name,
        // The line of `spec:` itself, which is where readers look for it.
        place: reader.place(document.key_mark("spec").unwrap_or(spec.mark)),
        mode,
        tier: tier?,
        priority: priority?,
        subject: subject?,
        ingress,
        egress,
    })
}

fn tier(reader: &mut Reader, spec: Fields<'_, '_>) -> Option<Tier> {
    let node = reader.required(spec, "tier")?;
    match reader.string(node, "`tier`")? {
        "Admin" => Some(Tier::Admin),
        "Baseline" => Some(Tier::Baseline),
        other => {
            reader.unknown_word(node.mark, Code::Tier, "tier", other, &["Admin", "Baseline"]);
            None
        }
    }
}

fn priority(reader: &mut Reader, spec: Fields<'_, '_>) -> Option<u16> {
    let node = reader.required(spec, "priority")?;
    let number = reader.integer(node, "`priority`")?;
    let priority = u16::try_from(number)
        .ok()
        .filter(|priority| *priority <= MAX_PRIORITY);
    if priority.is_none() {
        reader.error_hint(
            node.mark,
            Code::Priority,
            format!("`priority` must be between 0 and {MAX_PRIORITY}, not {number}"),
            "the policy with the lowest one of a tier is asked first",
        );
    }
    priority
}

fn subject(reader: &mut Reader, node: &Node<'_>) -> Option<WorkloadSelector> {
    let errors = reader.errors();
    let fields = reader.strict_mapping(node, "`subject`", &["namespaces", "pods"])?;
    match (fields.get("namespaces"), fields.get("pods")) {
        (Some(node), None) => namespaces(reader, node),
        (None, Some(node)) => pods(reader, node),
        // A key that is misspelt has been reported.
        (None, None) if reader.errors() != errors => None,
        (namespaces, _) => {
            reader.error_hint(
                fields.mark,
                Code::Subject,
                match namespaces {
                    None => "`subject` must say who it is",
                    Some(_) => "`subject` has both `namespaces` and `pods`",
                },
                "one of them: `namespaces: {}` is every pod there is; `pods` has a selector of \
                 namespaces of its own",
            );
            None
        }
    }
}

/// Every pod of the namespaces selected.
fn namespaces(reader: &mut Reader, node: &Node<'_>) -> Option<WorkloadSelector> {
    Some(WorkloadSelector {
        namespaces: selector(reader, node, "`namespaces`")?,
        workloads: LabelSelector::default(),
    })
}

/// The pods selected, of the namespaces selected.
fn pods(reader: &mut Reader, node: &Node<'_>) -> Option<WorkloadSelector> {
    let known = ["namespaceSelector", "podSelector"];
    let fields = reader.strict_mapping(node, "`pods`", &known)?;
    let namespaces = match fields.get("namespaceSelector") {
        None => Some(LabelSelector::default()),
        Some(node) => selector(reader, node, "`namespaceSelector`"),
    };
    let workloads = reader
        .required(fields, "podSelector")
        .and_then(|node| selector(reader, node, "`podSelector`"));
    Some(WorkloadSelector {
        namespaces: namespaces?,
        workloads: workloads?,
    })
}

fn rules(reader: &mut Reader, spec: Fields<'_, '_>, section: &Section) -> Vec<ClusterRule> {
    let Some(node) = spec.get(section.key) else {
        return Vec::new();
    };
    let items = reader
        .bounded_list(node, &format!("`{}`", section.key), 0)
        .unwrap_or_default();
    items
        .into_iter()
        .filter_map(|item| rule(reader, item, section))
        .collect()
}

fn rule(reader: &mut Reader, node: &Node<'_>, section: &Section) -> Option<ClusterRule> {
    let what = format!("a rule of `{}`", section.key);
    reader.refuse_others_peers(
        node,
        &what,
        (section.key, section.peers),
        section.others_peers,
    )?;
    let known = ["name", "action", section.peers, "protocols"];
    let fields = reader.strict_mapping(node, &what, &known)?;
    let errors = reader.errors();
    let name = rule_name(reader, fields);
    let action = action(reader, fields);
    let readings: Vec<Reading> = reader
        .required(fields, section.peers)
        .and_then(|node| reader.bounded_list(node, &format!("`{}`", section.peers), 1))
        .unwrap_or_default()
        .into_iter()
        .filter_map(|item| peer(reader, item, section, action))
        .collect();
    let ports = fields.get("protocols").and_then(|node| {
        let items = reader.bounded_list(node, "`protocols`", 1)?;
        let ports = items.into_iter().filter_map(|item| ports(reader, item));
        Some(ports.flatten().collect::<Vec<_>>())
    });
    check_named_ports(reader, fields, section);
    let action = action.filter(|_| reader.errors() == errors)?;
    let rule = ClusterRule {
        place: reader.place(node.mark),
        name,
        action,
        peers: None,
        ports: None,
    };
    let unknown = readings.iter().find_map(|reading| match reading {
        Reading::Unknown(mark) => Some(mark),
        _ => None,
    });
    if unknown.is_some() && action != RuleAction::Accept {
        return Some(ClusterRule {
            action: RuleAction::Deny,
            ..rule
        });
    }
    let peers = readings.into_iter().filter_map(|reading| match reading {
        Reading::Peer(peer) => Some(peer),
        Reading::Nobody | Reading::Unknown(_) => None,
    });
    Some(ClusterRule {
        peers: Some(peers.collect()),
        ports,
        ..rule
    })
}

fn rule_name(reader: &mut Reader, rule: Fields<'_, '_>) -> Option<Box<str>> {
    let node = rule.get("name")?;
    let name = reader.string(node, "`name`")?;
    let length = name.chars().count();
    if length > MAX_RULE_NAME {
        reader.error(
            node.mark,
            Code::Count,
            format!("`name` has {length} characters, more than {MAX_RULE_NAME}"),
        );
    }
    (!name.is_empty()).then(|| Box::from(name))
}

fn action(reader: &mut Reader, rule: Fields<'_, '_>) -> Option<RuleAction> {
    let node = reader.required(rule, "action")?;
    match reader.string(node, "`action`")? {
        "Accept" => Some(RuleAction::Accept),
        "Deny" => Some(RuleAction::Deny),
        "Pass" => Some(RuleAction::Pass),
        other => {
            if other.eq_ignore_ascii_case("allow") {
                reader.error_hint(
                    node.mark,
                    Code::Action,
                    format!("action `{}` is not known", Shown(other)),
                    "since v1alpha2 it is called `Accept`",
                );
            } else {
                let known = ["Accept", "Deny", "Pass"];
                reader.unknown_word(node.mark, Code::Action, "action", other, &known);
            }
            None
        }
    }
}

/// Reads a peer of a rule with this action, if that is known.
fn peer(
    reader: &mut Reader,
    node: &Node<'_>,
    section: &Section,
    action: Option<RuleAction>,
) -> Option<Reading> {
    let fields = reader.mapping(node, "a peer")?;
    let given: Vec<(&str, &Node<'_>)> = (section.kinds.iter())
        .filter_map(|kind| Some((*kind, fields.get(kind)?)))
        .collect();
    let (kind, value) = match given.as_slice() {
        [one] => *one,
        [] => return unknown_peer(reader, fields, section, action),
        [(one, _), (other, _), ..] => {
            reader.error_hint(
                fields.mark,
                Code::Peer,
                format!("a peer is one thing, not both `{one}` and `{other}`"),
                "write two peers",
            );
            return None;
        }
    };
    reader.strict_mapping(node, "a peer", section.kinds)?;
    let peer = match kind {
        "namespaces" => ClusterPeer::Workloads(namespaces(reader, value)?),
        "pods" => ClusterPeer::Workloads(pods(reader, value)?),
        "networks" => networks(reader, value)?,
        "nodes" => ClusterPeer::Nodes(selector(reader, value, "`nodes`")?),
        _ => {
            domain_names(reader, value)?;
            if matches!(action, Some(RuleAction::Deny | RuleAction::Pass)) {
                reader.error_hint(
                    fields.key_mark(kind).unwrap_or(fields.mark),
                    Code::DomainName,
                    "`domainNames` stands only in rules that accept",
                    "deny everything by a later rule, and accept the domains before it",
                );
            } else {
                reader.warning(
                    fields.key_mark(kind).unwrap_or(fields.mark),
                    Code::DomainNamesIdle,
                    "domain names are not resolved by this version: the peer matches nothing",
                    "everything else of the policy is in force",
                );
            }
            return Some(Reading::Nobody);
        }
    };
    Some(Reading::Peer(peer))
}

/// A peer that a newer API may know: a warning, and closed.
fn unknown_peer(
    reader: &mut Reader,
    fields: Fields<'_, '_>,
    section: &Section,
    action: Option<RuleAction>,
) -> Option<Reading> {
    let Value::Map(entries) = &fields.node.value else {
        return None;
    };
    let mut unknown = None;
    for entry in entries {
        let Value::Text(key) = &entry.key.value else {
            reader.wrong_type(&entry.key, "a key of a peer", "a string");
            return None;
        };
        if !section.kinds.contains(&key.as_ref()) {
            unknown = unknown.or(Some((key.as_ref(), entry.key.mark)));
        }
    }
    let what = match unknown {
        Some((key, _)) => format!("a peer of the unknown kind `{}`", Shown(key)),
        None => "a peer that does not say who it is".to_owned(),
    };
    let effect = match action {
        Some(RuleAction::Deny | RuleAction::Pass) => "the rule denies everything",
        _ => "it matches nothing",
    };
    let mark = unknown.map_or(fields.mark, |(_, mark)| mark);
    let hint = match unknown {
        Some((key, _)) => peer_hint(key, section),
        None => "`namespaces: {}` is every pod there is".to_owned(),
    };
    reader.warning(
        mark,
        Code::UnknownPeer,
        format!("{what} fails closed: {effect}"),
        hint,
    );
    Some(Reading::Unknown(mark))
}

fn peer_hint(key: &str, section: &Section) -> String {
    if ["podSelector", "namespaceSelector"].contains(&key) {
        return "selectors stand in `pods: {namespaceSelector: …, podSelector: …}`".to_owned();
    }
    if key == "ipBlock" && section.kinds.contains(&"networks") {
        return "address blocks stand in `networks`".to_owned();
    }
    if EGRESS.kinds.contains(&key) || key == "ipBlock" {
        return "rules of `ingress` know only pods: everything else is never matched by them"
            .to_owned();
    }
    hints::for_key(key, section.kinds)
        .unwrap_or_else(|| format!("known here: {}", section.kinds.join(", ")))
}

/// Distinct CIDRs.
fn networks(reader: &mut Reader, node: &Node<'_>) -> Option<ClusterPeer> {
    let errors = reader.errors();
    let items = set(reader, node, "`networks`")?;
    let mut networks: Vec<_> = items
        .into_iter()
        .filter_map(|item| network(reader, item))
        .collect();
    networks.sort();
    networks.dedup();
    (reader.errors() == errors).then_some(ClusterPeer::Networks(networks))
}

/// Checks domain names, of which nothing is kept.
fn domain_names(reader: &mut Reader, node: &Node<'_>) -> Option<()> {
    let errors = reader.errors();
    for item in set(reader, node, "`domainNames`")? {
        if let Some(name) = reader.string(item, "a domain name") {
            let (mark, what) = (item.mark, "the domain name");
            reader.check_name(mark, Code::DomainName, what, name, names::domain_pattern);
        }
    }
    (reader.errors() == errors).then_some(())
}

/// The entries of a list of strings in which each stands once.
fn set<'n, 't>(reader: &mut Reader, node: &'n Node<'t>, what: &str) -> Option<Vec<&'n Node<'t>>> {
    let items = reader.bounded_list(node, what, 1)?;
    let mut seen = HashSet::new();
    for item in &items {
        if let Value::Text(text) = &item.value
            && !seen.insert(text.as_ref())
        {
            reader.error(
                item.mark,
                Code::Duplicate,
                format!("`{}` stands a second time in {what}", Shown(text)),
            );
        }
    }
    Some(items)
}

/// Reads the ports that one entry of `protocols` covers.
fn ports(reader: &mut Reader, node: &Node<'_>) -> Option<Vec<PortRange>> {
    let known = ["tcp", "udp", "sctp", "destinationNamedPort"];
    let errors = reader.errors();
    let fields = reader.strict_mapping(node, "an entry of `protocols`", &known)?;
    let given: Vec<(&str, &Node<'_>)> = (known.iter())
        .filter_map(|key| Some((*key, fields.get(key)?)))
        .collect();
    let (key, value) = match given.as_slice() {
        [one] => *one,
        [] if reader.errors() != errors => return None,
        [] => {
            reader.error_hint(
                fields.mark,
                Code::Protocol,
                "an entry of `protocols` must say which protocol it is",
                "`tcp: {}` is every TCP port; to cover all protocols leave `protocols` out",
            );
            return None;
        }
        [(one, _), (other, _), ..] => {
            reader.error_hint(
                fields.mark,
                Code::Protocol,
                format!("an entry of `protocols` is one protocol, not both `{one}` and `{other}`"),
                "write two entries",
            );
            return None;
        }
    };
    let protocol = PROTOCOLS.iter().find(|(name, _)| *name == key);
    let Some((_, protocol)) = protocol else {
        // The container port of that name has a protocol of its own.
        let name = named_port(reader, value)?;
        let each = PROTOCOLS.iter().map(|(_, protocol)| PortRange {
            protocol: *protocol,
            ports: Ports::Named(Box::from(name)),
        });
        return Some(each.collect());
    };
    let ports = destination_port(reader, value, &format!("`{key}`"))?;
    Some(vec![PortRange {
        protocol: *protocol,
        ports,
    }])
}

/// The ports of a protocol's mapping; an empty one is every port, as the API's
/// overview says and its definition does not admit.
fn destination_port(reader: &mut Reader, node: &Node<'_>, what: &str) -> Option<Ports> {
    const KEY: &str = "destinationPort";
    let fields = reader.strict_mapping(node, what, &[KEY])?;
    let Some(node) = fields.get(KEY) else {
        let Some(mark) = fields.key_mark(KEY) else {
            return Some(Ports::All);
        };
        // Every port, because a value got lost on the way here?
        reader.error_hint(
            mark,
            Code::Missing,
            "`destinationPort` has no value",
            "leave the key out to cover every port",
        );
        return None;
    };
    let errors = reader.errors();
    let fields = reader.strict_mapping(node, "`destinationPort`", &["number", "range"])?;
    match (fields.get("number"), fields.get("range")) {
        (Some(node), None) => {
            let number = port_number(reader, node, "`number`")?;
            Some(Ports::Range(number, number))
        }
        (None, Some(node)) => {
            let fields = reader.strict_mapping(node, "`range`", &["start", "end"])?;
            let mut bound = |key| {
                let node = reader.required(fields, key)?;
                Some((port_number(reader, node, &format!("`{key}`"))?, node.mark))
            };
            let (start, end) = (bound("start"), bound("end"));
            let ((start, _), (end, mark)) = (start?, end?);
            if start >= end {
                reader.error_hint(
                    mark,
                    Code::EndPort,
                    format!("the range ends at {end}, not above its `start` {start}"),
                    "a single port is a `number`",
                );
                return None;
            }
            Some(Ports::Range(start, end))
        }
        (None, None) if reader.errors() != errors => None,
        (number, _) => {
            reader.error_hint(
                fields.mark,
                Code::Port,
                match number {
                    None => "`destinationPort` must say which port it is",
                    Some(_) => "`destinationPort` has both `number` and `range`",
                },
                "`number: 80`, or `range: {start: 80, end: 90}`",
            );
            None
        }
    }
}

/// Any text but none: the API restricts the names no further, but containers' ports
/// have names of one form only.
fn named_port<'n>(reader: &mut Reader, node: &'n Node<'_>) -> Option<&'n str> {
    let name = reader.string(node, "`destinationNamedPort`")?;
    if name.is_empty() {
        reader.error(node.mark, Code::Port, "`destinationNamedPort` is empty");
        return None;
    }
    if let Err(expected) = names::port_name(name) {
        let hint = if name.bytes().all(|b| b.is_ascii_digit()) {
            format!(
                "a number stands in `tcp: {{destinationPort: {{number: {}}}}}`",
                Shown(name)
            )
        } else {
            expected.to_string()
        };
        reader.warning(
            node.mark,
            Code::Port,
            format!("no container's port can have the name `{}`", Shown(name)),
            hint,
        );
    }
    Some(name)
}

/// Only pods have ports with names.
fn check_named_ports(reader: &mut Reader, rule: Fields<'_, '_>, section: &Section) {
    let items = |key: &str| match rule.get(key).map(|node| &node.value) {
        Some(Value::List(items)) => items.as_slice(),
        _ => &[],
    };
    let has = |node: &Node<'_>, key: &str| match &node.value {
        Value::Map(entries) => entries.iter().any(|entry| {
            matches!(&entry.key.value, Value::Text(text) if text == key)
                && !matches!(entry.value.value, Value::Null)
        }),
        _ => false,
    };
    let nameless = ["networks", "nodes", "domainNames"]
        .into_iter()
        .filter(|kind| section.kinds.contains(kind))
        .find(|kind| items(section.peers).iter().any(|peer| has(peer, kind)));
    let named = items("protocols")
        .iter()
        .find(|protocol| has(protocol, "destinationNamedPort"));
    if let (Some(kind), Some(named)) = (nameless, named) {
        reader.error_hint(
            named.mark,
            Code::NamedPortPeer,
            format!("`destinationNamedPort` in a rule with `{kind}`, whose ports have no names"),
            "write two rules",
        );
    }
}
