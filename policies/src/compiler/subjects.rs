//! Which policies apply on this node, and which workloads they treat alike.
//!
//! A policy applies when it selects a workload of this node. Two such workloads
//! that are selected by exactly the same policies, and give the port names in
//! these policies' ingress rules the same numbers, are one *subject class*.
//!
//! Invariants: policies, and so the rules within a class, come in the order of
//! their names, which is the order in which the first allowing rule is found; class
//! 0 is selected by none.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use cofferdam_verdict::table::{MAX_CLASS, row_key};
use cofferdam_verdict::verdict::Direction;

use crate::diagnostic::Place;
use crate::inventory::{Inventory, Mode, NetworkPolicy, ObjectName, Ports, Rule, Tier, Workload};

use super::CompileError;
use super::partition::Partition;
use super::peers::{PeerLists, restrict};
use super::rows::Keys;
use super::rules::{PolicyKind, RuleEntry, RuleKey, RuleNumbers};
use super::signatures::{PortNumbers, Scope, Signatures, number};

/// Both directions, in the order of the table's class words.
pub(super) const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// A rule, ready to be put into rows.
#[derive(Debug)]
pub(super) struct CompiledRule {
    /// Its number in the side table.
    pub(super) number: u32,
    /// Its peer list; `None` for everybody.
    pub(super) peers: Option<u32>,
    /// What it covers by number.
    pub(super) keys: Vec<Keys>,
    /// What it covers by name: the name's number, and the protocol.
    pub(super) names: Vec<(u32, u8)>,
    /// Whether its policy is enforced.
    pub(super) enforced: bool,
}

/// What a policy does in one direction.
#[derive(Debug)]
pub(super) struct PolicySide {
    /// The number of the policy as it isolates.
    pub(super) isolation: u32,
    /// Its rules, in order.
    pub(super) rules: Vec<CompiledRule>,
}

/// A policy that applies.
#[derive(Debug)]
pub(super) struct CompiledPolicy {
    pub(super) enforced: bool,
    /// By direction; `None` where it does not isolate.
    pub(super) sides: [Option<PolicySide>; 2],
    name: ObjectName,
    /// The signatures it selects.
    subjects: Vec<u32>,
    /// The port names in its ingress rules.
    ingress_names: BTreeSet<u32>,
}

/// A subject class other than 0.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Class {
    /// The policies that select it, by their index, ascending.
    pub(super) policies: Vec<u32>,
    /// The numbers that its workloads give to names in those policies' ingress
    /// rules.
    pub(super) ports: PortNumbers,
}

/// The policies that apply, and the classes.
#[derive(Debug)]
pub(super) struct Subjects {
    pub(super) policies: Vec<CompiledPolicy>,
    /// Class number − 1 → class.
    pub(super) classes: Vec<Class>,
    /// The port names in egress rules.
    pub(super) egress_names: BTreeSet<u32>,
    class_of: HashMap<u32, u32>,
}

impl Subjects {
    /// Finds them. `local` says of each signature whether a workload of this node
    /// has it.
    pub(super) fn new<'a>(
        inventory: &'a Inventory,
        signatures: &mut Signatures<'a>,
        local: &[bool],
        lists: &mut PeerLists<'a>,
        numbers: &mut RuleNumbers,
    ) -> Result<Self, CompileError> {
        let mut policies = Vec::new();
        let mut egress_names = BTreeSet::new();
        for policy in inventory.policies().values() {
            let namespace = signatures.namespace(&policy.name.namespace);
            let subjects: Vec<u32> = signatures
                .select(Scope::Own(namespace), &policy.subject)
                .iter()
                .copied()
                .filter(|signature| local[*signature as usize])
                .collect();
            if subjects.is_empty() {
                continue;
            }
            let mut compiler = PolicyCompiler {
                policy,
                namespace,
                signatures,
                lists,
                numbers,
            };
            let sides = [
                compiler.side(Direction::Ingress, policy.ingress.as_deref())?,
                compiler.side(Direction::Egress, policy.egress.as_deref())?,
            ];
            let [ingress, egress] = [&sides[0], &sides[1]].map(names_in);
            egress_names.extend(egress);
            policies.push(CompiledPolicy {
                enforced: policy.mode == Mode::Enforce,
                sides,
                name: policy.name.clone(),
                subjects,
                ingress_names: ingress,
            });
        }
        let (classes, class_of) = classes(&policies, signatures, local)?;
        Ok(Self {
            policies,
            classes,
            egress_names,
            class_of,
        })
    }

    /// What is needed to find classes again.
    pub(super) fn into_known(self) -> KnownClasses {
        let policies = (self.policies.into_iter())
            .map(|policy| (policy.name, policy.ingress_names))
            .collect();
        KnownClasses {
            policies,
            classes: self.classes,
        }
    }

    /// The class of the local workloads with a signature.
    pub(super) fn class_of(&self, signature: u32) -> u32 {
        self.class_of.get(&signature).copied().unwrap_or(0)
    }
}

/// Which class is which: enough to find a workload's again.
#[derive(Debug, Clone)]
pub(super) struct KnownClasses {
    /// The policies that applied, in order, with the port names in their ingress
    /// rules.
    policies: Vec<(ObjectName, BTreeSet<u32>)>,
    classes: Vec<Class>,
}

impl KnownClasses {
    /// The class of a workload with these named ports, if the table has it.
    pub(super) fn find(
        &self,
        inventory: &Inventory,
        workload: &Workload,
        ports: &[(u32, u16)],
    ) -> Option<u32> {
        let mut policies = Vec::new();
        let mut names = BTreeSet::new();
        for policy in policies_of(inventory, &workload.name.namespace) {
            if policy.subject.matches(&workload.labels) {
                let index = self
                    .policies
                    .binary_search_by(|(name, _)| name.cmp(&policy.name))
                    .ok()?;
                policies.push(number(index));
                names.extend(&self.policies[index].1);
            }
        }
        if policies.is_empty() {
            return Some(0);
        }
        let class = Class {
            policies,
            ports: restrict(ports, &names),
        };
        Some(number(self.classes.binary_search(&class).ok()?) + 1)
    }
}

