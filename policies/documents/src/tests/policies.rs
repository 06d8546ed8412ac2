//! `NetworkPolicy`: what it is read as, and what is refused.

use cofferdam_inventory::selectors::LabelSelector;
use cofferdam_inventory::{Mode, Peer, PortRange, Ports, Protocol, Rule};

use super::*;

/// A policy `default/p` with this `spec`, indented by two.
fn spec(spec: &str) -> Parsed {
    let mut document =
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\nspec:\n"
            .to_owned();
    for line in spec.lines() {
        document.push_str(&format!("  {line}\n"));
    }
    text(&document)
}

fn policy(spec_text: &str) -> NetworkPolicy {
    let parsed = spec(spec_text);
    assert_eq!(errors(&parsed), Vec::<String>::new(), "{spec_text}");
    match &parsed.documents[0].content {
        Content::NetworkPolicy(policy) => (**policy).clone(),
        other => panic!("{other:?}"),
    }
}

/// The one error of a policy with this `spec`; its first line is line 5.
fn refused(spec_text: &str) -> String {
    let parsed = spec(spec_text);
    assert!(parsed.documents.is_empty(), "{spec_text}");
    assert_eq!(parsed.rejected.len(), 1, "{spec_text}");
    let errors = errors(&parsed);
    assert_eq!(errors.len(), 1, "{spec_text}: {:#?}", parsed.diagnostics);
    errors.into_iter().next().unwrap()
}

fn ingress(rules: &str) -> Vec<Rule> {
    policy(rules).ingress.unwrap()
}

// Nil, empty, absent: each line of the table.

#[test]
fn pod_selector_empty_null_or_absent_selects_every_pod() {
    for text in [
        "podSelector: {}",
        "podSelector: null",
        "podSelector:",
        "ingress: []",
    ] {
        assert!(policy(text).subject.requirements().is_empty(), "{text}");
    }
}

#[test]
fn ingress_absent_null_or_empty_denies_all() {
    for text in [
        "podSelector: {}",
        "ingress: null",
        "ingress:",
        "ingress: []",
    ] {
        assert_eq!(policy(text).ingress, Some(Vec::new()), "{text}");
    }
}

#[test]
fn an_empty_rule_allows_all() {
    let rules = ingress("ingress: [{}]");
    assert_eq!(rules.len(), 1);
    assert_eq!((&rules[0].peers, &rules[0].ports), (&None, &None));
}

#[test]
fn peers_absent_null_or_empty_are_everybody() {
    for text in ["{ports: []}", "{from: null}", "{from: []}", "{from: }"] {
        assert_eq!(
            ingress(&format!("ingress: [{text}]"))[0].peers,
            None,
            "{text}"
        );
    }
}

#[test]
fn ports_absent_null_or_empty_are_every_protocol() {
    for text in ["{from: []}", "{ports: null}", "{ports: []}"] {
        assert_eq!(
            ingress(&format!("ingress: [{text}]"))[0].ports,
            None,
            "{text}"
        );
    }
}

#[test]
fn an_empty_port_is_every_tcp_port() {
    for text in ["{}", "{port: null}", "{protocol: null}", "{protocol: TCP}"] {
        let all_tcp = PortRange {
            protocol: Protocol::Tcp,
            ports: Ports::All,
        };
        let rules = ingress(&format!("ingress: [{{ports: [{text}]}}]"));
        assert_eq!(rules[0].ports, Some(vec![all_tcp]), "{text}");
    }
}

#[test]
fn a_protocol_alone_is_every_port_of_it() {
    let rules = ingress("ingress: [{ports: [{protocol: UDP}]}]");
    let all_udp = PortRange {
        protocol: Protocol::Udp,
        ports: Ports::All,
    };
    assert_eq!(rules[0].ports, Some(vec![all_udp]));
}

#[test]
fn peer_selectors_tell_null_from_empty() {
    let every = LabelSelector::default();
    for (text, namespaces) in [
        ("{podSelector: {}}", None),
        ("{podSelector: {}, namespaceSelector: null}", None),
        ("{namespaceSelector: {}}", Some(every.clone())),
        (
            "{podSelector: null, namespaceSelector: {}}",
            Some(every.clone()),
        ),
        (
            "{podSelector: {}, namespaceSelector: {}}",
            Some(every.clone()),
        ),
    ] {
        let rules = ingress(&format!("ingress: [{{from: [{text}]}}]"));
        let expected = Peer::Workloads {
            namespaces,
            workloads: every.clone(),
        };
        assert_eq!(rules[0].peers, Some(vec![expected]), "{text}");
    }
}

