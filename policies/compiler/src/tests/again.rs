//! A compiler that has made tables before makes the same ones as a new compiler does.

use std::collections::{BTreeMap, BTreeSet};

use cofferdam_inventory::selectors::{LabelSelector, Labels, Operator, Requirement};
use cofferdam_inventory::{
    Mode, NamedPort, Namespace, NetworkPolicy, Node, ObjectName, Peer, PortRange, Ports, Protocol,
    Rule,
};
use cofferdam_syntax::diagnostic::Place;
use proptest::prelude::*;

use super::*;

/// A change of the desired state, in few words, so that they meet.
#[derive(Debug, Clone)]
pub(super) enum Edit {
    Namespace(u8, u8, Mode),
    /// Of all namespaces.
    Enforcement(Mode),
    Pod {
        name: (u8, u8),
        label: (u8, u8),
        port: Option<(u8, u16)>,
        address: Option<u8>,
        local: bool,
    },
    NoPod(u8, u8),
    Node(u8, u8),
    Policy {
        name: (u8, u8),
        subject: (u8, u8),
        peer: (u8, u8),
        port: Option<u8>,
        block: Option<u8>,
    },
    NoPolicy(u8, u8),
}

/// A workload, which may have been there.
pub(super) fn pod() -> impl Strategy<Value = Edit> {
    (
        (0..3u8, 0..9u8),
        (0..3u8, 0..3u8),
        prop::option::of((0..2u8, 80..82u16)),
        prop::option::of(0..40u8),
        any::<bool>(),
    )
        .prop_map(|(name, label, port, address, local)| Edit::Pod {
            name,
            label,
            port,
            address,
            local,
        })
}

fn mode() -> impl Strategy<Value = Mode> {
    prop::sample::select(vec![Mode::Enforce, Mode::Enforce, Mode::Audit])
}

pub(super) fn edit() -> impl Strategy<Value = Edit> {
    let pair = || (0..3u8, 0..3u8);
    prop_oneof![
        (pair(), mode()).prop_map(|((name, label), mode)| Edit::Namespace(name, label, mode)),
        mode().prop_map(Edit::Enforcement),
        pod(),
        (0..3u8, 0..9u8).prop_map(|(namespace, name)| Edit::NoPod(namespace, name)),
        pair().prop_map(|(name, address)| Edit::Node(name, address)),
        (
            (0..3u8, 0..3u8),
            pair(),
            pair(),
            prop::option::of(0..2u8),
            prop::option::of(0..40u8)
        )
            .prop_map(|(name, subject, peer, port, block)| Edit::Policy {
                name,
                subject,
                peer,
                port,
                block
            }),
        (0..3u8, 0..3u8).prop_map(|(namespace, name)| Edit::NoPolicy(namespace, name)),
    ]
}

fn name(namespace: u8, name: u8) -> ObjectName {
    ObjectName::new(&format!("n{namespace}"), &format!("o{name}"))
}

fn labels((key, value): (u8, u8)) -> Labels {
    [(format!("k{key}"), format!("v{value}"))]
        .into_iter()
        .collect()
}

fn selector((key, value): (u8, u8)) -> LabelSelector {
    let operator = match value {
        2 => Operator::NotIn(["v0".into(), "v2".into()].into()),
        value => Operator::In([format!("v{value}").into()].into()),
    };
    LabelSelector::from_iter([Requirement::new(&format!("k{key}"), operator)])
}

pub(super) fn address(number: u8) -> IpAddr {
    match number % 2 {
        0 => [10, 0, 0, number].into(),
        _ => [0xfd00, 0, 0, 0, 0, 0, 0, number.into()].into(),
    }
}

