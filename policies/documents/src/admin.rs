//! `policy.networking.k8s.io/v1alpha1 AdminNetworkPolicy` and `BaselineAdminNetworkPolicy`.
//!
//! The API became `ClusterNetworkPolicy` in v1alpha2, with other words for the same. A
//! document of the old form is turned into one of the new, whose reader then knows every rule.
//!
//! Invariant: what the old form does not have is never read as the new form's.

use std::borrow::Cow;

use cofferdam_syntax::yaml::{Entry, Mark, Node, Value};

use super::Kind;

/// The group and version of both kinds.
const API_VERSION: &str = "policy.networking.k8s.io/v1alpha1";

/// Priority of the one baseline policy, which has none: after all others of its tier.
const BASELINE_PRIORITY: i64 = 1000;

/// Most rules, peers and ports that the old form has.
pub(super) const MAX_ITEMS: usize = 100;

/// The kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AdminKind {
    Admin,
    Baseline,
}

/// A document of the new form, and what is wrong with the old one.
pub(super) struct Converted<'t> {
    pub(super) document: Node<'t>,
    pub(super) mistakes: Vec<(Mark, String)>,
}

impl AdminKind {
    /// The kind of this name, if it is one.
    pub(super) fn of(api_version: &str, kind: &str) -> Option<Self> {
        match (api_version, kind) {
            (API_VERSION, "AdminNetworkPolicy") => Some(Self::Admin),
            (API_VERSION, "BaselineAdminNetworkPolicy") => Some(Self::Baseline),
            _ => None,
        }
    }

    fn tier(self) -> &'static str {
        match self {
            Self::Admin => "Admin",
            Self::Baseline => "Baseline",
        }
    }
}

/// Turns a document of the old form into one of the new.
pub(super) fn convert<'t>(document: &Node<'t>, kind: AdminKind) -> Converted<'t> {
    let mut converter = Converter {
        kind,
        mistakes: Vec::new(),
    };
    let document = converter.document(document);
    Converted {
        document,
        mistakes: converter.mistakes,
    }
}

struct Converter {
    kind: AdminKind,
    mistakes: Vec<(Mark, String)>,
}

