//! Policies with one part left out or widened: what tests should notice.
//!
//! A *mutant* is the desired state with one policy changed as somebody might forget a part of
//! it: a policy, a direction, a rule, a peer, a port, an `except`, or a condition of a selector
//! left out; a list of peers or ports, a block or a range of ports widened to everything.
//!
//! Invariant: each mutant differs from the desired state in one policy. Parts whose absence
//! means the same as another mutant's, such as the only peer of a rule, have none of their own.

use cofferdam_documents::Source;
use cofferdam_inventory::selectors::LabelSelector;
use cofferdam_inventory::{
    ClusterNetworkPolicy, ClusterPeer, ClusterRule, Inventory, NetworkPolicy, ObjectName, Peer,
    PortRange, Ports, Rule, WorkloadSelector,
};
use cofferdam_syntax::diagnostic::Place;
use cofferdam_verdict::verdict::Direction;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::places::{PathStep, Places};
use super::rules::{peers_key, section};

/// One policy, changed in one part.
#[derive(Debug, Clone)]
pub struct Mutant {
    /// The policy: `namespace/name`, or `name` of one of the whole cluster.
    pub policy: String,
    /// The change, for people: `ingress[0].from[1] left out`.
    pub what: String,
    /// Place of the part.
    pub place: Place,
    changed: Changed,
}

/// A policy as a mutant has it.
#[derive(Debug, Clone)]
enum Changed {
    Without(ObjectName),
    Policy(NetworkPolicy),
    WithoutCluster(Box<str>),
    Cluster(ClusterNetworkPolicy),
}

impl Mutant {
    /// Returns a desired state with the change.
    #[must_use]
    pub fn of(&self, inventory: &Inventory) -> Inventory {
        let mut changed = inventory.clone();
        match &self.changed {
            Changed::Without(name) => {
                changed.remove_policy(name);
            }
            Changed::Policy(policy) => changed.set_policy(policy.clone()),
            Changed::WithoutCluster(name) => {
                changed.remove_cluster_policy(name);
            }
            Changed::Cluster(policy) => changed.set_cluster_policy(policy.clone()),
        }
        changed
    }
}

/// Returns all mutants of the policies of a desired state, in the order of their names. The
/// sources are those that it was read from: they have the places.
#[must_use]
pub fn mutants(inventory: &Inventory, sources: &[Source]) -> Vec<Mutant> {
    let places = Places::new(sources);
    let mut all = Vec::new();
    for policy in inventory.policies().values() {
        OfPolicy {
            policy,
            places: &places,
            all: &mut all,
        }
        .add();
    }
    for policy in inventory.cluster_policies().values() {
        OfCluster {
            policy,
            places: &places,
            all: &mut all,
        }
        .add();
    }
    all
}

/// A change of a part: the words behind the part's, the steps to its place, and the part.
struct Part<'s, T> {
    what: String,
    steps: Vec<PathStep<'s>>,
    changed: T,
}

impl<'s, T> Part<'s, T> {
    fn new(what: impl Into<String>, steps: impl Into<Vec<PathStep<'s>>>, changed: T) -> Self {
        Self {
            what: what.into(),
            steps: steps.into(),
            changed,
        }
    }

    /// The same as a part of something larger.
    fn within<U>(
        self,
        what: &str,
        steps: &[PathStep<'s>],
        whole: impl FnOnce(T) -> U,
    ) -> Part<'s, U> {
        Part {
            what: format!("{what}{}", self.what),
            steps: [steps, &self.steps].concat(),
            changed: whole(self.changed),
        }
    }
}

/// A list without one of its entries, each in turn.
fn without_one<T: Clone>(list: &[T]) -> impl Iterator<Item = (usize, Vec<T>)> {
    (0..list.len()).map(|at| {
        let mut rest = list.to_vec();
        rest.remove(at);
        (at, rest)
    })
}

/// A list with one of its entries changed.
fn with_one<T: Clone>(list: &[T], at: usize, entry: T) -> Vec<T> {
    let mut list = list.to_vec();
    list[at] = entry;
    list
}

/// The place of a list in something larger.
struct ListAt {
    /// The word that comes before it in sentences: a dot below a rule.
    dot: &'static str,
    key: &'static str,
    step: fn(usize) -> PathStep<'static>,
    /// `true` if the last of its entries can be left out.
    may_be_empty: bool,
}

