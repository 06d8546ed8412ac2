//! `ClusterNetworkPolicy`: what it is read as, and what is refused.

use cofferdam_inventory::selectors::LabelSelector;
use cofferdam_inventory::{
    ClusterPeer, ClusterRule, Mode, PortRange, Ports, Protocol, RuleAction, Tier, WorkloadSelector,
};

use super::*;

const HEAD: &str = "apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: p}
spec:
";

/// A policy `p` with this `spec`, indented by two; its first line is line 5.
fn spec(spec: &str) -> Parsed {
    let mut document = HEAD.to_owned();
    for line in spec.lines() {
        document.push_str(&format!("  {line}\n"));
    }
    text(&document)
}

/// A policy of the Admin tier about everybody with these sections; they begin in
/// line 6.
fn sections(sections: &str) -> Parsed {
    spec(&format!(
        "{{tier: Admin, priority: 1, subject: {{namespaces: {{}}}},\n{sections}}}"
    ))
}

fn only(parsed: &Parsed) -> ClusterNetworkPolicy {
    assert_eq!(errors(parsed), Vec::<String>::new());
    match &parsed.documents[0].content {
        Content::ClusterNetworkPolicy(policy) => (**policy).clone(),
        other => panic!("{other:?}"),
    }
}

/// The first egress rule with this content.
fn egress(rule: &str) -> ClusterRule {
    only(&sections(&format!("egress: [{{{rule}}}]"))).egress[0].clone()
}

/// The one error of such sections.
fn refused(parsed: &Parsed) -> String {
    assert!(parsed.documents.is_empty(), "{parsed:#?}");
    assert_eq!(parsed.rejected.len(), 1, "{parsed:#?}");
    assert!(parsed.rejected[0].identity.is_some(), "{parsed:#?}");
    let errors = errors(parsed);
    assert_eq!(errors.len(), 1, "{:#?}", parsed.diagnostics);
    errors.into_iter().next().unwrap()
}

#[test]
fn a_policy_is_read_whole() {
    let parsed = text(
        "apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: p, annotations: {cofferdam.dev/mode: audit}}
spec:
  tier: Baseline
  priority: 7
  subject: {pods: {podSelector: {matchLabels: {app: web}}}}
  ingress:
  - name: first
    action: Pass
    from:
    - namespaces: {matchLabels: {team: a}}
    protocols:
    - udp: {destinationPort: {range: {start: 5, end: 6}}}
  - {action: Deny, from: [{pods: {namespaceSelector: {}, podSelector: {}}}]}
  egress:
  - action: Accept
    to:
    - nodes: {}
    - networks: [fd00::/8, 10.0.0.0/8]
",
    );
    assert_eq!(parsed.diagnostics, []);
    assert_eq!(
        parsed.documents[0].identity.to_string(),
        "ClusterNetworkPolicy p"
    );
    let policy = only(&parsed);
    assert_eq!((policy.place.line, policy.place.column), (4, 1));
    assert_eq!(policy.mode, Mode::Audit);
    assert_eq!((policy.tier, policy.priority), (Tier::Baseline, 7));
    assert!(policy.subject.namespaces.requirements().is_empty());
    assert_eq!(policy.subject.workloads.requirements().len(), 1);
    let [first, second] = &policy.ingress[..] else {
        panic!("{:#?}", policy.ingress)
    };
    assert_eq!((first.place.line, first.place.column), (9, 5));
    assert_eq!(first.name.as_deref(), Some("first"));
    assert_eq!(first.action, RuleAction::Pass);
    assert_eq!(
        first.ports,
        Some(vec![PortRange {
            protocol: Protocol::Udp,
            ports: Ports::Range(5, 6)
        }])
    );
    let Some([ClusterPeer::Workloads(peer)]) = first.peers.as_deref() else {
        panic!("{first:#?}")
    };
    assert_eq!(peer.namespaces.requirements().len(), 1);
    assert!(peer.workloads.requirements().is_empty());
    assert_eq!(second.place.line, 15);
    assert_eq!((&second.name, second.action), (&None, RuleAction::Deny));
    assert_eq!(second.ports, None);
    assert_eq!(
        second.peers,
        Some(vec![ClusterPeer::Workloads(WorkloadSelector::default())])
    );
    assert_eq!(
        policy.egress[0].peers,
        Some(vec![
            ClusterPeer::Nodes(LabelSelector::default()),
            ClusterPeer::Networks(vec![
                "10.0.0.0/8".parse().unwrap(),
                "fd00::/8".parse().unwrap()
            ]),
        ])
    );
}

