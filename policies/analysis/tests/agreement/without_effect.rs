//! A rule that analysis calls without effect has none.
//!
//! Small worlds, dense enough that rules cover each other, are tried out whole: every
//! workload with every owned address, every class of outside addresses and every port
//! around which an answer could change. A rule said to be hidden or overruled must
//! decide nothing, and be missed by nobody when it is taken out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use cofferdam_analysis::analyse;
use cofferdam_compiler::{Compiled, Input, SlotPlan, compile};
use cofferdam_documents::{Assembled, Source, assemble};
use cofferdam_inventory::selectors::{LabelSelector, Labels, Operator, Requirement};
use cofferdam_inventory::{
    ClusterNetworkPolicy, ClusterPeer, ClusterRule, Inventory, Mode, NamedPort, NetworkPolicy,
    Node, ObjectName, Owner, Peer, PortRange, Ports, Protocol, Rule, RuleAction, Tier, Workload,
    WorkloadSelector,
};
use cofferdam_syntax::diagnostic::{Code, Diagnostic, Place};
use cofferdam_verdict::capacity::Limits;
use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::table::row_key;
use cofferdam_verdict::verdict::{Action, Direction};
use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use crate::worlds;

/// Worlds tried that are made for this, worlds of pieces, and worlds of every shape.
const CASES: [usize; 3] = [800, 1000, 300];

/// A policy's rules of both directions.
type Both<R> = (Vec<R>, Vec<R>);

