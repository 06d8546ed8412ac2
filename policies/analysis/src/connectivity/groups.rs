//! Ends that policies treat alike, as one.
//!
//! Replicas of a workload are one group if they behave alike: the same subject class, the
//! same peer atoms, behind the same ports of Services. Nodes that are alike are one, too.
//! Addresses that nobody owns are groups by peer atom.
//!
//! Invariant: every end is a member of one group; the members of one differ in nothing
//! that a policy can tell.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use cofferdam_inventory::services::Backend;
use cofferdam_inventory::{ObjectName, Owner, Workload};
use cofferdam_reach::{End, EndKind, Point, Reach};
use cofferdam_verdict::address::Family;
use foldhash::{HashMap, HashSet};

use super::outside::{Outside, Range};
use super::owners::owner;

/// The families in order.
pub(super) const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// One end of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id: `namespace/pod` or `node/NAME`.
    pub id: Arc<str>,
    /// The node that it is, or runs on.
    pub node: Option<Arc<str>>,
}

/// Ends that are treated alike.
#[derive(Debug, Clone)]
pub struct Group {
    /// `namespace/workload`, `node/NAME`, `node/*` where all nodes are alike, or CIDRs.
    pub id: Arc<str>,
    /// Kind of its members.
    pub kind: EndKind,
    /// The namespace of its members, if they have one.
    pub namespace: Option<Arc<str>>,
    /// Its members, in the order of their names; none of outside addresses.
    pub members: Vec<Member>,
    /// The outside addresses that it is.
    pub outside: Option<Outside>,
    /// The owner of its members, by which they are found in other documents.
    pub(super) owner: Arc<str>,
    pub(super) behaviour: u32,
}

/// All that verdicts about an end follow from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Behaviour {
    /// By family.
    pub(super) traits: [Traits; 2],
    /// The Services' ports that it is behind, of each family, by position.
    serves: Vec<u32>,
    /// The end itself where what is sent to it may be translated by its address, so that it
    /// is like no other.
    itself: Option<u32>,
    /// Packets to it may go elsewhere.
    pub(super) is_translated: bool,
}

/// Facts of an end's addresses of one family that policies know.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Traits {
    /// The subject class, if policies select it.
    pub(super) class: Option<u32>,
    /// The peer atoms in the order of addresses, each once; none without an address.
    pub(super) atoms: Vec<u32>,
}

/// Groups, and what they are by.
#[derive(Debug, Default)]
pub(super) struct Groups {
    pub(super) groups: Vec<Group>,
    pub(super) behaviours: Vec<Behaviour>,
    /// For each behaviour an end that has it; none of outside addresses.
    pub(super) samples: Vec<Option<End>>,
    numbers: HashMap<Behaviour, u32>,
}

impl Groups {
    pub(super) fn new(reach: &Reach) -> Self {
        let mut groups = Self::default();
        groups.take_ends(reach);
        groups.take_outside(reach);
        groups
    }

    fn take_ends(&mut self, reach: &Reach) {
        let serves = serves(reach);
        // By owner, and then by behaviour.
        let mut owned: BTreeMap<(EndKind, ObjectName), BTreeMap<u32, Vec<Member>>> =
            BTreeMap::new();
        for (at, end) in (0u32..).zip(reach.ends()) {
            let traits = FAMILIES.map(|family| Traits::of(end, family));
            let virtual_too = end.addresses().any(|address| {
                let services = reach.services();
                services.at(address).next().is_some()
            });
            let behaviour = Behaviour {
                traits,
                serves: serves.get(end.id()).cloned().unwrap_or_default(),
                itself: virtual_too.then_some(at),
                is_translated: end.may_be_translated(),
            };
            let number = self.number(behaviour, Some(end));
            let (namespace, name) = end.id().split_once('/').unwrap_or(("", end.id()));
            let pod = || {
                reach
                    .inventory()
                    .workloads()
                    .get(&ObjectName::new(namespace, name))
            };
            let (owner, node) = match end.kind() {
                EndKind::Pod => {
                    let pod = pod();
                    let own = pod.map_or_else(|| ObjectName::new(namespace, name), owner);
                    (own, pod.and_then(|pod: &Workload| pod.node.clone()))
                }
                _ => (ObjectName::new("node", "*"), Some(name.into())),
            };
            let by_behaviour = owned.entry((end.kind(), owner)).or_default();
            by_behaviour.entry(number).or_default().push(Member {
                id: end.id().into(),
                node,
            });
        }
        let pods: HashSet<&str> = reach.ends().iter().map(End::id).collect();
        for ((kind, owner), parts) in owned {
            let called: Arc<str> = owner.to_string().into();
            let is_alone = parts.len() == 1;
            for (behaviour, members) in parts {
                let is_one = members.len() == 1;
                // A pod that is called like another's owner keeps its name.
                let is_taken = kind == EndKind::Pod && !is_one && pods.contains(&*called);
                let id = match kind {
                    EndKind::Node if is_one => members[0].id.clone(),
                    _ if is_alone && !is_taken => called.clone(),
                    _ => members[0].id.clone(),
                };
                self.groups.push(Group {
                    id,
                    kind,
                    namespace: (kind == EndKind::Pod).then(|| owner.namespace.clone()),
                    members,
                    outside: None,
                    owner: called.clone(),
                    behaviour,
                });
            }
        }
    }

