//! A desired state that is made of the one before is the one that is made anew.

use std::collections::BTreeMap;

use cofferdam_inventory::selectors::{LabelSelector, Labels};
use cofferdam_inventory::{
    EndpointSlice, Families, Mode, NamedPort, Namespace, NetworkPolicy, Protocol, Service,
    ServiceKind,
};
use cofferdam_syntax::diagnostic::Place;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use super::*;
use crate::endpoint::EndpointId;

const NODE: &str = "n1";

/// A change of what a desired state is made of, in few words, so that they meet.
#[derive(Debug, Clone)]
enum Edit {
    Namespace(u8, Option<u8>),
    Pod((u8, u8), Option<Pod>),
    Policy((u8, u8), bool),
    Service((u8, u8), bool),
    Node(u8, Option<u8>),
    Endpoint((u8, u8, u8), Option<(u8, Vec<u8>)>),
    OwnAddresses(Vec<u8>),
    /// Of a namespace's policies, or of all.
    Enforcement(Option<u8>, Mode),
}

#[derive(Debug, Clone)]
struct Pod {
    label: u8,
    addresses: Vec<u8>,
    finished: bool,
    host_network: bool,
}

fn step() -> impl Strategy<Value = Edit> {
    let addresses = || prop::collection::vec(0..40u8, 0..3);
    let rarely = || prop::bool::weighted(0.1);
    let pod = (0..3u8, addresses(), rarely(), rarely()).prop_map(
        |(label, addresses, finished, host_network)| Pod {
            label,
            addresses,
            finished,
            host_network,
        },
    );
    let own = prop::collection::vec(40..44u8, 0..2);
    prop_oneof![
        1 => (0..3u8, prop::option::of(0..3u8)).prop_map(|(name, label)| Edit::Namespace(name, label)),
        6 => ((0..3u8, 0..6u8), prop::option::weighted(0.7, pod))
            .prop_map(|(name, pod)| Edit::Pod(name, pod)),
        2 => ((0..4u8, 0..2u8), any::<bool>()).prop_map(|(name, is)| Edit::Policy(name, is)),
        2 => ((0..4u8, 0..2u8), any::<bool>()).prop_map(|(name, is)| Edit::Service(name, is)),
        1 => (1..3u8, prop::option::of(0..48u8)).prop_map(|(name, address)| Edit::Node(name, address)),
        6 => (
            (0..5u8, 0..6u8, 0..2u8),
            prop::option::weighted(0.7, (0..3u8, prop::collection::vec(0..40u8, 1..3))),
        )
            .prop_map(|(id, endpoint)| Edit::Endpoint(id, endpoint)),
        1 => own.prop_map(Edit::OwnAddresses),
        1 => (prop::option::of(0..3u8), prop::sample::select(vec![Mode::Enforce, Mode::Audit]))
            .prop_map(|(namespace, mode)| Edit::Enforcement(namespace, mode)),
    ]
}

fn name(namespace: u8, name: u8) -> ObjectName {
    ObjectName::new(&format!("x{namespace}"), &format!("o{name}"))
}

fn address(number: u8) -> IpAddr {
    match number % 2 {
        0 => [10, 0, 0, number].into(),
        _ => [0xfd00, 0, 0, 0, 0, 0, 0, number.into()].into(),
    }
}

/// Input of a desired state.
#[derive(Debug, Clone, Default)]
struct World {
    namespaces: BTreeMap<u8, u8>,
    pods: BTreeMap<(u8, u8), Pod>,
    policies: BTreeSet<(u8, u8)>,
    services: BTreeSet<(u8, u8)>,
    nodes: BTreeMap<u8, u8>,
    documents: Inventory,
    endpoints: BTreeMap<EndpointId, Arc<Endpoint>>,
    own: Vec<IpAddr>,
    /// By namespace, of those that are there.
    modes: BTreeMap<u8, Mode>,
    mode: Mode,
}