#[derive(Debug, Clone)]
struct World {
    policies: Vec<(Mode, &'static str, LabelSelector, Both<Rule>)>,
    cluster: Vec<(Mode, Tier, u16, WorkloadSelector, Both<ClusterRule>)>,
}

fn selector() -> impl Strategy<Value = LabelSelector> {
    let values = |values: &[&str]| values.iter().map(|value| Box::from(*value)).collect();
    let one = |operator| LabelSelector::from_iter([Requirement::new("app", operator)]);
    select(vec![
        LabelSelector::default(),
        LabelSelector::default(),
        one(Operator::In(values(&["a"]))),
        one(Operator::In(values(&["a", "b"]))),
        one(Operator::NotIn(values(&["a"]))),
        one(Operator::Exists),
        one(Operator::DoesNotExist),
    ])
}

fn namespaces() -> impl Strategy<Value = LabelSelector> {
    let named = |name: &str| {
        let is = Operator::In(Box::from([Box::from(name)]));
        LabelSelector::from_iter([Requirement::new("kubernetes.io/metadata.name", is)])
    };
    select(vec![
        LabelSelector::default(),
        LabelSelector::default(),
        named("x"),
        named("y"),
    ])
}

fn workloads() -> impl Strategy<Value = WorkloadSelector> {
    (namespaces(), selector()).prop_map(|(namespaces, workloads)| WorkloadSelector {
        namespaces,
        workloads,
    })
}

fn ports() -> impl Strategy<Value = Option<Vec<PortRange>>> {
    let port = |protocol, ports| PortRange { protocol, ports };
    let one = select(vec![
        port(Protocol::Tcp, Ports::All),
        port(Protocol::Tcp, Ports::Range(80, 80)),
        port(Protocol::Tcp, Ports::Range(80, 81)),
        port(Protocol::Tcp, Ports::Range(81, u16::MAX)),
        port(Protocol::Tcp, Ports::Range(1, 80)),
        port(Protocol::Tcp, Ports::Named("n".into())),
        port(Protocol::Udp, Ports::All),
    ]);
    weighted(0.5, vec(one, 1..3))
}

fn block(text: &str) -> ipnet::IpNet {
    text.parse().unwrap()
}

fn peer() -> impl Strategy<Value = Peer> {
    let blocks = [
        ("10.0.0.0/8", None),
        ("10.0.0.0/30", Some("10.0.0.2/32")),
        ("10.0.0.1/32", None),
        ("0.0.0.0/0", None),
        ("0.0.0.0/1", None),
        ("128.0.0.0/1", None),
        ("::/0", None),
    ];
    let block = select(blocks.to_vec()).prop_map(|(cidr, except)| Peer::Block {
        cidr: block(cidr),
        except: except.into_iter().map(block).collect(),
    });
    let workloads =
        (weighted(0.7, namespaces()), selector()).prop_map(|(namespaces, workloads)| {
            Peer::Workloads {
                namespaces,
                workloads,
            }
        });
    prop_oneof![2 => workloads, 1 => block]
}

fn place() -> Place {
    Place {
        file: "w".into(),
        line: 0,
        column: 0,
    }
}

fn rule() -> impl Strategy<Value = Rule> {
    (weighted(0.8, vec(peer(), 1..3)), ports()).prop_map(|(peers, ports)| Rule {
        place: place(),
        peers,
        ports,
    })
}

fn cluster_rule() -> impl Strategy<Value = ClusterRule> {
    let networks = select(vec!["10.0.0.0/8", "0.0.0.0/0", "10.0.0.0/31", "::/0"]);
    let peer = prop_oneof![
        3 => workloads().prop_map(ClusterPeer::Workloads),
        1 => vec(networks, 1..3).prop_map(|networks| {
            let mut networks: Vec<_> = networks.into_iter().map(block).collect();
            networks.sort();
            networks.dedup();
            ClusterPeer::Networks(networks)
        }),
        1 => select(vec![ClusterPeer::Nodes(LabelSelector::default())]),
    ];
    let action = select(vec![
        RuleAction::Accept,
        RuleAction::Deny,
        RuleAction::Deny,
        RuleAction::Pass,
    ]);
    // Only a rule that fails closed has no peers.
    let peers = weighted(0.95, vec(peer, 1..3));
    (action, peers, ports()).prop_map(|(action, peers, ports)| ClusterRule {
        place: place(),
        name: None,
        action: if peers.is_some() {
            action
        } else {
            RuleAction::Deny
        },
        peers,
        ports,
    })
}

fn mode() -> impl Strategy<Value = Mode> {
    select(vec![
        Mode::Enforce,
        Mode::Enforce,
        Mode::Enforce,
        Mode::Audit,
    ])
}

fn world() -> impl Strategy<Value = World> {
    let policy = (
        mode(),
        select(vec!["x", "x", "y"]),
        selector(),
        (vec(rule(), 0..3), vec(rule(), 0..3)),
    );
    let cluster = (
        mode(),
        select(vec![Tier::Admin, Tier::Admin, Tier::Baseline]),
        0u16..3,
        workloads(),
        (vec(cluster_rule(), 0..3), vec(cluster_rule(), 0..3)),
    );
    (vec(policy, 0..3), vec(cluster, 0..4))
        .prop_map(|(policies, cluster)| World { policies, cluster })
}

/// Worlds of rules that are pieces of one, along ports, selectors and blocks, so that
/// several often cover one together and often miss a little of it.
fn torn_world() -> impl Strategy<Value = World> {
    let values = |values: &[&str]| values.iter().map(|value| Box::from(*value)).collect();
    let app = |operator| LabelSelector::from_iter([Requirement::new("app", operator)]);
    let named = |name: &str| {
        let is = Operator::In(Box::from([Box::from(name)]));
        LabelSelector::from_iter([Requirement::new("kubernetes.io/metadata.name", is)])
    };
    let labels = [
        app(Operator::In(values(&["a"]))),
        app(Operator::NotIn(values(&["a"]))),
        app(Operator::Exists),
        app(Operator::DoesNotExist),
        LabelSelector::default(),
    ];
    let whom = (
        select(vec![
            LabelSelector::default(),
            LabelSelector::default(),
            named("x"),
            named("y"),
        ]),
        select(labels.to_vec()),
    )
        .prop_map(|(namespaces, workloads)| WorkloadSelector {
            namespaces,
            workloads,
        });
    let tcp = |ports| PortRange {
        protocol: Protocol::Tcp,
        ports,
    };
    let [low, high] = [Ports::Range(1, 80), Ports::Range(81, u16::MAX)].map(tcp);
    let ports = select(vec![
        None,
        None,
        Some(vec![low.clone()]),
        Some(vec![high.clone()]),
        Some(vec![low, tcp(Ports::Named("n".into()))]),
        Some(vec![high, tcp(Ports::Range(0, 0))]),
    ]);
    let blocks = select(vec!["0.0.0.0/1", "128.0.0.0/1", "10.0.0.0/31", "0.0.0.0/0"]);
    let peer = prop_oneof![
        4 => whom.clone().prop_map(ClusterPeer::Workloads),
        1 => blocks.prop_map(|net| ClusterPeer::Networks(vec![block(net)])),
    ];
    let piece = (
        peer,
        ports,
        select(vec![RuleAction::Deny, RuleAction::Deny, RuleAction::Accept]),
    )
        .prop_map(|(peer, ports, action)| ClusterRule {
            place: place(),
            name: None,
            action,
            peers: Some(vec![peer]),
            ports,
        });
    let whole = (
        select(vec![
            ClusterPeer::Workloads(WorkloadSelector::default()),
            ClusterPeer::Workloads(WorkloadSelector {
                namespaces: named("x"),
                workloads: LabelSelector::default(),
            }),
            ClusterPeer::Networks(vec![block("0.0.0.0/0")]),
            ClusterPeer::Networks(vec![block("10.0.0.0/24"), block("200.0.0.0/24")]),
        ]),
        select(vec![
            None,
            Some(vec![tcp(Ports::Range(1, u16::MAX))]),
            Some(vec![
                tcp(Ports::Range(80, 81)),
                tcp(Ports::Named("n".into())),
            ]),
        ]),
    )
        .prop_map(|(peer, ports)| ClusterRule {
            place: place(),
            name: None,
            action: RuleAction::Accept,
            peers: Some(vec![peer]),
            ports,
        });
    let subjects = vec((whom, mode()), 2);
    (vec(piece, 3..8), whole, subjects, any::<bool>(), 0..3u8).prop_map(
        |(mut pieces, whole, subjects, as_egress, kind)| {
            let of_namespace = |mode, subject: &LabelSelector, rules: Vec<ClusterRule>| {
                let rules = rules.into_iter().map(as_namespace_rule).collect();
                (mode, "x", subject.clone(), directed(rules, as_egress))
            };
            let of_cluster = |subject: &WorkloadSelector, mode, priority, rules| {
                let rules = directed(rules, as_egress);
                (mode, Tier::Admin, priority, subject.clone(), rules)
            };
            let (mut policies, mut cluster) = (Vec::new(), Vec::new());
            let [(first, mode), (second, second_mode)] = &subjects[..] else {
                unreachable!("there are two");
            };
            match kind {
                // Of one policy, in any order.
                0 => {
                    pieces.push(whole);
                    policies.push(of_namespace(*mode, &first.workloads, pieces));
                }
                // Hidden in the order of one tier, by policies of different subjects.
                1 => {
                    let mut later = pieces.split_off(pieces.len() / 2);
                    later.push(whole);
                    cluster.push(of_cluster(first, *mode, 0, pieces));
                    cluster.push(of_cluster(second, *second_mode, 1, later));
                }
                // Denied by a higher tier.
                _ => {
                    for piece in &mut pieces[1..] {
                        piece.action = RuleAction::Deny;
                    }
                    let later = pieces.split_off(pieces.len() / 2);
                    let everybody = WorkloadSelector::default();
                    cluster.push(of_cluster(&everybody, *mode, 0, later));
                    cluster.push(of_cluster(second, *second_mode, 1, pieces));
                    policies.push(of_namespace(Mode::Enforce, &first.workloads, vec![whole]));
                }
            }
            World { policies, cluster }
        },
    )
}

/// Rules as those of one direction.
fn directed<R>(rules: Vec<R>, as_egress: bool) -> Both<R> {
    if as_egress {
        (Vec::new(), rules)
    } else {
        (rules, Vec::new())
    }
}

/// The rule of a policy of the cluster as one of a namespace has it.
fn as_namespace_rule(rule: ClusterRule) -> Rule {
    let peers = rule
        .peers
        .into_iter()
        .flatten()
        .flat_map(|peer| match peer {
            ClusterPeer::Workloads(selector) => vec![Peer::Workloads {
                namespaces: Some(selector.namespaces),
                workloads: selector.workloads,
            }],
            ClusterPeer::Networks(networks) => (networks.into_iter())
                .map(|cidr| Peer::Block {
                    cidr,
                    except: Vec::new(),
                })
                .collect(),
            ClusterPeer::Nodes(_) => Vec::new(),
        });
    Rule {
        place: rule.place,
        peers: Some(peers.collect()),
        ports: rule.ports,
    }
}

/// The world as an inventory, in which every rule has a line of its own.
fn inventory(world: &World) -> Inventory {
    let mut inventory = Inventory::default();
    let pods = [
        ("x", "p0", Some("a"), &["10.0.0.1", "fd00::1"][..], 80),
        ("x", "p1", Some("b"), &["10.0.0.2"][..], 81),
        ("y", "p2", Some("a"), &["10.0.0.3"][..], 80),
        ("y", "p3", None, &["192.168.0.4"][..], 82),
    ];
    for (namespace, name, app, addresses, number) in pods {
        let workload = Workload {
            name: ObjectName::new(namespace, name),
            labels: Labels::from_iter(app.map(|app| ("app", app))),
            node: None,
            host_network: false,
            finished: false,
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            ports: vec![NamedPort {
                name: "n".into(),
                protocol: Protocol::Tcp,
                number,
            }],
        };
        inventory.set_workload(workload).unwrap();
    }
    let node = Node {
        labels: Labels::default(),
        addresses: vec!["10.0.0.9".parse().unwrap()],
    };
    inventory.set_node("n1", node).unwrap();

    let mut lines = 1..;
    let mut line = move || Place {
        line: lines.next().unwrap(),
        ..place()
    };
    for (number, (mode, namespace, subject, (ingress, egress))) in world.policies.iter().enumerate()
    {
        let place = line();
        let mut rules = |rules: &[Rule]| {
            let placed = rules.iter().map(|rule| Rule {
                place: line(),
                ..rule.clone()
            });
            Some(placed.collect())
        };
        inventory.set_policy(NetworkPolicy {
            name: ObjectName::new(namespace, &format!("n{number}")),
            place,
            mode: *mode,
            subject: subject.clone(),
            ingress: rules(ingress),
            egress: rules(egress),
        });
    }
    for (number, (mode, tier, priority, subject, (ingress, egress))) in
        world.cluster.iter().enumerate()
    {
        let place = line();
        let mut rules = |rules: &[ClusterRule]| {
            let placed = rules.iter().map(|rule| ClusterRule {
                place: line(),
                ..rule.clone()
            });
            placed.collect()
        };
        inventory.set_cluster_policy(ClusterNetworkPolicy {
            name: Arc::from(format!("c{number}")),
            place,
            mode: *mode,
            tier: *tier,
            priority: *priority,
            subject: subject.clone(),
            ingress: rules(ingress),
            egress: rules(egress),
        });
    }
    inventory
}

/// The same without the rule that stands at a place.
fn without(inventory: &Inventory, place: &Place) -> Inventory {
    let mut less = inventory.clone();
    for policy in inventory.policies().values() {
        let mut policy = policy.clone();
        let both = [&mut policy.ingress, &mut policy.egress];
        for rules in both.into_iter().flatten() {
            rules.retain(|rule| rule.place != *place);
        }
        less.set_policy(policy);
    }
    for policy in inventory.cluster_policies().values() {
        let mut policy = policy.clone();
        for rules in [&mut policy.ingress, &mut policy.egress] {
            rules.retain(|rule| rule.place != *place);
        }
        less.set_cluster_policy(policy);
    }
    less
}

/// Every port around which an answer could change, and what has none.
fn keys(inventory: &Inventory) -> Vec<u32> {
    let rules = (inventory.policies().values())
        .flat_map(|policy| policy.ingress.iter().chain(&policy.egress).flatten())
        .map(|rule| &rule.ports);
    let cluster = (inventory.cluster_policies().values())
        .flat_map(|policy| policy.ingress.iter().chain(&policy.egress))
        .map(|rule| &rule.ports);
    let mut ports = BTreeSet::from([0, 1, u16::MAX]);
    for range in rules.chain(cluster).flatten().flatten() {
        if let Ports::Range(first, last) = range.ports {
            ports.extend([first.saturating_sub(1), first, last, last.saturating_add(1)]);
        }
    }
    for workload in inventory.workloads().values() {
        ports.extend(workload.ports.iter().map(|port| port.number));
    }
    let mut keys: Vec<u32> = (ports.iter())
        .flat_map(|port| [6, 17, 132].map(|protocol| row_key(protocol, *port)))
        .collect();
    keys.extend([row_key(1, 8 << 8), row_key(47, 0)]);
    keys
}

struct Table {
    plan: SlotPlan,
    compiled: Compiled,
}

impl Table {
    fn new(inventory: &Inventory) -> Self {
        let plan = SlotPlan::assign(inventory);
        let compiled = compile(&Input {
            inventory,
            slots: &plan,
            is_local: &|_| true,
            own_node: None,
            limits: Limits {
                slots: 256,
                ..Limits::default()
            },
            revision: 1,
        });
        Self {
            compiled: compiled.unwrap(),
            plan,
        }
    }

