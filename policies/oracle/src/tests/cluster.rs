//! The meaning of a `ClusterNetworkPolicy`, case by case.

use super::*;

const NODES: &str = "
{apiVersion: v1, kind: Node, metadata: {name: n1, labels: {zone: a}}, status: {addresses: [{type: InternalIP, address: 192.0.2.1}, {type: Hostname, address: n1}]}}
---
{apiVersion: v1, kind: Node, metadata: {name: n2, labels: {zone: b}}, status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}}
";

/// Policies written `name: spec`, where a spec may leave out the subject.
fn cluster(policies: &[&str]) -> Oracle {
    let written = policies.iter().map(|policy| {
        let (name, spec) = policy.split_once(": ").unwrap();
        let (name, metadata) = match name.split_once('!') {
            Some((name, "audit")) => (name, ", annotations: {cofferdam.dev/mode: audit}"),
            _ => (name, ""),
        };
        let spec = if spec.contains("subject:") {
            spec.to_owned()
        } else {
            spec.replacen('{', "{subject: {namespaces: {}}, ", 1)
        };
        format!(
            "{{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, \
             metadata: {{name: {name}{metadata}}}, spec: {spec}}}"
        )
    });
    let objects = [PODS.to_owned(), NODES.to_owned()];
    Oracle::new(objects.into_iter().chain(written)).unwrap()
}

/// The same, with one more `NetworkPolicy` of namespace x.
fn with_namespace(policies: &[&str], spec: &str) -> Oracle {
    let mut oracle = cluster(policies);
    let policy = format!(
        "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, \
         metadata: {{name: own, namespace: x}}, spec: {spec}}}"
    );
    oracle.take(serde_yaml::from_str(&policy).unwrap());
    oracle
}

/// Action, reason and the deciding rule of the end that has something to say, in
/// one line.
fn says(oracle: &Oracle, source: &str, destination: &str, payload: Payload) -> String {
    let Judgement {
        egress, ingress, ..
    } = answer(oracle, source, destination, payload).enforced;
    let is_silent = |side: &Side| matches!(side.reason, Reason::NotIsolated | Reason::NotASubject);
    let side = match (&egress, &ingress) {
        (egress, _) if !is_silent(egress) => egress,
        (egress, ingress) if ingress.reason == Reason::NotASubject => egress,
        (_, ingress) => ingress,
    };
    let rule = side.rule.as_ref().map_or("-".to_owned(), |rule| {
        format!("{}[{}]", rule.name, rule.index.unwrap())
    });
    format!("{:?} {:?} {rule}", side.action, side.reason)
}

const DENY_ALL: &str =
    "{tier: Admin, priority: 5, ingress: [{action: Deny, from: [{namespaces: {}}]}]}";

#[test]
fn without_a_match_the_default_is_to_allow() {
    let none = "p: {tier: Admin, priority: 1, ingress: [{action: Deny, from: [{namespaces: {matchLabels: {ns: none}}}]}]}";
    assert_eq!(
        says(&cluster(&[none]), "x/b", "x/a", tcp(1)),
        "Allow NotIsolated -"
    );
}

#[test]
fn the_first_rule_that_matches_decides() {
    let rules = "p: {tier: Admin, priority: 1, ingress: [\
        {action: Accept, from: [{pods: {podSelector: {matchLabels: {app: b}}}}], protocols: [{tcp: {destinationPort: {number: 80}}}]},\
        {action: Deny, from: [{namespaces: {}}]},\
        {action: Accept, from: [{namespaces: {}}]}]}";
    let oracle = cluster(&[rules]);
    assert_eq!(says(&oracle, "x/b", "x/a", tcp(80)), "Allow Rule p[0]");
    assert_eq!(says(&oracle, "x/b", "x/a", tcp(81)), "Deny Rule p[1]");
}

#[test]
fn lower_priorities_come_first_and_equal_ones_by_name() {
    let accept = |name, priority| {
        format!(
            "{name}: {{tier: Admin, priority: {priority}, ingress: [{{action: Accept, from: [{{namespaces: {{}}}}]}}]}}"
        )
    };
    let deny = format!("m: {DENY_ALL}");
    for (name, priority, expected) in [
        ("z", 4, "Allow Rule z[0]"),
        ("z", 5, "Deny Rule m[0]"),
        ("a", 5, "Allow Rule a[0]"),
        ("a", 10, "Deny Rule m[0]"),
    ] {
        let other = accept(name, priority);
        for policies in [[other.as_str(), &deny], [&deny, &other]] {
            assert_eq!(says(&cluster(&policies), "x/b", "x/a", tcp(1)), expected);
        }
    }
}