impl World {
    fn apply(&mut self, step: Edit) {
        fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
            match value {
                Some(value) => _ = map.insert(key, value),
                None => _ = map.remove(&key),
            }
        }
        match step {
            Edit::Namespace(name, label) => put(&mut self.namespaces, name, label),
            Edit::Pod(name, pod) => put(&mut self.pods, name, pod),
            Edit::Policy(name, true) => _ = self.policies.insert(name),
            Edit::Policy(name, false) => _ = self.policies.remove(&name),
            Edit::Service(name, true) => _ = self.services.insert(name),
            Edit::Service(name, false) => _ = self.services.remove(&name),
            Edit::Node(name, address) => put(&mut self.nodes, name, address),
            Edit::OwnAddresses(addresses) => {
                self.own = addresses.into_iter().map(address).collect();
            }
            Edit::Enforcement(None, mode) => self.mode = mode,
            Edit::Enforcement(Some(namespace), mode) => _ = self.modes.insert(namespace, mode),
            Edit::Endpoint((namespace, workload, interface), described) => {
                let described = described.map(|(label, addresses)| {
                    let mut endpoint =
                        Endpoint::example("a", &format!("eth{interface}"), "10.0.0.1");
                    endpoint.id.namespace = format!("x{namespace}");
                    endpoint.id.name = format!("o{workload}");
                    endpoint.addresses = addresses.into_iter().map(address).collect();
                    endpoint.labels = [("l".to_owned(), format!("call{label}"))].into();
                    endpoint
                });
                let mut id = Endpoint::example("a", &format!("eth{interface}"), "10.0.0.1").id;
                id.namespace = format!("x{namespace}");
                id.name = format!("o{workload}");
                put(&mut self.endpoints, id, described.map(Arc::new));
            }
        }
        self.put_together();
    }

    /// Documents are put together anew, and share what is the same.
    fn put_together(&mut self) {
        let labels = |label: &u8| Labels::from_iter([("l", format!("v{label}"))]);
        let mut inventory = Inventory::default();
        for (name, label) in &self.namespaces {
            let namespace = Namespace {
                labels: labels(label),
                enforcement: self.modes.get(name).copied().unwrap_or_default(),
            };
            inventory.set_namespace(&format!("x{name}"), namespace);
        }
        for (number, owned) in &self.nodes {
            let node = Node {
                labels: labels(number),
                addresses: vec![address(*owned)],
            };
            // Of two documents with one address the later is left out here.
            _ = inventory.set_node(&format!("n{number}"), node);
        }
        for ((namespace, pod), described) in &self.pods {
            let workload = Workload {
                name: name(*namespace, *pod),
                labels: labels(&described.label),
                node: Some(NODE.into()),
                host_network: described.host_network,
                finished: described.finished,
                addresses: described.addresses.iter().copied().map(address).collect(),
                ports: vec![NamedPort {
                    name: "p".into(),
                    protocol: Protocol::Tcp,
                    number: described.label.into(),
                }],
            };
            _ = inventory.set_workload(workload);
        }
        for (namespace, policy) in &self.policies {
            inventory.set_policy(NetworkPolicy {
                name: name(*namespace, *policy),
                place: Place {
                    file: "f".into(),
                    line: 1,
                    column: 1,
                },
                mode: Mode::Enforce,
                subject: LabelSelector::default(),
                ingress: None,
                egress: None,
            });
        }
        for (namespace, service) in &self.services {
            let name = name(*namespace, *service);
            let slice = EndpointSlice {
                service: Some(name.name.clone()),
                ports: Vec::new(),
                endpoints: Vec::new(),
            };
            inventory.set_slice(name.clone(), slice);
            inventory.set_service(Service {
                name,
                kind: ServiceKind::Virtual,
                selector: Labels::default(),
                ports: Vec::new(),
                cluster_addresses: vec![address(*service)],
                outside_addresses: Vec::new(),
                families: Families::BOTH,
            });
        }
        inventory.share_with(&self.documents);
        self.documents = inventory;
    }

    fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.endpoints.values().cloned().collect()
    }

    fn next(&self, before: &Made) -> Made {
        let endpoints = self.endpoints();
        before.next(
            &self.documents,
            endpoints,
            NODE,
            self.own.clone(),
            self.mode,
        )
    }

    /// Returns `true` if the next is made of the one before.
    fn is_step(&self, before: &Made) -> bool {
        let own = Own {
            name: NODE.to_owned(),
            addresses: self.own.clone(),
        };
        let step = before.step(&self.documents, &self.endpoints(), &own);
        step.is_some()
    }
}

