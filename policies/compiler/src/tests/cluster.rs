//! Policies of the whole cluster in a table, beside those of namespaces.

use std::sync::Arc;

use cofferdam_inventory::selectors::{LabelSelector, Operator, Requirement};
use cofferdam_inventory::{
    ClusterNetworkPolicy, ClusterPeer, ClusterRule, Mode, Node, ObjectName, PortRange, Ports,
    Protocol, RuleAction, Tier, WorkloadSelector,
};
use cofferdam_syntax::diagnostic::Place;

use super::*;
use RuleAction::{Accept, Deny, Pass};

fn somewhere() -> Place {
    Place {
        file: Arc::from("a.yaml"),
        line: 1,
        column: 1,
    }
}

/// A selector of labels that are written `key=value`, several with commas.
fn labelled(text: &str) -> LabelSelector {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(key, value)| Requirement::new(key, Operator::In([value.into()].into())))
        .collect()
}

fn workloads(namespaces: &str, workloads: &str) -> WorkloadSelector {
    WorkloadSelector {
        namespaces: labelled(namespaces),
        workloads: labelled(workloads),
    }
}

/// Workloads by namespace and labels, as a peer.
fn pods(namespaces: &str, labels: &str) -> Option<Vec<ClusterPeer>> {
    Some(vec![ClusterPeer::Workloads(workloads(namespaces, labels))])
}

fn networks(blocks: &[&str]) -> Option<Vec<ClusterPeer>> {
    let blocks = blocks.iter().map(|block| block.parse().unwrap()).collect();
    Some(vec![ClusterPeer::Networks(blocks)])
}

fn nodes(labels: &str) -> Option<Vec<ClusterPeer>> {
    Some(vec![ClusterPeer::Nodes(labelled(labels))])
}

fn all_pods() -> Option<Vec<ClusterPeer>> {
    pods("", "")
}

const EVERYBODY: Option<Vec<ClusterPeer>> = None;

fn port(number: u16) -> Option<Vec<PortRange>> {
    Some(vec![PortRange {
        protocol: Protocol::Tcp,
        ports: Ports::Range(number, number),
    }])
}

/// A policy of the whole cluster whose subjects are all workloads.
fn cluster(tier: Tier, name: &str, priority: u16) -> ClusterNetworkPolicy {
    ClusterNetworkPolicy {
        name: Arc::from(name),
        place: somewhere(),
        mode: Mode::Enforce,
        tier,
        priority,
        subject: WorkloadSelector::default(),
        ingress: Vec::new(),
        egress: Vec::new(),
    }
}

fn admin(name: &str, priority: u16) -> ClusterNetworkPolicy {
    cluster(Tier::Admin, name, priority)
}

fn baseline(name: &str, priority: u16) -> ClusterNetworkPolicy {
    cluster(Tier::Baseline, name, priority)
}

/// Builds a policy, a part at a time.
trait Build: Sized {
    fn about(self, namespaces: &str, labels: &str) -> Self;

    fn audited(self) -> Self;

    fn from(
        self,
        action: RuleAction,
        peers: Option<Vec<ClusterPeer>>,
        ports: Option<Vec<PortRange>>,
    ) -> Self;

    fn to(
        self,
        action: RuleAction,
        peers: Option<Vec<ClusterPeer>>,
        ports: Option<Vec<PortRange>>,
    ) -> Self;
}

impl Build for ClusterNetworkPolicy {
    fn about(mut self, namespaces: &str, labels: &str) -> Self {
        self.subject = workloads(namespaces, labels);
        self
    }

    fn audited(mut self) -> Self {
        self.mode = Mode::Audit;
        self
    }

    fn from(
        mut self,
        action: RuleAction,
        peers: Option<Vec<ClusterPeer>>,
        ports: Option<Vec<PortRange>>,
    ) -> Self {
        self.ingress.push(rule(action, peers, ports));
        self
    }

    fn to(
        mut self,
        action: RuleAction,
        peers: Option<Vec<ClusterPeer>>,
        ports: Option<Vec<PortRange>>,
    ) -> Self {
        self.egress.push(rule(action, peers, ports));
        self
    }
}

fn rule(
    action: RuleAction,
    peers: Option<Vec<ClusterPeer>>,
    ports: Option<Vec<PortRange>>,
) -> ClusterRule {
    ClusterRule {
        place: somewhere(),
        name: None,
        action,
        peers,
        ports,
    }
}