fn policy_of(
    of: (u8, u8),
    subject: (u8, u8),
    peer: (u8, u8),
    port: Option<u8>,
    block: Option<u8>,
) -> NetworkPolicy {
    let place = Place {
        file: "a.yaml".into(),
        line: 1,
        column: 1,
    };
    let mut peers = vec![Peer::Workloads {
        namespaces: (peer.0 == 2).then(|| selector(peer)),
        workloads: selector(peer),
    }];
    peers.extend(block.map(|number| {
        let bits = if number % 2 == 0 { 29 } else { 126 };
        let net = ipnet::IpNet::new(address(number), bits).unwrap().trunc();
        Peer::Block {
            cidr: net,
            except: Vec::new(),
        }
    }));
    let ports = port.map(|name| {
        vec![PortRange {
            protocol: Protocol::Tcp,
            ports: Ports::Named(format!("p{name}").into()),
        }]
    });
    let rules = vec![Rule {
        place: place.clone(),
        peers: Some(peers),
        ports,
    }];
    NetworkPolicy {
        name: name(of.0, of.1),
        place,
        mode: Mode::Enforce,
        subject: selector(subject),
        ingress: Some(rules.clone()),
        egress: (of.1 == 0).then_some(rules),
    }
}

pub(super) fn apply(edit: Edit, inventory: &mut Inventory, local: &mut BTreeSet<ObjectName>) {
    match edit {
        Edit::Namespace(name, label, enforcement) => {
            let namespace = Namespace {
                labels: labels((label, label)),
                enforcement,
            };
            inventory.set_namespace(&format!("n{name}"), namespace);
        }
        Edit::Enforcement(mode) => inventory.set_enforcement(mode),
        Edit::Pod {
            name: (namespace, pod),
            label,
            port,
            address: owned,
            local: is_local,
        } => {
            let name = name(namespace, pod);
            let port = port.map(|(name, number)| NamedPort {
                name: format!("p{name}").into(),
                protocol: Protocol::Tcp,
                number,
            });
            let workload = Workload {
                name: name.clone(),
                labels: labels(label),
                node: None,
                host_network: false,
                finished: false,
                addresses: owned.into_iter().map(address).collect(),
                ports: port.into_iter().collect(),
            };
            if inventory.set_workload(workload).is_ok() && is_local {
                local.insert(name);
            }
        }
        Edit::NoPod(namespace, pod) => {
            let name = name(namespace, pod);
            inventory.remove_workload(&name);
            local.remove(&name);
        }
        Edit::Node(name, owned) => {
            let node = Node {
                labels: labels((name, owned)),
                addresses: vec![address(100 + name)],
            };
            inventory.set_node(&format!("m{name}"), node).unwrap();
        }
        Edit::Policy {
            name,
            subject,
            peer,
            port,
            block,
        } => inventory.set_policy(policy_of(name, subject, peer, port, block)),
        Edit::NoPolicy(namespace, policy) => {
            inventory.remove_policy(&name(namespace, policy));
        }
    }
}

/// Does as [`SlotPlan::successor`] promises, said as plainly as possible.
fn plain_successor(before: &BTreeMap<IpAddr, u32>, inventory: &Inventory) -> BTreeMap<IpAddr, u32> {
    let used: BTreeSet<u32> = before.values().copied().collect();
    let mut free = (1u32..).filter(|number| !used.contains(number));
    let workloads = inventory.workloads().values().map(|w| w.own_addresses());
    let nodes = inventory.nodes().values().map(|node| &*node.addresses);
    let mut next = BTreeMap::new();
    for addresses in workloads.chain(nodes) {
        let mut addresses = addresses.to_vec();
        addresses.sort();
        for address in addresses {
            let kept = before.get(&address).copied();
            next.insert(address, kept.or_else(|| free.next()).unwrap());
        }
    }
    next
}

/// Rounds of many changes, and of one: what a compiler keeps is what did not change.
fn rounds() -> impl Strategy<Value = Vec<Vec<Edit>>> {
    let round = prop_oneof![
        prop::collection::vec(edit(), 1..12),
        prop::collection::vec(edit(), 1..2),
    ];
    prop::collection::vec(round, 1..8)
}

