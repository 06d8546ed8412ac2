//! The whole connectivity: who reaches whom on which ports, and no probe named.
//!
//! [`Connectivity`] takes the rows of the table that [`Reach`] asks, each as a whole. Ends
//! that policies treat alike are one [`Group`], and ports are ranges: the work is in
//! proportion to the pairs of groups, however many workloads and ports there are.
//! [`Changes`] holds two of them against each other.
//!
//! Two kinds of connections are allowed whatever policies say, and stand in no list: those
//! of a workload to itself, and, if the agents are configured so, those of a workload's own
//! node to it. Neighbour discovery is none of them either: it is not policy's to decide.
//!
//! Invariant: apart from those, a probe is allowed here if and only if the cell of
//! [`Reach::cell`] allows it.

mod candidates;
mod changes;
mod doors;
pub mod exceptions;
mod groups;
mod outside;
mod owners;
mod spans;
mod through;
mod unlike;

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use cofferdam_compiler::{RuleMeaning, RuleTable};
use cofferdam_inventory::{Inventory, family_of};
use cofferdam_reach::{EndKind, Probe, Reach};
use cofferdam_verdict::address::Family;
use cofferdam_verdict::reason::Reason;
use cofferdam_verdict::verdict::{Action, Direction, Verdict};
use foldhash::HashMap;

pub use changes::{Change, ChangeKind, ChangedEnd, ChangedSpan, Changes, Set};
pub use doors::{ServiceBackend, ServiceEnd};
pub use groups::{Group, Member};
pub use outside::Outside;
pub use spans::{Lane, PortSpan, joined, words};

use groups::{FAMILIES, Groups, Traits};
use spans::{Partition, of_row, overlay, push, uniform};

/// Verdicts that count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum View {
    /// Those in force.
    #[default]
    Enforced,
    /// Those with audit policies in force as well.
    Audited,
}

/// The verdicts about one span of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pair {
    /// About the sender's egress.
    pub egress: Verdict,
    /// About the receiver's ingress.
    pub ingress: Verdict,
    /// Some address of the receiver is translated to nobody.
    pub leads_nowhere: bool,
}

impl Pair {
    /// Returns `true` if connections are allowed.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        let allows = |verdict: Verdict| verdict.action == Action::Allow;
        !self.leads_nowhere && allows(self.egress) && allows(self.ingress)
    }

    /// The verdict of a direction.
    #[must_use]
    pub fn side(&self, direction: Direction) -> Verdict {
        match direction {
            Direction::Ingress => self.ingress,
            Direction::Egress => self.egress,
        }
    }
}

/// Ports that are allowed, and the rules that allow them; none where no policy isolates.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AllowedSpan {
    /// The ports.
    pub ports: PortSpan,
    /// Rules by which the sender's egress allows.
    pub egress: Vec<u32>,
    /// Rules by which the receiver's ingress allows.
    pub ingress: Vec<u32>,
    /// Of a Service, who takes the connections; otherwise nobody else.
    pub backends: Vec<ServiceBackend>,
}