#[test]
fn admin_comes_before_namespaces_and_baseline_after() {
    let rule = |tier, action| {
        format!(
            "p: {{tier: {tier}, priority: 1, ingress: [{{action: {action}, from: [{{namespaces: {{}}}}]}}]}}"
        )
    };
    let isolate = "{podSelector: {}}";
    let allow = "{ingress: [{}]}";
    for (tier, action, namespace, expected) in [
        ("Admin", "Accept", isolate, "Allow Rule p[0]"),
        ("Admin", "Deny", allow, "Deny Rule p[0]"),
        ("Admin", "Pass", isolate, "Deny Isolated -"),
        ("Admin", "Pass", allow, "Allow Rule own[0]"),
        ("Baseline", "Accept", isolate, "Deny Isolated -"),
        ("Baseline", "Deny", allow, "Allow Rule own[0]"),
        (
            "Baseline",
            "Deny",
            "{policyTypes: [Egress]}",
            "Deny Rule p[0]",
        ),
        (
            "Baseline",
            "Pass",
            "{policyTypes: [Egress]}",
            "Allow NotIsolated -",
        ),
    ] {
        let oracle = with_namespace(&[&rule(tier, action)], namespace);
        assert_eq!(
            says(&oracle, "z/c", "x/a", tcp(1)),
            expected,
            "{tier} {action} over {namespace}"
        );
    }
}

#[test]
fn pass_leaves_its_own_tier_alone() {
    let pass = "a: {tier: Admin, priority: 1, ingress: [{action: Pass, from: [{namespaces: {}}]}]}";
    let admin = format!("b: {DENY_ALL}");
    assert_eq!(
        says(&cluster(&[pass, &admin]), "x/b", "x/a", tcp(1)),
        "Allow NotIsolated -"
    );
    let baseline = admin.replace("Admin", "Baseline");
    assert_eq!(
        says(&cluster(&[pass, &baseline]), "x/b", "x/a", tcp(1)),
        "Deny Rule b[0]"
    );
    let over_wildcard = [pass.replace("Admin", "Baseline"), baseline];
    assert_eq!(
        says(
            &cluster(&over_wildcard.each_ref().map(String::as_str)),
            "x/b",
            "x/a",
            tcp(1)
        ),
        "Allow NotIsolated -"
    );
}

#[test]
fn baseline_stays_on_in_the_direction_that_is_not_isolated() {
    let egress =
        "p: {tier: Baseline, priority: 1, egress: [{action: Deny, to: [{namespaces: {}}]}]}";
    let oracle = with_namespace(&[egress], "{podSelector: {}, policyTypes: [Ingress]}");
    assert_eq!(says(&oracle, "x/a", "z/c", tcp(1)), "Deny Rule p[0]");
}

#[test]
fn subjects_are_the_pods_of_namespaces_or_by_both_selectors() {
    let deny = "ingress: [{action: Deny, from: [{namespaces: {}}]}]";
    for (subject, destination, denied) in [
        ("{namespaces: {matchLabels: {ns: x}}}", "x/a", true),
        ("{namespaces: {matchLabels: {ns: x}}}", "z/c", false),
        ("{pods: {podSelector: {}}}", "z/c", true),
        (
            "{pods: {podSelector: {matchLabels: {app: b}}, namespaceSelector: {}}}",
            "z/c",
            true,
        ),
        (
            "{pods: {podSelector: {matchLabels: {app: b}}, namespaceSelector: {matchLabels: {ns: x}}}}",
            "z/c",
            false,
        ),
        (
            "{pods: {podSelector: {matchLabels: {app: b}}}}",
            "x/a",
            false,
        ),
    ] {
        let policy = format!("p: {{tier: Admin, priority: 1, subject: {subject}, {deny}}}");
        let source = if destination == "x/a" { "x/b" } else { "x/a" };
        let answer = answer(&cluster(&[&policy]), source, destination, tcp(1));
        assert_eq!(
            answer.enforced.action == Action::Deny,
            denied,
            "{subject} {destination}"
        );
    }
}

#[test]
fn host_network_pods_are_neither_subjects_nor_peers_but_their_nodes_addresses() {
    let deny = format!("p: {DENY_ALL}");
    let query = |source: &str, destination: &str| Query {
        source: pod(source).0,
        destination: pod(destination).0,
        source_address: pod(source).1,
        destination_address: pod(destination).1,
        payload: tcp(1),
        own_node_allowed: false,
    };
    let oracle = cluster(&[&deny]);
    assert_eq!(
        oracle
            .evaluate(&query("x/h", "x/a"))
            .enforced
            .ingress
            .reason,
        Reason::NotIsolated
    );
    assert_eq!(
        oracle
            .evaluate(&query("x/a", "x/h"))
            .enforced
            .ingress
            .reason,
        Reason::NotASubject
    );
    let to_nodes = "p: {tier: Admin, priority: 1, egress: [{action: Deny, to: [{nodes: {}}]}]}";
    assert_eq!(
        cluster(&[to_nodes])
            .evaluate(&query("x/a", "x/h"))
            .enforced
            .action,
        Action::Deny
    );
}