#[test]
fn a_peer_with_nothing_set_is_refused() {
    for text in [
        "{}",
        "{podSelector: null}",
        "{podSelector: null, namespaceSelector: }",
    ] {
        let error = refused(&format!("ingress: [{{from: [{text}]}}]"));
        assert!(error.ends_with("CD0206"), "{text}: {error}");
    }
}

#[test]
fn a_block_beside_a_selector_is_refused() {
    for text in [
        "{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}",
        "{ipBlock: {cidr: 10.0.0.0/8}, namespaceSelector: {}}",
    ] {
        assert!(refused(&format!("ingress: [{{from: [{text}]}}]")).ends_with("CD0206"));
    }
}

#[test]
fn two_keys_in_one_peer_are_one_peer_and_two_entries_are_two() {
    let both = "{podSelector: {matchLabels: {a: b}}, namespaceSelector: {}}";
    assert_eq!(
        ingress(&format!("ingress: [{{from: [{both}]}}]"))[0]
            .peers
            .as_ref()
            .unwrap()
            .len(),
        1
    );
    let two = "{podSelector: {matchLabels: {a: b}}}, {namespaceSelector: {}}";
    assert_eq!(
        ingress(&format!("ingress: [{{from: [{two}]}}]"))[0]
            .peers
            .as_ref()
            .unwrap()
            .len(),
        2
    );
}

#[test]
fn an_empty_list_entry_is_refused() {
    for text in [
        "ingress: [null]",
        "ingress: [{from: [null]}]",
        "ingress: [{ports: [null]}]",
        "policyTypes: [null]",
    ] {
        assert!(refused(text).ends_with("CD0107"), "{text}");
    }
}

// policyTypes.

#[test]
fn policy_types_default_to_ingress_and_to_egress_only_with_rules() {
    for (text, ingress, egress) in [
        ("podSelector: {}", true, false),
        ("policyTypes: []", true, false),
        ("policyTypes: null", true, false),
        ("egress: []", true, false),
        ("egress: null", true, false),
        ("egress: [{}]", true, true),
        ("policyTypes: [Egress]", false, true),
        ("policyTypes: [Ingress]", true, false),
        ("policyTypes: [Egress, Ingress]", true, true),
        ("policyTypes: [Ingress, Ingress]", true, false),
    ] {
        let policy = policy(text);
        assert_eq!(policy.ingress.is_some(), ingress, "{text}");
        assert_eq!(policy.egress.is_some(), egress, "{text}");
    }
}

#[test]
fn rules_of_an_unlisted_direction_have_no_effect_and_are_warned_about() {
    let parsed = spec("policyTypes: [Ingress]\negress:\n- {}");
    assert_eq!(warnings(&parsed), ["7:5 CD0205"]);
    assert!(matches!(
        &parsed.documents[0].content,
        Content::NetworkPolicy(p) if p.egress.is_none()
    ));
}

#[test]
fn policy_types_are_two_known_words_at_most() {
    assert_eq!(refused("policyTypes: [ingress]"), "5:17 CD0204");
    assert_eq!(
        refused("policyTypes: [Ingress, Egress, Ingress]"),
        "5:16 CD0204"
    );
}

// Ports.

#[test]
fn ports_and_protocols_out_of_bounds_are_refused() {
    for (port, code) in [
        ("{port: 0}", "CD0210"),
        ("{port: 65536}", "CD0210"),
        ("{port: -1}", "CD0210"),
        ("{port: '80'}", "CD0210"),
        ("{port: ''}", "CD0210"),
        ("{port: Web}", "CD0210"),
        ("{port: sixteen-letters-}", "CD0210"),
        ("{port: 1e3}", "CD0107"),
        ("{port: 0o17}", "CD0107"),
        ("{port: true}", "CD0107"),
        ("{port: [80]}", "CD0107"),
        ("{protocol: tcp}", "CD0212"),
        ("{protocol: ICMP}", "CD0212"),
        ("{protocol: 6}", "CD0107"),
        ("{endPort: 80}", "CD0211"),
        ("{port: web, endPort: 80}", "CD0211"),
        ("{port: 81, endPort: 80}", "CD0211"),
        ("{port: 80, endPort: 65536}", "CD0210"),
        ("{ports: 80}", "CD0106"),
    ] {
        let error = refused(&format!("ingress: [{{ports: [{port}]}}]"));
        assert!(error.ends_with(code), "{port}: {error}");
    }
}