/// One end of a connection as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListedEnd<'c> {
    /// Workloads or nodes.
    Group(&'c Group),
    /// A Service, of which all backends may be reached.
    Service(&'c ServiceEnd),
    /// Outside addresses of which the same is to be said.
    Outside(Outside),
}

impl PartialEq for Group {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Group {}

impl PartialEq for ServiceEnd {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for ServiceEnd {}

impl ListedEnd<'_> {
    /// The name: `namespace/workload`, `node/NAME`, `service/NAMESPACE/NAME`, or CIDRs.
    #[must_use]
    pub fn id(&self) -> Arc<str> {
        match self {
            Self::Group(group) => group.id.clone(),
            Self::Service(service) => service.id.clone(),
            Self::Outside(outside) => outside.id().into(),
        }
    }
}

/// Connections that one group may open to another over one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection<'c> {
    /// The sender.
    pub source: ListedEnd<'c>,
    /// The receiver.
    pub destination: ListedEnd<'c>,
    /// Address family.
    pub family: Family,
    /// Ports on which they may, in order; never empty.
    pub allowed: Vec<AllowedSpan>,
}

/// Connections that are asked for.
#[derive(Debug, Clone, Default)]
pub struct Focus {
    /// Groups that are looked at, by position; all if `None`. Services have the positions
    /// behind all groups.
    pub groups: Option<BTreeSet<usize>>,
    /// Services as receivers too.
    pub services: bool,
    /// Only connections towards those groups, or away from them.
    pub direction: Option<Direction>,
    /// Only what this is allowed by.
    pub port: Option<PortSpan>,
    /// Only over this family.
    pub family: Option<Family>,
}

impl Focus {
    fn takes(&self, source: usize, destination: usize) -> bool {
        let Some(groups) = &self.groups else {
            return true;
        };
        let (away, towards) = (groups.contains(&source), groups.contains(&destination));
        match self.direction {
            None => away || towards,
            Some(Direction::Egress) => away,
            Some(Direction::Ingress) => towards,
        }
    }
}

/// The side of a subject towards a peer, by number; [`FREE`] if policies select nobody.
type SideId = u32;

/// The side that allows everything.
const FREE: SideId = 0;

/// Results so far, each once.
#[derive(Debug, Default)]
struct Known {
    /// By the rows towards each of the peer's atoms.
    numbers: HashMap<Box<[u32]>, SideId>,
    sides: Vec<Arc<Partition<Verdict>>>,
    pairs: HashMap<(SideId, SideId), Arc<Partition<Pair>>>,
}

/// Connections that are allowed, as classes of ends and ranges of ports.
#[derive(Debug)]
pub struct Connectivity {
    reach: Reach,
    is_own_node_allowed: bool,
    view: View,
    groups: Groups,
    services: OnceCell<Vec<ServiceEnd>>,
    known: RefCell<Known>,
}

impl Connectivity {
    /// Groups the ends of what can be asked.
    #[must_use]
    pub fn new(reach: Reach, view: View) -> Self {
        let is_own_node_allowed = reach.is_own_node_allowed();
        // What a node may do because it is the workload's own is not policy's.
        let reach = reach.with_own_node_allowed(false);
        let groups = Groups::new(&reach);
        let known = Known {
            sides: vec![Arc::new(uniform(&Verdict::allow(Reason::NotIsolated)))],
            ..Known::default()
        };
        Self {
            reach,
            is_own_node_allowed,
            view,
            groups,
            services: OnceCell::new(),
            known: RefCell::new(known),
        }
    }

    /// All groups: workloads in the order of their names, nodes, then outside addresses.
    #[must_use]
    pub fn groups(&self) -> &[Group] {
        &self.groups.groups
    }

    /// The Services that take connections, in the order of their names.
    #[must_use]
    pub fn services(&self) -> &[ServiceEnd] {
        self.services.get_or_init(|| doors::all(self))
    }

    /// The inventory, addresses that stand in included.
    #[must_use]
    pub fn inventory(&self) -> &Inventory {
        self.reach.inventory()
    }

    /// The rules that are named.
    #[must_use]
    pub fn rules(&self) -> &RuleTable {
        self.reach.rules()
    }

    /// Returns `true` if a workload's own node may always connect to it.
    #[must_use]
    pub fn is_own_node_allowed(&self) -> bool {
        self.is_own_node_allowed
    }

    /// The verdicts about connections of one group to another, which the exceptions for a
    /// workload itself and its own node are not part of. `None` if not both have an address
    /// of the family.
    #[must_use]
    pub fn pair(
        &self,
        source: &Group,
        destination: &Group,
        family: Family,
    ) -> Option<Arc<Vec<(PortSpan, Pair)>>> {
        self.of_behaviours(source.behaviour, destination.behaviour, family)
    }

    /// Returns `true` if some member of one group may connect to another end in the other
    /// group for no other reason than what policies say.
    #[must_use]
    pub fn is_policys(&self, source: &Group, destination: &Group) -> bool {
        if source.kind == EndKind::External || destination.kind == EndKind::External {
            return true;
        }
        let is_policys = |from: &Member, to: &Member| {
            from.id != to.id && !self.is_own_node(source, from, destination, to)
        };
        let sources = source.members.iter();
        // Of many members, some are always apart; the first few tell.
        sources.take(3).any(|from| {
            destination
                .members
                .iter()
                .take(3)
                .any(|to| is_policys(from, to))
        }) || (source.members.iter())
            .any(|from| destination.members.iter().any(|to| is_policys(from, to)))
    }

    /// Returns `true` if a connection is that of a workload's own node to it.
    fn is_own_node(&self, source: &Group, from: &Member, destination: &Group, to: &Member) -> bool {
        from.node.is_some() && from.node == to.node && self.may_be_own_node(source, destination)
    }

    /// Returns `true` if connections of one group to the other are those of a workload's own
    /// node where both are on one node.
    fn may_be_own_node(&self, source: &Group, destination: &Group) -> bool {
        let is_subject = |group: &Group| {
            let traits = &self.groups.behaviours[group.behaviour as usize].traits;
            traits.iter().any(|traits| traits.class.is_some())
        };
        self.is_own_node_allowed && !is_subject(source) && is_subject(destination)
    }

    /// Calls `found` with all connections that are allowed and asked for: by sender, in
    /// the order of groups.
    ///
    /// # Errors
    /// Those of `found`.
    pub fn connections<'c, E>(
        &'c self,
        focus: &Focus,
        mut found: impl FnMut(Connection<'c>) -> Result<(), E>,
    ) -> Result<(), E> {
        let groups = self.groups();
        let is_outside = |group: &Group| group.kind == EndKind::External;
        let inside = groups.partition_point(|group| !is_outside(group));
        let families = || {
            FAMILIES
                .into_iter()
                .filter(|f| focus.family.is_none_or(|one| one == *f))
        };
        for (at, source) in groups[..inside].iter().enumerate() {
            for (to, destination) in groups[..inside].iter().enumerate() {
                if !focus.takes(at, to) || !self.is_policys(source, destination) {
                    continue;
                }
                for family in families() {
                    let allowed = self.allowed(source, destination, family, focus);
                    if !allowed.is_empty() {
                        found(Connection {
                            source: ListedEnd::Group(source),
                            destination: ListedEnd::Group(destination),
                            family,
                            allowed,
                        })?;
                    }
                }
            }
            for (service, family) in self.asked(focus, |to| focus.takes(at, to)) {
                let allowed = self.allowed_through(source, service, family, focus);
                if !allowed.is_empty() {
                    found(Connection {
                        source: ListedEnd::Group(source),
                        destination: ListedEnd::Service(service),
                        family,
                        allowed,
                    })?;
                }
            }
            for family in families() {
                let to = inside..groups.len();
                let away = to.filter(|to| focus.takes(at, *to));
                let allowed = away.map(|to| {
                    (
                        &groups[to],
                        self.allowed(source, &groups[to], family, focus),
                    )
                });
                for (outside, allowed) in together(family, allowed) {
                    found(Connection {
                        source: ListedEnd::Group(source),
                        destination: ListedEnd::Outside(outside),
                        family,
                        allowed,
                    })?;
                }
            }
        }
        for (at, destination) in groups[..inside].iter().enumerate() {
            for family in families() {
                let from = inside..groups.len();
                let towards = from.filter(|from| focus.takes(*from, at));
                let allowed = towards.map(|from| {
                    let allowed = self.allowed(&groups[from], destination, family, focus);
                    (&groups[from], allowed)
                });
                for (outside, allowed) in together(family, allowed) {
                    found(Connection {
                        source: ListedEnd::Outside(outside),
                        destination: ListedEnd::Group(destination),
                        family,
                        allowed,
                    })?;
                }
            }
        }
        let from_outside = |to| (inside..groups.len()).any(|from| focus.takes(from, to));
        for (service, family) in self.asked(focus, from_outside) {
            let allowed = groups[inside..].iter().map(|source| {
                let allowed = self.allowed_through(source, service, family, focus);
                (source, allowed)
            });
            for (outside, allowed) in together(family, allowed) {
                found(Connection {
                    source: ListedEnd::Outside(outside),
                    destination: ListedEnd::Service(service),
                    family,
                    allowed,
                })?;
            }
        }
        Ok(())
    }

    /// The Services that are asked for, and of whose position this is so, over each family.
    fn asked<'c>(
        &'c self,
        focus: &Focus,
        takes: impl Fn(usize) -> bool,
    ) -> impl Iterator<Item = (&'c ServiceEnd, Family)> {
        let services = match focus.services {
            true => self.services(),
            false => &[],
        };
        let positions = self.groups().len()..;
        let services = positions.zip(services).filter(move |(at, _)| takes(*at));
        let families = FAMILIES.into_iter().filter({
            let only = focus.family;
            move |family| only.is_none_or(|only| only == *family)
        });
        services.flat_map(move |(_, service)| families.clone().map(move |family| (service, family)))
    }

    /// The ports of a Service at all of whose backends a group may connect.
    fn allowed_through(
        &self,
        source: &Group,
        service: &ServiceEnd,
        family: Family,
        focus: &Focus,
    ) -> Vec<AllowedSpan> {
        let through = self.through(source.behaviour, service, family);
        let mut spans: Vec<AllowedSpan> = through
            .into_iter()
            .flatten()
            .filter(|(_, through)| through.pair.is_allowed())
            .map(|(ports, through)| {
                let [egress, ingress] = through.rules;
                AllowedSpan {
                    ports,
                    egress,
                    ingress,
                    backends: service.backends(family, &ports),
                }
            })
            .collect();
        if let Some(port) = focus.port {
            spans.retain(|span| span.ports.contains(&port));
        }
        spans
    }

    /// The ports that are allowed, those that touch as one.
    fn allowed(
        &self,
        source: &Group,
        destination: &Group,
        family: Family,
        focus: &Focus,
    ) -> Vec<AllowedSpan> {
        let Some(pair) = self.pair(source, destination, family) else {
            return Vec::new();
        };
        let mut spans: Vec<AllowedSpan> = Vec::new();
        for (ports, pair) in pair.iter().filter(|(_, pair)| pair.is_allowed()) {
            let rule = |verdict: Verdict| {
                let is_rule = matches!(self.rules().get(verdict.rule), Some(RuleMeaning::Rule(_)));
                is_rule.then_some(verdict.rule)
            };
            let (egress, ingress) = (rule(pair.egress), rule(pair.ingress));
            match spans.last_mut() {
                Some(last) if joined([last.ports, *ports]).len() == 1 => {
                    last.ports.last = ports.last;
                    last.egress.extend(egress);
                    last.ingress.extend(ingress);
                }
                _ => spans.push(AllowedSpan {
                    ports: *ports,
                    egress: egress.into_iter().collect(),
                    ingress: ingress.into_iter().collect(),
                    backends: Vec::new(),
                }),
            }
        }
        for rules in spans
            .iter_mut()
            .flat_map(|span| [&mut span.egress, &mut span.ingress])
        {
            rules.sort_unstable();
            rules.dedup();
        }
        if let Some(port) = focus.port {
            spans.retain(|span| span.ports.contains(&port));
        }
        spans
    }

    /// The verdicts about connections of ends that behave like this.
    fn of_behaviours(
        &self,
        source: u32,
        destination: u32,
        family: Family,
    ) -> Option<Arc<Partition<Pair>>> {
        let sides = self.sides(source, destination, family)?;
        let is_translated = self.groups.behaviours[destination as usize].is_translated;
        if is_translated {
            let base = self.of_sides(sides);
            return Some(Arc::new(self.translated(
                source,
                destination,
                family,
                &base,
            )));
        }
        Some(self.of_sides(sides))
    }

    /// The sides of a pair: egress and ingress.
    fn sides(&self, source: u32, destination: u32, family: Family) -> Option<(SideId, SideId)> {
        let traits = |behaviour: u32| {
            let traits = &self.groups.behaviours[behaviour as usize].traits;
            &traits[usize::from(family == Family::V6)]
        };
        let (from, to) = (traits(source), traits(destination));
        if from.atoms.is_empty() || to.atoms.is_empty() {
            return None;
        }
        Some((
            self.side(from, Direction::Egress, to),
            self.side(to, Direction::Ingress, from),
        ))
    }

    fn side(&self, subject: &Traits, direction: Direction, peer: &Traits) -> SideId {
        let Some(class) = subject.class else {
            return FREE;
        };
        let row = |atom: &u32| {
            let row = self.reach.compiled().row(class, direction, *atom);
            row.expect("classes and atoms of ends are those of their table")
        };
        if let [atom] = peer.atoms.as_slice() {
            return self.side_of_rows(&[row(atom)]);
        }
        let mut rows: Vec<u32> = Vec::with_capacity(peer.atoms.len());
        for row in peer.atoms.iter().map(row) {
            if !rows.contains(&row) {
                rows.push(row);
            }
        }
        self.side_of_rows(&rows)
    }

    /// The side towards a peer of whose addresses these are the rows, each once.
    fn side_of_rows(&self, rows: &[u32]) -> SideId {
        let mut known = self.known.borrow_mut();
        if let Some(number) = known.numbers.get(rows) {
            return *number;
        }
        let mut side: Option<Partition<Verdict>> = None;
        for row in rows {
            let own = self.row(*row);
            side = Some(match side {
                None => own,
                // Of several addresses the first that is denied counts.
                Some(before) => overlay(&before, &own, |one, other| match one.action {
                    Action::Allow if other.action == Action::Deny => *other,
                    _ => *one,
                }),
            });
        }
        let number = u32::try_from(known.sides.len()).expect("fewer sides than words of a table");
        known
            .sides
            .push(Arc::new(side.expect("a peer has an atom")));
        known.numbers.insert(rows.into(), number);
        number
    }

    fn row(&self, row: u32) -> Partition<Verdict> {
        let intervals = self.reach.compiled().row_intervals(row);
        let verdict = |[key, enforced, audited]: [u32; 3]| {
            let word = match self.view {
                View::Enforced => enforced,
                View::Audited => audited,
            };
            (key, Verdict::from_word(word))
        };
        let intervals: Vec<(u32, Verdict)> = intervals.map(verdict).collect();
        of_row(&intervals)
    }

    /// Both sides on top of each other.
    fn of_sides(&self, (egress, ingress): (SideId, SideId)) -> Arc<Partition<Pair>> {
        let mut known = self.known.borrow_mut();
        if let Some(pair) = known.pairs.get(&(egress, ingress)) {
            return pair.clone();
        }
        let side = |side: SideId| known.sides[side as usize].clone();
        let pair = overlay(&side(egress), &side(ingress), |egress, ingress| Pair {
            egress: *egress,
            ingress: *ingress,
            leads_nowhere: false,
        });
        let pair = Arc::new(pair);
        known.pairs.insert((egress, ingress), pair.clone());
        pair
    }

    /// Returns the verdicts about each port where some are translated: these as cells say.
    fn translated(
        &self,
        source: u32,
        destination: u32,
        family: Family,
        base: &Partition<Pair>,
    ) -> Partition<Pair> {
        let samples = &self.groups.samples;
        let Some(to) = &samples[destination as usize] else {
            return base.clone();
        };
        let from = match &samples[source as usize] {
            Some(end) => end.clone(),
            None => self.outside_sample(source, family),
        };
        let services = self.reach.services();
        let ports = (to.addresses().flat_map(|address| services.at(address)))
            .flat_map(|service| &service.ports)
            .map(|port| (port.protocol, port.port))
            .chain(services.node_ports());
        let ports: BTreeSet<PortSpan> = ports
            .map(|(protocol, port)| PortSpan::of_probe(Probe::Port(protocol, port)))
            .collect();
        let asked = |span: &PortSpan| {
            let Lane::Ports(protocol) = span.lane else {
                unreachable!("only ports are translated");
            };
            let probe = Probe::Port(protocol, span.first);
            match self.reach.cell(&from, to, probe, family) {
                Some(cell) => {
                    let verdict = |side: &cofferdam_reach::Side| match self.view {
                        View::Enforced => side.verdict,
                        View::Audited => side.audited,
                    };
                    Pair {
                        egress: verdict(&cell.egress),
                        ingress: verdict(&cell.ingress),
                        leads_nowhere: cell.leads_nowhere,
                    }
                }
                None => Pair {
                    egress: Verdict::allow(Reason::NotIsolated),
                    ingress: Verdict::allow(Reason::NotIsolated),
                    leads_nowhere: true,
                },
            }
        };
        // Of an address that is a Service's alone, other ports lead to nobody.
        let is_virtual = to
            .addresses()
            .any(|address| family_of(address) == family && services.is_virtual(address));
        let mut spans = Vec::new();
        for (span, pair) in base {
            let pair = &Pair {
                leads_nowhere: pair.leads_nowhere || is_virtual,
                ..*pair
            };
            let mut from = Some(span.first);
            for port in ports.iter().filter(|port| span.contains(port)) {
                if let Some(first) = from.filter(|first| *first < port.first) {
                    let before = PortSpan {
                        first,
                        last: port.first - 1,
                        ..*span
                    };
                    push(&mut spans, before, *pair);
                }
                push(&mut spans, *port, asked(port));
                from = port.last.checked_add(1);
            }
            if let Some(first) = from.filter(|first| *first <= span.last) {
                push(&mut spans, PortSpan { first, ..*span }, *pair);
            }
        }
        spans
    }

    /// An outside host that behaves like this.
    fn outside_sample(&self, behaviour: u32, family: Family) -> cofferdam_reach::End {
        let mut groups = self.groups().iter();
        let group = groups.find(|group| group.behaviour == behaviour);
        let outside = group.and_then(|group| group.outside.as_ref());
        let address = outside.and_then(|outside| {
            let is_free =
                |address: &std::net::IpAddr| self.reach.inventory().owner(*address).is_none();
            outside.addresses().find(is_free)
        });
        debug_assert!(outside.is_some_and(|outside| outside.family() == family));
        self.reach
            .external("outside", &address.into_iter().collect::<Vec<_>>())
    }
}

/// Outside addresses of which the same is said, as one.
fn together<'g>(
    family: Family,
    allowed: impl Iterator<Item = (&'g Group, Vec<AllowedSpan>)>,
) -> Vec<(Outside, Vec<AllowedSpan>)> {
    let mut by_spans: BTreeMap<Vec<AllowedSpan>, Vec<outside::Range>> = BTreeMap::new();
    for (group, spans) in allowed {
        let own = group.outside.as_ref().filter(|own| own.family() == family);
        if let Some(outside) = own.filter(|_| !spans.is_empty()) {
            by_spans.entry(spans).or_default().extend(outside.ranges());
        }
    }
    let mut together: Vec<_> = (by_spans.into_iter())
        .map(|(spans, ranges)| (Outside::new(family, ranges), spans))
        .collect();
    together.sort_by(|one, other| one.0.cmp(&other.0));
    together
}
