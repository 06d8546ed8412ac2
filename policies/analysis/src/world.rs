//! The workloads as selectors see them, and what a selector selects.
//!
//! Workloads that no selector of the policies tells apart, and that name the same
//! ports, are one *group*. There are as many groups as policies care for, however
//! many workloads there are, so that selectors are evaluated over groups; and each
//! selector once, over those groups that one of its requirements lists.
//!
//! Invariant: a workload that selectors cannot match (it has ended, or shares its
//! node's network) is in no group.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::rc::Rc;

use cofferdam_inventory::selectors::{LabelSelector, Labels, Operator};
use cofferdam_inventory::{
    ClusterPeer, Inventory, NAMESPACE_NAME_LABEL, NamedPort, Peer, Service, Workload,
    WorkloadSelector,
};

use super::ranges::Ranges;

/// Numbers of groups, or of nodes, in order, each once.
pub(super) type Set = Rc<[u32]>;

/// Workloads that policies treat alike.
pub(super) struct Group<'a> {
    /// Their namespace.
    pub(super) namespace: &'a str,
    /// Their ports that have names.
    pub(super) ports: &'a [NamedPort],
    /// The workloads, at least one.
    pub(super) members: Vec<&'a Workload>,
}

impl<'a> Group<'a> {
    /// Labels that every selector takes for those of any member.
    pub(super) fn labels(&self) -> &'a Labels {
        &self.members[0].labels
    }
}

/// Namespaces whose workloads a selector may select.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Scope<'a> {
    /// One namespace, by its name.
    Namespace(&'a str),
    /// Namespaces that a selector selects.
    Namespaces(&'a LabelSelector),
}

/// All groups, by what selectors ask for.
pub(super) struct World<'a> {
    pub(super) inventory: &'a Inventory,
    /// The namespaces of the inventory, and those that only what is beside it lies in.
    pub(super) labels: BTreeMap<&'a str, Cow<'a, Labels>>,
    pub(super) groups: Vec<Group<'a>>,
    /// Workloads that selectors cannot match.
    pub(super) unselectable: Vec<&'a Workload>,
    by_namespace: BTreeMap<&'a str, Vec<u32>>,
    by_label: HashMap<&'a str, HashMap<&'a str, Vec<u32>>>,
    selected: RefCell<HashMap<(Scope<'a>, &'a LabelSelector), Set>>,
    /// Every address of a workload, and its group.
    v4: Vec<(u128, u32)>,
    v6: Vec<(u128, u32)>,
}