fn with(of_namespaces: &[String], of_cluster: &[ClusterNetworkPolicy]) -> Inventory {
    let mut inventory = inventory(of_namespaces);
    for policy in of_cluster {
        inventory.set_cluster_policy(policy.clone());
    }
    inventory
}

fn cluster_world(of_cluster: &[ClusterNetworkPolicy]) -> World {
    world_of(&with(&[], of_cluster))
}

impl World {
    fn audited(&self, subject: &str, direction: Direction, peer: &str, key: u32) -> String {
        self.text(self.decision(subject, direction, peer, key).audited)
    }
}

const NODE_1: &str = "192.0.2.1";
const NODE_2: &str = "192.0.2.2";
const OUTSIDE: &str = "203.0.113.9";

#[test]
fn lower_priorities_come_first_and_equal_ones_by_name() {
    let world = cluster_world(&[
        admin("late", 1000).from(Deny, all_pods(), None),
        admin("b", 5).from(Accept, all_pods(), port(80)),
        admin("a", 5).from(Deny, all_pods(), port(80)),
        admin("zuerst", 4).from(Accept, all_pods(), port(81)),
    ]);
    assert_eq!(world.ingress(A, B, tcp(80)), "!a/0");
    assert_eq!(world.ingress(A, B, tcp(81)), "zuerst/0");
    assert_eq!(world.ingress(A, B, tcp(82)), "!late/0");
    assert_eq!(world.egress(A, B, tcp(80)), "");
}

#[test]
fn the_first_rule_whose_peer_and_ports_both_match_decides() {
    let world = cluster_world(&[admin("p", 0)
        .from(Accept, pods("", "app=a"), port(80))
        .from(Deny, all_pods(), port(80))
        .from(Accept, pods("", "app=b"), None)
        .from(Deny, EVERYBODY, None)]);
    assert_eq!(world.ingress(B, A, tcp(80)), "p/0");
    assert_eq!(world.ingress(B, A, tcp(81)), "!p/3");
    assert_eq!(world.ingress(A, B, tcp(80)), "!p/1");
    assert_eq!(world.ingress(A, B, tcp(81)), "p/2");
    assert_eq!(world.ingress(A, B, row_key(1, 0x0800)), "p/2");
    assert_eq!(world.ingress(A, OUTSIDE, tcp(80)), "!p/3");
}

#[test]
fn admin_comes_before_policies_of_namespaces_and_baseline_after_them() {
    let isolate = policy(
        "np",
        "{podSelector: {matchLabels: {app: a}}, ingress: [{ports: [{port: 80}, {port: 81}]}]}",
    );
    let world = world_of(&with(
        &[isolate],
        &[
            admin("first", 0)
                .from(Deny, all_pods(), port(80))
                .from(Accept, all_pods(), port(443)),
            baseline("last", 0).from(Deny, all_pods(), None),
        ],
    ));
    for (port, verdict) in [
        (80, "!first/0"),
        (443, "first/1"),
        (81, "np/0"),
        // What isolates decides finally.
        (82, "- np"),
    ] {
        assert_eq!(world.ingress(A, B, tcp(port)), verdict);
    }
    assert_eq!(world.ingress(B, A, tcp(81)), "!last/0", "not isolated");
    assert_eq!(world.ingress(B, OUTSIDE, tcp(81)), "", "no rule matches");
}

#[test]
fn isolation_in_one_direction_leaves_the_other_to_baseline() {
    let isolate = policy("np", "{ingress: []}");
    let world = world_of(&with(
        &[isolate],
        &[baseline("last", 0)
            .from(Accept, EVERYBODY, None)
            .to(Deny, EVERYBODY, None)],
    ));
    assert_eq!(world.ingress(A, B, tcp(1)), "- np");
    assert_eq!(world.egress(A, B, tcp(1)), "!last/0");
}

#[test]
fn pass_leaves_its_tier_and_nothing_else() {
    let isolate = policy(
        "np",
        "{podSelector: {matchLabels: {app: a}}, ingress: [{ports: [{port: 80}]}]}",
    );
    let world = world_of(&with(
        &[isolate],
        &[
            admin("a", 1)
                .from(Pass, pods("", "app=b"), port(80))
                .from(Deny, EVERYBODY, None),
            admin("b", 2).from(Deny, EVERYBODY, None),
            baseline("c", 1).from(Deny, EVERYBODY, port(80)),
        ],
    ));
    // Over a wildcard of its own policy, and of the tier's next one.
    assert_eq!(world.ingress(A, B, tcp(80)), "np/0");
    assert_eq!(world.ingress(A, B, tcp(81)), "!a/1");
    assert_eq!(world.ingress(A, A, tcp(80)), "!a/1");
    // `c` in `y` is not isolated: Baseline decides what was passed on.
    assert_eq!(world.ingress(C, B, tcp(80)), "!c/0");
}

