//! Mistakes in reading documents that a compiler could make.
//!
//! Each is an edit of the documents as the generator writes them. A compiler that makes the
//! mistake does with the documents what a right one does with the edited ones. So the
//! mistakes show, without a broken compiler at hand, that the worlds have the edges they
//! are made for, and that the comparison notices.

/// A mistake, and a document as it would be understood.
pub(crate) struct Misreading {
    pub(crate) claim: &'static str,
    /// `None` when it would not be seen at all.
    pub(crate) read: fn(&str) -> Option<String>,
}

/// A peer that matches nobody.
const NOBODY: &str = "{namespaceSelector: {matchLabels: {none: none}}}";
/// The same in a `ClusterNetworkPolicy`.
const NOBODY_AT_ALL: &str = "{namespaces: {matchLabels: {none: none}}}";

pub(crate) const MISREADINGS: &[Misreading] = &[
    Misreading {
        claim: "`except` is ignored",
        read: |text| Some(edit(text, ", except: [", ']', |_| String::new())),
    },
    Misreading {
        claim: "NotIn needs the key",
        read: |text| {
            let with_key = |text: &str, key: &str| {
                let opening = format!("{{key: {key}, operator: NotIn, values: [");
                edit(text, &opening, ']', |values| {
                    format!("{{key: {key}, operator: Exists}}, {opening}{values}]")
                })
            };
            Some(with_key(&with_key(text, "app"), "tier"))
        },
    },
    Misreading {
        claim: "an empty value is an absent label",
        read: |text| {
            let text = text
                .replace("matchLabels: {app: ''}", "matchLabels: {app: none}")
                .replace("matchLabels: {tier: ''}", "matchLabels: {tier: none}");
            Some(text.replace("values: ['']", "values: [none]"))
        },
    },
    Misreading {
        claim: "a selector without labels selects nothing",
        read: |text| Some(text.replace("{matchLabels: {}}", "{matchLabels: {none: none}}")),
    },
    Misreading {
        claim: "a selector of nulls selects nothing",
        read: |text| {
            let nulls = "{matchLabels: null, matchExpressions: []}";
            Some(text.replace(nulls, "{matchLabels: {none: none}}"))
        },
    },
    Misreading {
        claim: "a null podSelector selects nothing",
        read: |text| {
            let none = "podSelector: {matchLabels: {none: none}}";
            Some(text.replace("podSelector: null", none))
        },
    },
    Misreading {
        claim: "a null namespaceSelector is every namespace",
        read: |text| Some(text.replace("namespaceSelector: null", "namespaceSelector: {}")),
    },
    Misreading {
        claim: "namespaces do not carry their names",
        read: |text| Some(text.replace("kubernetes.io/metadata.name: ", "none: ")),
    },
    Misreading {
        claim: "a policy without a namespace is of namespace x",
        read: |text| {
            where_it(
                is_network_policy(text) && !text.contains(", namespace: "),
                text,
                |text| text.replacen("metadata: {", "metadata: {namespace: x, ", 1),
            )
        },
    },
    Misreading {
        claim: "an empty list of peers is nobody",
        read: |text| {
            let text = text.replace("from: []", &format!("from: [{NOBODY}]"));
            Some(text.replace("to: []", &format!("to: [{NOBODY}]")))
        },
    },
    Misreading {
        claim: "a null list of peers is nobody",
        read: |text| {
            let text = text.replace("from: null", &format!("from: [{NOBODY}]"));
            Some(text.replace("to: null", &format!("to: [{NOBODY}]")))
        },
    },
    Misreading {
        claim: "an empty list of ports is no port",
        read: |text| {
            where_it(is_network_policy(text), text, |text| {
                text.replace("ports: []", "ports: [{protocol: SCTP, port: 9}]")
            })
        },
    },
    Misreading {
        claim: "ports without a protocol are UDP",
        read: |text| Some(text.replace("{port: ", "{protocol: UDP, port: ")),
    },
    Misreading {
        claim: "a protocol without a port is no port",
        read: |text| Some(text.replace("{protocol: UDP}", "{protocol: UDP, port: 9}")),
    },
    Misreading {
        claim: "`endPort` is ignored",
        read: |text| {
            Some(
                text.replace(", endPort: 81", "")
                    .replace(", endPort: 65535", ""),
            )
        },
    },
    Misreading {
        claim: "without types a policy isolates ingress alone",
        read: |text| {
            let text = text.replace("policyTypes: []", "policyTypes: [Ingress]");
            Some(text.replace("policyTypes: null", "policyTypes: [Ingress]"))
        },
    },
    Misreading {
        claim: "without types a policy isolates both directions",
        read: |text| {
            let both = "policyTypes: [Ingress, Egress]";
            let text = text.replace("policyTypes: []", both);
            Some(text.replace("policyTypes: null", both))
        },
    },
    Misreading {
        claim: "a policy of egress isolates ingress as well",
        read: |text| Some(text.replace("policyTypes: [Egress]", "policyTypes: [Ingress, Egress]")),
    },
    Misreading {
        claim: "the last of many rules is lost",
        read: |text| Some(text.replace("ports: [{port: 7}]", "ports: [{port: 9}]")),
    },
    Misreading {
        claim: "audit policies are enforced",
        read: |text| Some(text.replace("mode: audit", "mode: enforce")),
    },
    Misreading {
        claim: "namespaces on audit are enforced",
        read: |text| Some(text.replace("enforcement: audit", "enforcement: enforce")),
    },
    Misreading {
        claim: "namespaces that enforce are on audit",
        read: |text| Some(text.replace("enforcement: enforce", "enforcement: audit")),
    },
    Misreading {
        claim: "audit policies are not judged",
        read: |text| (!text.contains("mode: audit")).then(|| text.to_owned()),
    },
    Misreading {
        claim: "enforced policies are audited",
        read: |text| Some(text.replace("mode: enforce", "mode: audit")),
    },
    Misreading {
        claim: "finished pods keep their addresses",
        read: |text| {
            let text = text.replace("phase: Succeeded", "phase: Running");
            Some(text.replace("phase: Failed", "phase: Running"))
        },
    },
    Misreading {
        claim: "a pod has one address",
        read: |text| {
            Some(edit(text, "podIPs: [", ']', |addresses| {
                let first = addresses.split(", ").next().unwrap_or_default();
                format!("podIPs: [{first}]")
            }))
        },
    },
    Misreading {
        claim: "a named port has one number",
        read: |text| {
            Some(text.replace(
                "{name: web, containerPort: 81",
                "{name: web, containerPort: 80",
            ))
        },
    },
    Misreading {
        claim: "named ports are TCP",
        read: |text| {
            let text = text.replace(", protocol: UDP}", "}");
            Some(text.replace(", protocol: SCTP}", "}"))
        },
    },
    Misreading {
        claim: "Pass accepts",
        read: |text| Some(text.replace("action: Pass", "action: Accept")),
    },
    Misreading {
        claim: "Pass denies",
        read: |text| Some(text.replace("action: Pass", "action: Deny")),
    },
    Misreading {
        claim: "Pass in Admin goes on to the next rule",
        read: |text| where_it(text.contains("tier: Admin"), text, without_pass),
    },
    Misreading {
        claim: "Pass in Baseline goes on to the next rule",
        read: |text| where_it(text.contains("tier: Baseline"), text, without_pass),
    },
    Misreading {
        claim: "Accept denies",
        read: |text| Some(text.replace("action: Accept", "action: Deny")),
    },
    Misreading {
        claim: "Baseline comes before namespaces",
        read: |text| Some(text.replace("tier: Baseline", "tier: Admin")),
    },
    Misreading {
        claim: "Admin comes after namespaces",
        read: |text| Some(text.replace("tier: Admin", "tier: Baseline")),
    },
    Misreading {
        claim: "higher priorities come first",
        read: |text| {
            let text = text.replace("priority: 0", "priority: 900");
            Some(text.replace("priority: 1000", "priority: 0"))
        },
    },
    Misreading {
        claim: "equal priorities rank against their names",
        read: |text| {
            where_it(text.contains("{name: z"), text, |text| {
                text.replace("priority: 1,", "priority: 0,")
            })
        },
    },
    Misreading {
        claim: "unknown peers are ignored",
        read: |text| {
            let text = text.replace("{serviceAccounts: null}", NOBODY_AT_ALL);
            let text = edit(&text, "{serviceAccounts: {", '}', |_| {
                NOBODY_AT_ALL.to_owned()
            });
            Some(text.replace("{namespaces: null}", NOBODY_AT_ALL))
        },
    },
    Misreading {
        claim: "domain names are everybody",
        read: |text| {
            Some(edit(text, "domainNames: [", ']', |_| {
                "networks: [0.0.0.0/0, '::/0']".to_owned()
            }))
        },
    },
    Misreading {
        claim: "labels of nodes are ignored",
        read: |text| Some(edit(text, "nodes: {", '}', |_| "nodes: {}".to_owned())),
    },
    Misreading {
        claim: "nodes have one address",
        read: |text| Some(text.replace(", {type: InternalIP, address: 'fd00:0:0:2::2'}", "")),
    },
    Misreading {
        claim: "a peer has one network",
        read: |text| {
            Some(edit(text, "networks: [", ']', |blocks| {
                let first = blocks.split(", ").next().unwrap_or_default();
                format!("networks: [{first}]")
            }))
        },
    },
    Misreading {
        claim: "pods are selected in every namespace",
        read: |text| {
            Some(edit(text, ", namespaceSelector: {", '}', |_| {
                ", namespaceSelector: {}".to_owned()
            }))
        },
    },
    Misreading {
        claim: "`tcp` without ports is no port",
        read: |text| Some(text.replace("{tcp: {}}", "{tcp: {destinationPort: {number: 9}}}")),
    },
    Misreading {
        claim: "ranges end before their last port",
        read: |text| Some(text.replace("start: 79, end: 81", "start: 79, end: 80")),
    },
    Misreading {
        claim: "`protocols` is ignored",
        read: |text| Some(edit(text, ", protocols: [", ']', |_| String::new())),
    },
    Misreading {
        claim: "the last of 25 rules is lost",
        read: |text| {
            where_it(text.matches("{none: none}").count() >= 24, text, |text| {
                text.replace("{namespaces: {}}", NOBODY_AT_ALL)
            })
        },
    },
];