#[test]
fn port_ranges_include_both_ends() {
    for (port, first, last) in [
        ("{port: 1, endPort: 65535}", 1, 65535),
        ("{port: 80, endPort: 80}", 80, 80),
        ("{port: 65535}", 65535, 65535),
        ("{port: 80, endPort: null}", 80, 80),
    ] {
        let rules = ingress(&format!("ingress: [{{ports: [{port}]}}]"));
        assert_eq!(
            rules[0].ports.as_ref().unwrap()[0].ports,
            Ports::Range(first, last)
        );
    }
}

// Blocks.

#[test]
fn cidrs_that_do_not_parse_are_refused() {
    for cidr in [
        "10.0.0.0",
        "10.0.0.0/33",
        "10.0.0.0/08",
        "10.0.0.0/+8",
        "010.0.0.0/8",
        "10.0.0/8",
        "2001:db8::/129",
        "fe80::1%eth0/64",
        "10.0.0.0/8/8",
        "/8",
        "any",
        "10.0.0.0/ 8",
    ] {
        let error = refused(&format!(
            "ingress: [{{from: [{{ipBlock: {{cidr: \"{cidr}\"}}}}]}}]"
        ));
        assert!(error.ends_with("CD0207"), "{cidr}: {error}");
    }
    assert!(refused("ingress: [{from: [{ipBlock: {}}]}]").ends_with("CD0108"));
    assert!(refused("ingress: [{from: [{ipBlock: {cidr: null}}]}]").ends_with("CD0108"));
}

#[test]
fn host_bits_are_cleared_with_a_warning() {
    let parsed = spec("ingress: [{from: [{ipBlock: {cidr: 10.1.2.3/8}}]}]");
    assert_eq!(warnings(&parsed), ["5:38 CD0208"]);
    let Content::NetworkPolicy(policy) = &parsed.documents[0].content else {
        panic!()
    };
    let block = Peer::Block {
        cidr: "10.0.0.0/8".parse().unwrap(),
        except: Vec::new(),
    };
    assert_eq!(policy.ingress.as_ref().unwrap()[0].peers, Some(vec![block]));
}

#[test]
fn except_is_a_strict_subset_of_the_same_family() {
    for except in [
        "10.0.0.0/8",
        "0.0.0.0/0",
        "11.0.0.0/16",
        "::/1",
        "10.1.2.3/8",
    ] {
        let block = format!("{{cidr: 10.0.0.0/8, except: [\"{except}\"]}}");
        let error = refused(&format!("ingress: [{{from: [{{ipBlock: {block}}}]}}]"));
        assert!(error.ends_with("CD0209"), "{except}: {error}");
    }
    ingress("ingress: [{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8]}}]}]");
}

// Selectors and names.

#[test]
fn selector_operators_and_values_must_fit() {
    for (expression, code) in [
        ("{key: a, operator: In}", "CD0203"),
        ("{key: a, operator: NotIn, values: []}", "CD0203"),
        ("{key: a, operator: Exists, values: [b]}", "CD0203"),
        ("{key: a, operator: DoesNotExist, values: [b]}", "CD0203"),
        ("{key: a, operator: Equals, values: [b]}", "CD0203"),
        ("{key: a}", "CD0108"),
        ("{operator: Exists}", "CD0108"),
        ("{key: 'a b', operator: Exists}", "CD0202"),
        ("{key: a, operator: In, values: ['a b']}", "CD0202"),
        ("{key: a, operator: In, values: [1]}", "CD0107"),
        ("{key: a, operator: In, values: [no]}", "CD0107"),
        ("{key: a, operator: Exists, value: b}", "CD0106"),
    ] {
        let error = refused(&format!(
            "podSelector: {{matchExpressions: [{expression}]}}"
        ));
        assert!(error.ends_with(code), "{expression}: {error}");
    }
}

#[test]
fn labels_are_strings_of_the_right_form() {
    for (labels, code) in [
        ("{a: 1}", "CD0107"),
        ("{a: true}", "CD0107"),
        ("{a: off}", "CD0107"),
        ("{a: 1e3}", "CD0107"),
        ("{a: null}", "CD0107"),
        ("{1: a}", "CD0107"),
        ("{'a b': x}", "CD0202"),
        ("{a: 'x\\ny'}", "CD0202"),
        ("[a]", "CD0107"),
    ] {
        let error = refused(&format!("podSelector: {{matchLabels: {labels}}}"));
        assert!(error.ends_with(code), "{labels}: {error}");
    }
    policy("podSelector: {matchLabels: {a: '1', b: y, 'c.d/e': ''}}");
}

