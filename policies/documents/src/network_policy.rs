//! `networking.k8s.io/v1 NetworkPolicy`.
//!
//! Read strictly: an unknown key may be a misspelt restriction, so it is an error.
//! The validation is that of the Kubernetes API server, which no file has met;
//! absent, null, `[]` and `{}` are told apart as the API's documentation does.
//!
//! Invariant: every default that is filled in here is the narrower reading, or the
//! one the API documents.

use cofferdam_inventory::selectors::LabelSelector;
use cofferdam_inventory::{NetworkPolicy, ObjectName, Peer, PortRange, Ports, Protocol, Rule};
use cofferdam_syntax::diagnostic::Code;
use cofferdam_syntax::names;
use cofferdam_syntax::yaml::{Mark, Node, Value};

use super::cidr::{block, parse_cidr};
use super::metadata;
use super::objects::{port_number, protocol};
use super::reader::{Fields, Reader, Shown};
use super::selector::selector;

/// One of the two lists of rules, and what is called differently in it.
struct Section {
    key: &'static str,
    policy_type: &'static str,
    peers: &'static str,
    others_peers: &'static str,
}

const INGRESS: Section = Section {
    key: "ingress",
    policy_type: "Ingress",
    peers: "from",
    others_peers: "to",
};
const EGRESS: Section = Section {
    key: "egress",
    policy_type: "Egress",
    peers: "to",
    others_peers: "from",
};

/// Reads everything of a policy but its name.
pub(super) fn network_policy(
    reader: &mut Reader,
    document: Fields<'_, '_>,
    metadata: Fields<'_, '_>,
    name: ObjectName,
) -> NetworkPolicy {
    let mode = metadata::mode(reader, metadata);
    let spec = document.get("spec");
    if spec.is_none() {
        reader.warning(
            document.mark,
            Code::NoSpec,
            "the policy has no `spec`: it selects every pod of its namespace and denies all ingress",
            "write out a `spec` if that is not meant",
        );
    }
    let known = ["podSelector", "policyTypes", "ingress", "egress"];
    let spec = spec.and_then(|node| reader.strict_mapping(node, "`spec`", &known));
    let Some(spec) = spec else {
        return NetworkPolicy {
            name,
            place: reader.place(document.mark),
            mode,
            subject: LabelSelector::default(),
            ingress: Some(Vec::new()),
            egress: None,
        };
    };
    let subject = spec
        .get("podSelector")
        .and_then(|node| selector(reader, node, "`podSelector`"))
        .unwrap_or_default();
    let ingress = rules(reader, spec, &INGRESS);
    let egress = rules(reader, spec, &EGRESS);
    let errors = reader.errors();
    let types = policy_types(reader, spec, !egress.is_empty());
    // What is not understood may be the direction that seems to be missing.
    let are_understood = reader.errors() == errors;
    for (section, rules, isolates) in [
        (&INGRESS, &ingress, types.ingress),
        (&EGRESS, &egress, types.egress),
    ] {
        if let (false, true, Some(rule)) = (isolates, are_understood, rules.first()) {
            reader.warning(
                Mark {
                    line: rule.place.line,
                    column: rule.place.column,
                },
                Code::UnusedSection,
                format!("the rules under `{}` have no effect", section.key),
                format!("`policyTypes` does not list {}", section.policy_type),
            );
        }
    }
    NetworkPolicy {
        name,
        // The line of `spec:` itself, which is where readers look for it.
        place: reader.place(document.key_mark("spec").unwrap_or(spec.mark)),
        mode,
        subject,
        ingress: types.ingress.then_some(ingress),
        egress: types.egress.then_some(egress),
    }
}

/// The directions in which a policy isolates.
struct PolicyTypes {
    ingress: bool,
    egress: bool,
}