impl ListAt {
    /// Leaves its entries out, each in turn, and changes a part of an entry. `whole` puts a list
    /// into the larger thing.
    fn parts<'l, T: Clone, W>(
        &self,
        list: &'l [T],
        of_entry: impl Fn(&'l T) -> Vec<Part<'l, T>>,
        whole: impl Fn(Vec<T>) -> W,
    ) -> Vec<Part<'l, W>> {
        let Self { dot, key, .. } = self;
        let steps = |at| [PathStep::Key(self.key), (self.step)(at)];
        let rests = without_one(list).filter(|(_, rest)| self.may_be_empty || !rest.is_empty());
        let mut parts: Vec<_> = rests
            .map(|(at, rest)| {
                let what = format!("{dot}{key}[{at}] left out");
                Part::new(what, steps(at), whole(rest))
            })
            .collect();
        for (at, entry) in list.iter().enumerate() {
            let of_entry = of_entry(entry).into_iter();
            parts.extend(of_entry.map(|part| {
                part.within(&format!("{dot}{key}[{at}]"), &steps(at), |entry| {
                    whole(with_one(list, at, entry))
                })
            }));
        }
        parts
    }
}

/// The rules of a direction.
fn rules_at(direction: Direction) -> ListAt {
    ListAt {
        dot: "",
        key: section(direction),
        step: PathStep::Item,
        may_be_empty: true,
    }
}

/// A selector without one of its conditions, each in turn.
fn selectors(selector: &LabelSelector) -> Vec<Part<'_, LabelSelector>> {
    let parts = without_one(selector.requirements()).map(|(at, rest)| {
        let key = selector.requirements()[at].key();
        let what = format!(" without its condition on {key}");
        Part::new(
            what,
            [PathStep::Requirement(key)],
            rest.into_iter().collect(),
        )
    });
    parts.collect()
}

/// Ports of a rule: all of them, without one, or one as all of its protocol.
fn ports<'p>(
    ports: Option<&'p Vec<PortRange>>,
    key: &'static str,
) -> Vec<Part<'p, Option<Vec<PortRange>>>> {
    let Some(list) = ports else {
        return Vec::new();
    };
    let whole = vec![PathStep::Key(key)];
    let mut parts = vec![Part::new(format!(".{key} left out"), whole.clone(), None)];
    // A name that goes for every protocol stands in the text once.
    let mut entries: Vec<Vec<usize>> = Vec::new();
    for (at, port) in list.iter().enumerate() {
        let same = entries.last_mut().filter(|entry| {
            let first = &list[entry[0]];
            let is_named = matches!(port.ports, Ports::Named(_));
            key == "protocols" && is_named && first.ports == port.ports
        });
        match same {
            Some(entry) => entry.push(at),
            None => entries.push(vec![at]),
        }
    }
    for (index, entry) in entries.iter().enumerate() {
        let steps = [PathStep::Key(key), PathStep::Item(index)];
        let what = format!(".{key}[{index}]");
        if entries.len() > 1 {
            let rest = list
                .iter()
                .enumerate()
                .filter(|(at, _)| !entry.contains(at));
            let rest: Vec<PortRange> = rest.map(|(_, port)| port.clone()).collect();
            parts.push(Part::new(format!("{what} left out"), steps, Some(rest)));
        }
        let widened = list.iter().enumerate().map(|(at, port)| PortRange {
            ports: match entry.contains(&at) {
                true => Ports::All,
                false => port.ports.clone(),
            },
            ..port.clone()
        });
        let widened: Vec<PortRange> = widened.collect();
        if widened != *list {
            parts.push(Part::new(
                format!("{what} widened to every port"),
                steps,
                Some(widened),
            ));
        }
    }
    parts
}

/// Every address of a family.
fn every_address(of: IpNet) -> IpNet {
    match of {
        IpNet::V4(_) => IpNet::V4(Ipv4Net::default()),
        IpNet::V6(_) => IpNet::V6(Ipv6Net::default()),
    }
}

/// Collects the mutants of a `NetworkPolicy`.
struct OfPolicy<'p, 'a> {
    policy: &'p NetworkPolicy,
    places: &'p Places<'a>,
    all: &'p mut Vec<Mutant>,
}

impl OfPolicy<'_, '_> {
    fn add(&mut self) {
        let policy = self.policy;
        self.push(
            "policy left out".to_owned(),
            policy.place.clone(),
            Changed::Without(policy.name.clone()),
        );
        for part in selectors(&policy.subject) {
            let subject = [PathStep::Key("podSelector")];
            self.part(
                part.within("podSelector", &subject, |subject| NetworkPolicy {
                    subject,
                    ..policy.clone()
                }),
            );
        }
        for direction in [Direction::Ingress, Direction::Egress] {
            self.direction(direction);
        }
    }

