//! Facts that are known of workloads that have no endpoint here.

use super::*;

/// The world of [`PODS`] with more pods and policies, of which those named are here.
fn world_with(local: &'static [&'static str], texts: &[String]) -> World {
    let inventory = inventory(texts);
    let plan = SlotPlan::assign(&inventory);
    let compiled = compile(&Input {
        is_local: &|workload| local.contains(&&*workload.name.name),
        ..input(&inventory, &plan)
    })
    .unwrap();
    World { plan, compiled }
}

/// One more pod of namespace `x`.
fn pod(name: &str, labels: &str, port: &str, address: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: x, labels: {labels}}}, \
         spec: {{containers: [{{ports: [{port}]}}]}}, status: {{podIP: {address}}}}}"
    )
}

impl World {
    fn rule_names(&self) -> Vec<String> {
        let rules = self.compiled.rules.rules();
        rules
            .map(|(_, entry)| {
                let (policy, direction) = (&entry.key.policy.name, entry.key.direction);
                format!("{policy} {direction:?} {:?}", entry.key.index)
            })
            .collect()
    }
}

#[test]
fn ingress_of_a_workload_elsewhere_is_known_for_own_workloads_alone() {
    let world = world_with(
        &["a"],
        &[
            policy(
                "p",
                "{podSelector: {matchLabels: {app: a}}, ingress: [{from: [{podSelector: {}}]}]}",
            ),
            policy(
                "q",
                "{podSelector: {matchLabels: {app: b}}, ingress: [{ports: [{port: 1}]}]}",
            ),
        ],
    );
    assert_eq!(world.ingress(A, B, tcp(1)), "p/0");
    assert_eq!(world.ingress(B, A, tcp(1)), "q/0");
    assert_eq!(world.ingress(B, A, tcp(2)), "- q");
    assert_eq!(world.profile(B).kind, SlotKind::RemoteWorkload);
    assert_eq!(world.profile(C).class, 0, "no policy selects it");
    let corrupt = Verdict::deny(Reason::TableCorrupt);
    for peer in [C, "192.0.2.1", "203.0.113.9"] {
        let decision = world.decision(B, Direction::Ingress, peer, tcp(1));
        assert_eq!(
            [decision.enforced, decision.audited],
            [corrupt; 2],
            "{peer}"
        );
    }
}

#[test]
fn egress_policies_of_workloads_elsewhere_are_nothing_here() {
    let ingress = policy("p", "{podSelector: {matchLabels: {app: b}}, ingress: []}");
    let egress = policy(
        "q",
        "{podSelector: {matchLabels: {app: b}}, policyTypes: [Egress], \
         egress: [{to: [{ipBlock: {cidr: 10.0.0.0/30}}], ports: [{port: web}]}]}",
    );
    let both = policy(
        "p",
        "{podSelector: {matchLabels: {app: b}}, policyTypes: [Ingress, Egress], \
         egress: [{to: [{ipBlock: {cidr: 10.0.0.0/30}}]}]}",
    );
    let alone = world_with(&["a"], std::slice::from_ref(&ingress));
    assert_eq!(alone.rule_names(), ["p Ingress None"]);
    for more in [vec![ingress, egress], vec![both]] {
        let world = world_with(&["a"], &more);
        assert_eq!(world.rule_names(), alone.rule_names());
        assert_eq!(world.compiled.pages(), alone.compiled.pages());
        assert_eq!(
            world.egress(B, A, tcp(1)),
            "",
            "its egress is judged elsewhere"
        );
    }
}

#[test]
fn a_named_port_is_the_receivers() {
    let texts = [
        policy(
            "p",
            "{podSelector: {matchLabels: {app: b}}, ingress: [{ports: [{port: web}]}]}",
        ),
        pod(
            "d",
            "{app: b}",
            "{name: web, containerPort: 81}",
            "10.0.0.4",
        ),
    ];
    let world = world_with(&["a"], &texts);
    for (receiver, port) in [(B, 8080), ("10.0.0.4", 81)] {
        assert_eq!(world.ingress(receiver, A, tcp(port)), "p/0");
        for other in [80, 81, 8080].into_iter().filter(|other| *other != port) {
            assert_eq!(world.ingress(receiver, A, tcp(other)), "- p");
        }
    }
}

#[test]
fn workloads_elsewhere_that_treat_this_nodes_alike_are_one_class() {
    let rule = |name: &str, app: &str, from: &str| {
        format!(
            "{{apiVersion: policy.networking.k8s.io/v1alpha2, kind: ClusterNetworkPolicy, \
             metadata: {{name: {name}}}, spec: {{tier: Admin, priority: 1, \
             subject: {{pods: {{namespaceSelector: {{}}, podSelector: {{matchLabels: {{app: {app}}}}}}}}}, \
             ingress: [{{action: Deny, from: [{{pods: {{namespaceSelector: {{}}, \
             podSelector: {{matchLabels: {{app: {from}}}}}}}}}]}}]}}}}"
        )
    };
    let (d, e) = ("10.0.0.4", "10.0.0.5");
    let pods = [pod("d", "{app: d}", "", d), pod("e", "{app: e}", "", e)];
    let apart = [rule("d", "d", "a"), rule("e", "e", "elsewhere")];
    let world = world_with(&["a"], &[&pods[..], &apart].concat());
    assert_eq!(world.ingress(d, A, tcp(1)), "!d/0");
    assert_eq!(world.ingress(e, A, tcp(1)), "");
    assert_ne!(world.profile(d).class, world.profile(e).class);
    assert_eq!(world.profile(e).class, 0, "what it denies is not here");
    let alike = [rule("d", "d", "elsewhere"), rule("e", "e", "elsewhere")];
    let world = world_with(&["a"], &[&pods[..], &alike].concat());
    assert_eq!(world.profile(d).class, world.profile(e).class);
}

