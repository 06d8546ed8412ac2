//! The meaning of policies, case by case.

mod cluster;

use super::cidr::in_cidr;
use super::*;

const PODS: &str = "
{apiVersion: v1, kind: Namespace, metadata: {name: x, labels: {ns: x}}}
---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: {name: a, namespace: x, labels: {app: a}}
  spec:
    nodeName: n1
    containers: [{ports: [{name: web, containerPort: 80}, {name: dns, containerPort: 53, protocol: UDP}]}]
  status: {podIP: 10.0.0.1}
- {apiVersion: v1, kind: Pod, metadata: {name: b, namespace: x, labels: {app: b}}, status: {podIP: 10.0.0.2}}
- {apiVersion: v1, kind: Pod, metadata: {name: c, namespace: z, labels: {app: b}}, status: {podIP: 10.0.1.3}}
- {apiVersion: v1, kind: Pod, metadata: {name: h, namespace: x, labels: {app: b}}, spec: {hostNetwork: true, nodeName: n1}}
- {apiVersion: v1, kind: Pod, metadata: {name: f, namespace: x, labels: {app: b}}, status: {phase: Failed}}
";

fn world(specs: &[&str]) -> Oracle {
    let policies = specs.iter().enumerate().map(|(i, spec)| {
        format!(
            "{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, \
             metadata: {{name: p{i}, namespace: x}}, spec: {spec}}}"
        )
    });
    Oracle::new([PODS.to_owned()].into_iter().chain(policies)).unwrap()
}