fn policy_types(reader: &mut Reader, spec: Fields<'_, '_>, egress_rules: bool) -> PolicyTypes {
    let listed = spec
        .get("policyTypes")
        .and_then(|node| {
            let items = reader.list(node, "`policyTypes`")?;
            if items.len() > 2 {
                reader.error(
                    node.mark,
                    Code::PolicyTypes,
                    "`policyTypes` has more than two entries",
                );
            }
            Some(items)
        })
        .unwrap_or_default();
    if listed.is_empty() {
        return PolicyTypes {
            ingress: true,
            egress: egress_rules,
        };
    }
    let mut types = PolicyTypes {
        ingress: false,
        egress: false,
    };
    for item in listed {
        match reader.string(item, "an entry of `policyTypes`") {
            Some("Ingress") => types.ingress = true,
            Some("Egress") => types.egress = true,
            Some(other) => {
                let known = ["Ingress", "Egress"];
                reader.unknown_word(item.mark, Code::PolicyTypes, "policy type", other, &known);
            }
            None => {}
        }
    }
    types
}

fn rules(reader: &mut Reader, spec: Fields<'_, '_>, section: &Section) -> Vec<Rule> {
    let what = format!("`{}`", section.key);
    let items = spec
        .get(section.key)
        .and_then(|node| reader.list(node, &what))
        .unwrap_or_default();
    items
        .into_iter()
        .filter_map(|item| rule(reader, item, section))
        .collect()
}

fn rule(reader: &mut Reader, node: &Node<'_>, section: &Section) -> Option<Rule> {
    let what = format!("a rule of `{}`", section.key);
    reader.refuse_others_peers(
        node,
        &what,
        (section.key, section.peers),
        section.others_peers,
    )?;
    let fields = reader.strict_mapping(node, &what, &["ports", section.peers])?;
    let errors = reader.errors();
    let peers: Vec<Peer> = fields
        .get(section.peers)
        .and_then(|node| reader.list(node, &format!("`{}`", section.peers)))
        .unwrap_or_default()
        .into_iter()
        .filter_map(|item| peer(reader, item))
        .collect();
    let ports: Vec<PortRange> = fields
        .get("ports")
        .and_then(|node| reader.list(node, "`ports`"))
        .unwrap_or_default()
        .into_iter()
        .filter_map(|item| port_range(reader, item))
        .collect();
    // An empty list means everything, and so must not come from entries that were
    // refused.
    (reader.errors() == errors).then(|| Rule {
        place: reader.place(node.mark),
        peers: (!peers.is_empty()).then_some(peers),
        ports: (!ports.is_empty()).then_some(ports),
    })
}

fn peer(reader: &mut Reader, node: &Node<'_>) -> Option<Peer> {
    if let Value::Text(text) = &node.value
        && parse_cidr(text).is_some()
    {
        reader.error_hint(
            node.mark,
            Code::Type,
            format!("a peer must be a mapping, not a CIDR (`{text}`)"),
            format!("write `ipBlock: {{cidr: {text}}}`"),
        );
        return None;
    }
    let errors = reader.errors();
    let known = ["podSelector", "namespaceSelector", "ipBlock"];
    let fields = reader.strict_mapping(node, "a peer", &known)?;
    let pods = fields.get("podSelector");
    let namespaces = fields.get("namespaceSelector");
    match (fields.get("ipBlock"), pods, namespaces) {
        // A key that is misspelt has been reported.
        (None, None, None) if reader.errors() != errors => None,
        (None, None, None) => {
            reader.error_hint(
                fields.mark,
                Code::Peer,
                "a peer must say who it is",
                "`podSelector: {}` is every pod of this namespace, `namespaceSelector: {}` every pod",
            );
            None
        }
        (Some(block), None, None) => ip_block(reader, block),
        (Some(_), _, _) => {
            reader.error_hint(
                fields.mark,
                Code::Peer,
                "a peer has either an `ipBlock` or selectors",
                "write two peers",
            );
            None
        }
        (None, pods, namespaces) => {
            let workloads = match pods {
                None => Some(LabelSelector::default()),
                Some(node) => selector(reader, node, "`podSelector`"),
            };
            let namespaces = match namespaces {
                None => Some(None),
                Some(node) => selector(reader, node, "`namespaceSelector`").map(Some),
            };
            Some(Peer::Workloads {
                namespaces: namespaces?,
                workloads: workloads?,
            })
        }
    }
}