#[test]
fn nodes_are_matched_by_label_and_address() {
    let deny = "p: {tier: Admin, priority: 1, egress: [{action: Deny, to: [{nodes: {matchLabels: {zone: b}}}]}]}";
    let oracle = cluster(&[deny]);
    for (destination, expected) in [
        ("192.0.2.2", "Deny Rule p[0]"),
        ("192.0.2.1", "Allow NotIsolated -"),
        ("192.0.2.3", "Allow NotIsolated -"),
    ] {
        assert_eq!(says(&oracle, "x/a", destination, tcp(1)), expected);
    }
}

#[test]
fn networks_match_pods_and_outside_hosts_and_every_protocol() {
    let deny = "p: {tier: Admin, priority: 1, egress: [{action: Deny, to: [{networks: [10.0.1.0/24, '2001:db8::/32', 198.51.100.1/32]}]}]}";
    let oracle = cluster(&[deny]);
    assert_eq!(says(&oracle, "x/a", "z/c", tcp(1)), "Deny Rule p[0]");
    assert_eq!(
        says(&oracle, "x/a", "198.51.100.1", Payload::Icmp(1, 8, 0)),
        "Deny Rule p[0]"
    );
    assert_eq!(says(&oracle, "x/a", "x/b", tcp(1)), "Allow NotIsolated -");
}

#[test]
fn pods_and_namespaces_never_match_who_is_no_pod() {
    let deny = format!("p: {DENY_ALL}");
    for source in ["192.0.2.9", "node/n2"] {
        assert_eq!(
            says(&cluster(&[&deny]), source, "x/a", tcp(1)),
            "Allow NotIsolated -"
        );
    }
}

#[test]
fn protocols_cover_what_they_say() {
    let covers = |protocols: &str, payload| {
        let policy = format!(
            "p: {{tier: Admin, priority: 1, ingress: [{{action: Deny, from: [{{namespaces: {{}}}}]{protocols}}}]}}"
        );
        answer(&cluster(&[&policy]), "x/b", "x/a", payload)
            .enforced
            .action
            == Action::Deny
    };
    let (icmp, gre) = (Payload::Icmp(1, 8, 0), Payload::Bare(47));
    for (protocols, covered, not_covered) in [
        ("", vec![tcp(1), icmp, gre], vec![]),
        (", protocols: null", vec![tcp(1), icmp, gre], vec![]),
        (
            ", protocols: [{tcp: {}}]",
            vec![tcp(0), tcp(65535)],
            vec![Payload::Port(17, 1), icmp, gre, Payload::Bare(6)],
        ),
        (
            ", protocols: [{udp: {destinationPort: {number: 53}}}]",
            vec![Payload::Port(17, 53)],
            vec![Payload::Port(17, 54), tcp(53), icmp],
        ),
        (
            ", protocols: [{sctp: {destinationPort: {range: {start: 5, end: 7}}}}]",
            vec![Payload::Port(132, 5), Payload::Port(132, 7)],
            vec![Payload::Port(132, 4), Payload::Port(132, 8), tcp(5)],
        ),
        // A name has the protocol that the pod gives it.
        (
            ", protocols: [{destinationNamedPort: dns}]",
            vec![Payload::Port(17, 53)],
            vec![tcp(53), Payload::Port(17, 80), icmp],
        ),
        (
            ", protocols: [{destinationNamedPort: web}, {destinationNamedPort: none}]",
            vec![tcp(80)],
            vec![Payload::Port(17, 80), tcp(53)],
        ),
    ] {
        for payload in covered {
            assert!(covers(protocols, payload), "{protocols} {payload:?}");
        }
        for payload in not_covered {
            assert!(!covers(protocols, payload), "{protocols} {payload:?}");
        }
    }
}

#[test]
fn names_of_ports_are_the_receivers_on_egress_too() {
    let deny = "p: {tier: Admin, priority: 1, egress: [{action: Deny, to: [{namespaces: {}}], protocols: [{destinationNamedPort: web}]}]}";
    let oracle = cluster(&[deny]);
    assert_eq!(says(&oracle, "x/b", "x/a", tcp(80)), "Deny Rule p[0]");
    assert_eq!(says(&oracle, "x/a", "x/b", tcp(80)), "Allow NotIsolated -");
}