/// The policies of one namespace, in order.
fn policies_of<'i>(
    inventory: &'i Inventory,
    namespace: &Arc<str>,
) -> impl Iterator<Item = &'i NetworkPolicy> {
    let first = ObjectName {
        namespace: namespace.clone(),
        // Before every name.
        name: Arc::from(""),
    };
    inventory
        .policies()
        .range(first..)
        .map(|(_, policy)| policy)
        .take_while(move |policy| policy.name.namespace == *namespace)
}

struct PolicyCompiler<'c, 'a> {
    policy: &'a NetworkPolicy,
    namespace: u32,
    signatures: &'c Signatures<'a>,
    lists: &'c mut PeerLists<'a>,
    numbers: &'c mut RuleNumbers,
}

impl<'a> PolicyCompiler<'_, 'a> {
    fn side(
        &mut self,
        direction: Direction,
        rules: Option<&'a [Rule]>,
    ) -> Result<Option<PolicySide>, CompileError> {
        let Some(rules) = rules else {
            return Ok(None);
        };
        let isolation = self.number(direction, None, &self.policy.place)?;
        let mut compiled = Vec::with_capacity(rules.len());
        for (index, rule) in (0u32..).zip(rules) {
            let number = self.number(direction, Some(index), &rule.place)?;
            compiled.push(self.rule(number, rule));
        }
        Ok(Some(PolicySide {
            isolation,
            rules: compiled,
        }))
    }

    fn number(
        &mut self,
        direction: Direction,
        index: Option<u32>,
        place: &Place,
    ) -> Result<u32, CompileError> {
        self.numbers.add(RuleEntry {
            key: RuleKey {
                kind: PolicyKind::NetworkPolicy,
                policy: self.policy.name.clone(),
                direction,
                index,
            },
            tier: Tier::Namespace,
            place: place.clone(),
        })
    }

    fn rule(&mut self, number: u32, rule: &'a Rule) -> CompiledRule {
        let mut compiled = CompiledRule {
            number,
            peers: rule
                .peers
                .as_deref()
                .map(|peers| self.lists.add(self.namespace, peers)),
            keys: Vec::new(),
            names: Vec::new(),
            enforced: self.policy.mode == Mode::Enforce,
        };
        let Some(ports) = &rule.ports else {
            compiled.keys.push(Keys::ALL);
            return compiled;
        };
        for port in ports {
            let key = |number: u16| row_key(port.protocol.number(), number);
            match &port.ports {
                Ports::All => compiled.keys.push(Keys {
                    first: key(0),
                    last: key(u16::MAX),
                }),
                Ports::Range(first, last) => compiled.keys.push(Keys {
                    first: key(*first),
                    last: key(*last),
                }),
                Ports::Named(name) => {
                    let name = self.signatures.port_name(name, port.protocol);
                    compiled.names.push((name, port.protocol.number()));
                }
            }
        }
        compiled.keys.sort_unstable();
        compiled.keys.dedup();
        compiled.names.sort_unstable();
        compiled.names.dedup();
        compiled
    }
}

fn names_in(side: &Option<PolicySide>) -> BTreeSet<u32> {
    side.iter()
        .flat_map(|side| &side.rules)
        .flat_map(|rule| &rule.names)
        .map(|(name, _)| *name)
        .collect()
}

/// The classes in order, and the class number of each local signature.
fn classes(
    policies: &[CompiledPolicy],
    signatures: &Signatures<'_>,
    local: &[bool],
) -> Result<(Vec<Class>, HashMap<u32, u32>), CompileError> {
    let mut partition = Partition::new(number(local.len()));
    for policy in policies {
        partition.refine(policy.subjects.iter().copied());
    }
    let (block_of, count) = partition.numbered();
    let mut selecting: Vec<Vec<u32>> = vec![Vec::new(); count as usize];
    for (index, policy) in (0u32..).zip(policies) {
        for signature in &policy.subjects {
            let list = &mut selecting[block_of[*signature as usize] as usize];
            if list.last() != Some(&index) {
                list.push(index);
            }
        }
    }
    let names: Vec<BTreeSet<u32>> = selecting
        .iter()
        .map(|list| {
            let names = list.iter().map(|p| &policies[*p as usize].ingress_names);
            names.flatten().copied().collect()
        })
        .collect();
    // By class, so that numbers follow the order of policies.
    let mut members: BTreeMap<Class, Vec<u32>> = BTreeMap::new();
    for (signature, block) in (0u32..).zip(&block_of) {
        let block = *block as usize;
        if local[signature as usize] && !selecting[block].is_empty() {
            let class = Class {
                policies: selecting[block].clone(),
                ports: restrict(&signatures.all()[signature as usize].ports, &names[block]),
            };
            members.entry(class).or_default().push(signature);
        }
    }
    let mut classes = Vec::with_capacity(members.len());
    let mut class_of = HashMap::new();
    for (class, signatures) in members {
        classes.push(class);
        let number = number(classes.len());
        class_of.extend(signatures.into_iter().map(|s| (s, number)));
    }
    if classes.len() as u64 > u64::from(MAX_CLASS) {
        return Err(CompileError::Capacity {
            table: "classes",
            used: classes.len() as u64,
            max: MAX_CLASS.into(),
        });
    }
    Ok((classes, class_of))
}