fn ip_block(reader: &mut Reader, node: &Node<'_>) -> Option<Peer> {
    let fields = reader.strict_mapping(node, "`ipBlock`", &["cidr", "except"])?;
    let node = reader.required(fields, "cidr")?;
    let cidr = block(reader, node);
    let mut except = Vec::new();
    let items = fields
        .get("except")
        .and_then(|node| reader.list(node, "`except`"))
        .unwrap_or_default();
    for item in items {
        let cut = block(reader, item);
        if let (Some(cidr), Some(cut)) = (cidr, cut) {
            if !cidr.contains(&cut) || cut.prefix_len() <= cidr.prefix_len() {
                reader.error_hint(
                    item.mark,
                    Code::Except,
                    format!("`except` {cut} is not a strict subset of {cidr}"),
                    if cut == cidr || cut.contains(&cidr) {
                        "nothing of the block would be left: remove the peer"
                    } else {
                        "it would cut nothing out of the block: remove it, or mend either"
                    },
                );
            }
            except.push(cut);
        }
    }
    except.sort();
    except.dedup();
    Some(Peer::Block {
        cidr: cidr?,
        except,
    })
}

fn port_range(reader: &mut Reader, node: &Node<'_>) -> Option<PortRange> {
    if let Value::Integer(number) = &node.value {
        reader.error_hint(
            node.mark,
            Code::Type,
            "a port must be a mapping, not a number",
            format!("write `port: {number}`"),
        );
        return None;
    }
    let fields = reader.strict_mapping(node, "a port", &["protocol", "port", "endPort"])?;
    let protocol = match fields.get("protocol") {
        None => Some(Protocol::Tcp),
        Some(node) => protocol(reader, node),
    };
    let end = fields.get("endPort");
    let ports = match fields.get("port") {
        None => {
            if let Some(end) = end {
                reader.error_hint(
                    end.mark,
                    Code::EndPort,
                    "`endPort` needs a `port` to begin at",
                    "`port: 1` is the first there is",
                );
                return None;
            }
            Ports::All
        }
        Some(node) => match &node.value {
            Value::Text(name) => {
                if let Some(end) = end {
                    reader.error_hint(
                        end.mark,
                        Code::EndPort,
                        "`endPort` needs a `port` that is a number",
                        "a name is one port",
                    );
                }
                named_port(reader, node.mark, name)?
            }
            _ => {
                let first = port_number(reader, node, "`port`");
                let last = match end {
                    None => first,
                    Some(end) => port_number(reader, end, "`endPort`"),
                };
                let (first, last) = (first?, last?);
                if last < first {
                    reader.error_hint(
                        end.map_or(node.mark, |end| end.mark),
                        Code::EndPort,
                        format!("`endPort` {last} is below `port` {first}"),
                        "change them round?",
                    );
                    return None;
                }
                Ports::Range(first, last)
            }
        },
    };
    Some(PortRange {
        protocol: protocol?,
        ports,
    })
}

fn named_port(reader: &mut Reader, mark: Mark, name: &str) -> Option<Ports> {
    if !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit()) {
        reader.error_hint(
            mark,
            Code::Port,
            format!("`port` \"{}\" is a name without a letter", Shown(name)),
            format!("a number stands without quotes: `port: {}`", Shown(name)),
        );
        return None;
    }
    reader
        .check_name(mark, Code::Port, "the port's name", name, names::port_name)
        .then(|| Ports::Named(Box::from(name)))
}