/// The text edited where that makes sense, and as it is elsewhere.
fn where_it(makes_sense: bool, text: &str, edited: fn(&str) -> String) -> Option<String> {
    Some(if makes_sense {
        edited(text)
    } else {
        text.to_owned()
    })
}

fn is_network_policy(text: &str) -> bool {
    text.contains("kind: NetworkPolicy")
}

fn without_pass(text: &str) -> String {
    let text = edit(text, "action: Pass, from: [", ']', |_| {
        format!("action: Pass, from: [{NOBODY_AT_ALL}]")
    });
    edit(&text, "action: Pass, to: [", ']', |_| {
        format!("action: Pass, to: [{NOBODY_AT_ALL}]")
    })
}

/// Replaces `opening`, what is inside, and the bracket that closes it.
fn edit(text: &str, opening: &str, closing: char, replace: impl Fn(&str) -> String) -> String {
    let mut edited = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(opening) {
        let inside = &rest[at + opening.len()..];
        let mut depth = 0;
        let end = inside
            .char_indices()
            .find(|(_, c)| match c {
                '[' | '{' => {
                    depth += 1;
                    false
                }
                ']' | '}' if depth > 0 => {
                    depth -= 1;
                    false
                }
                c => *c == closing,
            })
            .map(|(end, _)| end)
            .expect("brackets are closed");
        edited.push_str(&rest[..at]);
        edited.push_str(&replace(&inside[..end]));
        rest = &inside[end + closing.len_utf8()..];
    }
    edited.push_str(rest);
    edited
}
