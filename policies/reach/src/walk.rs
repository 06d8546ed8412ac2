//! Walk to a verdict: each rule that was considered, in order.
//!
//! The table knows the answer and not the way to it. So the way is walked here, rule
//! by rule, with the selectors themselves: the Admin tier, `NetworkPolicy` where one
//! isolates, the Baseline tier. Only what is in force is walked.
//!
//! Invariant: a walk ends where the table's verdict is. Debug builds assert it, and
//! random worlds are held against it; a disagreement is a mistake in one of the two.

use std::net::IpAddr;
use std::sync::Arc;

use cofferdam_compiler::{PolicyKind, RuleEntry, RuleKey};
use cofferdam_inventory::{
    ClusterNetworkPolicy, ClusterPeer, ClusterRule, Inventory, Mode, NetworkPolicy, ObjectName,
    Owner, Peer, PortRange, Ports, Rule, RuleAction, Tier, Workload, WorkloadSelector,
};
use cofferdam_syntax::diagnostic::Place;
use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::verdict::{Action, Direction, Verdict};

use super::words;
use super::{Cell, Probe, Reach, Side};

/// Part of a rule that a packet may not match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// Its policy does not select the workload.
    Subject,
    /// The other end is none of its peers.
    Peer,
    /// The port or protocol is none of its.
    Port,
}

impl Field {
    /// The word in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Subject => "subject",
            Self::Peer => "peer",
            Self::Port => "port",
        }
    }
}

/// A rule that was considered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Identity and place of the rule.
    pub rule: RuleEntry,
    /// Action on the packets that it matches; rules of a `NetworkPolicy` accept.
    pub action: RuleAction,
    /// Parts that did not match, in the order of [`Field`]; nothing when the rule matched.
    pub missed: Vec<Field>,
    /// Its peers in words.
    pub peers: String,
    /// Its ports in words.
    pub ports: String,
}

impl Step {
    /// Returns `true` if the rule matched.
    #[must_use]
    pub fn is_match(&self) -> bool {
        self.missed.is_empty()
    }
}

/// The way to the verdict of one direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walk {
    /// Direction of the walk.
    pub direction: Direction,
    /// The workload that policies of this direction are about; `None` when policies
    /// were not asked, because the end is no workload or the reason is beyond them.
    pub subject: Option<ObjectName>,
    /// The rules that were considered, in order.
    pub steps: Vec<Step>,
    /// The policies that isolate the workload.
    pub isolating: Vec<RuleEntry>,
}

/// The way to both verdicts of a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// The cell.
    pub cell: Cell,
    /// The sender's.
    pub egress: Walk,
    /// The receiver's.
    pub ingress: Walk,
}

impl Explanation {
    /// Both ways, in the order of a packet.
    #[must_use]
    pub fn walks(&self) -> [&Walk; 2] {
        [&self.egress, &self.ingress]
    }
}

/// One direction of one pair of addresses, as rules see it.
struct RuleInput<'a> {
    inventory: &'a Inventory,
    direction: Direction,
    subject: &'a Workload,
    peer: IpAddr,
    /// The workload that receives, which knows what its ports are called.
    destination: Option<&'a Workload>,
    probe: Probe,
}

impl Reach {
    /// Walks the way to a cell's verdicts.
    #[must_use]
    pub fn explain(&self, cell: &Cell) -> Explanation {
        Explanation {
            cell: *cell,
            egress: self.walk(&cell.egress, Direction::Egress),
            ingress: self.walk(&cell.ingress, Direction::Ingress),
        }
    }

    fn walk(&self, side: &Side, direction: Direction) -> Walk {
        let mut walk = Walk {
            direction,
            subject: None,
            steps: Vec::new(),
            isolating: Vec::new(),
        };
        let Some(input) = self.input(side, direction) else {
            return walk;
        };
        walk.subject = Some(input.subject.name.clone());
        let decided = walk.run(&input);
        debug_assert!(
            self.is_the_verdict(side, decided, &walk),
            "the table says {side:?}, the rules {walk:#?}"
        );
        walk
    }