    fn direction(&mut self, direction: Direction) {
        let policy = self.policy;
        let (own, other, word) = match direction {
            Direction::Ingress => (&policy.ingress, &policy.egress, "Ingress"),
            Direction::Egress => (&policy.egress, &policy.ingress, "Egress"),
        };
        let Some(rules) = own else {
            return;
        };
        let with = |rules: Option<Vec<Rule>>| {
            let mut changed = policy.clone();
            match direction {
                Direction::Ingress => changed.ingress = rules,
                Direction::Egress => changed.egress = rules,
            }
            changed
        };
        // The policy without its only direction is none.
        if other.is_some() {
            let steps = [PathStep::Key("policyTypes"), PathStep::Text(word)];
            self.part(Part::new(
                format!("policyTypes {word} left out"),
                steps,
                with(None),
            ));
        }
        let of_rule = |rule| rule_parts(rule, peers_key(direction));
        let parts = rules_at(direction).parts(rules, of_rule, |rules| with(Some(rules)));
        for part in parts {
            self.part(part);
        }
    }

    fn part(&mut self, part: Part<'_, NetworkPolicy>) {
        let place = self.places.find(&self.policy.place, &part.steps);
        self.push(part.what, place, Changed::Policy(part.changed));
    }

    fn push(&mut self, what: String, place: Place, changed: Changed) {
        self.all.push(Mutant {
            policy: self.policy.name.to_string(),
            what,
            place,
            changed,
        });
    }
}

fn rule_parts<'r>(rule: &'r Rule, peers: &'static str) -> Vec<Part<'r, Rule>> {
    let mut parts = Vec::new();
    if let Some(list) = &rule.peers {
        let with = |peers: Option<Vec<Peer>>| Rule {
            peers,
            ..rule.clone()
        };
        parts.push(Part::new(
            format!(".{peers} left out"),
            [PathStep::Key(peers)],
            with(None),
        ));
        let at = ListAt {
            dot: ".",
            key: peers,
            step: PathStep::Item,
            may_be_empty: false,
        };
        parts.extend(at.parts(list, peer_parts, |peers| with(Some(peers))));
    }
    let of_ports = ports(rule.ports.as_ref(), "ports").into_iter();
    parts.extend(of_ports.map(|part| {
        part.within("", &[], |ports| Rule {
            ports,
            ..rule.clone()
        })
    }));
    parts
}

fn peer_parts(peer: &Peer) -> Vec<Part<'_, Peer>> {
    let mut parts = Vec::new();
    match peer {
        Peer::Workloads {
            namespaces,
            workloads,
        } => {
            for part in selectors(workloads) {
                parts.push(part.within(
                    ".podSelector",
                    &[PathStep::WorkloadSelector],
                    |workloads| Peer::Workloads {
                        namespaces: namespaces.clone(),
                        workloads,
                    },
                ));
            }
            let with = |namespaces: LabelSelector| Peer::Workloads {
                namespaces: Some(namespaces),
                workloads: workloads.clone(),
            };
            match namespaces {
                // The slip that opens a rule to every namespace.
                None => {
                    let what = " widened to every namespace";
                    parts.push(Part::new(what, [], with(LabelSelector::default())));
                }
                Some(selector) => {
                    let step = [PathStep::NamespaceSelector];
                    let of_namespaces = selectors(selector).into_iter();
                    parts.extend(
                        of_namespaces.map(|part| part.within(".namespaceSelector", &step, with)),
                    );
                }
            }
        }
        Peer::Block { cidr, except } => {
            let block = PathStep::Key("ipBlock");
            let all = every_address(*cidr);
            if all != *cidr {
                let steps = [block, PathStep::Key("cidr"), PathStep::Value];
                parts.push(Part::new(
                    ".ipBlock.cidr widened to every address",
                    steps,
                    Peer::Block {
                        cidr: all,
                        except: except.clone(),
                    },
                ));
            }
            for (at, rest) in without_one(except) {
                let cut = except[at];
                let steps = [block, PathStep::Key("except"), PathStep::Cidr(cut)];
                parts.push(Part::new(
                    format!(".ipBlock.except {cut} left out"),
                    steps,
                    Peer::Block {
                        cidr: *cidr,
                        except: rest,
                    },
                ));
            }
        }
    }
    parts
}

/// Collects the mutants of a `ClusterNetworkPolicy`.
struct OfCluster<'p, 'a> {
    policy: &'p ClusterNetworkPolicy,
    places: &'p Places<'a>,
    all: &'p mut Vec<Mutant>,
}