#[test]
fn a_direction_that_is_absent_null_or_empty_has_no_rules() {
    for text in ["", "ingress: null, egress:", "ingress: [], egress: []"] {
        let policy = only(&sections(text));
        assert_eq!((policy.ingress, policy.egress), (vec![], vec![]), "{text}");
    }
}

#[test]
fn lists_of_policies_are_opened() {
    let item =
        "{metadata: {name: NAME}, spec: {tier: Admin, priority: 0, subject: {namespaces: {}}}}";
    let parsed = text(&format!(
        "apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicyList
metadata: {{resourceVersion: ''}}
items:
- {}
- {}
",
        item.replace("NAME", "a"),
        item.replace("NAME", "b"),
    ));
    assert_eq!(parsed.diagnostics, []);
    assert_eq!(parsed.documents.len(), 2);
    let assembled = assemble(parsed.documents);
    let names: Vec<_> = assembled.inventory.cluster_policies().keys().collect();
    assert_eq!(
        names,
        ["a", "b"].map(Arc::<str>::from).iter().collect::<Vec<_>>()
    );
}

#[test]
fn what_a_spec_must_have_is_missed() {
    let whole = ["tier: Admin", "priority: 0", "subject: {namespaces: {}}"];
    only(&spec(&whole.join("\n")));
    for left_out in 0..whole.len() {
        let mut lines = whole.to_vec();
        lines.remove(left_out);
        assert_eq!(refused(&spec(&lines.join("\n"))), "5:3 CD0108");
        let key = whole[left_out].split(':').next().unwrap();
        lines.push(key);
        let nothing = format!("{}:", lines.join("\n"));
        assert_eq!(refused(&spec(&nothing)), "7:3 CD0108", "{nothing}");
    }
    let parsed = text(&HEAD.replace("spec:\n", ""));
    assert_eq!(refused(&parsed), "1:1 CD0108");
}

#[test]
fn tiers_and_priorities_are_held_to_their_values() {
    let with = |tier: &str, priority: &str| {
        spec(&format!(
            "tier: {tier}\npriority: {priority}\nsubject: {{namespaces: {{}}}}"
        ))
    };
    for priority in ["0", "1", "999", "1000"] {
        only(&with("Baseline", priority));
    }
    assert_eq!(refused(&with("Admin", "1001")), "6:13 CD0216");
    assert_eq!(refused(&with("Admin", "-1")), "6:13 CD0216");
    assert_eq!(refused(&with("Admin", "'1'")), "6:13 CD0107");
    assert_eq!(refused(&with("Admin", "99999999999")), "6:13 CD0216");
    assert_eq!(refused(&with("admin", "1")), "5:9 CD0215");
    assert_eq!(refused(&with("NetworkPolicy", "1")), "5:9 CD0215");
    assert_eq!(refused(&with("[]", "1")), "5:9 CD0107");
}

#[test]
fn a_subject_is_one_thing() {
    let with = |subject: &str| spec(&format!("tier: Admin\npriority: 1\nsubject: {subject}"));
    only(&with("{namespaces: {}}"));
    only(&with("{pods: {podSelector: {}}}"));
    only(&with("{namespaces: null, pods: {podSelector: {}}}"));
    assert_eq!(refused(&with("{}")), "7:12 CD0218");
    assert_eq!(refused(&with("{pods: null}")), "7:12 CD0218");
    assert_eq!(
        refused(&with("{namespaces: {}, pods: {podSelector: {}}}")),
        "7:12 CD0218"
    );
    assert_eq!(refused(&with("{namespaces: {}, nodes: {}}")), "7:29 CD0106");
    assert_eq!(refused(&with("{pods: {}}")), "7:19 CD0108");
    assert_eq!(
        refused(&with("{pods: {namespaceSelector: {}}}")),
        "7:19 CD0108"
    );
    assert_eq!(
        refused(&with("{pods: {podSelector: {}, x: 1}}")),
        "7:37 CD0106"
    );
}