    /// Returns the input that policies were asked, if they were.
    fn input(&self, side: &Side, direction: Direction) -> Option<RuleInput<'_>> {
        if !matches!(
            side.verdict.reason,
            Reason::Rule | Reason::Isolated | Reason::NotIsolated
        ) {
            return None;
        }
        let (subject, peer) = match direction {
            Direction::Ingress => (side.destination, side.source),
            Direction::Egress => (side.source, side.destination),
        };
        Some(RuleInput {
            inventory: &self.inventory,
            direction,
            subject: self.workload(subject)?,
            peer,
            destination: self.workload(side.destination),
            probe: side.probe,
        })
    }

    fn workload(&self, address: IpAddr) -> Option<&Workload> {
        match self.inventory.owner(address)? {
            Owner::Workload(name) => self.inventory.workloads().get(&name),
            Owner::Node(_) => None,
        }
    }

    /// Returns `true` if a walk ended where the table's verdict is.
    fn is_the_verdict(&self, side: &Side, decided: bool, walk: &Walk) -> bool {
        let last = walk.steps.last().filter(|_| decided);
        let expected = match last {
            Some(step) if step.action == RuleAction::Deny => (Action::Deny, Reason::Rule),
            Some(_) => (Action::Allow, Reason::Rule),
            None if walk.isolating.is_empty() => (Action::Allow, Reason::NotIsolated),
            None => (Action::Deny, Reason::Isolated),
        };
        let verdict = &side.verdict;
        if expected.0 == Action::Deny && self.is_waived(walk) {
            return *verdict == Verdict::allow(Reason::NotIsolated);
        }
        let rule = self.rule_of(verdict).map(|(_, entry)| entry);
        let isolated_by = self.isolated_by(verdict).map(|(_, entry)| entry);
        (verdict.action, verdict.reason) == expected
            && rule == last.map(|step| &step.rule)
            && (last.is_some() || isolated_by.eq(&walk.isolating))
    }

    /// Returns `true` if policies deny a walk's workload nothing, because its namespace is on
    /// audit.
    fn is_waived(&self, walk: &Walk) -> bool {
        let subject = walk.subject.as_ref();
        subject
            .is_some_and(|subject| self.inventory.enforcement_in(&subject.namespace) == Mode::Audit)
    }

    /// The namespaces for whose workloads policies in force would deny a cell, were they not
    /// on audit; in the order of a packet.
    #[must_use]
    pub fn waived(&self, explanation: &Explanation) -> Vec<Arc<str>> {
        let walks = explanation.walks().into_iter();
        let denying = walks.filter(|walk| walk.denial().is_some() && self.is_waived(walk));
        let names = denying.filter_map(|walk| Some(walk.subject.as_ref()?.namespace.clone()));
        let mut names: Vec<Arc<str>> = names.collect();
        names.dedup();
        names
    }

    /// The rules that hand a cell on to the next tier: no verdict names them, since they
    /// decide that others do. Those that would with audit policies in force count too.
    #[must_use]
    pub fn passed_by(&self, cell: &Cell) -> Vec<RuleKey> {
        let mut passed = Vec::new();
        for direction in [Direction::Egress, Direction::Ingress] {
            if let Some(input) = self.input(cell.side(direction), direction) {
                for modes in [&[Mode::Enforce][..], &[Mode::Enforce, Mode::Audit]] {
                    input.passing_rules(modes, &mut passed);
                }
            }
        }
        passed
    }

    /// The rule that would have allowed what was denied, or would be were its namespace not on
    /// audit, with the fewest fields that do
    /// not match; of equals the first that was considered. When no policy that selects
    /// the workload has a rule that allows anything, the rules of those that do not
    /// select it count.
    #[must_use]
    pub fn nearest(&self, explanation: &Explanation) -> Option<(Direction, Step)> {
        let denied =
            |walk: &&Walk| explanation.cell.side(walk.direction).verdict.action == Action::Deny;
        let waived = |walk: &&Walk| walk.denial().is_some() && self.is_waived(walk);
        let walks = explanation.walks();
        let walk = walks
            .into_iter()
            .find(denied)
            .or_else(|| walks.into_iter().find(waived))?;
        let fewest = |steps: Vec<Step>| steps.into_iter().min_by_key(|step| step.missed.len());
        let considered = walk
            .steps
            .iter()
            .filter(|step| step.action == RuleAction::Accept);
        let nearest = fewest(
            considered
                .filter(|step| !step.is_match())
                .cloned()
                .collect(),
        );
        let side = explanation.cell.side(walk.direction);
        let nearest = nearest.or_else(|| {
            if walk.denial() != Some(Reason::Isolated) {
                return None;
            }
            let input = self.input(side, walk.direction)?;
            fewest(input.rules_of_others())
        });
        nearest.map(|step| (walk.direction, step))
    }
}