#[test]
fn a_passed_packet_that_nobody_allows_is_denied_by_isolation() {
    let isolate = policy("np", "{ingress: []}");
    let world = world_of(&with(
        &[isolate],
        &[admin("a", 1).from(Pass, EVERYBODY, None)],
    ));
    assert_eq!(world.ingress(A, B, tcp(80)), "- np");
    assert_eq!(world.ingress(C, B, tcp(80)), "");
}

#[test]
fn pass_in_baseline_leads_to_the_default() {
    let world = cluster_world(&[
        baseline("a", 1).to(Pass, all_pods(), port(80)),
        baseline("b", 2).to(Deny, EVERYBODY, None),
    ]);
    assert_eq!(world.egress(A, B, tcp(80)), "");
    assert_eq!(world.egress(A, B, tcp(81)), "!b/0");
    assert_eq!(world.egress(A, OUTSIDE, tcp(80)), "!b/0");
}

#[test]
fn subjects_and_peers_lie_in_any_namespace_and_are_only_workloads() {
    let world = cluster_world(&[admin("p", 0)
        .about("team=blue", "")
        .from(Deny, pods("", "app=b"), None)
        .from(Accept, all_pods(), None)]);
    assert_eq!(world.ingress(C, B, tcp(1)), "!p/0");
    assert_eq!(world.ingress(C, C, tcp(1)), "!p/0");
    assert_eq!(world.ingress(C, A, tcp(1)), "p/1");
    assert_eq!(world.ingress(A, B, tcp(1)), "", "no subject");
    for nobody in [OUTSIDE, NODE_1, NODE_2, "::1"] {
        assert_eq!(world.ingress(C, nobody, tcp(1)), "", "{nobody}");
    }
    let by_namespace =
        cluster_world(&[admin("p", 0)
            .about("", "app=b")
            .from(Deny, pods("team=blue", ""), None)]);
    assert_eq!(by_namespace.ingress(B, C, tcp(1)), "!p/0");
    assert_eq!(by_namespace.ingress(B, A, tcp(1)), "");
    assert_eq!(by_namespace.ingress(C, C, tcp(1)), "!p/0");
}

/// A world with labels on nodes, of the same words as workloads have.
fn node_world(of_cluster: &[ClusterNetworkPolicy]) -> World {
    let mut inventory = with(&[], of_cluster);
    for (name, zone, address) in [("n1", "1", NODE_1), ("n2", "2", NODE_2)] {
        let node = Node {
            labels: [("zone", zone), ("app", "a")].into_iter().collect(),
            addresses: vec![address.parse().unwrap()],
        };
        inventory.set_node(name, node).unwrap();
    }
    world_of(&inventory)
}

#[test]
fn nodes_are_chosen_by_their_labels_and_workloads_by_theirs() {
    let world = node_world(&[admin("p", 0)
        .to(Deny, nodes("zone=2"), port(80))
        .to(Accept, nodes(""), None)
        .to(Deny, pods("", "app=a"), None)]);
    assert_eq!(world.egress(A, NODE_2, tcp(80)), "!p/0");
    assert_eq!(world.egress(A, NODE_2, tcp(81)), "p/1");
    assert_eq!(world.egress(A, NODE_1, tcp(80)), "p/1", "its own node too");
    assert_eq!(world.egress(B, A, tcp(80)), "!p/2");
    assert_eq!(world.egress(A, OUTSIDE, tcp(80)), "");
    let kinds = [NODE_1, NODE_2].map(|address| world.profile(address).kind);
    assert_eq!(kinds, [SlotKind::OwnNode, SlotKind::OtherNode]);
}

#[test]
fn nodes_of_one_label_are_one_atom_and_cost_nothing_that_nothing_selects_on() {
    let chosen = node_world(&[admin("p", 0).to(Deny, nodes("app=a"), None)]);
    assert_eq!(chosen.profile(NODE_1).atom, chosen.profile(NODE_2).atom);
    assert_eq!(chosen.egress(B, NODE_1, tcp(1)), "!p/0");
    assert_eq!(chosen.egress(B, A, tcp(1)), "", "a workload of that label");
    let apart = node_world(&[admin("p", 0).to(Deny, nodes("zone=1"), None)]);
    assert_ne!(apart.profile(NODE_1).atom, apart.profile(NODE_2).atom);
}