impl Converter {
    fn document<'t>(&mut self, node: &Node<'t>) -> Node<'t> {
        changed(node, |entry| {
            let value = match key(entry) {
                "apiVersion" => word(&entry.value, Kind::ClusterNetworkPolicy.api_version()),
                "kind" => word(&entry.value, Kind::ClusterNetworkPolicy.as_str()),
                "spec" => self.spec(&entry.value),
                _ => entry.value.clone(),
            };
            Some(with_value(entry, value))
        })
    }

    fn spec<'t>(&mut self, node: &Node<'t>) -> Node<'t> {
        let mut spec = changed(node, |entry| {
            let value = match key(entry) {
                "ingress" | "egress" => each(&entry.value, |rule| self.rule(rule)),
                "tier" => {
                    self.refuse(entry, "`tier` is the kind's here");
                    return None;
                }
                "priority" if self.kind == AdminKind::Baseline => {
                    self.refuse(entry, "there is one baseline policy: it has no `priority`");
                    return None;
                }
                _ => entry.value.clone(),
            };
            Some(with_value(entry, value))
        });
        if let Value::Map(entries) = &mut spec.value {
            let mark = node.mark;
            if self.kind == AdminKind::Baseline {
                let priority = Value::Integer(BASELINE_PRIORITY);
                entries.insert(0, added("priority", priority, mark));
            }
            let tier = Value::Text(Cow::Borrowed(self.kind.tier()));
            entries.insert(0, added("tier", tier, mark));
        }
        spec
    }

    fn rule<'t>(&mut self, node: &Node<'t>) -> Node<'t> {
        changed(node, |entry| match key(entry) {
            "action" => {
                let value = match &entry.value.value {
                    Value::Text(text) if text == "Allow" => word(&entry.value, "Accept"),
                    Value::Text(text) if text == "Accept" => {
                        self.refuse(entry, "the action is called `Allow` in v1alpha1");
                        entry.value.clone()
                    }
                    Value::Text(text) if text == "Pass" && self.kind == AdminKind::Baseline => {
                        self.refuse(
                            entry,
                            "nothing comes after the baseline policy to pass on to",
                        );
                        entry.value.clone()
                    }
                    _ => entry.value.clone(),
                };
                Some(with_value(entry, value))
            }
            "ports" => {
                let ports = each(&entry.value, |port| self.port(port));
                Some(Entry {
                    key: word(&entry.key, "protocols"),
                    value: ports,
                })
            }
            "protocols" => {
                self.refuse(entry, "ports stand in `ports` in v1alpha1");
                None
            }
            _ => Some(entry.clone()),
        })
    }

    /// One entry of `ports` as one of `protocols`.
    fn port<'t>(&mut self, node: &Node<'t>) -> Node<'t> {
        changed(node, |entry| match key(entry) {
            "portNumber" => Some(self.protocol(entry, |fields, mark| {
                let number = fields.into_iter().map(|(key, value)| match key.as_str() {
                    "port" => renamed("number", value, mark),
                    _ => renamed(&key, value, mark),
                });
                number.collect()
            })),
            "portRange" => Some(self.protocol(entry, |fields, mark| {
                let range = fields
                    .into_iter()
                    .map(|(key, value)| renamed(&key, value, mark));
                let range = Node {
                    mark,
                    value: Value::Map(range.collect()),
                };
                vec![renamed("range", range, mark)]
            })),
            "namedPort" => Some(Entry {
                key: word(&entry.key, "destinationNamedPort"),
                value: entry.value.clone(),
            }),
            other => {
                self.refuse(
                    entry,
                    &format!("unknown key `{}` in a port", super::reader::Shown(other)),
                );
                None
            }
        })
    }

    /// `portNumber` or `portRange` under the name of its protocol. What is not a mapping
    /// stays, so that it is refused.
    fn protocol<'t>(
        &mut self,
        entry: &Entry<'t>,
        ports: impl FnOnce(Vec<(String, Node<'t>)>, Mark) -> Vec<Entry<'t>>,
    ) -> Entry<'t> {
        let mark = entry.value.mark;
        let Value::Map(entries) = &entry.value.value else {
            self.refuse(entry, &format!("`{}` must be a mapping", key(entry)));
            return entry.clone();
        };
        let mut protocol = "tcp";
        let mut fields = Vec::new();
        for field in entries {
            match (key(field), &field.value.value) {
                ("protocol", Value::Text(text)) => {
                    let known = [("TCP", "tcp"), ("UDP", "udp"), ("SCTP", "sctp")];
                    match known.iter().find(|(name, _)| name == text) {
                        Some((_, name)) => protocol = name,
                        None => self.refuse(field, "one of TCP, UDP, SCTP is meant"),
                    }
                }
                ("protocol", Value::Null) => {}
                ("protocol", _) => self.refuse(field, "`protocol` must be a string"),
                (key, _) => fields.push((key.to_owned(), field.value.clone())),
            }
        }
        let ports = Node {
            mark,
            value: Value::Map(ports(fields, mark)),
        };
        let inner = Node {
            mark,
            value: Value::Map(vec![renamed("destinationPort", ports, mark)]),
        };
        Entry {
            key: word(&entry.key, protocol),
            value: inner,
        }
    }

    fn refuse(&mut self, entry: &Entry<'_>, message: &str) {
        self.mistakes.push((entry.key.mark, message.to_owned()));
    }
}

fn key<'e>(entry: &'e Entry<'_>) -> &'e str {
    match &entry.key.value {
        Value::Text(text) => text,
        _ => "",
    }
}

/// The same node with other entries; what is no mapping stays as it is.
fn changed<'t>(
    node: &Node<'t>,
    mut change: impl FnMut(&Entry<'t>) -> Option<Entry<'t>>,
) -> Node<'t> {
    match &node.value {
        Value::Map(entries) => Node {
            mark: node.mark,
            value: Value::Map(entries.iter().filter_map(&mut change).collect()),
        },
        _ => node.clone(),
    }
}

/// The same list with other items; what is no list stays as it is.
fn each<'t>(node: &Node<'t>, mut change: impl FnMut(&Node<'t>) -> Node<'t>) -> Node<'t> {
    match &node.value {
        Value::List(items) => Node {
            mark: node.mark,
            value: Value::List(items.iter().map(&mut change).collect()),
        },
        _ => node.clone(),
    }
}

fn with_value<'t>(entry: &Entry<'t>, value: Node<'t>) -> Entry<'t> {
    Entry {
        key: entry.key.clone(),
        value,
    }
}

/// A word in the place of another.
fn word<'t>(node: &Node<'_>, text: &'static str) -> Node<'t> {
    Node {
        mark: node.mark,
        value: Value::Text(Cow::Borrowed(text)),
    }
}

fn added<'t>(key: &'static str, value: Value<'t>, mark: Mark) -> Entry<'t> {
    let node = Node {
        mark,
        value: Value::Text(Cow::Borrowed(key)),
    };
    Entry {
        key: node,
        value: Node { mark, value },
    }
}

fn renamed<'t>(key: &str, value: Node<'t>, mark: Mark) -> Entry<'t> {
    Entry {
        key: Node {
            mark,
            value: Value::Text(Cow::Owned(key.to_owned())),
        },
        value,
    }
}