impl Walk {
    /// Returns the reason of the denial that the walk ends with, if it does.
    fn denial(&self) -> Option<Reason> {
        let last = self.steps.last().filter(|step| step.is_match());
        match last.map(|step| step.action) {
            Some(RuleAction::Accept) => None,
            Some(RuleAction::Deny) => Some(Reason::Rule),
            Some(RuleAction::Pass) | None => {
                (!self.isolating.is_empty()).then_some(Reason::Isolated)
            }
        }
    }

    /// Considers rules until one decides; tells whether the last one did.
    fn run(&mut self, input: &RuleInput<'_>) -> bool {
        if let Some(decided) = self.cluster_tier(input, Tier::Admin) {
            return decided;
        }
        let isolating = || {
            input
                .namespace_policies(&[Mode::Enforce])
                .filter(|(policy, _)| policy.subject.matches(&input.subject.labels))
        };
        self.isolating = isolating()
            .map(|(policy, _)| input.network_entry(policy, None, &policy.place))
            .collect();
        for (policy, rules) in isolating() {
            for (index, rule) in (0u32..).zip(rules) {
                let step = input.network_step(policy, index, rule, Vec::new());
                let is_match = step.is_match();
                self.steps.push(step);
                if is_match {
                    return true;
                }
            }
        }
        if !self.isolating.is_empty() {
            return false;
        }
        (self.cluster_tier(input, Tier::Baseline)).unwrap_or(false)
    }

    /// Considers the policies of one tier; `None` when the next is to be asked.
    fn cluster_tier(&mut self, input: &RuleInput<'_>, tier: Tier) -> Option<bool> {
        for policy in input.cluster_policies(tier, &[Mode::Enforce]) {
            for (index, rule) in (0u32..).zip(input.cluster_rules(policy)) {
                let step = input.cluster_step(policy, index, rule);
                let (is_match, action) = (step.is_match(), step.action);
                self.steps.push(step);
                match action {
                    _ if !is_match => {}
                    RuleAction::Pass => return None,
                    RuleAction::Accept | RuleAction::Deny => return Some(true),
                }
            }
        }
        None
    }
}