#[test]
fn a_rule_must_have_an_action_and_peers() {
    let with = |rule: &str| sections(&format!("ingress: [{{{rule}}}]"));
    only(&with("action: Pass, from: [{namespaces: {}}]"));
    for (rule, error) in [
        ("from: [{namespaces: {}}]", "CD0108"),
        ("action: Pass", "CD0108"),
        ("action: Pass, from: null", "CD0108"),
        ("action: Pass, from: []", "CD0219"),
        ("action: Pass, from: {namespaces: {}}", "CD0107"),
        ("action: Pass, from: [null]", "CD0107"),
        ("action: Allow, from: [{namespaces: {}}]", "CD0217"),
        ("action: deny, from: [{namespaces: {}}]", "CD0217"),
        ("action: Pass, to: [{namespaces: {}}]", "CD0106"),
        (
            "action: Pass, from: [{namespaces: {}}], ports: []",
            "CD0106",
        ),
        ("action: Pass, from: [{namespaces: {}, x: 1}]", "CD0106"),
        (
            "action: Pass, from: [{namespaces: {}, pods: {podSelector: {}}}]",
            "CD0206",
        ),
        ("action: Pass, from: [{pods: {}}]", "CD0108"),
    ] {
        assert!(refused(&with(rule)).ends_with(error), "{rule}");
    }
}

#[test]
fn lists_and_names_have_their_bounds() {
    let repeat = |item: &str, count: usize| vec![item; count].join(", ");
    let rule = |count| repeat("{action: Deny, to: [{namespaces: {}}]}", count);
    let peers = |count| repeat("{namespaces: {}}", count);
    let protocols = |count| repeat("{tcp: {}}", count);
    let networks = |count: usize| {
        let all: Vec<String> = (0..count).map(|i| format!("10.{i}.0.0/16")).collect();
        all.join(", ")
    };
    let domains = |count: usize| {
        let all: Vec<String> = (0..count).map(|i| format!("a{i}.b")).collect();
        all.join(", ")
    };
    let in_rule = |to: String, protocols: String| {
        format!("egress: [{{action: Accept, to: [{to}], protocols: [{protocols}]}}]")
    };
    for (most, more) in [
        (
            format!("egress: [{}]", rule(25)),
            format!("egress: [{}]", rule(26)),
        ),
        (
            in_rule(peers(25), protocols(1)),
            in_rule(peers(26), protocols(1)),
        ),
        (
            in_rule(peers(1), protocols(25)),
            in_rule(peers(1), protocols(26)),
        ),
        (
            in_rule(peers(1), protocols(1)),
            in_rule(peers(1), String::new()),
        ),
        (
            in_rule(format!("{{networks: [{}]}}", networks(25)), protocols(1)),
            in_rule(format!("{{networks: [{}]}}", networks(26)), protocols(1)),
        ),
        (
            in_rule(format!("{{networks: [{}]}}", networks(1)), protocols(1)),
            in_rule(format!("{{networks: [{}]}}", networks(0)), protocols(1)),
        ),
        (
            in_rule(format!("{{domainNames: [{}]}}", domains(25)), protocols(1)),
            in_rule(format!("{{domainNames: [{}]}}", domains(26)), protocols(1)),
        ),
        (
            in_rule(format!("{{domainNames: [{}]}}", domains(1)), protocols(1)),
            in_rule(format!("{{domainNames: [{}]}}", domains(0)), protocols(1)),
        ),
        (
            format!(
                "egress: [{{action: Deny, to: [{{namespaces: {{}}}}], name: {}}}]",
                "é".repeat(100)
            ),
            format!(
                "egress: [{{action: Deny, to: [{{namespaces: {{}}}}], name: {}}}]",
                "é".repeat(101)
            ),
        ),
    ] {
        only(&sections(&most));
        assert!(refused(&sections(&more)).ends_with("CD0219"), "{more}");
    }
}

#[test]
fn ports_are_read_in_every_form() {
    let ports = |protocols: &str| {
        egress(&format!(
            "action: Accept, to: [{{namespaces: {{}}}}], protocols: [{protocols}]"
        ))
        .ports
        .unwrap()
    };
    let one = |protocol, ports| vec![PortRange { protocol, ports }];
    assert_eq!(ports("{tcp: {}}"), one(Protocol::Tcp, Ports::All));
    assert_eq!(
        ports("{udp: {destinationPort: {number: 53}}}"),
        one(Protocol::Udp, Ports::Range(53, 53))
    );
    assert_eq!(
        ports("{sctp: {destinationPort: {range: {start: 1, end: 65535}}}}"),
        one(Protocol::Sctp, Ports::Range(1, 65535))
    );
    let named = |protocol| PortRange {
        protocol,
        ports: Ports::Named(Box::from("web")),
    };
    assert_eq!(
        ports("{destinationNamedPort: web}"),
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp].map(named)
    );
    let nothing = egress("action: Accept, to: [{namespaces: {}}], protocols: null");
    assert_eq!(nothing.ports, None);
}