impl<'a> World<'a> {
    /// Sorts the workloads of an inventory, and those that templates will make.
    pub(super) fn new(
        inventory: &'a Inventory,
        templates: &[&'a Workload],
        services: &[&'a Service],
    ) -> Self {
        let mut keys = label_keys(inventory);
        let asked = services.iter().flat_map(|service| service.selector.iter());
        keys.extend(asked.map(|(key, _)| key));
        let mut world = Self {
            inventory,
            labels: (inventory.namespaces().iter())
                .map(|(name, namespace)| (name.as_ref(), Cow::Borrowed(&namespace.labels)))
                .collect(),
            groups: Vec::new(),
            unselectable: Vec::new(),
            by_namespace: BTreeMap::new(),
            by_label: HashMap::new(),
            selected: RefCell::default(),
            v4: Vec::new(),
            v6: Vec::new(),
        };
        let mut numbers: HashMap<_, u32> = HashMap::new();
        let workloads = (inventory.workloads().values()).chain(templates.iter().copied());
        for workload in workloads {
            if !workload.is_selectable() {
                world.unselectable.push(workload);
                continue;
            }
            let labels: Vec<(&str, &str)> = (workload.labels.iter())
                .filter(|(key, _)| keys.contains(key))
                .collect();
            let namespace: &str = &workload.name.namespace;
            world.mention(namespace);
            let ports = workload.ports.as_slice();
            let next = u32::try_from(world.groups.len()).unwrap_or(u32::MAX);
            let group = *numbers
                .entry((namespace, labels, ports))
                .or_insert_with_key(|(_, labels, _)| {
                    world.by_namespace.entry(namespace).or_default().push(next);
                    for (key, value) in labels {
                        let values = world.by_label.entry(key).or_default();
                        values.entry(value).or_default().push(next);
                    }
                    world.groups.push(Group {
                        namespace,
                        ports,
                        members: Vec::new(),
                    });
                    next
                });
            world.groups[group as usize].members.push(workload);
            for address in workload.own_addresses() {
                match address {
                    IpAddr::V4(v4) => world.v4.push((u32::from(*v4).into(), group)),
                    IpAddr::V6(v6) => world.v6.push((u128::from(*v6), group)),
                }
            }
        }
        world.v4.sort_unstable();
        world.v6.sort_unstable();
        world
    }

    /// Notes a namespace, of which nothing but its name may be known.
    pub(super) fn mention(&mut self, namespace: &'a str) {
        self.labels
            .entry(namespace)
            .or_insert_with(|| Cow::Owned(Labels::from_iter([(NAMESPACE_NAME_LABEL, namespace)])));
    }

    /// The groups of a namespace.
    pub(super) fn of_namespace(&self, namespace: &str) -> &[u32] {
        self.by_namespace.get(namespace).map_or(&[], Vec::as_slice)
    }

    /// Namespaces with workloads that selectors can match, and their groups.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = (&'a str, &[u32])> {
        (self.by_namespace.iter()).map(|(name, groups)| (*name, groups.as_slice()))
    }

    /// Returns `true` if a namespace is in a scope.
    pub(super) fn is_in(&self, scope: Scope<'_>, namespace: &str) -> bool {
        match scope {
            Scope::Namespace(name) => name == namespace,
            Scope::Namespaces(selector) => {
                (self.labels.get(namespace)).is_some_and(|labels| selector.matches(labels))
            }
        }
    }

    /// The groups that a selector selects.
    pub(super) fn select(&self, scope: Scope<'a>, selector: &'a LabelSelector) -> Set {
        if let Some(known) = self.selected.borrow().get(&(scope, selector)) {
            return known.clone();
        }
        let set = self.evaluate(scope, selector);
        (self.selected.borrow_mut()).insert((scope, selector), set.clone());
        set
    }

    fn evaluate(&self, scope: Scope<'a>, selector: &'a LabelSelector) -> Set {
        let matches = |group: &u32| selector.matches(self.groups[*group as usize].labels());
        let listed = self.listed(selector);
        if let Scope::Namespace(namespace) = scope {
            let own = self.of_namespace(namespace);
            return match listed {
                Some(listed) if listed.len() < own.len() => (listed.into_iter())
                    .filter(|group| self.groups[*group as usize].namespace == namespace)
                    .filter(matches)
                    .collect(),
                _ => own.iter().copied().filter(matches).collect(),
            };
        }
        let in_scope: HashMap<&str, &[u32]> = (self.namespaces())
            .filter(|(name, _)| self.is_in(scope, name))
            .collect();
        let mut groups: Vec<u32> = match listed {
            Some(listed) => (listed.into_iter())
                .filter(|group| in_scope.contains_key(self.groups[*group as usize].namespace))
                .filter(matches)
                .collect(),
            None => (in_scope.values())
                .flat_map(|groups| groups.iter().copied())
                .filter(matches)
                .collect(),
        };
        groups.sort_unstable();
        groups.into()
    }

    /// The groups with this label.
    fn labelled(&self, key: &str, value: &str) -> &[u32] {
        (self.by_label.get(key))
            .and_then(|values| values.get(value))
            .map_or(&[], Vec::as_slice)
    }

    /// The groups of a namespace with all of these labels, for each of which some Service
    /// or selector asks.
    pub(super) fn with_labels(&self, namespace: &str, labels: &Labels) -> Set {
        let lists = labels.iter().map(|(key, value)| self.labelled(key, value));
        let fewest = (lists.chain([self.of_namespace(namespace)])).min_by_key(|list| list.len());
        let groups = fewest.unwrap_or_default().iter().copied();
        let has_all = |group: &u32| {
            let group = &self.groups[*group as usize];
            let own = group.labels();
            let mut wanted = labels.iter();
            group.namespace == namespace && wanted.all(|(key, value)| own.get(key) == Some(value))
        };
        groups.filter(has_all).collect()
    }

    /// The groups with the values that one requirement lists, the requirement with
    /// the fewest; `None` when no requirement lists any.
    fn listed(&self, selector: &LabelSelector) -> Option<Vec<u32>> {
        let lists = selector.requirements().iter().filter_map(|requirement| {
            let Operator::In(values) = requirement.operator() else {
                return None;
            };
            let key = requirement.key();
            let count: usize = values
                .iter()
                .map(|value| self.labelled(key, value).len())
                .sum();
            Some((count, key, values))
        });
        let (_, key, values) = lists.min_by_key(|(count, ..)| *count)?;
        let mut groups: Vec<u32> = (values.iter())
            .flat_map(|value| self.labelled(key, value).iter().copied())
            .collect();
        // A group has one value under a key, so none comes twice.
        groups.sort_unstable();
        Some(groups)
    }

    /// Returns the groups that a peer of a policy in `namespace` selects; `None` for a
    /// block of addresses.
    pub(super) fn peer(&self, namespace: &'a str, peer: &'a Peer) -> Option<Set> {
        match peer {
            Peer::Block { .. } => None,
            Peer::Workloads {
                namespaces,
                workloads,
            } => {
                let scope =
                    (namespaces.as_ref()).map_or(Scope::Namespace(namespace), Scope::Namespaces);
                Some(self.select(scope, workloads))
            }
        }
    }

    /// Returns the groups that a subject or peer of a policy of the whole cluster selects.
    pub(super) fn workloads(&self, selector: &'a WorkloadSelector) -> Set {
        let scope = Scope::Namespaces(&selector.namespaces);
        self.select(scope, &selector.workloads)
    }

    /// The same of one of its peers, if it selects workloads.
    pub(super) fn cluster_peer(&self, peer: &'a ClusterPeer) -> Option<Set> {
        match peer {
            ClusterPeer::Workloads(selector) => Some(self.workloads(selector)),
            ClusterPeer::Networks(_) | ClusterPeer::Nodes(_) => None,
        }
    }

    /// The groups with an address in these ranges, and how many addresses that are.
    pub(super) fn within(&self, ranges: &Ranges) -> (Set, usize) {
        let mut count = 0;
        let mut groups = HashSet::new();
        for (addresses, ranges) in [(&self.v4, ranges.v4()), (&self.v6, ranges.v6())] {
            for &(first, last) in ranges {
                let from = addresses.partition_point(|(address, _)| *address < first);
                let to = addresses.partition_point(|(address, _)| *address <= last);
                count += to - from;
                groups.extend(addresses[from..to].iter().map(|(_, group)| *group));
            }
        }
        let mut groups: Vec<u32> = groups.into_iter().collect();
        groups.sort_unstable();
        (groups.into(), count)
    }

    /// Returns `true` if the ranges hold all addresses of each workload of a group, and
    /// each has some.
    pub(super) fn holds_all(&self, ranges: &Ranges, group: u32) -> bool {
        (self.groups[group as usize].members.iter()).all(|workload| {
            let addresses = workload.own_addresses();
            !addresses.is_empty() && addresses.iter().all(|address| ranges.contains(*address))
        })
    }

    /// The nodes that a selector selects, numbered in the order of their names.
    pub(super) fn nodes(&self, selector: &LabelSelector) -> Vec<u32> {
        (0..)
            .zip(self.inventory.nodes().values())
            .filter(|(_, node)| selector.matches(&node.labels))
            .map(|(number, _)| number)
            .collect()
    }
}

/// Every label key that some selector of workloads asks for.
fn label_keys(inventory: &Inventory) -> HashSet<&str> {
    let mut keys = HashSet::new();
    for policy in inventory.policies().values() {
        keys.extend(keys_of(&policy.subject));
        for rule in policy.ingress.iter().chain(&policy.egress).flatten() {
            for peer in rule.peers.iter().flatten() {
                if let Peer::Workloads { workloads, .. } = peer {
                    keys.extend(keys_of(workloads));
                }
            }
        }
    }
    for policy in inventory.cluster_policies().values() {
        keys.extend(keys_of(&policy.subject.workloads));
        for rule in policy.ingress.iter().chain(&policy.egress) {
            for peer in rule.peers.iter().flatten() {
                if let ClusterPeer::Workloads(selector) = peer {
                    keys.extend(keys_of(&selector.workloads));
                }
            }
        }
    }
    keys
}

fn keys_of(selector: &LabelSelector) -> impl Iterator<Item = &str> {
    selector
        .requirements()
        .iter()
        .map(|requirement| requirement.key())
}