    /// Decides for every workload about every address, by every key, in both directions.
    fn answers(&self, addresses: &[IpAddr], keys: &[u32]) -> Answers {
        let mut answers = Answers::default();
        let profile = |address: IpAddr| self.compiled.slot_of(&self.plan, address).unwrap().1;
        let subjects = (self.plan.slots())
            .filter(|slot| matches!(slot.owner, Owner::Workload(_)))
            .map(|slot| slot.address);
        for subject in subjects {
            let subject_profile = profile(subject);
            let same_family = |peer: &&IpAddr| peer.is_ipv4() == subject.is_ipv4();
            for peer in addresses.iter().filter(same_family) {
                let peer_profile = profile(*peer);
                for direction in [Direction::Ingress, Direction::Egress] {
                    for key in keys {
                        let decision = (self.compiled)
                            .decide(subject_profile, direction, peer_profile, *key)
                            .unwrap();
                        let both = [decision.enforced, decision.audited];
                        for verdict in both.iter().filter(|one| one.reason == Reason::Rule) {
                            let rule = self.compiled.rules.rule(verdict.rule).unwrap();
                            answers.deciding.insert(rule.place.clone());
                        }
                        let allows = both.map(|verdict| verdict.action == Action::Allow);
                        let ends = match direction {
                            Direction::Ingress => (*peer, subject),
                            Direction::Egress => (subject, *peer),
                        };
                        answers
                            .actions
                            .insert((ends, *key, direction as u8), allows);
                    }
                }
            }
        }
        answers
    }
}

#[derive(Default)]
struct Answers {
    /// By source and destination, key and direction: whether it is allowed in force, and
    /// with audit policies.
    actions: BTreeMap<((IpAddr, IpAddr), u32, u8), [bool; 2]>,
    /// Places of the rules that decided anything.
    deciding: BTreeSet<Place>,
}

impl Answers {
    /// Combines both ends: a connection is allowed if its egress and its ingress are, in
    /// force and with audit policies.
    fn connections(&self) -> BTreeMap<((IpAddr, IpAddr), u32), [bool; 2]> {
        let mut connections = BTreeMap::new();
        for ((ends, key, _), [in_force, audited]) in &self.actions {
            let both = connections.entry((*ends, *key)).or_insert([true, true]);
            *both = [both[0] && *in_force, both[1] && *audited];
        }
        connections
    }
}

/// Returns `true` if a rule is one of a `NetworkPolicy`. Such rules add up in no order, so
/// that a rule may be covered by a later one.
fn adds_up(inventory: &Inventory, place: &Place) -> bool {
    (inventory.policies().values())
        .flat_map(|policy| policy.ingress.iter().chain(&policy.egress).flatten())
        .any(|rule| rule.place == *place)
}

/// Counts of the rules that are said to be without effect.
#[derive(Debug, Default)]
struct Said {
    by_code: BTreeMap<Code, u32>,
    /// Because of what stands at the other end.
    of_other_ends: u32,
    /// Because of several rules, none of which would do alone.
    of_several: BTreeMap<Code, u32>,
}

/// Counts the rules said to be without effect, each of which must be.
fn count(sources: &[Source], assembled: &Assembled, said: &mut Said) {
    let inventory = &assembled.inventory;
    let dead: Vec<Diagnostic> = (analyse(sources, assembled).into_iter())
        .filter(|one| matches!(one.code, Code::Hidden | Code::Overruled))
        .collect();
    if dead.is_empty() {
        return;
    }
    let table = Table::new(inventory);
    let keys = keys(inventory);
    let owned = table.plan.slots().map(|slot| slot.address);
    let outside = table.compiled.outside.iter().map(|set| set.first);
    let addresses: Vec<IpAddr> = owned.chain(outside).collect();
    let answers = table.answers(&addresses, &keys);
    for Diagnostic {
        place,
        code,
        message,
        ..
    } in dead
    {
        *said.by_code.entry(code).or_default() += 1;
        if message.contains(" together") || message.contains(" deny all of it ") {
            *said.of_several.entry(code).or_default() += 1;
        }
        let less = Table::new(&without(inventory, &place)).answers(&addresses, &keys);
        assert!(
            less.connections() == answers.connections(),
            "{code} at {place}, which is missed: {inventory:#?}"
        );
        if message.contains("at the other end") {
            said.of_other_ends += 1;
            continue;
        }
        assert!(
            less.actions == answers.actions,
            "{code} at {place}, which is missed at its end: {inventory:#?}"
        );
        assert!(
            !answers.deciding.contains(&place)
                || (code == Code::Hidden && adds_up(inventory, &place)),
            "{code} at {place}, which decides something: {inventory:#?}"
        );
    }
}

/// The worlds are dense enough for that to mean something.
fn assert_enough(said: &Said, each: u32, of_other_ends: u32, of_several: u32) {
    for code in [Code::Hidden, Code::Overruled] {
        let count = |by_code: &BTreeMap<Code, u32>| by_code.get(&code).copied().unwrap_or(0);
        assert!(count(&said.by_code) >= each, "{said:?}");
        assert!(count(&said.of_several) >= of_several, "{said:?}");
    }
    assert!(said.of_other_ends >= of_other_ends, "{said:?}");
}

#[test]
fn rules_said_to_be_without_effect_have_none() {
    let mut runner = TestRunner::deterministic();
    let mut said = Said::default();
    for _ in 0..CASES[0] {
        let world = world().new_tree(&mut runner).unwrap().current();
        let assembled = Assembled {
            inventory: inventory(&world),
            ..Assembled::default()
        };
        count(&[], &assembled, &mut said);
    }
    assert_enough(&said, 40, 20, 0);
}

/// Rules that are covered by several others together have no effect either.
#[test]
fn rules_said_to_be_covered_by_several_have_no_effect() {
    let mut runner = TestRunner::deterministic();
    let mut said = Said::default();
    for _ in 0..CASES[1] {
        let world = torn_world().new_tree(&mut runner).unwrap().current();
        let assembled = Assembled {
            inventory: inventory(&world),
            ..Assembled::default()
        };
        count(&[], &assembled, &mut said);
    }
    assert_enough(&said, 20, 0, 4);
}

/// In worlds of every shape too; and whatever is found, it stands in a document.
#[test]
fn findings_about_documents_of_every_shape_stand_in_them() {
    let mut runner = TestRunner::deterministic();
    let mut said = Said::default();
    for _ in 0..CASES[2] {
        let world = worlds::world().new_tree(&mut runner).unwrap().current();
        let sources: Vec<Source> = (world.texts().iter().enumerate())
            .map(|(number, text)| {
                Source::new(format!("{number}").as_str().into(), text.as_bytes().into())
            })
            .collect();
        let documents = sources.iter().flat_map(|source| &source.parsed.documents);
        let assembled = assemble(documents.cloned());
        for finding in analyse(&sources, &assembled) {
            let place = &finding.place;
            let text: usize = place.file.parse().unwrap();
            let line = world.texts()[text].lines().nth(place.line as usize - 1);
            let rest = line.and_then(|line| line.chars().nth(place.column as usize - 1));
            assert!(
                rest.is_some_and(|c| !c.is_whitespace()),
                "{finding}: {world:?}"
            );
        }
        count(&sources, &assembled, &mut said);
    }
    assert_enough(&said, 5, 2, 0);
}