/// Plays rounds of changes; says how often a state was made of the one before, and how
/// often anew.
fn play(rounds: Vec<Vec<Edit>>) -> [usize; 2] {
    let mut world = World::default();
    let mut made = Made::default();
    let mut counts = [0; 2];
    for steps in rounds {
        for step in steps {
            world.apply(step);
        }
        counts[usize::from(!world.is_step(&made))] += 1;
        made = world.next(&made);
        let endpoints = world.endpoints();
        let mut anew = desired(
            &world.documents,
            endpoints.iter().map(|endpoint| &**endpoint),
            NODE,
            &world.own,
        );
        anew.inventory.set_enforcement(world.mode);
        assert_eq!(made.desired, anew);
    }
    counts
}

fn rounds() -> impl Strategy<Value = Vec<Vec<Edit>>> {
    prop::collection::vec(prop::collection::vec(step(), 1..4), 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(256)
    })]

    #[test]
    fn what_was_made_before_changes_nothing(rounds in rounds()) {
        play(rounds);
    }
}

/// Always the same worlds, so that this says something of the generator alone.
#[test]
fn the_worlds_are_made_of_those_before_and_anew() {
    let mut runner = TestRunner::deterministic();
    let mut sums = [0; 2];
    for _ in 0..100 {
        let rounds = rounds().new_tree(&mut runner).unwrap().current();
        let counts = play(rounds);
        sums = [sums[0] + counts[0], sums[1] + counts[1]];
    }
    assert!(sums.iter().all(|sum| *sum > 200), "{sums:?}");
}

#[test]
fn only_nodes_and_contested_addresses_take_more_than_what_differs() {
    let pod = |addresses: &[u8]| Pod {
        label: 0,
        addresses: addresses.to_vec(),
        finished: false,
        host_network: false,
    };
    let endpoint = |addresses: &[u8]| Some((0, addresses.to_vec()));
    let mut world = World::default();
    let mut made = Made::default();
    for (step, is_step) in [
        (Edit::OwnAddresses(vec![40]), false),
        (Edit::Pod((0, 0), Some(pod(&[0]))), true),
        (Edit::Pod((1, 0), Some(pod(&[1]))), true),
        // Of a namespace that was not there.
        (Edit::Policy((3, 0), true), true),
        (Edit::Namespace(2, Some(1)), true),
        // Without a document, with one, with another address than that of its document.
        (Edit::Endpoint((0, 4, 0), endpoint(&[4])), true),
        (Edit::Endpoint((0, 0, 0), endpoint(&[0])), true),
        (Edit::Endpoint((1, 0, 0), endpoint(&[6])), true),
        // A second interface; labels of the document; the document itself.
        (Edit::Endpoint((0, 0, 1), endpoint(&[8])), true),
        (
            Edit::Pod(
                (0, 0),
                Some(Pod {
                    label: 1,
                    ..pod(&[0])
                }),
            ),
            true,
        ),
        (Edit::Pod((0, 0), None), true),
        (Edit::Pod((1, 0), None), true),
        (Edit::Endpoint((0, 0, 0), None), true),
        // The only one of its namespace, which then is no more.
        (Edit::Endpoint((4, 0, 0), endpoint(&[10])), true),
        (Edit::Endpoint((4, 0, 0), None), true),
        (Edit::Policy((3, 0), false), true),
        (Edit::Enforcement(Some(2), Mode::Audit), true),
        (Edit::Enforcement(None, Mode::Audit), true),
        (Edit::Node(2, Some(12)), false),
        (Edit::OwnAddresses(vec![42]), false),
        // Claims what is an endpoint's; and as long as it does.
        (Edit::Pod((2, 0), Some(pod(&[4]))), false),
        (Edit::Pod((2, 1), Some(pod(&[14]))), false),
        (Edit::Pod((2, 0), Some(pod(&[16]))), false),
        (Edit::Pod((2, 0), Some(pod(&[18]))), true),
        (Edit::Pod((2, 0), Some(pod(&[42]))), false),
    ] {
        let text = format!("{step:?}");
        world.apply(step);
        assert_eq!(world.is_step(&made), is_step, "{text}");
        made = world.next(&made);
    }
}