#[test]
fn a_word_that_is_new_is_asked_of_workloads_that_are_not() {
    let mut inventory = Inventory::default();
    let mut local = BTreeSet::new();
    let pod = |pod, label, number| Edit::Pod {
        name: (0, pod),
        label,
        port: Some((0, number)),
        address: Some(2 * pod),
        local: true,
    };
    apply(pod(0, (0, 0), 80), &mut inventory, &mut local);
    apply(pod(1, (1, 0), 80), &mut inventory, &mut local);
    apply(pod(2, (1, 0), 81), &mut inventory, &mut local);
    let mut compiler = Compiler::default();
    let plan = SlotPlan::assign(&inventory);
    let words = |compiler: &mut Compiler, inventory: &Inventory| {
        let snapshot = Snapshot {
            inventory,
            slots: &plan,
            local: &local,
            own_node: None,
            limits: LIMITS,
            revision: 7,
        };
        compiler.compile(&snapshot).unwrap().words
    };
    let mut before = words(&mut compiler, &inventory);
    for (policy, subject, port) in [(0, (0, 0), None), (1, (1, 0), None), (2, (1, 0), Some(0))] {
        inventory.set_policy(policy_of((0, policy), subject, subject, port, None));
        let after = words(&mut compiler, &inventory);
        assert_ne!(before, after);
        assert_eq!(after, words(&mut Compiler::default(), &inventory));
        before = after;
    }
}