#[test]
fn unknown_and_doubled_keys_are_errors_with_their_place() {
    assert_eq!(refused("podselector: {}"), "5:3 CD0106");
    assert_eq!(refused("podSelector: {}\npodSelector: {}"), "6:3 CD0105");
    assert_eq!(
        refused("podSelector:\n  matchLabels:\n    a: x\n    a: x"),
        "8:7 CD0105"
    );
    assert_eq!(refused("ingress:\n- to: []"), "6:5 CD0106");
    assert_eq!(refused("egress:\n- from: []"), "6:5 CD0106");
    assert_eq!(refused("<<: {}\ningress: []"), "5:3 CD0106");
}

#[test]
fn a_slip_is_hinted_at() {
    let parsed = spec("podselector: {}");
    assert_eq!(
        parsed.diagnostics[0].hint.as_deref(),
        Some("did you mean `podSelector`?")
    );
}

#[test]
fn a_wrong_type_never_means_everything() {
    for text in [
        "podSelector: []",
        "podSelector: all",
        "ingress: {}",
        "ingress: [[]]",
        "ingress: [{from: {}}]",
        "ingress: [{ports: 80}]",
        "ingress: [{from: [podSelector]}]",
        "policyTypes: Ingress",
        "policyTypes: {}",
        "ingress: !x []",
    ] {
        assert!(refused(text).ends_with("CD0107"), "{text}");
    }
}

#[test]
fn spec_of_a_wrong_type_is_refused_and_an_absent_one_denies() {
    let head = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\n";
    assert_eq!(errors(&text(&format!("{head}spec: []\n"))), ["4:7 CD0107"]);
    let absent = text(head);
    assert_eq!(warnings(&absent), ["1:1 CD0214"]);
    let Content::NetworkPolicy(policy) = &absent.documents[0].content else {
        panic!()
    };
    assert_eq!(
        (&policy.ingress, &policy.egress),
        (&Some(Vec::new()), &None)
    );
}

#[test]
fn metadata_that_an_api_server_adds_is_read_over() {
    let parsed = text(
        "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: p
  namespace: x
  uid: 0a1b
  resourceVersion: '12'
  generation: 1
  creationTimestamp: 2026-01-01T00:00:00Z
  labels: {app.kubernetes.io/name: shop}
  annotations: {note: \"x\"}
  managedFields: [{fieldsV1: {'f:spec': {'.': {}}}}]
spec: {podSelector: {}}
status: {}
",
    );
    assert_eq!(errors(&parsed), Vec::<String>::new());
    assert_eq!(
        parsed.documents[0].identity.to_string(),
        "NetworkPolicy x/p"
    );
}

#[test]
fn annotations_of_ours_are_known_ones_with_known_values() {
    let with = |annotation: &str| {
        text(&format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
             metadata: {{name: p, annotations: {{{annotation}}}}}\nspec: {{}}\n"
        ))
    };
    let mode = |parsed: &Parsed| match &parsed.documents[0].content {
        Content::NetworkPolicy(policy) => policy.mode,
        other => panic!("{other:?}"),
    };
    assert_eq!(mode(&with("cofferdam.dev/mode: audit")), Mode::Audit);
    assert_eq!(mode(&with("cofferdam.dev/mode: enforce")), Mode::Enforce);
    assert_eq!(mode(&with("other.dev/mode: audit")), Mode::Enforce);
    for bad in ["cofferdam.dev/mode: Audit", "cofferdam.dev/mod: audit"] {
        assert!(errors(&with(bad))[0].ends_with("CD0213"), "{bad}");
    }
}

#[test]
fn places_are_those_of_the_spec_key_and_of_each_rule() {
    let policy =
        policy("podSelector: {}\ningress:\n- from:\n  - podSelector: {}\n- {}\negress:\n- {}");
    assert_eq!(policy.place.line, 4);
    let lines = |rules: &Option<Vec<Rule>>| -> Vec<u32> {
        rules.iter().flatten().map(|r| r.place.line).collect()
    };
    assert_eq!(lines(&policy.ingress), [7, 9]);
    assert_eq!(lines(&policy.egress), [11]);
}

/// The direction that was meant may be the one that is misspelt.
#[test]
fn a_misspelt_policy_type_is_one_finding() {
    let parsed = spec("policyTypes: [Ingres]\ningress: [{}]");
    assert_eq!(parsed.diagnostics.len(), 1, "{:#?}", parsed.diagnostics);
    let parsed = spec("policyTypes: [Egress]\ningress: [{}]");
    assert_eq!(parsed.diagnostics[0].code, Code::UnusedSection);
}