impl<'a> RuleInput<'a> {
    /// The policies of a tier that are about the subject, in the order in which they
    /// are asked.
    fn cluster_policies(&self, tier: Tier, modes: &[Mode]) -> Vec<&'a ClusterNetworkPolicy> {
        let mut policies: Vec<&ClusterNetworkPolicy> = (self.inventory.cluster_policies().values())
            .filter(|policy| policy.tier == tier && modes.contains(&policy.mode))
            .filter(|policy| self.selects(&policy.subject, self.subject))
            .collect();
        // Those of equal priority stay in the order of their names.
        policies.sort_by_key(|policy| policy.priority);
        policies
    }

    /// A policy's rules of this direction.
    fn cluster_rules(&self, policy: &'a ClusterNetworkPolicy) -> &'a [ClusterRule] {
        match self.direction {
            Direction::Ingress => &policy.ingress,
            Direction::Egress => &policy.egress,
        }
    }

    /// The rules that pass this on, of policies in these modes.
    fn passing_rules(&self, modes: &[Mode], passed: &mut Vec<RuleKey>) {
        for tier in [Tier::Admin, Tier::Baseline] {
            if tier == Tier::Baseline && self.is_isolated(modes) {
                return;
            }
            let policies = self.cluster_policies(tier, modes);
            let mut rules = policies.into_iter().flat_map(|policy| {
                let rules = (0u32..).zip(self.cluster_rules(policy));
                rules.map(move |(index, rule)| (policy, index, rule))
            });
            let first = rules
                .find(|(_, _, rule)| self.is_port(rule.ports.as_deref()) && self.is_any_peer(rule));
            match first {
                Some((policy, index, rule)) if rule.action == RuleAction::Pass => {
                    passed.push(self.cluster_key(policy, index));
                }
                Some(_) => return,
                None => {}
            }
        }
    }

    /// Returns `true` if a policy of the namespace isolates the subject in this direction.
    fn is_isolated(&self, modes: &[Mode]) -> bool {
        let policies = self.namespace_policies(modes);
        let mut isolating =
            policies.filter(|(policy, _)| policy.subject.matches(&self.subject.labels));
        isolating.next().is_some()
    }

    /// The policies of the subject's namespace in these modes that isolate in this
    /// direction, with their rules.
    fn namespace_policies<'m>(
        &self,
        modes: &'m [Mode],
    ) -> impl Iterator<Item = (&'a NetworkPolicy, &'a [Rule])> + use<'a, 'm> {
        let direction = self.direction;
        let namespace = self.subject.name.namespace.clone();
        let policies = self.inventory.policies().values();
        policies
            .filter(move |policy| policy.name.namespace == namespace)
            .filter(move |policy| modes.contains(&policy.mode))
            .filter_map(move |policy| {
                let rules = match direction {
                    Direction::Ingress => policy.ingress.as_deref(),
                    Direction::Egress => policy.egress.as_deref(),
                };
                Some((policy, rules?))
            })
    }

    /// The rules of policies of the namespace that do not select the subject.
    fn rules_of_others(&self) -> Vec<Step> {
        let others = self
            .namespace_policies(&[Mode::Enforce])
            .filter(|(policy, _)| !policy.subject.matches(&self.subject.labels));
        let steps = others.flat_map(|(policy, rules)| {
            let rules = (0u32..).zip(rules);
            rules.map(|(index, rule)| self.network_step(policy, index, rule, vec![Field::Subject]))
        });
        steps.collect()
    }

    fn network_entry(
        &self,
        policy: &NetworkPolicy,
        index: Option<u32>,
        place: &Place,
    ) -> RuleEntry {
        RuleEntry {
            key: RuleKey {
                kind: PolicyKind::NetworkPolicy,
                policy: policy.name.clone(),
                direction: self.direction,
                index,
            },
            tier: Tier::Namespace,
            place: place.clone(),
        }
    }

    fn network_step(
        &self,
        policy: &NetworkPolicy,
        index: u32,
        rule: &Rule,
        mut missed: Vec<Field>,
    ) -> Step {
        let peers = rule.peers.as_deref();
        if !peers.is_none_or(|peers| peers.iter().any(|peer| self.is_peer(policy, peer))) {
            missed.push(Field::Peer);
        }
        if !self.is_port(rule.ports.as_deref()) {
            missed.push(Field::Port);
        }
        Step {
            rule: self.network_entry(policy, Some(index), &rule.place),
            action: RuleAction::Accept,
            missed,
            peers: words::peers(peers),
            ports: words::ports(rule.ports.as_deref()),
        }
    }

    fn cluster_step(&self, policy: &ClusterNetworkPolicy, index: u32, rule: &ClusterRule) -> Step {
        let mut missed = Vec::new();
        if !self.is_any_peer(rule) {
            missed.push(Field::Peer);
        }
        if !self.is_port(rule.ports.as_deref()) {
            missed.push(Field::Port);
        }
        Step {
            rule: RuleEntry {
                key: self.cluster_key(policy, index),
                tier: policy.tier,
                place: rule.place.clone(),
            },
            action: rule.action,
            missed,
            peers: words::cluster_peers(rule.peers.as_deref()),
            ports: words::ports(rule.ports.as_deref()),
        }
    }

    fn cluster_key(&self, policy: &ClusterNetworkPolicy, index: u32) -> RuleKey {
        RuleKey {
            kind: PolicyKind::ClusterNetworkPolicy,
            policy: ObjectName::new("", &policy.name),
            direction: self.direction,
            index: Some(index),
        }
    }

    /// Returns `true` if the other end is one of the rule's.
    fn is_any_peer(&self, rule: &ClusterRule) -> bool {
        let peers = rule.peers.as_deref();
        peers.is_none_or(|peers| peers.iter().any(|peer| self.is_cluster_peer(peer)))
    }

    /// The workload at the other end.
    fn peer_workload(&self) -> Option<&'a Workload> {
        match self.inventory.owner(self.peer)? {
            Owner::Workload(name) => self.inventory.workloads().get(&name),
            Owner::Node(_) => None,
        }
    }

    fn is_peer(&self, policy: &NetworkPolicy, peer: &Peer) -> bool {
        match peer {
            Peer::Block { cidr, except } => {
                cidr.contains(&self.peer) && !except.iter().any(|cut| cut.contains(&self.peer))
            }
            Peer::Workloads {
                namespaces,
                workloads,
            } => self.peer_workload().is_some_and(|peer| {
                let namespace = match namespaces {
                    None => peer.name.namespace == policy.name.namespace,
                    Some(selector) => (self.inventory.namespaces())
                        .get(&peer.name.namespace)
                        .is_some_and(|namespace| selector.matches(&namespace.labels)),
                };
                namespace && workloads.matches(&peer.labels)
            }),
        }
    }

    fn is_cluster_peer(&self, peer: &ClusterPeer) -> bool {
        match peer {
            ClusterPeer::Workloads(selector) => {
                (self.peer_workload()).is_some_and(|peer| self.selects(selector, peer))
            }
            ClusterPeer::Networks(networks) => {
                networks.iter().any(|network| network.contains(&self.peer))
            }
            ClusterPeer::Nodes(selector) => match self.inventory.owner(self.peer) {
                Some(Owner::Node(name)) => (self.inventory.nodes().get(&name))
                    .is_some_and(|node| selector.matches(&node.labels)),
                Some(Owner::Workload(_)) | None => false,
            },
        }
    }

    fn selects(&self, selector: &WorkloadSelector, workload: &Workload) -> bool {
        let namespace = self.inventory.namespaces().get(&workload.name.namespace);
        namespace.is_some_and(|own| selector.namespaces.matches(&own.labels))
            && selector.workloads.matches(&workload.labels)
    }

    fn is_port(&self, ports: Option<&[PortRange]>) -> bool {
        let Some(ports) = ports else {
            return true;
        };
        let Probe::Port(protocol, number) = self.probe else {
            return false;
        };
        let mut ports =
            ports
                .iter()
                .filter(|port| port.protocol == protocol)
                .map(|port| match &port.ports {
                    Ports::All => true,
                    Ports::Range(first, last) => (*first..=*last).contains(&number),
                    Ports::Named(name) => self.destination.is_some_and(|workload| {
                        workload.ports.iter().any(|port| {
                            (&port.name, port.protocol, port.number) == (name, protocol, number)
                        })
                    }),
                });
        ports.any(|covered| covered)
    }
}