#[test]
fn networks_match_whoever_has_an_address_there() {
    let world = cluster_world(&[admin("p", 0)
        .to(
            Accept,
            networks(&["10.0.0.2/32", "192.0.2.1/32", "fd00::/8"]),
            None,
        )
        .to(
            Deny,
            networks(&["10.0.0.0/8", "192.0.2.0/24", "203.0.113.0/24"]),
            None,
        )]);
    for (peer, verdict) in [
        (B, "p/0"),
        (NODE_1, "p/0"),
        ("fd00::1", "p/0"),
        (C, "!p/1"),
        (NODE_2, "!p/1"),
        (OUTSIDE, "!p/1"),
        ("198.51.100.1", ""),
        ("fe80::1", ""),
    ] {
        assert_eq!(world.egress(A, peer, tcp(1)), verdict, "{peer}");
    }
}

#[test]
fn no_peers_are_nobody_and_absent_peers_are_everybody() {
    let world = cluster_world(&[
        admin("nobody", 0).from(Deny, Some(Vec::new()), None),
        admin("everybody", 1).from(Deny, EVERYBODY, port(80)),
    ]);
    for peer in [B, C, NODE_1, NODE_2, OUTSIDE] {
        assert_eq!(world.ingress(A, peer, tcp(80)), "!everybody/0", "{peer}");
        assert_eq!(world.ingress(A, peer, tcp(81)), "", "{peer}");
    }
}

#[test]
fn names_of_ports_are_the_receivers() {
    let web = || {
        let of = |protocol| PortRange {
            protocol,
            ports: Ports::Named("web".into()),
        };
        Some(vec![
            of(Protocol::Tcp),
            of(Protocol::Udp),
            of(Protocol::Sctp),
        ])
    };
    let world =
        cluster_world(&[admin("p", 0)
            .from(Deny, all_pods(), web())
            .to(Deny, all_pods(), web())]);
    for (subject, peer, port, ingress, egress) in [
        (A, B, 80, "!p/0", ""),
        (A, B, 8080, "", "!p/0"),
        (B, A, 8080, "!p/0", ""),
        (B, C, 80, "", ""),
        (C, A, 80, "", "!p/0"),
    ] {
        let found = [
            world.ingress(subject, peer, tcp(port)),
            world.egress(subject, peer, tcp(port)),
        ];
        assert_eq!(found, [ingress, egress], "{subject} {peer} {port}");
    }
    assert_eq!(world.ingress(A, B, row_key(17, 80)), "", "TCP names it");
}

#[test]
fn audited_policies_count_in_the_audited_verdict_alone() {
    let world = cluster_world(&[
        admin("a", 0).audited().from(Deny, all_pods(), port(80)),
        admin("b", 1).from(Accept, all_pods(), None),
        baseline("c", 0).audited().to(Deny, EVERYBODY, None),
    ]);
    assert_eq!(world.ingress(A, B, tcp(80)), "b/0");
    assert_eq!(world.audited(A, Direction::Ingress, B, tcp(80)), "!a/0");
    assert_eq!(world.audited(A, Direction::Ingress, B, tcp(81)), "b/0");
    assert_eq!(world.egress(A, B, tcp(80)), "");
    assert_eq!(world.audited(A, Direction::Egress, B, tcp(80)), "!c/0");
}

#[test]
fn an_audited_pass_passes_only_in_the_audited_verdict() {
    let world = cluster_world(&[
        admin("a", 0).audited().from(Pass, all_pods(), None),
        admin("b", 1).from(Deny, all_pods(), None),
        baseline("c", 0).from(Accept, all_pods(), None),
    ]);
    assert_eq!(world.ingress(A, B, tcp(1)), "!b/0");
    assert_eq!(world.audited(A, Direction::Ingress, B, tcp(1)), "c/0");
}

#[test]
fn audited_isolation_keeps_baseline_in_force_and_out_of_the_audited_verdict() {
    let audited = policy("np", "{ingress: [{ports: [{port: 80}]}]}").replace(
        "namespace: x",
        "namespace: x, annotations: {cofferdam.dev/mode: audit}",
    );
    let world = world_of(&with(
        &[audited],
        &[baseline("last", 0).from(Deny, all_pods(), None)],
    ));
    for (port, audited) in [(80, "np/0"), (81, "- np")] {
        assert_eq!(world.ingress(A, B, tcp(port)), "!last/0");
        assert_eq!(
            world.audited(A, Direction::Ingress, B, tcp(port)),
            audited,
            "{port}"
        );
    }
}