impl OfCluster<'_, '_> {
    fn add(&mut self) {
        let policy = self.policy;
        self.push(
            "policy left out".to_owned(),
            policy.place.clone(),
            Changed::WithoutCluster((&*policy.name).into()),
        );
        for part in workload_parts(&policy.subject) {
            let steps = [PathStep::Key("subject")];
            self.part(
                part.within("subject", &steps, |subject| ClusterNetworkPolicy {
                    subject,
                    ..policy.clone()
                }),
            );
        }
        for direction in [Direction::Ingress, Direction::Egress] {
            let rules = match direction {
                Direction::Ingress => &policy.ingress,
                Direction::Egress => &policy.egress,
            };
            let with = |rules: Vec<ClusterRule>| {
                let mut changed = policy.clone();
                match direction {
                    Direction::Ingress => changed.ingress = rules,
                    Direction::Egress => changed.egress = rules,
                }
                changed
            };
            let of_rule = |rule| cluster_rule_parts(rule, peers_key(direction));
            for part in rules_at(direction).parts(rules, of_rule, with) {
                self.part(part);
            }
        }
    }

    fn part(&mut self, part: Part<'_, ClusterNetworkPolicy>) {
        let place = self.places.find(&self.policy.place, &part.steps);
        self.push(part.what, place, Changed::Cluster(part.changed));
    }

    fn push(&mut self, what: String, place: Place, changed: Changed) {
        self.all.push(Mutant {
            policy: self.policy.name.to_string(),
            what,
            place,
            changed,
        });
    }
}

fn cluster_rule_parts<'r>(
    rule: &'r ClusterRule,
    peers: &'static str,
) -> Vec<Part<'r, ClusterRule>> {
    let mut parts = Vec::new();
    // A rule without peers is for nobody, and as good as left out.
    if let Some(list) = &rule.peers {
        let with = |peers: Vec<ClusterPeer>| ClusterRule {
            peers: Some(peers),
            ..rule.clone()
        };
        let at = ListAt {
            dot: ".",
            key: peers,
            step: PathStep::Peer,
            may_be_empty: false,
        };
        parts.extend(at.parts(list, cluster_peer_parts, with));
    }
    let of_ports = ports(rule.ports.as_ref(), "protocols").into_iter();
    parts.extend(of_ports.map(|part| {
        part.within("", &[], |ports| ClusterRule {
            ports,
            ..rule.clone()
        })
    }));
    parts
}

fn cluster_peer_parts(peer: &ClusterPeer) -> Vec<Part<'_, ClusterPeer>> {
    match peer {
        ClusterPeer::Workloads(selector) => workload_parts(selector)
            .into_iter()
            .map(|part| part.within("", &[], ClusterPeer::Workloads))
            .collect(),
        ClusterPeer::Nodes(selector) => selectors(selector)
            .into_iter()
            .map(|part| part.within(".nodes", &[PathStep::Key("nodes")], ClusterPeer::Nodes))
            .collect(),
        ClusterPeer::Networks(networks) => {
            let mut parts = Vec::new();
            for (at, network) in networks.iter().enumerate() {
                let steps = [PathStep::Key("networks"), PathStep::Cidr(*network)];
                let mut rest = networks.clone();
                rest.remove(at);
                if !rest.is_empty() {
                    parts.push(Part::new(
                        format!(".networks {network} left out"),
                        steps,
                        ClusterPeer::Networks(rest),
                    ));
                }
                let all = every_address(*network);
                if all != *network {
                    parts.push(Part::new(
                        format!(".networks {network} widened to every address"),
                        steps,
                        ClusterPeer::Networks(with_one(networks, at, all)),
                    ));
                }
            }
            parts
        }
    }
}

/// Workloads of the whole cluster by one condition less.
fn workload_parts(selector: &WorkloadSelector) -> Vec<Part<'_, WorkloadSelector>> {
    let mut parts = Vec::new();
    for part in selectors(&selector.namespaces) {
        let step = [PathStep::NamespaceSelector];
        parts.push(
            part.within(".namespaces", &step, |namespaces| WorkloadSelector {
                namespaces,
                ..selector.clone()
            }),
        );
    }
    for part in selectors(&selector.workloads) {
        let step = [PathStep::WorkloadSelector];
        parts.push(part.within(".pods", &step, |workloads| WorkloadSelector {
            workloads,
            ..selector.clone()
        }));
    }
    parts
}