    fn take_outside(&mut self, reach: &Reach) {
        let firsts: Vec<(IpAddr, u32)> = reach.compiled().outside_ranges().collect();
        let mut by_atom: BTreeMap<(Family, u32), Vec<Range>> = BTreeMap::new();
        let mut next = firsts.iter().skip(1).map(|(first, _)| *first);
        for (first, atom) in &firsts {
            let (family, range) = match (first, next.next()) {
                (IpAddr::V4(first), Some(IpAddr::V4(next))) => {
                    let last = u32::from(next) - 1;
                    (Family::V4, (u32::from(*first).into(), last.into()))
                }
                (IpAddr::V4(first), _) => (Family::V4, (u32::from(*first).into(), u32::MAX.into())),
                (IpAddr::V6(first), Some(IpAddr::V6(next))) => {
                    (Family::V6, (u128::from(*first), u128::from(next) - 1))
                }
                (IpAddr::V6(first), _) => (Family::V6, (u128::from(*first), u128::MAX)),
            };
            by_atom.entry((family, *atom)).or_default().push(range);
        }
        for ((family, atom), ranges) in by_atom {
            let outside = Outside::new(family, ranges);
            let number = self.number(
                Behaviour {
                    traits: match family {
                        Family::V4 => [with_atom(atom), Traits::default()],
                        Family::V6 => [Traits::default(), with_atom(atom)],
                    },
                    serves: Vec::new(),
                    itself: None,
                    is_translated: false,
                },
                None,
            );
            self.groups.push(Group {
                id: outside.id().into(),
                kind: EndKind::External,
                namespace: None,
                members: Vec::new(),
                outside: Some(outside),
                owner: "".into(),
                behaviour: number,
            });
        }
    }

    /// The workloads that an end of this behaviour is, by position.
    pub(super) fn workloads(&self, behaviour: u32) -> Vec<u32> {
        let sample = self.samples[behaviour as usize].iter();
        sample.flat_map(End::positions).collect()
    }

    /// The number of a behaviour.
    fn number(&mut self, behaviour: Behaviour, sample: Option<&End>) -> u32 {
        if let Some(known) = self.numbers.get(&behaviour) {
            return *known;
        }
        let number = u32::try_from(self.behaviours.len()).expect("fewer ends than addresses");
        self.behaviours.push(behaviour.clone());
        self.samples.push(sample.cloned());
        self.numbers.insert(behaviour, number);
        number
    }
}

fn with_atom(atom: u32) -> Traits {
    Traits {
        class: None,
        atoms: vec![atom],
    }
}

impl Traits {
    /// Those of one address.
    pub(super) fn of_point(point: &Point) -> Self {
        let (atom, class) = point.atom();
        Self {
            class,
            atoms: vec![atom],
        }
    }

    /// The same, each atom by itself.
    pub(super) fn each(&self) -> impl Iterator<Item = Self> {
        self.atoms.iter().map(|atom| Self {
            class: self.class,
            atoms: vec![*atom],
        })
    }

    fn of(end: &End, family: Family) -> Self {
        let mut traits = Self::default();
        for (atom, class) in end.atoms(family) {
            traits.class = class.or(traits.class);
            if !traits.atoms.contains(&atom) {
                traits.atoms.push(atom);
            }
        }
        traits
    }
}

/// Of each pod the ports of Services that it is behind, each port of each family by a number.
fn serves(reach: &Reach) -> HashMap<String, Vec<u32>> {
    let services = reach.services();
    let inventory = services.inventory();
    let mut serves: HashMap<String, Vec<u32>> = HashMap::default();
    let mut number = 0;
    for service in inventory.services().values() {
        let of_port = (service.ports.iter())
            .flat_map(|port| FAMILIES.map(|family| services.backends(service, port, family)));
        let named = FAMILIES.map(|family| services.members(service, family));
        for backends in of_port.chain(named) {
            number += 1;
            for Backend { address, pod, .. } in backends {
                let owned = match inventory.owner(address) {
                    Some(Owner::Workload(name)) => Some(name),
                    Some(Owner::Node(_)) | None => pod,
                };
                if let Some(name) = owned {
                    serves.entry(name.to_string()).or_default().push(number);
                }
            }
        }
    }
    serves
}