#[test]
fn what_is_not_known_fails_closed() {
    let rule = |action: &str, rest: &str| {
        let policy =
            format!("p: {{tier: Admin, priority: 1, egress: [{{action: {action}, {rest}}}]}}");
        says(&cluster(&[&policy]), "x/a", "z/c", tcp(1))
    };
    for peers in [
        "to: [{serviceAccounts: {}}]",
        "to: [{}]",
        "to: [{namespaces: {matchLabels: {ns: none}}}, {serviceAccounts: {}}]",
        // However little of the traffic it would cover.
        "to: [{serviceAccounts: {}}], protocols: [{udp: {destinationPort: {number: 9}}}]",
        "to: [{namespaces: {}}], protocols: [{icmp: {}}]",
        "to: []",
        "to: [{namespaces: {}}], protocols: []",
    ] {
        assert_eq!(rule("Deny", peers), "Deny Rule p[0]", "{peers}");
        assert_eq!(rule("Pass", peers), "Deny Rule p[0]", "{peers}");
        assert_eq!(rule("Accept", peers), "Allow NotIsolated -", "{peers}");
    }
    // What is known of an Accept rule is in force.
    assert_eq!(
        rule("Accept", "to: [{serviceAccounts: {}}, {namespaces: {}}]"),
        "Allow Rule p[0]"
    );
}

#[test]
fn a_rule_that_fails_closed_denies_outside_hosts_too_but_not_the_own_node() {
    let unknown =
        "p: {tier: Admin, priority: 1, ingress: [{action: Pass, from: [{networks: [0.0.0.0/0]}]}]}";
    let oracle = cluster(&[unknown]);
    assert_eq!(says(&oracle, "192.0.2.9", "x/a", tcp(1)), "Deny Rule p[0]");
    assert_eq!(says(&oracle, "node/n2", "x/a", tcp(1)), "Deny Rule p[0]");
    assert_eq!(says(&oracle, "node/n1", "x/a", tcp(1)), "Allow OwnNode -");
}

#[test]
fn domain_names_accept_nobody_until_they_are_enforced() {
    let names = "p: {tier: Admin, priority: 1, egress: [\
        {action: Accept, to: [{domainNames: [example.com]}]}, {action: Deny, to: [{networks: [0.0.0.0/0]}]}]}";
    assert_eq!(
        says(&cluster(&[names]), "x/a", "192.0.2.9", tcp(1)),
        "Deny Rule p[1]"
    );
}

#[test]
fn a_pod_reaches_its_own_address_whatever_the_tier_says() {
    let deny = format!("p: {DENY_ALL}");
    assert_eq!(
        answer(&cluster(&[&deny]), "x/a", "x/a", tcp(1))
            .enforced
            .ingress
            .reason,
        Reason::SelfTraffic
    );
}

#[test]
fn a_pod_reaches_itself_through_a_service_unless_the_cluster_denies_it() {
    let (source, address) = end("x/a");
    let query = Query {
        source: source.clone(),
        destination: source,
        source_address: address,
        destination_address: address,
        payload: tcp(1),
        own_node_allowed: true,
    };
    let action = |oracle: Oracle| oracle.evaluate_through_service(&query).enforced.action;
    let isolated = "{policyTypes: [Ingress, Egress]}";
    for (tier, expected) in [("Admin", Action::Deny), ("Baseline", Action::Allow)] {
        let deny = format!("p: {DENY_ALL}").replace("Admin", tier);
        assert_eq!(action(cluster(&[&deny])), Action::Deny);
        // Baseline is not asked about an isolated pod.
        assert_eq!(action(with_namespace(&[&deny], isolated)), expected);
    }
    assert_eq!(action(with_namespace(&[], isolated)), Action::Allow);
}

#[test]
fn audit_policies_of_the_cluster_count_only_in_the_audited_judgement() {
    for tier in ["Admin", "Baseline"] {
        let deny = format!("p!audit: {DENY_ALL}").replace("Admin", tier);
        let answer = answer(&cluster(&[&deny]), "x/b", "x/a", tcp(1));
        assert_eq!(answer.enforced.ingress.reason, Reason::NotIsolated);
        assert_eq!(answer.audited.ingress.action, Action::Deny);
        assert_eq!(answer.audited.ingress.rule.unwrap().name, "p");
    }
}

#[test]
fn an_egress_accept_does_not_open_the_receivers_ingress() {
    let accept =
        "a: {tier: Admin, priority: 1, egress: [{action: Accept, to: [{namespaces: {}}]}]}";
    let oracle = with_namespace(&[accept], "{}");
    assert_eq!(
        answer(&oracle, "z/c", "x/a", tcp(1)).enforced.action,
        Action::Deny
    );
}