#[test]
fn ports_that_are_not_valid_are_refused() {
    for (protocol, error) in [
        ("{}", "CD0212"),
        ("{tcp: null}", "CD0212"),
        ("{tcp: {}, udp: {}}", "CD0212"),
        ("{tcp: {}, destinationNamedPort: web}", "CD0212"),
        ("{icmp: {}}", "CD0106"),
        ("{tcp: 80}", "CD0107"),
        ("{tcp: {port: 80}}", "CD0106"),
        ("{tcp: {destinationPort: null}}", "CD0108"),
        ("{tcp: {destinationPort: 80}}", "CD0107"),
        ("{tcp: {destinationPort: {}}}", "CD0210"),
        (
            "{tcp: {destinationPort: {number: 1, range: {start: 1, end: 2}}}}",
            "CD0210",
        ),
        ("{tcp: {destinationPort: {number: 0}}}", "CD0210"),
        ("{tcp: {destinationPort: {number: 65536}}}", "CD0210"),
        ("{tcp: {destinationPort: {number: '80'}}}", "CD0107"),
        ("{tcp: {destinationPort: {range: {start: 5}}}}", "CD0108"),
        ("{tcp: {destinationPort: {range: {end: 5}}}}", "CD0108"),
        (
            "{tcp: {destinationPort: {range: {start: 5, end: 5}}}}",
            "CD0211",
        ),
        (
            "{tcp: {destinationPort: {range: {start: 5, end: 4}}}}",
            "CD0211",
        ),
        (
            "{tcp: {destinationPort: {range: {start: 0, end: 4}}}}",
            "CD0210",
        ),
        ("{destinationNamedPort: ''}", "CD0210"),
        ("{destinationNamedPort: 80}", "CD0107"),
    ] {
        let parsed = sections(&format!(
            "ingress: [{{action: Deny, from: [{{namespaces: {{}}}}], protocols: [{protocol}]}}]"
        ));
        assert!(refused(&parsed).ends_with(error), "{protocol}");
    }
}

#[test]
fn a_port_name_that_no_container_can_have_is_a_warning() {
    for name in ["HTTP", "'80'", "much-longer-than-fifteen"] {
        let parsed = sections(&format!(
            "egress: [{{action: Deny, to: [{{namespaces: {{}}}}], protocols: [{{destinationNamedPort: {name}}}]}}]"
        ));
        only(&parsed);
        assert_eq!(warnings(&parsed).len(), 1, "{name}");
    }
}

#[test]
fn named_ports_do_not_stand_beside_peers_without_names() {
    for (peer, fits) in [
        ("networks: [10.0.0.0/8]", false),
        ("nodes: {}", false),
        ("domainNames: [a.b]", false),
        ("namespaces: {}", true),
        ("pods: {podSelector: {}}", true),
    ] {
        let parsed = sections(&format!(
            "egress: [{{action: Accept, to: [{{namespaces: {{}}}}, {{{peer}}}], \
             protocols: [{{tcp: {{}}}}, {{destinationNamedPort: web}}]}}]"
        ));
        if fits {
            only(&parsed);
        } else {
            assert!(refused(&parsed).ends_with("CD0224"), "{peer}");
        }
    }
}

#[test]
fn networks_are_distinct_cidrs() {
    let with = |networks: &str| {
        sections(&format!(
            "egress: [{{action: Deny, to: [{{networks: [{networks}]}}]}}]"
        ))
    };
    for (networks, error) in [
        ("10.0.0.0", "CD0207"),
        ("10.0.0.0/33", "CD0207"),
        ("'::ffff:10.0.0.0/104'", "CD0207"),
        ("'::ffff:a00:0/104'", "CD0207"),
        (
            "'0000:0000:0000:0000:0000:00ff:255.255.255.255/128'",
            "CD0207",
        ),
        ("10.0.0.0/8, 10.0.0.0/8", "CD0220"),
        ("10", "CD0107"),
    ] {
        assert!(refused(&with(networks)).ends_with(error), "{networks}");
    }
    // Upstream's set is one of texts.
    let parsed = with("10.0.0.0/8, 10.1.0.0/8");
    assert_eq!(warnings(&parsed).len(), 1);
    assert_eq!(
        only(&parsed).egress[0].peers,
        Some(vec![ClusterPeer::Networks(vec![
            "10.0.0.0/8".parse().unwrap()
        ])])
    );
}