#[test]
fn more_rules_and_policies_than_the_api_allows_are_all_asked() {
    let mut policies = Vec::new();
    for number in 0..30u16 {
        let mut policy = admin(&format!("p{number:02}"), number / 2);
        for index in 0..30 {
            policy = policy.to(Deny, all_pods(), port(1000 + 30 * number + index));
        }
        policies.push(policy);
    }
    policies.push(admin("rest", 999).to(Accept, all_pods(), None));
    let world = cluster_world(&policies);
    for number in 0..30 {
        for index in 0..30 {
            let decided = world.egress(A, B, tcp(1000 + 30 * number + index));
            assert_eq!(decided, format!("!p{number:02}/{index}"));
        }
    }
    assert_eq!(world.egress(A, B, tcp(999)), "rest/0");
    assert_eq!(world.egress(A, B, tcp(1900)), "rest/0");
}

#[test]
fn rules_are_numbered_in_the_order_in_which_they_are_asked() {
    let world = world_of(&with(
        &[policy("np", "{ingress: [{}]}")],
        &[
            baseline("base", 3).to(Deny, all_pods(), None),
            admin("b", 7)
                .from(Accept, all_pods(), None)
                .to(Deny, all_pods(), None),
            admin("a", 7).from(Accept, all_pods(), None),
            admin("nobody's", 0)
                .about("team=none", "")
                .from(Deny, EVERYBODY, None),
        ],
    ));
    let rules: Vec<_> = (world.compiled.rules.rules())
        .map(|(_, entry)| {
            let key = &entry.key;
            (
                entry.tier.as_str(),
                key.policy.to_string(),
                key.direction,
                key.index,
            )
        })
        .collect();
    let expected = [
        ("admin", "a", Direction::Ingress, Some(0)),
        ("admin", "b", Direction::Ingress, Some(0)),
        ("admin", "b", Direction::Egress, Some(0)),
        ("namespace", "x/np", Direction::Ingress, None),
        ("namespace", "x/np", Direction::Ingress, Some(0)),
        ("baseline", "base", Direction::Egress, Some(0)),
    ]
    .map(|(tier, name, d, i)| (tier, name.to_owned(), d, i));
    assert_eq!(rules, expected);
    let entries: Vec<_> = world.compiled.rules.rules().collect();
    assert_eq!(entries[0].1.key.namespace(), None);
    assert_eq!(entries[0].1.key.kind, PolicyKind::ClusterNetworkPolicy);
    assert_eq!(entries[3].1.key.namespace(), Some("x"));
}

#[test]
fn a_late_workload_is_a_subject_of_cluster_policies_too() {
    let inventory = with(
        &[policy("np", "{podSelector: {matchLabels: {app: b}}}")],
        &[
            admin("b", 0).about("", "app=b").to(Deny, all_pods(), None),
            admin("blue", 0)
                .about("team=blue", "")
                .from(Deny, pods("", "app=b"), None),
            admin("new", 1)
                .about("", "app=new")
                .from(Deny, EVERYBODY, None),
        ],
    );
    let world = world_of(&inventory);
    let placed = |namespace: &str, app: &str| {
        let mut late = inventory.workloads()[&ObjectName::new("x", "a")].clone();
        late.name = ObjectName::new(namespace, "late");
        late.labels = [("app", app)].into_iter().collect();
        late.ports = Vec::new();
        let address = "10.0.0.77".parse().unwrap();
        let place = world.compiled.place(&inventory, &late, address, true);
        place.map(|(_, profile)| profile)
    };
    assert_eq!(placed("x", "b"), Some(world.profile(B)));
    assert_eq!(placed("y", "b"), Some(world.profile(C)));
    assert_ne!(world.profile(B).class, world.profile(C).class);
    assert_eq!(placed("x", "new"), None, "a policy without a subject here");
}

#[test]
fn policies_without_rules_of_a_direction_leave_it_alone() {
    let world = cluster_world(&[admin("p", 0).from(Deny, EVERYBODY, None)]);
    assert_eq!(world.egress(A, OUTSIDE, tcp(1)), "");
    assert_eq!(world.ingress(A, OUTSIDE, tcp(1)), "!p/0");
}