fn pod(text: &str) -> (End, IpAddr) {
    let (namespace, name) = text.split_once('/').unwrap();
    let address = match name {
        "a" => "10.0.0.1",
        "b" => "10.0.0.2",
        "c" => "10.0.1.3",
        _ => "192.0.2.1",
    };
    let end = End::Pod {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    (end, address.parse().unwrap())
}

fn end(text: &str) -> (End, IpAddr) {
    if let Some(name) = text.strip_prefix("node/") {
        let name = name.to_owned();
        (End::Node { name }, "192.0.2.1".parse().unwrap())
    } else if let Ok(address) = text.parse() {
        (End::External, address)
    } else {
        pod(text)
    }
}

fn answer(oracle: &Oracle, source: &str, destination: &str, payload: Payload) -> Answer {
    let (source, source_address) = end(source);
    let (destination, destination_address) = end(destination);
    oracle.evaluate(&Query {
        source,
        destination,
        source_address,
        destination_address,
        payload,
        own_node_allowed: true,
    })
}

fn tcp(port: u16) -> Payload {
    Payload::Port(6, port)
}

fn allows(spec: &str, source: &str, destination: &str, payload: Payload) -> bool {
    answer(&world(&[spec]), source, destination, payload)
        .enforced
        .action
        == Action::Allow
}

#[test]
fn without_policies_everything_is_allowed() {
    assert!(allows(
        "{podSelector: {matchLabels: {app: none}}}",
        "x/b",
        "x/a",
        tcp(1)
    ));
}

#[test]
fn selected_pods_are_isolated_and_only_for_the_listed_direction() {
    assert!(!allows("{}", "x/b", "x/a", tcp(1)));
    assert!(allows(
        "{podSelector: {matchLabels: {app: a}}}",
        "x/a",
        "x/b",
        tcp(1)
    ));
    let egress = "{podSelector: {matchLabels: {app: a}}, policyTypes: [Egress]}";
    assert!(!allows(egress, "x/a", "x/b", tcp(1)));
    assert!(allows(egress, "x/b", "x/a", tcp(1)));
}

#[test]
fn policies_do_not_reach_into_other_namespaces() {
    assert!(allows("{}", "x/b", "z/c", tcp(1)));
}

#[test]
fn peers_without_a_namespace_selector_are_of_the_own_namespace() {
    let own = "{ingress: [{from: [{podSelector: {matchLabels: {app: b}}}]}]}";
    assert!(allows(own, "x/b", "x/a", tcp(1)));
    assert!(!allows(own, "z/c", "x/a", tcp(1)));
    let all =
        "{ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: b}}}]}]}";
    assert!(allows(all, "z/c", "x/a", tcp(1)));
    assert!(!allows(all, "192.0.2.9", "x/a", tcp(1)));
}

#[test]
fn every_namespace_carries_its_name() {
    let named = "{ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: z}}}]}]}";
    assert!(allows(named, "z/c", "x/a", tcp(1)));
    assert!(!allows(named, "x/b", "x/a", tcp(1)));
}

#[test]
fn except_limits_only_its_own_block() {
    let one = "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/24]}}]}]}";
    assert!(allows(one, "z/c", "x/a", tcp(1)));
    assert!(!allows(one, "x/b", "x/a", tcp(1)));
    let two = "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/24]}}, \
               {ipBlock: {cidr: 10.0.0.2/32}}]}]}";
    assert!(allows(two, "x/b", "x/a", tcp(1)));
}

#[test]
fn blocks_are_of_one_family() {
    assert!(in_cidr("0.0.0.0/0", "10.0.0.1".parse().unwrap()));
    assert!(!in_cidr("::/0", "10.0.0.1".parse().unwrap()));
    assert!(!in_cidr("0.0.0.0/0", "::ffff:10.0.0.1".parse().unwrap()));
    assert!(in_cidr("10.1.2.3/8", "10.0.0.1".parse().unwrap()));
    assert!(!in_cidr("2001:db8::/127", "2001:db8::2".parse().unwrap()));
    assert!(in_cidr("2001:db8::/127", "2001:db8::1".parse().unwrap()));
}

#[test]
fn a_rule_with_ports_covers_only_those() {
    let rule = "{ingress: [{ports: [{port: 80, endPort: 82}]}]}";
    for (payload, allowed) in [
        (tcp(79), false),
        (tcp(80), true),
        (tcp(82), true),
        (tcp(83), false),
        (Payload::Port(17, 80), false),
        (Payload::Port(132, 80), false),
        (Payload::Icmp(1, 8, 0), false),
        (Payload::Bare(47), false),
    ] {
        assert_eq!(allows(rule, "x/b", "x/a", payload), allowed, "{payload:?}");
    }
    assert!(allows(
        "{ingress: [{}]}",
        "x/b",
        "x/a",
        Payload::Icmp(1, 8, 0)
    ));
    assert!(allows("{ingress: [{ports: [{}]}]}", "x/b", "x/a", tcp(9)));
    assert!(!allows(
        "{ingress: [{ports: [{}]}]}",
        "x/b",
        "x/a",
        Payload::Port(17, 9)
    ));
}

#[test]
fn names_of_ports_are_the_receivers() {
    let ingress = "{podSelector: {matchLabels: {app: a}}, ingress: [{ports: [{port: web}]}]}";
    assert!(allows(ingress, "x/b", "x/a", tcp(80)));
    assert!(!allows(ingress, "x/b", "x/a", tcp(53)));
    let egress = "{podSelector: {matchLabels: {app: b}}, policyTypes: [Egress], egress: [{ports: [{port: web}]}]}";
    assert!(allows(egress, "x/b", "x/a", tcp(80)));
    assert!(!allows(egress, "x/b", "z/c", tcp(80)));
    assert!(!allows(egress, "x/b", "192.0.2.9", tcp(80)));
    let other_protocol = "{ingress: [{ports: [{port: dns, protocol: TCP}]}]}";
    assert!(!allows(other_protocol, "x/b", "x/a", tcp(53)));
}

#[test]
fn host_network_and_finished_pods_are_never_selected() {
    let by_label = "{ingress: [{from: [{podSelector: {matchLabels: {app: b}}}]}]}";
    let oracle = world(&[by_label]);
    let mut query = Query {
        source: pod("x/f").0,
        destination: pod("x/a").0,
        source_address: "10.0.0.9".parse().unwrap(),
        destination_address: "10.0.0.1".parse().unwrap(),
        payload: tcp(1),
        own_node_allowed: false,
    };
    assert_eq!(oracle.evaluate(&query).enforced.action, Action::Deny);
    query.source = pod("x/h").0;
    assert_eq!(oracle.evaluate(&query).enforced.action, Action::Deny);
    // A process of the pod's own node, when that exception holds.
    query.own_node_allowed = true;
    assert_eq!(
        oracle.evaluate(&query).enforced.ingress.reason,
        Reason::OwnNode
    );
    query.destination = pod("x/b").0;
    assert_eq!(oracle.evaluate(&query).enforced.action, Action::Deny);
}

#[test]
fn the_own_node_reaches_its_pod_and_other_nodes_are_ordinary() {
    assert!(allows("{}", "node/n1", "x/a", tcp(1)));
    assert!(!allows("{}", "node/n2", "x/a", tcp(1)));
    assert!(!allows("{policyTypes: [Egress]}", "x/a", "node/n1", tcp(1)));
}

#[test]
fn a_pod_reaches_itself() {
    assert!(allows(
        "{policyTypes: [Ingress, Egress]}",
        "x/a",
        "x/a",
        tcp(1)
    ));
}

#[test]
fn all_allowing_rules_and_isolating_policies_are_named() {
    let oracle = world(&[
        "{}",
        "{ingress: [{ports: [{port: 1}]}, {}, {from: []}]}",
        "{ingress: [{}]}",
    ]);
    let side = answer(&oracle, "x/b", "x/a", tcp(2)).enforced.ingress;
    let names: Vec<_> = side
        .allowing
        .iter()
        .map(|rule| (rule.name.as_str(), rule.index))
        .collect();
    assert_eq!(names, [("p1", Some(1)), ("p1", Some(2)), ("p2", Some(0))]);
    assert_eq!(side.isolating.len(), 3);
}

#[test]
fn audit_policies_count_only_in_the_audited_judgement() {
    let audit = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, \
        metadata: {name: p, namespace: x, annotations: {cofferdam.dev/mode: audit}}, spec: {}}";
    let oracle = Oracle::new([PODS, audit]).unwrap();
    let answer = answer(&oracle, "x/b", "x/a", tcp(1));
    assert_eq!(answer.enforced.ingress.reason, Reason::NotIsolated);
    assert_eq!(answer.audited.ingress.reason, Reason::Isolated);
}