#[test]
fn the_same_owners_elsewhere_and_under_other_numbers_are_asked_for_again() {
    let mut inventory = Inventory::default();
    let mut local = BTreeSet::new();
    for pod in 0..2 {
        let edit = Edit::Pod {
            name: (0, pod),
            label: (0, 0),
            port: None,
            address: Some(2 * pod),
            local: true,
        };
        apply(edit, &mut inventory, &mut local);
    }
    apply(Edit::Node(0, 0), &mut inventory, &mut local);
    inventory.set_policy(policy_of((0, 0), (0, 0), (0, 0), None, None));
    let plan = SlotPlan::assign(&inventory);
    let moved = plan.slots().map(|slot| Slot {
        number: slot.number + 1,
        ..slot
    });
    let moved = SlotPlan::from_slots(moved).unwrap();
    let one: BTreeSet<ObjectName> = local.iter().take(1).cloned().collect();
    let mut compiler = Compiler::default();
    let mut before = Vec::new();
    for (slots, local, own_node) in [
        (&plan, &local, None),
        (&moved, &local, None),
        (&moved, &one, None),
        (&moved, &one, Some("m0")),
    ] {
        let snapshot = Snapshot {
            inventory: &inventory,
            slots,
            local,
            own_node,
            limits: LIMITS,
            revision: 7,
        };
        let words = compiler.compile(&snapshot).unwrap().words;
        assert_ne!(words, before);
        let anew = Compiler::default().compile(&snapshot).unwrap().words;
        assert_eq!(words, anew);
        before = words;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_was_compiled_before_changes_no_word(
        rounds in rounds()
    ) {
        let mut inventory = Inventory::default();
        let mut local = BTreeSet::new();
        let mut compiler = Compiler::default();
        let mut plan = SlotPlan::default();
        let mut plain = BTreeMap::new();
        for edits in rounds {
            for edit in edits {
                apply(edit, &mut inventory, &mut local);
            }
            plan = plan.successor(&inventory);
            plain = plain_successor(&plain, &inventory);
            prop_assert!(plan.by_address().iter().eq(&plain));
            let slots = plan.slots().map(|slot| (slot.address, slot.owner));
            for (address, owner) in slots {
                prop_assert_eq!(inventory.owner(address), Some(owner));
            }
            let snapshot = Snapshot {
                inventory: &inventory,
                slots: &plan,
                local: &local,
                own_node: Some("m0"),
                limits: Limits { slots: 512, ..LIMITS },
                revision: 7,
            };
            let again = compiler.compile(&snapshot).unwrap();
            let anew = Compiler::default().compile(&snapshot).unwrap();
            prop_assert_eq!(&again.words, &anew.words);
            prop_assert_eq!(&again.rules, &anew.rules);
            prop_assert_eq!(&again.outside, &anew.outside);
        }
    }
}

/// Pods that are relabelled in place, here and elsewhere, and one that moves.
#[test]
fn relabelled_pods_are_looked_at_again_wherever_they_are() {
    let mut inventory = Inventory::default();
    let mut local = BTreeSet::new();
    let pod = |pod, label, local| Edit::Pod {
        name: (0, pod),
        label,
        port: None,
        address: Some(2 * pod),
        local,
    };
    for number in 0..4 {
        apply(
            pod(number, (0, number % 2), number < 2),
            &mut inventory,
            &mut local,
        );
    }
    for (policy, subject, peer) in [(0, (0, 0), (0, 0)), (1, (1, 0), (0, 1))] {
        inventory.set_policy(policy_of((0, policy), subject, peer, None, None));
    }
    let mut compiler = Compiler::default();
    let mut plan = SlotPlan::default();
    let mut before = Vec::new();
    let changes = [
        pod(3, (1, 0), false),
        pod(2, (0, 1), false),
        pod(2, (1, 0), false),
        pod(1, (1, 0), true),
        pod(3, (0, 0), true),
    ];
    for change in changes {
        apply(change, &mut inventory, &mut local);
        plan = plan.successor(&inventory);
        let snapshot = Snapshot {
            inventory: &inventory,
            slots: &plan,
            local: &local,
            own_node: None,
            limits: LIMITS,
            revision: 7,
        };
        let words = compiler.compile(&snapshot).unwrap().words;
        assert_ne!(words, before);
        assert_eq!(words, Compiler::default().compile(&snapshot).unwrap().words);
        before = words;
    }
}

/// A namespace that goes on audit and comes back, of workloads here and elsewhere, and all of
/// them at once.
#[test]
fn enforcement_that_changes_makes_other_words_and_the_first_ones_again() {
    let mut inventory = Inventory::default();
    let mut local = BTreeSet::new();
    for (namespace, pod, is_local) in [(0, 0, true), (0, 1, false), (1, 2, true)] {
        let edit = Edit::Pod {
            name: (namespace, pod),
            label: (0, 0),
            port: None,
            address: Some(2 * pod),
            local: is_local,
        };
        apply(edit, &mut inventory, &mut local);
        inventory.set_policy(policy_of((namespace, 0), (0, 0), (0, 1), None, None));
    }
    let plan = SlotPlan::assign(&inventory);
    let mut compiler = Compiler::default();
    let mut words = |inventory: &Inventory| {
        let snapshot = Snapshot {
            inventory,
            slots: &plan,
            local: &local,
            own_node: None,
            limits: LIMITS,
            revision: 7,
        };
        let words = compiler.compile(&snapshot).unwrap().words;
        assert_eq!(words, Compiler::default().compile(&snapshot).unwrap().words);
        words
    };
    let set = |inventory: &mut Inventory, enforcement| {
        let namespace = Namespace {
            labels: Labels::default(),
            enforcement,
        };
        inventory.set_namespace("n0", namespace);
    };
    let enforced = words(&inventory);
    set(&mut inventory, Mode::Audit);
    let half = words(&inventory);
    assert_ne!(enforced, half);
    inventory.set_enforcement(Mode::Audit);
    let all = words(&inventory);
    assert!(![&enforced, &half].contains(&&all));
    set(&mut inventory, Mode::Enforce);
    assert_eq!(words(&inventory), all);
    inventory.set_enforcement(Mode::Enforce);
    assert_eq!(words(&inventory), enforced);
}

#[test]
fn a_plan_from_outside_lets_go_of_addresses_that_nobody_has() {
    let inventory = inventory(&[]);
    let nobody = Owner::Workload(ObjectName::new("", ""));
    let slot = |number, address: &str| Slot {
        number,
        owner: nobody.clone(),
        address: address.parse().unwrap(),
    };
    let given = SlotPlan::from_slots([slot(3, A), slot(5, "10.9.9.9")]).unwrap();
    let next = given.successor(&inventory);
    assert_eq!(next.of(A.parse().unwrap()), Some(3));
    assert_eq!(next.of("10.9.9.9".parse().unwrap()), None);
    assert_eq!(
        next.of(B.parse().unwrap()),
        Some(2),
        "5 rests, 1 is fd00::1's"
    );
    assert_eq!(next.len(), inventory.holders().len());
}