#[test]
fn a_domain_name_matches_nothing_and_the_rest_is_in_force() {
    let parsed = sections(
        "egress: [{action: Accept, to: [{domainNames: ['*.a.b']}, {networks: [10.0.0.0/8]}]}, \
         {action: Accept, to: [{domainNames: [a.b]}]}]",
    );
    assert_eq!(warnings(&parsed), ["6:35 CD0222", "6:111 CD0222"]);
    let rules = only(&parsed).egress;
    assert_eq!(
        rules[0].peers,
        Some(vec![ClusterPeer::Networks(vec![
            "10.0.0.0/8".parse().unwrap()
        ])])
    );
    assert_eq!(rules[1].peers, Some(vec![]));
    assert_eq!(rules[1].action, RuleAction::Accept);
}

#[test]
fn domain_names_stand_only_in_rules_that_accept() {
    for action in ["Deny", "Pass"] {
        let parsed = sections(&format!(
            "egress: [{{action: {action}, to: [{{domainNames: [a.b]}}]}}]"
        ));
        assert!(refused(&parsed).ends_with("CD0221"));
    }
    for names in ["localhost", "'*.com'", "'a.*.b'", "a..b"] {
        let parsed = sections(&format!(
            "egress: [{{action: Accept, to: [{{domainNames: [{names}]}}]}}]"
        ));
        assert!(refused(&parsed).ends_with("CD0221"), "{names}");
    }
    let twice = sections("egress: [{action: Accept, to: [{domainNames: [a.b, a.b]}]}]");
    assert!(refused(&twice).ends_with("CD0220"));
}

#[test]
fn an_unknown_peer_matches_nothing_in_a_rule_that_accepts() {
    for peer in [
        "{}",
        "{services: {}}",
        "{namespaces: null}",
        "{podSelector: {}}",
    ] {
        let parsed = sections(&format!(
            "ingress: [{{action: Accept, from: [{peer}, {{namespaces: {{}}}}], protocols: [{{tcp: {{}}}}]}}]"
        ));
        assert_eq!(
            findings(&parsed.diagnostics, Severity::Warning).len(),
            1,
            "{peer}"
        );
        assert!(warnings(&parsed)[0].ends_with("CD0223"), "{peer}");
        let rule = &only(&parsed).ingress[0];
        assert_eq!(
            rule.peers,
            Some(vec![ClusterPeer::Workloads(WorkloadSelector::default())])
        );
        assert!(rule.ports.is_some());
        let alone = sections(&format!("ingress: [{{action: Accept, from: [{peer}]}}]"));
        assert_eq!(only(&alone).ingress[0].peers, Some(vec![]), "{peer}");
    }
}

#[test]
fn an_unknown_peer_makes_a_rule_that_denies_or_passes_deny_everything() {
    for action in ["Deny", "Pass"] {
        for peer in ["{}", "{services: {}}", "{networks: [10.0.0.0/8]}"] {
            let parsed = sections(&format!(
                "ingress: [{{name: n, action: {action}, from: [{{namespaces: {{}}}}, {peer}], \
                 protocols: [{{tcp: {{}}}}]}}]"
            ));
            assert!(warnings(&parsed)[0].ends_with("CD0223"), "{peer}");
            let rule = &only(&parsed).ingress[0];
            assert_eq!(rule.name.as_deref(), Some("n"));
            assert_eq!(
                (rule.action, &rule.peers, &rule.ports),
                (RuleAction::Deny, &None, &None),
                "{action} {peer}"
            );
        }
    }
}

#[test]
fn a_namespace_in_the_metadata_is_a_warning() {
    let parsed = text(&format!(
        "{}  {{tier: Admin, priority: 1, subject: {{namespaces: {{}}}}}}\n",
        HEAD.replace("{name: p}", "{name: p, namespace: x}")
    ));
    assert_eq!(warnings(&parsed), ["3:21 CD0225"]);
    assert_eq!(&*only(&parsed).name, "p");
    assert_eq!(&*parsed.documents[0].identity.namespace, "");
}

#[test]
fn a_policy_that_stands_twice_counts_once_or_not_at_all() {
    let body = |priority: u32| {
        format!("{HEAD}  {{tier: Admin, priority: {priority}, subject: {{namespaces: {{}}}}}}\n")
    };
    let same = text(&format!("{}---\n{}", body(1), body(1)));
    let assembled = assemble(same.documents);
    assert_eq!(
        findings(&assembled.diagnostics, Severity::Warning),
        ["7:1 CD0110"]
    );
    assert_eq!(assembled.inventory.cluster_policies().len(), 1);
    let other = text(&format!("{}---\n{}", body(1), body(2)));
    let assembled = assemble(other.documents);
    assert_eq!(
        findings(&assembled.diagnostics, Severity::Error),
        ["1:1 CD0110", "7:1 CD0110"]
    );
    assert!(assembled.inventory.cluster_policies().is_empty());
}