#[test]
fn a_policy_of_both_ends_has_its_rules_once() {
    let world = world_with(
        &["a"],
        &[policy(
            "p",
            "{podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{ports: [{port: 1}]}]}",
        )],
    );
    assert_eq!(
        world.rule_names(),
        ["p Ingress None", "p Ingress Some(0)", "p Egress None"]
    );
    assert_eq!(world.ingress(B, A, tcp(1)), "p/0");
    assert_eq!(world.ingress(B, A, tcp(2)), "- p");
    assert_eq!(world.egress(A, B, tcp(1)), "- p");
}

#[test]
fn a_row_of_workloads_here_and_elsewhere_is_stored_once() {
    let world = world_with(
        &["a"],
        &[policy(
            "p",
            "{podSelector: {}, ingress: [{ports: [{port: 1}]}]}",
        )],
    );
    assert_eq!(world.ingress(A, B, tcp(1)), "p/0");
    assert_eq!(world.ingress(B, A, tcp(1)), "p/0");
    let mut usage = world.compiled.usage.iter();
    let rows = usage.find(|usage| usage.table == "rows").unwrap();
    assert_eq!(
        rows.used, 3,
        "not isolated, `p`'s, and that of a broken table"
    );
}

#[test]
fn what_only_workloads_elsewhere_tell_apart_is_apart_among_own_ones_alone() {
    let pods = [
        pod("d", "{tier: d}", "", "10.0.0.4"),
        pod("e", "{tier: e}", "", "10.0.0.5"),
        pod("f", "{tier: d}", "", "10.0.0.6"),
        pod("g", "{tier: e}", "", "10.0.0.7"),
    ];
    let q = policy(
        "q",
        "{podSelector: {matchLabels: {app: b}}, ingress: [{from: [\
         {podSelector: {matchLabels: {tier: d}}}, {ipBlock: {cidr: 10.0.0.5/32}}]}]}",
    );
    let world = world_with(&["a", "d", "e"], &[&pods[..], &[q]].concat());
    for (peer, verdict) in [(A, "- q"), ("10.0.0.4", "q/0"), ("10.0.0.5", "q/0")] {
        assert_eq!(world.ingress(B, peer, tcp(1)), verdict, "{peer}");
    }
    let atom = |address: &str| world.profile(address).atom;
    assert_eq!(
        atom("10.0.0.4"),
        atom("10.0.0.5"),
        "both are in the one list"
    );
    assert_ne!(atom(A), atom("10.0.0.4"));
    assert_eq!(atom("10.0.0.6"), atom("10.0.0.7"), "nobody here asks");
    assert_eq!(world.compiled.outside.len(), 2, "one set per family");
}

#[test]
fn an_own_workload_that_rules_elsewhere_tell_apart_takes_another_table() {
    let q = policy(
        "q",
        "{podSelector: {matchLabels: {app: b}}, ingress: [{from: [\
         {podSelector: {matchLabels: {tier: d}}}, {ipBlock: {cidr: 10.0.0.64/26}}]}]}",
    );
    let remote = pod("f", "{tier: d}", "", "10.0.0.6");
    let inventory = inventory(&[q, remote]);
    let plan = SlotPlan::assign(&inventory);
    let compiled = compile(&Input {
        is_local: &|workload| &*workload.name.name == "a",
        ..input(&inventory, &plan)
    })
    .unwrap();
    let workload = |name: &str| inventory.workloads()[&ObjectName::new("x", name)].clone();
    let has_place = |workload: &Workload, address: &str, is_local| {
        let address = address.parse().unwrap();
        compiled
            .place(&inventory, workload, address, is_local)
            .is_some()
    };
    assert!(has_place(&workload("a"), "10.0.0.9", true));
    assert!(
        !has_place(&workload("a"), "10.0.0.70", true),
        "another block of `q`'s"
    );
    assert!(
        !has_place(&workload("f"), "10.0.0.9", true),
        "nobody like it is here"
    );
    assert!(has_place(&workload("f"), "10.0.0.70", false));
    assert!(
        !has_place(&workload("a"), "10.0.0.9", false),
        "nobody like it is elsewhere"
    );
}

#[test]
fn without_own_workloads_nothing_is_known_of_those_elsewhere() {
    let q = policy("q", "{podSelector: {}, ingress: []}");
    let world = world_with(&[], &[q]);
    assert!(world.compiled.rules.is_empty());
    assert_eq!(world.profile(B).class, 0);
}