#[test]
fn not_in_matches_an_absent_label() {
    let not_in = "{ingress: [{from: [{podSelector: {matchExpressions: [{key: tier, operator: NotIn, values: [db]}]}}]}]}";
    assert!(allows(not_in, "x/b", "x/a", tcp(1)));
    let in_list = "{ingress: [{from: [{podSelector: {matchExpressions: [{key: tier, operator: In, values: [db]}]}}]}]}";
    assert!(!allows(in_list, "x/b", "x/a", tcp(1)));
}

#[test]
fn what_should_have_been_refused_allows_nothing() {
    for rule in [
        "{from: [{}]}",
        "{from: [{podSelector: all}]}",
        "{from: all}",
        "{ports: 1}",
        "{from: [{ipBlock: {cidr: 10.0.0.0/8, except: none}}]}",
        "{from: [{ipBlock: {cidr: everything}}]}",
        "{ports: [{port: [1]}]}",
        "{ports: [{protocol: any}]}",
    ] {
        let spec = format!("{{ingress: [{rule}]}}");
        assert!(!allows(&spec, "x/b", "x/a", tcp(1)), "{rule}");
    }
}

#[test]
fn lists_of_one_kind_are_read_like_others() {
    let list = "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicyList, items: [\
        {metadata: {name: p, namespace: x}, spec: {}}]}";
    let oracle = Oracle::new([PODS, list]).unwrap();
    let isolating = answer(&oracle, "x/b", "x/a", tcp(1))
        .enforced
        .ingress
        .isolating;
    let policies: Vec<String> = isolating.iter().map(RuleName::policy).collect();
    assert_eq!(policies, ["x/p"]);
}

#[test]
fn kinds_of_other_groups_are_no_policies() {
    let foreign = "{apiVersion: crd.projectcalico.org/v1, kind: NetworkPolicy, \
        metadata: {name: p, namespace: x}, spec: {}}";
    let oracle = Oracle::new([PODS, foreign]).unwrap();
    let side = answer(&oracle, "x/b", "x/a", tcp(1)).enforced.ingress;
    assert_eq!(side.reason, Reason::NotIsolated);
}
